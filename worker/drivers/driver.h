#pragma once
/*
 * driver — how one kind of image server is spoken to. One file a kind, one entry in the table.
 *
 * A driver runs its own sequence of HTTP requests for one job at a time and reports by the calls of
 * its host. It decides nothing about restarts, health, turns or time-outs of a whole job:
 * instance.c and instance_draw.c do. Where the server queues, several drivers are open for one
 * instance.
 *
 *     draw --> on_waiting? --> on_taken --> on_step* --> on_picture x n --> on_drawn --> on_free
 *          `------------------------`-----------`--------------`------> on_failed -> on_free
 *     interrupt, at any time between draw and on_free ----------------> on_free, nothing else
 *
 * on_free: the GPU is free again. It may come long after on_failed, and comes exactly once a draw,
 * unless the driver is closed first. No report is made from inside draw, probe or interrupt.
 * Inside a report the host may call interrupt (then only on_free follows). on_free and on_probed
 * are the last thing a driver does: inside them the host may also draw or close.
 */
#include "common/http_client.h"
#include "common/reactor.h"
#include "worker/instance.h"

/* What the server can do. */
enum driver_feature {
    DRIVER_STEPS = 1,     /* tells steps: silence between two of them is a fault */
    DRIVER_INTERRUPT = 2, /* stops a drawing; without it interrupt waits for its end */
    DRIVER_QUEUE = 4, /* takes jobs while it draws another, begins them in the order taken, tells
                         steps, and has left the GPU when the last one is made */
};

/* Words of --attach and --driver that not every driver takes. */
enum driver_word {
    WORD_LOGIN = 1,        /* user=, password=: HTTP Basic */
    WORD_KEY = 2,          /* key=: Authorization: Bearer */
    WORD_ENDPOINT = 4,     /* endpoint= */
    WORD_WORKFLOW = 8,     /* workflow= */
    WORD_EXTRA_STEPS = 16, /* extra_steps= */
};

/* Their values; "" or 0: not given. */
struct driver_words {
    char user[LIMIT_ATTACH_WORD], password[LIMIT_ATTACH_WORD], key[LIMIT_ATTACH_WORD];
    char endpoint[LIMIT_ATTACH_WORD];
    char workflow[LIMIT_ATTACH_PATH]; /* a file */
    uint32_t extra_steps; /* added to the steps asked for: a server that draws one fewer */
};

/* Answer to a probe. */
struct health {
    bool answered; /* by a server that makes sense; else `message` says what is wrong */
    bool ready;
    bool simulated;
    char model[LIMIT_MODEL_NAME + 1]; /* "": not told */
    char device[64];                  /* "": not told */
    char epoch[64];                   /* changes when the server starts anew; "": not told */
    uint32_t max_pixels;              /* of one picture; 0: not told */
    uint32_t last_step_ms;            /* 0: not told */
    unsigned lacks;                   /* features of the driver that this server has not */
    char message[160];
};

/* What a driver is given, and whom it reports to. Outlives the driver. */
struct driver_host {
    struct reactor *reactor;
    struct http_client *http;
    const struct driver_words *words; /* what the user set; NULL: nothing */
    const char *url; /* where the server is, no '/' at the end; changes only while closed */
    void (*on_probed)(void *context, const struct health *health);
    /* The server has the job, and draws what others gave it before: silence is no fault. */
    void (*on_waiting)(void *context);
    void (*on_taken)(void *context); /* the server accepted the job, and nothing is before it */
    /* May be called as often as the server tells; a step is told once or more. */
    void (*on_step)(void *context, uint32_t step, uint32_t steps);
    /* bytes: malloc'ed, the host's now. In order, i from 0. */
    void (*on_picture)(void *context, uint32_t i, const struct drawn_picture *picture);
    void (*on_drawn)(void *context, uint32_t gpu_ms);
    void (*on_failed)(void *context, const struct failure *failure);
    void (*on_free)(void *context);
    void *context;
};

struct driver {
    const char *name;
    unsigned features; /* enum driver_feature */
    unsigned words;    /* enum driver_word: those it takes */
    /* Checks the words when the configuration is read: NULL, or what is wrong. May be NULL. */
    const char *(*check)(const struct driver_words *words);
    /* Makes the driver of one instance. 0 or -errno. */
    int (*open)(void **out, const struct driver_host *host);
    /* Drops all that is under way, without a report, and frees *self_p. NULL is fine. */
    void (*close)(void **self_p);
    /* Asks for the server's health: on_probed follows. One at a time. */
    void (*probe)(void *self);
    /* Drops a probe under way. */
    void (*probe_cancel)(void *self);
    /* Begins a job; one at a time. 0, or -errno and no report follows. */
    int (*draw)(void *self, const struct draw_request *request);
    /* Stops what is being drawn; does nothing when nothing is. */
    void (*interrupt)(void *self);
};

/* NULL: no driver of this name. */
const struct driver *driver_find(const char *name, size_t length);
/* "drawbar, sdapi": for messages. */
const char *driver_names(void);

extern const struct driver driver_drawbar;
extern const struct driver driver_sdapi;
extern const struct driver driver_openai;
extern const struct driver driver_gradio;
extern const struct driver driver_sdcpp;
extern const struct driver driver_comfyui;
