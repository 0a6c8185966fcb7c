#pragma once
/*
 * queue — which queued job is next for whom.
 *
 * Jobs lie in buckets by what they need (model, size ceiling, features), in each bucket by class,
 * in each class sorted by (key, sequence). The key is computed once, when the job is submitted, and
 * never changes: a requeued job takes its old place.
 *
 *   class    high, normal, low get turns 16 : 4 : 1 while all wait (stride scheduling), counted
 *            among workers that can do the same: turns that others had with jobs of their own are
 *            nobody's loss
 *   tenant   start-time fair queueing: key = max(virtual time, end of the tenant's last job), which
 *            ends `cost` later; a tenant alone gets plain first come, first served
 *
 * Pure. Every operation is O(log n) in the jobs and linear in the buckets in use (usually a few).
 */
#include "broker/jobs.h"
#include "broker/order.h"

enum {
    PIXELS_PER_LEVEL =
        65536, /* a size ceiling is a multiple of 256 x 256 pixels: 64 levels to 2048 x 2048 */
};
#define QUEUE_NONE UINT16_MAX

/* What a worker can do. */
struct capability {
    uint16_t models[LIMIT_MODELS]; /* from queue_model() */
    uint8_t n_models;
    uint16_t level; /* largest size, in PIXELS_PER_LEVEL, rounded down */
    uint32_t features;
    uint32_t turns; /* from queue_turns() */
};

/* Stride scheduling of the classes among workers that can do the same. */
struct turns {
    struct capability can;
    uint64_t pass[CLASS_COUNT]; /* the class with the least one is next */
    uint64_t now;               /* pass of the last turn */
};

struct bucket {
    uint16_t model, level;
    uint32_t features;
    uint32_t jobs; /* that name this bucket, running ones included: frees it at 0 */
    uint32_t roots[CLASS_COUNT];
};

struct tenant {
    char name[LIMIT_TENANT_NAME + 1];
    uint64_t end[CLASS_COUNT]; /* virtual time when its last job of the class ends */
    uint32_t jobs;             /* live ones */
    uint64_t bytes;            /* of their requests */
};

struct queue {
    struct jobs *jobs;
    struct bucket buckets[LIMIT_BUCKETS];
    uint32_t n_buckets;
    char (*models)[LIMIT_MODEL_NAME + 1];
    uint32_t n_models;
    struct tenant *tenants;
    uint32_t n_tenants, tenants_capacity, tenants_live; /* live: with jobs */
    struct table tenants_by_name;
    uint64_t virtual_time[CLASS_COUNT];
    bool key_loaded[CLASS_COUNT]; /* virtual time is the least key of a rebuild */
    struct turns turns[LIMIT_KINDS];
    uint32_t n_turns;
    uint32_t queued; /* jobs in trees */
};

/* `jobs` outlives the queue. */
void queue_setup(struct queue *self, struct jobs *jobs);
void queue_clear(struct queue *self);

/* The number of a model name, given out at first sight. QUEUE_NONE: LIMIT_MODEL_NAMES are known. */
uint16_t queue_model(struct queue *self, struct slice name);
/* Binds a new job to its bucket and tenant (sets job->bucket, ->tenant, ->cost, ->n). False: a
 * bound is reached; nothing changed. */
bool queue_bind(struct queue *self, struct job *job, const struct envelope *envelope);
/* The tenant of this name, or NULL: it has no jobs and had none lately. */
const struct tenant *queue_tenant(const struct queue *self, struct slice name);
/* Undoes queue_bind: the job has ended. */
void queue_unbind(struct queue *self, struct job *job);
/* The key of a job submitted now; pays for it. */
uint64_t queue_key(struct queue *self, const struct job *job);
/* Tells the queue of a key that an earlier broker gave. */
void queue_key_loaded(struct queue *self, const struct job *job);

void queue_insert(struct queue *self, uint32_t index);
void queue_remove(struct queue *self, uint32_t index);

/* The job that a worker of this capability takes next, or JOB_NOBODY. `avoids(context, job)`: this
 * job should go elsewhere if it can. */
typedef bool (*queue_avoids_fn)(const void *context, const struct job *job);
uint32_t queue_pick(const struct queue *self, const struct capability *who, queue_avoids_fn avoids,
                    const void *context);
/* The job was granted to a worker of this capability: moves virtual time and the class's turn on.
 */
void queue_charge(struct queue *self, const struct capability *who, const struct job *job);
/* Whose turns count together with those of a worker of this capability: for its `turns`. The 65th
 * kind of worker shares with another one. */
uint32_t queue_turns(struct queue *self, const struct capability *who);

bool capability_equal(const struct capability *a, const struct capability *b);
bool bucket_fits(const struct bucket *bucket, const struct capability *who);
/* Jobs and cost ahead of a queued job among those that one of the `n` capabilities which can take
 * it can take: of its class those before it, of higher classes all (cost only). */
struct ahead queue_ahead(const struct queue *self, const struct job *job,
                         const struct capability *const *who, uint32_t n);
