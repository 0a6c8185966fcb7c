#pragma once
/*
 * instance — one local image server, driven over HTTP: started by us or attached to.
 *
 *                 probe ready            instance_draw            pictures | failure
 *     STARTING ---------------> READY ------------------> BUSY ----------------------> READY
 *        ^  | exit, probe fails                             | process gone, stuck, error streak
 *        |  v                                               v
 *       DOWN (back-off) <-----------------------------------'
 *        `-> BROKEN after LIMIT_CRASHES exits in LIMIT_CRASH_WINDOW_MS: stays down until restarted
 *
 * An instance draws one job at a time. One whose server queues takes up to LIMIT_PLACE_JOBS: while
 * the pictures of one are encoded and fetched the next is drawn, and one more waits for its turn.
 * It is BUSY until none is left. It never outlives its agent (see supervisor.c).
 */
#include "common/http_client.h"
#include "common/reactor.h"
#include "proto/job.h"

enum instance_state {
    INSTANCE_STARTING, /* process runs or is expected; not ready yet */
    INSTANCE_READY,
    INSTANCE_BUSY,
    INSTANCE_DOWN,   /* gone; tried again after a back-off */
    INSTANCE_BROKEN, /* crash loop: stopped trying */
    INSTANCE_STATE_COUNT,
};
const char *instance_state_name(enum instance_state state); /* "starting" ... */

/* One finished picture, owned by whoever holds it. */
struct drawn_picture {
    void *bytes; /* malloc'ed, as the instance gave it: PNG, WebP or JPEG */
    size_t length;
    uint32_t seed;
};

struct drawing {
    struct drawn_picture pictures[LIMIT_IMAGES];
    uint32_t n;
    uint32_t gpu_ms; /* told by the instance; 0: not told */
};
void drawing_clear(struct drawing *self); /* frees the pictures */

struct instance; /* opaque */

/* Why a job was not drawn. */
struct failure {
    enum fail_code code;
    const char *message; /* for people; borrowed for the call */
    bool taken;          /* the server had, or may have had, the job and begun it */
    bool final;          /* another instance would do no better */
    bool busy;           /* the server is sound but takes nothing now: leave it alone for a while */
};

/* What the agent is told: always from the loop, never from inside a call. In an event it may draw,
 * interrupt and stop, but not destroy the supervisor. After the last on_drawn, on_failed or
 * on_refused an on_state tells when the instance is free, at once or after it was made to stop.
 * `index` is the instance's number, 0-based, stable for the process's life; started ones come
 * first. `serial` is the job's, as the draw_request gave it. */
struct instance_events {
    void (*on_state)(void *context, uint32_t index, enum instance_state state);
    /* The instance began the job, as far as can be told: it is a try. */
    void (*on_taken)(void *context, uint32_t index, uint32_t serial);
    void (*on_step)(void *context, uint32_t index, uint32_t serial, uint8_t step, uint8_t steps);
    /* The pictures are fetched; *drawing becomes the callee's. */
    void (*on_drawn)(void *context, uint32_t index, uint32_t serial, struct drawing *drawing);
    void (*on_failed)(void *context, uint32_t index, uint32_t serial,
                      const struct failure *failure);
    /* It draws another and would not keep this one for later. */
    void (*on_refused)(void *context, uint32_t index, uint32_t serial);
    void *context;
};

struct draw_request {
    char id[JOB_ID_TEXT + 8]; /* "<job id>.<grant>": what the instance knows the job by */
    uint32_t serial;          /* names the job in the events; not two at once have the same */
    const struct envelope *envelope;
    const struct job_body *body; /* borrowed until instance_draw returns */
};

/* The instances of one agent. */
struct supervisor;

struct supervisor_config {
    const char *const *attach; /* "driver=drawbar url=http://127.0.0.1:7861 ...": attach.h */
    uint32_t n_attach;
    const char
        *start; /* NULL, or a command line with {port} [and {device} {index}], run by sh -c */
    const char *driver; /* of started instances, and its words; default "drawbar" */
    uint32_t n_start;
    uint16_t base_port;    /* of started instances: base, base+1, ...; 0: any free ones */
    const char *state_dir; /* where pids of children are recorded and logs are written */
    int64_t stuck_ms;      /* 0: LIMIT_STUCK_MS */
    int64_t opaque_ms;     /* 0: LIMIT_OPAQUE_MS */
    int64_t startup_ms;    /* grace until ready; 0: 600 s */
};

/* Kills what an earlier agent left behind in state_dir, checks the configuration, starts. 0, or
 * -EINVAL (logged: which setting, what is wrong), -errno. */
int supervisor_new(struct supervisor **out, struct reactor *reactor, struct http_client *http,
                   const struct supervisor_config *config, const struct instance_events *events);
/* Kills the groups of the children at once and waits for them (LIMIT_CLEAN_MS at most). */
void supervisor_destroy(struct supervisor **self_p);
/* Orderly: SIGTERM to the groups, LIMIT_STOP_MS, SIGKILL, reap; done(context) when all are gone.
 * What is being drawn is interrupted, also on attached instances, and no on_failed follows. */
void supervisor_stop(struct supervisor *self, reactor_fn done, void *context);

uint32_t supervisor_count(const struct supervisor *self);
enum instance_state instance_state(const struct supervisor *self, uint32_t index);
const char *instance_name(const struct supervisor *self, uint32_t index);
/* Model told by the instance or set by the user; "" until known. */
const char *instance_model(const struct supervisor *self, uint32_t index);
/* Largest picture in pixels; 0 until known. */
uint32_t instance_max_pixels(const struct supervisor *self, uint32_t index);
/* Appends this instance as one JSON object {"name","driver","url","state","model","pid","restarts",
 * "last_step_ms","simulated",...} for the heartbeat's facts. Returns bytes written, 0: does not
 * fit. */
size_t instance_facts(const struct supervisor *self, uint32_t index, char *out, size_t size);

/* Its server takes a job while it draws another. */
bool instance_queues(const struct supervisor *self, uint32_t index);

/* Starts drawing on a READY instance, or queues the job at a BUSY one that queues: events follow,
 * ending with on_drawn, on_failed or on_refused, never from inside this call: when it returns 0 the
 * state is BUSY without an on_state. 0, or -EBUSY. */
int instance_draw(struct supervisor *owner, uint32_t index, const struct draw_request *request);
/* Interrupts the job, drawn or queued, and forgets it: no event of it follows. The instance is BUSY
 * until it really is free. */
void instance_interrupt(struct supervisor *owner, uint32_t index, uint32_t serial);
/* What the agent found out about the pictures of the last drawing. LIMIT_ERROR_STREAK bad ones
 * (undecodable, wrong size) in a row take the instance out like failed jobs do. */
void instance_judge(struct supervisor *owner, uint32_t index, bool good);
