#include "broker/queue.h"
#include "common/mutant.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Turns of the classes while all of them wait: 16 : 4 : 1. */
static const uint64_t class_stride[CLASS_COUNT] = { 1, 4, 16 };

void
queue_setup(struct queue *self, struct jobs *jobs)
{
    memset(self, 0, sizeof *self);
    self->jobs = jobs;
}

void
queue_clear(struct queue *self)
{
    free(self->models);
    free(self->tenants);
    table_clear(&self->tenants_by_name);
    queue_setup(self, self->jobs);
}

static bool
name_is(const char *name, struct slice slice)
{
    return strlen(name) == slice.length && memcmp(name, slice.bytes, slice.length) == 0;
}

uint16_t
queue_model(struct queue *self, struct slice name)
{
    assert(name.length <= LIMIT_MODEL_NAME);
    for (uint32_t i = 0; i < self->n_models; i++) {
        if (name_is(self->models[i], name)) {
            return (uint16_t)i;
        }
    }
    if (self->models == NULL) {
        self->models = calloc(LIMIT_MODEL_NAMES, sizeof *self->models);
    }
    if (self->models == NULL || self->n_models == LIMIT_MODEL_NAMES) {
        return QUEUE_NONE;
    }
    memcpy(self->models[self->n_models], name.bytes, name.length);
    return (uint16_t)self->n_models++;
}

/* ---- buckets ---- */

static uint16_t
bucket_of(struct queue *self, uint16_t model, uint32_t pixels, uint32_t features)
{
    uint16_t level = (uint16_t)((pixels + PIXELS_PER_LEVEL - 1) / PIXELS_PER_LEVEL);
    uint16_t empty = QUEUE_NONE;
    for (uint32_t i = 0; i < self->n_buckets; i++) {
        const struct bucket *bucket = &self->buckets[i];
        if (bucket->jobs == 0) {
            empty = (uint16_t)i;
        } else if (bucket->model == model && bucket->level == level &&
                   bucket->features == features) {
            return (uint16_t)i;
        }
    }
    if (empty == QUEUE_NONE) {
        if (self->n_buckets == LIMIT_BUCKETS) {
            return QUEUE_NONE;
        }
        empty = (uint16_t)self->n_buckets++;
    }
    self->buckets[empty] = (struct bucket){
        .model = model,
        .level = level,
        .features = features,
        .roots = { JOB_NOBODY, JOB_NOBODY, JOB_NOBODY },
    };
    return empty;
}

bool
bucket_fits(const struct bucket *bucket, const struct capability *who)
{
    if (bucket->level > who->level || (bucket->features & ~who->features) != 0) {
        return false;
    }
    for (uint32_t i = 0; i < who->n_models; i++) {
        if (who->models[i] == bucket->model) {
            return true;
        }
    }
    return false;
}

/* ---- tenants ---- */

struct tenant_sought {
    const struct queue *queue;
    struct slice name;
};

static bool
tenant_matches(const void *context, uint32_t index)
{
    const struct tenant_sought *sought = context;
    return name_is(sought->queue->tenants[index].name, sought->name);
}

/* Reuses a tenant without jobs whose virtual time is paid; only when the table is full. */
static uint32_t
tenant_reuse(struct queue *self)
{
    for (uint32_t i = 0; i < self->n_tenants; i++) {
        struct tenant *tenant = &self->tenants[i];
        if (tenant->jobs == 0) {
            table_remove(&self->tenants_by_name, table_hash(tenant->name, strlen(tenant->name)), i);
            return i;
        }
    }
    return TABLE_NONE;
}

static uint32_t
tenant_new_index(struct queue *self)
{
    if (self->n_tenants == LIMIT_TENANTS) {
        return tenant_reuse(self);
    }
    if (self->n_tenants == self->tenants_capacity) {
        uint32_t capacity = self->tenants_capacity > 0 ? self->tenants_capacity * 2 : 16;
        struct tenant *tenants = calloc(capacity, sizeof *tenants);
        if (tenants == NULL) {
            return TABLE_NONE;
        }
        if (self->n_tenants > 0) {
            memcpy(tenants, self->tenants, self->n_tenants * sizeof *tenants);
        }
        free(self->tenants);
        self->tenants = tenants;
        self->tenants_capacity = capacity;
    }
    return self->n_tenants++;
}

const struct tenant *
queue_tenant(const struct queue *self, struct slice name)
{
    struct tenant_sought sought = { self, name };
    uint32_t index = table_find(&self->tenants_by_name, table_hash(name.bytes, name.length),
                                tenant_matches, &sought);
    return index == TABLE_NONE ? NULL : &self->tenants[index];
}

static uint32_t
tenant_of(struct queue *self, struct slice name)
{
    uint32_t hash = table_hash(name.bytes, name.length);
    struct tenant_sought sought = { self, name };
    uint32_t index = table_find(&self->tenants_by_name, hash, tenant_matches, &sought);
    if (index != TABLE_NONE) {
        return index;
    }
    index = tenant_new_index(self);
    if (index == TABLE_NONE || !table_add(&self->tenants_by_name, hash, index)) {
        return TABLE_NONE;
    }
    self->tenants[index] = (struct tenant){ 0 };
    memcpy(self->tenants[index].name, name.bytes, name.length);
    return index;
}

bool
queue_bind(struct queue *self, struct job *job, const struct envelope *envelope)
{
    uint16_t model = queue_model(self, envelope->model);
    if (model == QUEUE_NONE) {
        return false;
    }
    uint32_t tenant = tenant_of(self, envelope->tenant);
    if (tenant == TABLE_NONE) {
        return false;
    }
    uint32_t pixels = (uint32_t)envelope->width * envelope->height;
    uint16_t bucket = bucket_of(self, model, pixels, envelope->features);
    if (bucket == QUEUE_NONE) {
        return false;
    }
    self->buckets[bucket].jobs++;
    self->tenants_live += self->tenants[tenant].jobs++ == 0;
    self->tenants[tenant].bytes += job->request_length;
    job->bucket = bucket;
    job->tenant = tenant;
    job->n = envelope->n;
    job->cost = (uint32_t)job_cost(envelope);
    return true;
}

void
queue_unbind(struct queue *self, struct job *job)
{
    assert(self->buckets[job->bucket].jobs > 0 && self->tenants[job->tenant].jobs > 0);
    self->buckets[job->bucket].jobs--;
    self->tenants_live -= --self->tenants[job->tenant].jobs == 0;
    self->tenants[job->tenant].bytes -= job->request_length;
}

/* ---- keys ---- */

uint64_t
queue_key(struct queue *self, const struct job *job)
{
    uint64_t *end = &self->tenants[job->tenant].end[job->header.class_];
    uint64_t now = self->virtual_time[job->header.class_];
    uint64_t key = *end > now ? *end : now;
    *end = key + (MUTANT(NOCOST) ? 0 : job->cost);
    return key;
}

void
queue_key_loaded(struct queue *self, const struct job *job)
{
    uint64_t *end = &self->tenants[job->tenant].end[job->header.class_];
    uint64_t *now = &self->virtual_time[job->header.class_];
    if (*end < job->key + job->cost) {
        *end = job->key + job->cost;
    }
    bool *seen = &self->key_loaded[job->header.class_];
    if (!*seen || *now > job->key) {
        *now = job->key; /* the least key loaded: nobody who comes now passes it */
        *seen = true;
    }
}

/* ---- the trees ---- */

static uint32_t *
root_of(struct queue *self, const struct job *job)
{
    return &self->buckets[job->bucket].roots[job->header.class_];
}

void
queue_insert(struct queue *self, uint32_t index)
{
    order_insert(self->jobs, root_of(self, job_at(self->jobs, index)), index);
    self->queued++;
}

void
queue_remove(struct queue *self, uint32_t index)
{
    order_remove(self->jobs, root_of(self, job_at(self->jobs, index)), index);
    self->queued--;
}

/* The first job of a tree that does not avoid the worker. */
static uint32_t
tree_first(const struct queue *self, uint32_t root, queue_avoids_fn avoids, const void *context)
{
    for (uint32_t rank = 0; rank < LIMIT_AVOID_LOOK; rank++) {
        uint32_t index = order_at(self->jobs, root, rank);
        if (index == JOB_NOBODY || !avoids(context, job_at(self->jobs, index))) {
            return index;
        }
    }
    return JOB_NOBODY;
}

static uint32_t
class_first(const struct queue *self, enum job_class class_, const struct capability *who,
            queue_avoids_fn avoids, const void *context)
{
    uint32_t best = JOB_NOBODY;
    for (uint32_t i = 0; i < self->n_buckets; i++) {
        const struct bucket *bucket = &self->buckets[i];
        if (bucket->roots[class_] == JOB_NOBODY || bucket->jobs == 0 || !bucket_fits(bucket, who)) {
            continue;
        }
        uint32_t first = tree_first(self, bucket->roots[class_], avoids, context);
        if (first != JOB_NOBODY && (best == JOB_NOBODY || order_before(job_at(self->jobs, first),
                                                                       job_at(self->jobs, best)))) {
            best = first;
        }
    }
    return best;
}

/* ---- turns of the classes ---- */

bool
capability_equal(const struct capability *a, const struct capability *b)
{
    return a->level == b->level && a->features == b->features && a->n_models == b->n_models &&
           memcmp(a->models, b->models, a->n_models * sizeof a->models[0]) == 0;
}

uint32_t
queue_turns(struct queue *self, const struct capability *who)
{
    for (uint32_t i = 0; i < self->n_turns; i++) {
        if (capability_equal(&self->turns[i].can, who)) {
            return i;
        }
    }
    if (self->n_turns == LIMIT_KINDS) {
        return table_hash(who->models, who->n_models * sizeof who->models[0]) % LIMIT_KINDS;
    }
    self->turns[self->n_turns] = (struct turns){ .can = *who };
    return self->n_turns++;
}

static uint64_t
class_pass(const struct turns *turns, enum job_class class_)
{
    /* a class that had nothing to do gains no turns by it */
    return turns->pass[class_] > turns->now ? turns->pass[class_] : turns->now;
}

uint32_t
queue_pick(const struct queue *self, const struct capability *who, queue_avoids_fn avoids,
           const void *context)
{
    const struct turns *turns = &self->turns[who->turns];
    uint32_t best = JOB_NOBODY;
    uint64_t best_pass = UINT64_MAX;
    for (enum job_class class_ = CLASS_HIGH; class_ < CLASS_COUNT; class_++) {
        uint32_t first = class_first(self, class_, who, avoids, context);
        uint64_t pass = MUTANT(NOTURNS) ? (uint64_t)class_ : class_pass(turns, class_);
        if (first != JOB_NOBODY && pass < best_pass) {
            best = first;
            best_pass = pass;
        }
    }
    return best;
}

void
queue_charge(struct queue *self, const struct capability *who, const struct job *job)
{
    enum job_class class_ = job->header.class_;
    struct turns *turns = &self->turns[who->turns];
    turns->now = class_pass(turns, class_);
    turns->pass[class_] = turns->now + class_stride[class_];
    if (self->virtual_time[class_] < job->key) {
        self->virtual_time[class_] = job->key;
    }
}

struct ahead
queue_ahead(const struct queue *self, const struct job *job, const struct capability *const *who,
            uint32_t n)
{
    const struct bucket *own = &self->buckets[job->bucket];
    struct ahead sum = { 0 };
    for (uint32_t i = 0; i < self->n_buckets; i++) {
        const struct bucket *bucket = &self->buckets[i];
        bool shared = bucket == own;
        for (uint32_t k = 0; k < n && !shared && bucket->jobs > 0; k++) {
            shared = bucket_fits(own, who[k]) && bucket_fits(bucket, who[k]);
        }
        if (!shared || bucket->jobs == 0) {
            continue;
        }
        struct ahead before = order_ahead(self->jobs, bucket->roots[job->header.class_], job->key,
                                          job->header.sequence);
        sum.jobs += before.jobs;
        sum.cost += before.cost;
        for (uint32_t class_ = 0; class_ < job->header.class_; class_++) {
            sum.cost += order_total(self->jobs, bucket->roots[class_]).cost;
        }
    }
    return sum;
}
