#pragma once
/*
 * dispatch — who works on which job, and what happens when a worker falls silent.
 *
 * The broker's core. Pure: the same calls give the same effects. No I/O, no clock (time comes in),
 * memory only from its own slabs. The caller performs the effects, in order, before it goes on.
 *
 *     submit            pull               result
 *     ------> QUEUED ----------> RUNNING ----------> SUCCEEDED | FAILED
 *               ^                  | silence, failure, a lost lease (attempts left)
 *               `------------------'             cancel -> CANCELLED   deadline -> EXPIRED
 *
 * Write before promise: every transition leaves as EFFECT_COMMIT, and what it lets out (ACCEPTED,
 * JOB, ACK, ANSWER, JOBS) leaves when EVENT_COMMITTED answers it. Between the two the job is
 * frozen.
 *
 * Invariants (dispatch_check() asserts them): a QUEUED job that is not frozen is in exactly one
 * tree and in the deadline heap; a RUNNING job is in one worker's list of leases or waits for
 * adoption; counts agree.
 */
#include "broker/effect.h"

struct dispatch; /* opaque: only dispatch*.c see inside */

struct moment {
    int64_t mono_ms;   /* monotonic, never backwards */
    uint64_t redis_ms; /* Redis TIME, by the best estimate there is */
};

struct dispatch_config {
    uint64_t epoch;             /* number of our term; every frame carries it */
    uint32_t epoch_hash;        /* every new lease carries it */
    uint64_t sequence;          /* highest given out so far */
    uint32_t max_jobs;          /* LIMIT_JOBS or less; more is REFUSED queue_full */
    uint64_t max_bytes;         /* of requests and structures; more is REFUSED queue_full */
    uint32_t retention_s;       /* told to gateways */
    const char *name;           /* of this broker; outlives the core */
    const uint8_t *upload_key;  /* 32 bytes, told to gateways; outlives the core */
    enum durability durability; /* told to gateways */
};

enum dispatch_event_kind {
    EVENT_FRAME,     /* a peer's frame, decoded */
    EVENT_GONE,      /* a frame to this peer could not be sent: there is no such peer any more */
    EVENT_LAGGING,   /* a frame to this peer was dropped: its queue was full */
    EVENT_COMMITTED, /* the answer to one EFFECT_COMMIT of a job; none for an OP_RESTORE */
    EVENT_RECORD,    /* the answer to one EFFECT_READ */
    EVENT_LOAD,      /* rebuild: one live record */
    EVENT_LOADED,    /* rebuild: that was the last */
    EVENT_SWEEP,     /* who has not beaten lately */
    EVENT_TICK,      /* time has come to dispatch_deadline_ms() */
    EVENT_TERM,      /* Redis lost our term and we were elected again, memory intact: a new epoch */
    EVENT_RESTORE,   /* Redis lost its tail: commit every live job and recent end again, part by
                        part; this is the first part, whatever was restored before */
    EVENT_RESTORE_MORE, /* the next part, while dispatch_is_restoring() */
    EVENT_CLOSING,  /* an orderly stop begins: what is committed is told, nothing new is granted */
    EVENT_FAREWELL, /* and ends: every peer is told that its session is over */
    EVENT_KIND_COUNT,
};

enum commit_outcome {
    COMMIT_DONE,
    COMMIT_EXISTS,  /* OP_SUBMIT: this id has a record (an ended job's) */
    COMMIT_KNOWN,   /* OP_SUBMIT: its idempotency key already made a job */
    COMMIT_ABSENT,  /* the record is gone or ended: we know less than Redis; the job is dropped,
                       unless an OP_RESTORE is on its way: then it is committed again behind that */
    COMMIT_NO_ROOM, /* OP_SUBMIT: Redis is out of memory or disk; nothing was written */
    COMMIT_OUTCOME_COUNT,
};

struct quiet_worker {
    struct slice name;
    int64_t quiet_ms; /* since its last beat, in Redis TIME */
};

struct dispatch_event {
    enum dispatch_event_kind kind;
    struct peer peer; /* EVENT_FRAME, EVENT_GONE, EVENT_LAGGING */
    const struct frame *frame;
    const struct envelope *envelope;  /* EVENT_FRAME of SUBMIT: of its request; NULL: unreadable */
    struct job_id id;                 /* EVENT_COMMITTED, EVENT_LOAD */
    enum commit_outcome outcome;      /* EVENT_COMMITTED */
    struct job_id first;              /* EVENT_COMMITTED known: the first job */
    struct slice body_hash;           /* and its body's hash, 32 bytes */
    struct inquiry inquiry;           /* EVENT_RECORD */
    const struct job_record *record;  /* EVENT_RECORD (NULL: none), EVENT_LOAD */
    const struct quiet_worker *quiet; /* EVENT_SWEEP */
    uint32_t n_quiet;
    uint64_t epoch;      /* EVENT_TERM */
    uint32_t epoch_hash; /* EVENT_TERM */
    uint32_t most;       /* EVENT_RESTORE, _MORE: jobs of this part; 0: LIMIT_RESTORE_CHUNK */
};

enum verdict {
    VERDICT_OK,
    VERDICT_REFUSED,    /* answered with REFUSED or HELLO_REFUSED */
    VERDICT_NO_SESSION, /* the frame's session is not known; answered so */
    VERDICT_MISPLACED,  /* a frame that this side may not send; counted, dropped */
    VERDICT_OLD_EPOCH,  /* an earlier leader's session; answered NO_SESSION */
    VERDICT_STALE,      /* the lease is not the current one; answered after the record was read */
    VERDICT_FROZEN,     /* a transition is on its way; the sender repeats */
    VERDICT_BAD_RECORD, /* EVENT_LOAD: the record contradicts itself; not loaded */
    VERDICT_COUNT,
};
const char *verdict_name(enum verdict verdict);

/* Makes an empty dispatch, owned by the caller; it serves once EVENT_LOADED came. 0 or -ENOMEM. */
int dispatch_new(struct dispatch **out, const struct dispatch_config *config);
void dispatch_destroy(struct dispatch **self_p);
/* Applies one event and replaces *effects. Borrows `event` for the call. O(log n) in the jobs. */
enum verdict dispatch_step(struct dispatch *self, struct moment now,
                           const struct dispatch_event *event, struct effects *effects);
/* Redis was found to be configured otherwise than at the start of the term. */
void dispatch_set_durability(struct dispatch *self, enum durability durability);
/* True until the last part of a restore has left. Meanwhile the caller commits OP_RESTOREs alone
 * and keeps all other ops back, in order: a job's restored record is the one last told, and the
 * transition that is on its way follows it. */
bool dispatch_is_restoring(const struct dispatch *self);
/* Monotonic time at which the next EVENT_TICK is due. */
int64_t dispatch_deadline_ms(const struct dispatch *self);
/* Asserts the invariants; slow, for tests. */
void dispatch_check(const struct dispatch *self);

struct dispatch_stats {
    uint32_t queued, running, workers, gateways;
    uint64_t submitted, ended[JOB_STATE_COUNT], requeued, evicted, stale;
    uint64_t bytes; /* of requests, results and structures */
};
void dispatch_stats(const struct dispatch *self, struct dispatch_stats *out);
