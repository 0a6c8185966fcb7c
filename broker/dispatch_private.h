#pragma once
/*
 * dispatch_private — what the files of the core share; nobody else includes it.
 *
 *   dispatch.c         events in, time, rebuild
 *   dispatch_jobs.c    transitions of a job: begin (commit leaves) and committed (effects leave)
 *   dispatch_rebuild.c jobs loaded, restored, forgotten
 *   dispatch_workers.c sessions, leases, results
 *   dispatch_match.c   pulls meet jobs
 *   dispatch_silence.c who is silent, and who is evicted for it
 *   dispatch_watch.c   gateways' sessions, answers to STATUS, events to watchers, positions
 */
#include "broker/dispatch.h"
#include "broker/roster.h"
#include "common/mutant.h"

struct dispatch {
    struct dispatch_config config;
    struct jobs jobs;
    struct queue queue;
    struct roster roster;
    struct job_list recent;  /* ended, still in memory */
    struct job_list orphans; /* RUNNING, loaded, nobody has claimed them yet */
    bool loaded;
    bool closing; /* nothing more is granted */
    bool rematch; /* a worker came free or went: look at all free ones once more */
    bool restoring;
    uint32_t restore_from; /* job slots before it are restored */
    int64_t adopt_until_ms;
    int64_t tick_ms, second_ms; /* next ones due */
    int64_t silence_from_ms;    /* silences are counted from here on at the earliest */
    int64_t sweep_ms;           /* our time and Redis TIME at the last sweep; 0: none */
    uint64_t sweep_redis_ms;
    int64_t steady_from_ms; /* since then Redis has answered every sweep in time */
    int64_t mass_since_ms;  /* since then the eviction of more than half waits; 0: none does */
    uint32_t running;
    struct dispatch_stats stats;
    /* of the step under way */
    struct moment now;
    struct effects *effects;
};

/* -- dispatch_jobs.c -- */
enum verdict job_submit(struct dispatch *self, uint32_t gateway,
                        const struct dispatch_event *event);
enum verdict job_cancel(struct dispatch *self, uint32_t gateway, const struct job_id *id,
                        const struct slice *tenant);
void job_grant(struct dispatch *self, uint32_t index, uint32_t slot);
void job_done(struct dispatch *self, uint32_t index, struct slice result);
void job_expire(struct dispatch *self, uint32_t index);
/* Ends the lease without a result: requeued, or FAILED when `final` or nothing is left. `counted`:
 * an instance had really taken it. */
void job_release(struct dispatch *self, uint32_t index, const struct reason *reason, bool counted,
                 bool final);
enum verdict job_committed(struct dispatch *self, const struct dispatch_event *event);
/* The state that may be told: that of the last committed transition. */
enum job_state job_told_state(const struct job *job);
struct lease job_lease(const struct job *job);

/* Fills in what every op of a job says. */
struct op *job_op(struct dispatch *self, struct job *job, enum op_kind kind);
/* Puts a QUEUED job into its tree and the deadline heap. */
void job_enqueue(struct dispatch *self, uint32_t index);

/* -- dispatch_rebuild.c -- */
/* Puts a loaded record into memory. */
enum verdict job_load(struct dispatch *self, const struct dispatch_event *event);
/* Commits the next `most` jobs again, the first ones if `first`. */
void job_restore(struct dispatch *self, bool first, uint32_t most);
void job_forget_recent(struct dispatch *self);

/* -- dispatch_workers.c -- */
enum verdict worker_frame(struct dispatch *self, const struct dispatch_event *event);
enum verdict worker_record(struct dispatch *self, const struct dispatch_event *event);
void worker_gone(struct dispatch *self, const struct peer *peer);
/* Sends to the worker that holds or held the job's lease, if it still has a session. */
void worker_tell(struct dispatch *self, const struct job *job, enum frame_kind kind);
void worker_send_job(struct dispatch *self, uint32_t index, bool again);
/* The worker whose incarnation holds the job's lease, or ROSTER_NOBODY. */
uint32_t worker_of(const struct dispatch *self, const struct job *job);
/* Ends a lease that its worker no longer holds; every lease of the list that `held` does not name.
 */
void release_lost(struct dispatch *self, uint32_t index, enum fail_code code, bool counted);
void release_unheld(struct dispatch *self, struct job_list *list, const struct list *held);

/* -- dispatch_match.c -- */
/* Gives free workers what they can take: the one in `slot`, or those that can take job `index`. */
void worker_serve(struct dispatch *self, uint32_t slot);
void worker_offer(struct dispatch *self, uint32_t index);
void worker_rematch(struct dispatch *self);

/* -- dispatch_silence.c -- */
void worker_sweep(struct dispatch *self, const struct dispatch_event *event);
void worker_second(struct dispatch *self); /* once a second */

/* -- dispatch_watch.c -- */
enum verdict gateway_frame(struct dispatch *self, const struct dispatch_event *event);
enum verdict gateway_record(struct dispatch *self, const struct dispatch_event *event);
void gateway_second(struct dispatch *self);
void gateway_gone(struct dispatch *self, const struct peer *peer);
void gateway_lagging(struct dispatch *self, const struct peer *peer);
struct frame *gateway_send(struct dispatch *self, uint32_t gateway, enum frame_kind kind);
void gateway_accepted(struct dispatch *self, uint32_t gateway, const struct job *job);
/* Tells every watcher how the job stands; ends the watching of an ended job. */
void watch_tell(struct dispatch *self, struct job *job);
void watch_tell_none(struct dispatch *self, struct job *job); /* not live here any more */
/* Fills in the upload addresses of up to LIMIT_UPLOAD_BASES gateways. */
struct list gateway_bases(struct dispatch *self);
enum wait_reason gateway_reason(const struct dispatch *self, const struct job *job);

/* -- dispatch.c -- */
/* A frame to a peer; session 0: the one of the frame that it answers. */
struct frame *send_frame(struct dispatch *self, const struct peer *peer, uint64_t session,
                         enum frame_kind kind);
void send_read(struct dispatch *self, const struct inquiry *inquiry);
