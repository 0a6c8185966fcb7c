#pragma once
/*
 * instance_private — what supervisor.c and the files of an instance share; nobody else includes it.
 *
 * instance.c is one instance: its health, and what is done after failures.
 * instance_draw.c is what it draws: its jobs, their turns, and the watch for silence.
 * instance_life.c is the process of a started one: port, start, exit, restart, stop.
 * supervisor.c is the list of them, made from the configuration.
 */
#include "worker/child.h"
#include "worker/drivers/driver.h"
#include "worker/instance.h"

/* The process of a started instance. */
enum life {
    LIFE_NONE,    /* attached: not ours */
    LIFE_WAITING, /* back-off, then for the port */
    LIFE_RUNNING,
    LIFE_ENDING, /* asked to end (SIGTERM), or exited; until its family is gone */
    LIFE_OVER,   /* broken, or stopped */
};

struct supervisor {
    struct reactor *reactor;
    struct http_client *http;
    struct instance_events events;
    struct event *on_sigchld; /* NULL: nothing is started */
    char *start;              /* command line with {words} */
    char *state_dir;
    int lock_fd; /* of state_dir; -1: none */
    bool any_port;
    int64_t stuck_ms, opaque_ms, startup_ms;
    bool stopping;   /* asked to */
    bool stop_begun; /* and the instances were told */
    reactor_fn stop_done;
    void *stop_context;
    struct kick *stop_kick;
    struct instance *instances;
    uint32_t n_instances;
};

/* One job at an instance, and the driver that speaks of it. */
struct lane {
    struct instance *instance;
    struct driver_host host;
    void *drive;    /* the driver's own */
    bool drawing;   /* the driver has a job */
    bool reporting; /* and the agent wants to hear of it */
    bool accepted;  /* the server has it */
    bool waiting;   /* the server has it, behind what others gave it */
    bool begun;     /* and has begun it: nothing is before it */
    bool lost;      /* not begun when the server died with the one before it: no turn comes */
    bool made;      /* its last step is made: the GPU has done with it */
    uint32_t order; /* of its draw; never 0 */
    uint32_t serial;
    uint32_t step;
    struct drawing result;
};

struct instance {
    struct supervisor *owner;
    uint32_t index;
    enum instance_state state;
    char name[LIMIT_WORKER_NAME + 1];
    char url[LIMIT_URL];
    char model[LIMIT_MODEL_NAME + 1];
    bool model_set; /* by the user: the instance's word does not change it */

    const struct driver *driver;
    struct driver_words words; /* what the user set for it */

    /* health */
    struct health health; /* last good answer */
    bool was_ready;       /* in this life of its process */
    uint32_t probes_failed;
    int64_t probe_pause_ms;
    int64_t ready_by_ms; /* a started one that is not ready by then is started anew */
    struct timer *probe_timer;

    /* drawing: instance_draw.c */
    struct lane lanes[LIMIT_PLACE_JOBS]; /* only the first, if the driver does not queue */
    uint32_t n_lanes;
    uint32_t n_draws;
    bool warm; /* it has finished a job: silence is no longer warm-up */
    int64_t step_at_ms;
    int64_t usual_step_ms; /* moving average; 0: none yet */
    struct timer *stuck_timer;
    uint32_t error_streak;  /* jobs failed in a row */
    uint32_t bad_pictures;  /* jobs in a row whose pictures were no good, by the agent's word */
    int64_t leave_alone_ms; /* busy or failing: not READY before this time */
    int64_t pause_ms;       /* the next one after that */

    /* process */
    enum life life;
    struct child *child;
    uint16_t port;
    int64_t port_since_ms; /* waiting for it since; 0: not waiting */
    int64_t backoff_ms;
    int64_t ending_since_ms;
    bool killed;                     /* SIGKILL was sent */
    bool restart;                    /* when it is gone */
    int64_t exits_ms[LIMIT_CRASHES]; /* ring of the last ends */
    uint32_t n_exits;
    uint32_t restarts;
    struct timer *life_timer;
};

/* -- instance.c -- */
int instance_open(struct instance *self); /* timers and driver; 0 or -errno */
void instance_close(struct instance *self);
void instance_set_state(struct instance *self, enum instance_state state);
/* Begins to look after it: probes, and for a started one nothing before instance_came_up. */
void instance_begin(struct instance *self);
/* The process runs: probe it until it is ready. */
void instance_came_up(struct instance *self);
/* The process is gone or going: what was drawn has failed, probes end, state DOWN. */
void instance_went_down(struct instance *self, enum fail_code code, const char *why);

void instance_probe_soon(struct instance *self);
/* Keeps a failing or occupied instance out of reach, longer each time. */
void instance_leave_alone(struct instance *self);
/* It fails job after job: one that fails fast would swallow the queue. */
bool instance_is_bad(const struct instance *self);
void instance_take_out(struct instance *self);
/* What the driver can do, less what this server has not. */
bool instance_has_feature(const struct instance *self, enum driver_feature feature);

/* The agent stops: ends the process, or what an attached one draws; no report follows. */
void instance_stop(struct instance *self);

/* -- instance_draw.c -- */
/* Timer and drivers, with the reports of health to on_probed. 0 or -errno. */
int lanes_open(struct instance *self,
               void (*on_probed)(void *context, const struct health *health));
void lanes_close(struct instance *self);
/* There is nobody to answer any more, or nobody that we would believe: all is dropped, and what was
 * wanted has failed. */
void lanes_drop(struct instance *self, enum fail_code code, const char *why);
void lanes_interrupt(struct instance *self); /* all of them */
bool lanes_busy(const struct instance *self);

/* -- instance_life.c -- */
/* Starts the process after delay_ms. */
void life_begin(struct instance *self, int64_t delay_ms);
/* Ends the process and starts it anew after the back-off; `why` is logged. */
void life_restart(struct instance *self, const char *why);
/* Ends the process for good: SIGTERM, LIMIT_STOP_MS, SIGKILL. */
void life_stop(struct instance *self);
/* Looks at children after SIGCHLD. */
void life_look(struct supervisor *owner);
/* True when there is no process left to wait for. */
bool life_is_over(const struct instance *self);

/* -- supervisor.c -- */
/* Something ended while stopping: perhaps it was the last. */
void supervisor_check_stopped(struct supervisor *self);
