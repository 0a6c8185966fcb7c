#pragma once
/*
 * instance_private — what supervisor.c and the files of an instance share; nobody else includes it.
 *
 * instance.c is one instance: its health, and what is done after failures.
 * instance_draw.c is what it draws: its jobs, their turns, and the watch for silence.
 * instance_selftest.c is what is made of one-coloured pictures.
 * instance_life.c is the process of a started one: port, start, exit, restart, stop.
 * instance_gpu.c is its GPU: which one, what it uses there, the wait for memory.
 * supervisor.c is the list of them, made from the configuration.
 */
#include "worker/child.h"
#include "worker/devices.h"
#include "worker/drivers/driver.h"
#include "worker/gpu.h"
#include "worker/instance.h"
#include "worker/usual.h"

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
    struct helper_thread *helper;
    struct instance_events events;
    struct event *on_sigchld; /* NULL: nothing is started */
    char *start;              /* command line with {words} */
    char *state_dir;
    int lock_fd; /* of state_dir; -1: none */
    bool any_port;
    int64_t stuck_ms, opaque_ms, startup_ms, broken_ms, memory_ms;
    struct gpu *gpu;
    int64_t memory_mib; /* that each started one is known to need; 0: it is learned */
    bool stopping;      /* asked to */
    bool stop_begun;    /* and the instances were told */
    reactor_fn stop_done;
    void *stop_context;
    struct kick *stop_kick;
    struct instance *instances;
    uint32_t n_instances;
};

enum selftest {
    SELFTEST_NONE,
    SELFTEST_OWED, /* before the next job */
    SELFTEST_DRAWING,
    SELFTEST_CHECKING,
    SELFTEST_FAILED, /* and its driver not free yet; the reason says why */
};

/* What a driver says of the job that is drawn; the server's health may be of another time. */
enum telling { TELLING_AS_HEALTH, TELLING_STEPS, TELLING_NOTHING };

/* One job at an instance, and the driver that speaks of it. */
struct lane {
    struct instance *instance;
    const struct instance_events *events; /* who hears of the job: the agent, or the self-test */
    struct driver_host host;
    void *drive;    /* the driver's own */
    bool drawing;   /* the driver has a job */
    bool reporting; /* and the agent wants to hear of it */
    bool accepted;  /* the server has it */
    bool waiting;   /* the server has it, behind what others gave it */
    bool begun;     /* and has begun it: nothing is before it */
    enum telling telling;
    bool lost;      /* not begun when the server died with the one before it: no turn comes */
    bool made;      /* its last step is made: the GPU has done with it */
    uint32_t order; /* of its draw; never 0 */
    uint32_t serial;
    uint32_t step;
    uint32_t pixels;    /* of all its pictures */
    uint32_t steps;     /* asked for */
    int64_t drawing_ms; /* begun then */
    int64_t news_ms;    /* its last step or picture */
    int64_t due_ms;     /* silence until then is borne */
    struct drawing result;
};

struct instance {
    struct supervisor *owner;
    uint32_t index;
    enum instance_state state;
    int64_t state_since_ms;
    char reason[160];       /* of the state, for people; "": none */
    char last_exit[96];     /* how its process ended last; "": it did not */
    char last_failure[128]; /* of the last failed job or bad picture */
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
    struct usual usual;
    int64_t last_step_ms; /* 0: none yet */
    struct timer *stuck_timer;
    uint32_t error_streak;  /* jobs failed in a row */
    uint32_t bad_pictures;  /* jobs in a row whose pictures were no good, by the agent's word */
    bool on_probation;      /* it was taken out: one more failure and it is out again */
    bool lost_device;       /* a started one said so: started anew as soon as the driver lets go */
    int64_t leave_alone_ms; /* busy or failing: not READY before this time */
    int64_t pause_ms;       /* the next one after that; back to the least by a good picture */

    /* one-coloured pictures: instance_selftest.c */
    struct job_id uniform[LIMIT_UNIFORM_JOBS]; /* the row of their jobs, all different */
    uint32_t n_uniform;
    enum selftest selftest;
    uint16_t selftest_side; /* of the picture under way */
    struct selftest_check *selftest_check;
    struct instance_events selftest_events;

    /* process */
    enum life life;
    struct child *child;
    uint16_t port;         /* of an attached one too, if it is on this host; 0: not known */
    int64_t port_since_ms; /* waiting for it since; 0: not waiting */
    int64_t backoff_ms;
    int64_t ending_since_ms;
    bool killed;                     /* SIGKILL was sent */
    bool restart;                    /* when it is gone */
    int64_t exits_ms[LIMIT_CRASHES]; /* ring of the last ends */
    uint32_t n_exits;
    uint32_t restarts;
    bool on_trial; /* started once more after a crash loop, and not ready yet */
    struct timer *life_timer;

    /* its GPU: instance_gpu.c */
    int32_t device;          /* chosen for it; -1: none was */
    int64_t seen_mib;        /* most that its family was seen to use on its device */
    int64_t memory_since_ms; /* waiting for memory since; 0: not waiting */
    bool memory_told;        /* the log has that it waits */
};

/* -- instance.c -- */
int instance_open(struct instance *self); /* timers and driver; 0 or -errno */
void instance_close(struct instance *self);
void instance_set_state(struct instance *self, enum instance_state state);
/* Why it is in its state, in words for people, a server's too: cut and cleaned. "" clears; READY
 * clears as well. Told by its facts, so before the state is set. */
void instance_set_reason(struct instance *self, const char *text);
/* The same from a format. */
void instance_explain(struct instance *self, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Begins to look after it: probes, and for a started one nothing before instance_came_up. */
void instance_begin(struct instance *self);
/* The process runs: probe it until it is ready. */
void instance_came_up(struct instance *self);
/* The process is gone or going: what was drawn has failed, probes end, state DOWN. */
void instance_went_down(struct instance *self, enum fail_code code, const char *why);

void instance_probe_soon(struct instance *self);
/* Keeps a failing or occupied instance out of reach, longer each time. */
void instance_leave_alone(struct instance *self);
/* No job is at it: where it goes from here, READY if nothing speaks against the next job. */
void instance_go_on(struct instance *self);
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
/* Draws for the self-test; no lane may be busy. False: it cannot be begun. */
bool lanes_test(struct instance *self, const struct draw_request *request);

/* -- instance_selftest.c -- */
void selftest_open(struct instance *self);
/* A picture of the job had one colour. */
void selftest_uniform(struct instance *self, const struct job_id *job);
/* One had not. */
void selftest_row_ends(struct instance *self);
/* It takes no job: a self-test is owed or under way. */
bool selftest_is_due(const struct instance *self);
/* Begins the one that is owed; no lane may be busy. The last thing a caller does. */
void selftest_begin(struct instance *self);
/* The lane that drew it is idle: decides where the instance goes. The last thing a caller does. */
void selftest_is_free(struct instance *self);
/* The process is gone, or the instance: one under way is owed again. */
void selftest_drop(struct instance *self);

/* -- instance_life.c -- */
/* Starts the process after delay_ms. */
void life_begin(struct instance *self, int64_t delay_ms);
/* Ends the process and starts it anew after the back-off; `why` is logged and shown. */
void life_restart(struct instance *self, const char *why);
/* Ends the process for good: SIGTERM, LIMIT_STOP_MS, SIGKILL. */
void life_stop(struct instance *self);
/* Looks at children after SIGCHLD. */
void life_look(struct supervisor *owner);
/* True when there is no process left to wait for. */
bool life_is_over(const struct instance *self);

/* -- instance_gpu.c -- */
struct gpu_use {
    int32_t device;
    int64_t used_mib; /* by its processes there; NVML_UNKNOWN */
};
/* Has the processes of an attached one on this host looked for; once, before the loop turns. */
void instance_gpu_watch(struct instance *self);
/* Where it is and what it uses now: a started one on the device chosen for it, others where they
 * are seen. False: nothing is known. */
bool instance_gpu_use(const struct instance *self, struct gpu_use *out);
/* Looks what its family uses, for the next start. */
void instance_gpu_look(struct instance *self);
/* There is as much memory on its device as it needs, or nothing is known. False: not yet; look
 * again. After LIMIT_MEMORY_MS its state is DOWN. */
bool instance_gpu_has_memory(struct instance *self);
/* Forgets that it waited. */
void instance_gpu_wait_anew(struct instance *self);
/* What its process shall see of the devices: "NAME=value" for child_spec.variables, in `room`. */
enum { GPU_VARIABLES = 3, GPU_VARIABLE = 48 };
char *const *instance_gpu_variables(const struct instance *self, char room[][GPU_VARIABLE],
                                    char *out[GPU_VARIABLES]);

/* -- supervisor.c -- */
/* Something ended while stopping: perhaps it was the last. */
void supervisor_check_stopped(struct supervisor *self);
