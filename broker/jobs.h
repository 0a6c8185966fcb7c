#pragma once
/*
 * jobs — the broker's job structs: found by id, by deadline, by age of their end.
 *
 * A job is named by its index (uint32_t, JOB_NOBODY: none), stable while it lives. Memory comes in
 * blocks that are kept for reuse. What a state means and who may change it is dispatch's business;
 * nothing here decides.
 */
#include "broker/table.h"
#include "proto/job.h"

#define JOB_NOBODY UINT32_MAX

/* Which transition is on its way to Redis; the job is frozen until its commit is answered. */
enum job_pending {
    PENDING_NONE,
    PENDING_SUBMIT,
    PENDING_GRANT,
    PENDING_REQUEUE,
    PENDING_END,
};

enum { JOB_AVOIDS = LIMIT_TRIES };

/* What only few jobs have: attempts that failed. */
struct job_ordeal {
    uint64_t avoid[JOB_AVOIDS]; /* incarnations whose instances failed it; 0: none */
    uint8_t code;               /* enum fail_code of the end */
    uint16_t n_message;
    char message[LIMIT_REASON_BYTES];
};

struct job {
    struct job_id id;
    struct job_header header;  /* as it will be once the pending transition is committed */
    uint64_t key;              /* place in the queue: (key, sequence) ascending */
    int64_t deadline_ms;       /* monotonic: EXPIRED if still QUEUED */
    uint64_t watchers;         /* one bit a gateway session */
    uint64_t askers;           /* gateways that wait for the answer to a CANCEL or WITHDRAW */
    uint8_t *request;          /* packed envelope and body, owned */
    uint8_t *result;           /* packed result, owned; NULL unless SUCCEEDED */
    struct job_ordeal *ordeal; /* owned; NULL: no attempt failed */
    uint32_t request_length, result_length;
    uint32_t cost;
    uint32_t tenant; /* index in the queue's tenants */
    uint16_t bucket; /* index in the queue's buckets */
    uint8_t gateway; /* session slot that waits for ACCEPTED; UINT8_MAX: none */
    uint8_t step, steps;
    uint8_t n;          /* pictures asked for */
    uint8_t pending;    /* enum job_pending */
    uint8_t was;        /* state before the pending transition: what may be told */
    bool cancel_wanted; /* a CANCEL came while frozen */
    bool withdraw_wanted;
    bool restored;           /* an OP_RESTORE left while a transition was pending */
    bool counted;            /* the pending transition added a try */
    bool fail_told;          /* and answers the worker's FAIL */
    bool taken;              /* the instance took the running lease */
    bool resent;             /* its JOB was sent twice */
    uint32_t heap_at;        /* place in the deadline heap; JOB_NOBODY: not in it */
    uint32_t worker;         /* roster slot that holds the lease; ROSTER_NOBODY: not adopted yet */
    uint32_t previous, next; /* list: leases of a worker, or recently ended */
    union {
        struct { /* QUEUED: node of the bucket's tree */
            uint32_t left, right, size, priority;
            uint64_t cost_sum;
        } node;
        struct {             /* RUNNING */
            uint32_t number; /* of the JOB frame; 0: adopted */
            int64_t sent_ms; /* monotonic */
            int64_t told_ms; /* last progress told to watchers */
        } lease;
        struct {            /* ended */
            int64_t end_ms; /* monotonic */
        } recent;
    };
};

struct job_list {
    uint32_t first, last, count;
};

struct jobs {
    struct job **blocks;
    uint32_t n_blocks, n_used; /* indices given out so far, freed ones included */
    uint32_t free_first;       /* list by `next` */
    uint32_t count;
    struct table by_id;
    uint32_t *heap; /* indices, a binary heap by deadline */
    uint32_t heap_count, heap_capacity;
    uint64_t bytes; /* of requests and results */
};

void jobs_setup(struct jobs *self);
void jobs_clear(struct jobs *self); /* frees everything */
static inline struct job *
job_at(const struct jobs *self, uint32_t index)
{
    return &self->blocks[index >> 12][index & 4095];
}
/* The job of this id, or JOB_NOBODY. */
uint32_t jobs_find(const struct jobs *self, const struct job_id *id);
/* A zeroed job under this id, with a copy of the request. JOB_NOBODY: memory is gone. */
uint32_t jobs_add(struct jobs *self, const struct job_id *id, struct slice request);
/* Forgets the job; it must be in no list, heap or tree any more. */
void jobs_remove(struct jobs *self, uint32_t index);
/* Replaces the job's result by a copy. False: memory is gone. */
bool job_set_result(struct jobs *self, struct job *job, struct slice result);
/* The job's ordeal, made at need; NULL: memory is gone. */
struct job_ordeal *job_ordeal(struct job *job);

/* Deadline heap: O(log n). */
bool jobs_deadline_add(struct jobs *self, uint32_t index); /* false: memory is gone */
void jobs_deadline_remove(struct jobs *self, uint32_t index);
/* The job with the nearest deadline, or JOB_NOBODY. */
uint32_t jobs_deadline_first(const struct jobs *self);

void job_list_setup(struct job_list *list);
void job_list_append(struct jobs *self, struct job_list *list, uint32_t index);
void job_list_remove(struct jobs *self, struct job_list *list, uint32_t index);
