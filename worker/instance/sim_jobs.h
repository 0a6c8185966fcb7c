#pragma once
/*
 * sim_jobs — the jobs of the simulated instance: a bounded queue, one job at work, a few whose
 * pictures are encoded meanwhile, the last finished ones, and the faults that it was told to make.
 *
 *     submit          its turn           all steps, encoded
 *    -------> QUEUED ----------> RUNNING ------------------> SUCCEEDED
 *               |                   |-------- a fault ------> FAILED
 *               `---- delete -------+-----------------------> CANCELLED
 *
 * A job that has made its steps leaves the place at work and is RUNNING until its pictures are
 * encoded. Steps are timers, so nothing blocks; large pictures are drawn on a helper thread.
 */
#include "common/limits.h"
#include "common/reactor.h"
#include <stddef.h>
#include <sys/queue.h>

enum sim_state {
    SIM_QUEUED,
    SIM_RUNNING,
    SIM_SUCCEEDED,
    SIM_FAILED,
    SIM_CANCELLED,
    SIM_STATE_COUNT,
};

enum sim_verdict {
    SIM_ACCEPTED,
    SIM_KNOWN, /* this id is here already; what was asked now is not looked at */
    SIM_FULL,  /* `queue` jobs wait already */
    SIM_VERDICT_COUNT,
};

struct sim_order {
    const char *id;     /* 1 to LIMIT_INSTANCE_JOB_ID characters */
    const char *prompt; /* copied */
    uint32_t width, height, steps, seed, n;
};

struct sim_image {
    uint8_t *bytes;
    size_t length;
};

struct sim_waiter;   /* of sim_routes */
struct sim_encoding; /* of sim_jobs.c */

struct sim_job {
    TAILQ_ENTRY(sim_job) link;
    LIST_HEAD(, sim_waiter) waiters; /* empty when the job is forgotten */
    char id[LIMIT_INSTANCE_JOB_ID + 1];
    char *prompt;
    uint32_t width, height, steps, seed, n;
    enum sim_state state;
    uint32_t step;    /* done so far */
    uint64_t ordinal; /* the n-th that was begun */
    int64_t queued_us, begun_us, stepped_us;
    int64_t queue_ms, gpu_ms, encode_ms;
    struct sim_encoding *encoding; /* NULL: its pictures are not being made */
    const char *error_code;        /* NULL: none */
    const char *error_message;
    struct sim_image images[LIMIT_IMAGES]; /* n of them when SUCCEEDED */
};

/* Jobs by their number, both ends included; none: both 0. */
struct sim_range {
    uint64_t first, last;
};

/* Rates are probabilities from 0 to 1, thrown for each job when it begins; an N of 0 is never. */
struct sim_faults {
    struct sim_range fail_jobs, black_jobs;
    const char *fail_message; /* of failed jobs, borrowed for life */
    double fail_rate, black_rate, garbage_rate, wrong_size_rate;
    int64_t die_after, hang_after, slow_after;
    int64_t seed;
};

struct sim_jobs_config {
    double speed;      /* > 0; step_ms is divided by it */
    int64_t step_ms;   /* of one step of one image */
    int64_t encode_ms; /* of a job's pictures, at least; beside the next job */
    uint32_t queue;    /* jobs that may wait */
    struct sim_faults faults;
    /* Called after each step and each change of state; must not call back into sim_jobs. */
    void (*on_change)(void *context, struct sim_job *job);
    void *context;
};

struct sim_jobs;

int sim_jobs_new(struct sim_jobs **out, struct reactor *reactor,
                 const struct sim_jobs_config *config);
void sim_jobs_destroy(struct sim_jobs **self_p);
/* *job: the new or the known one; untouched if SIM_FULL. */
enum sim_verdict sim_jobs_submit(struct sim_jobs *self, const struct sim_order *order,
                                 struct sim_job **job);
/* NULL: unknown. */
struct sim_job *sim_jobs_find(struct sim_jobs *self, const char *id);
/* Drops a queued job, cancels a running one, forgets a finished one. Returns the state after that:
 * SIM_RUNNING only if the job hangs, for then the next step, before which it would stop, never
 * comes. The job may be gone. */
enum sim_state sim_jobs_delete(struct sim_jobs *self, struct sim_job *job);
uint32_t sim_jobs_queued(const struct sim_jobs *self);
/* The one that makes steps. NULL: none. */
const struct sim_job *sim_jobs_running(const struct sim_jobs *self);
/* Calls fn for each job that is running or queued. */
void sim_jobs_each_open(struct sim_jobs *self, void (*fn)(struct sim_job *job));
double sim_jobs_last_step_ms(const struct sim_jobs *self); /* 0: none yet */
const char *sim_state_name(enum sim_state state);
