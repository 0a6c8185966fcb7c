#include "broker/dispatch.h"
#include "broker/dispatch_private.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const verdict_names[VERDICT_COUNT] = {
    "ok", "refused", "no_session", "misplaced", "old_epoch", "stale", "frozen", "bad_record",
};

const char *
verdict_name(enum verdict verdict)
{
    assert(verdict < VERDICT_COUNT);
    return verdict_names[verdict];
}

int
dispatch_new(struct dispatch **out, const struct dispatch_config *config)
{
    struct dispatch *self = calloc(1, sizeof *self);
    if (self == NULL || roster_setup(&self->roster) != 0) {
        free(self);
        return -ENOMEM;
    }
    self->config = *config;
    jobs_setup(&self->jobs);
    queue_setup(&self->queue, &self->jobs);
    job_list_setup(&self->recent);
    job_list_setup(&self->orphans);
    *out = self;
    return 0;
}

void
dispatch_destroy(struct dispatch **self_p)
{
    struct dispatch *self = *self_p;
    if (self != NULL) {
        queue_clear(&self->queue);
        jobs_clear(&self->jobs);
        roster_clear(&self->roster);
        free(self);
        *self_p = NULL;
    }
}

struct frame *
send_frame(struct dispatch *self, const struct peer *peer, uint64_t session, enum frame_kind kind)
{
    struct effect *effect = effects_add(self->effects, EFFECT_SEND);
    effect->peer = *peer;
    effect->frame = (struct frame){ .kind = kind, .session = session };
    effect->frame.epoch = self->config.epoch;
    return &effect->frame;
}

void
send_read(struct dispatch *self, const struct inquiry *inquiry)
{
    effects_add(self->effects, EFFECT_READ)->inquiry = *inquiry;
}

/* -- time -- */

static void
expire_due(struct dispatch *self)
{
    for (uint32_t n = 0; n < LIMIT_EXPIRIES_PER_STEP; n++) {
        uint32_t index = jobs_deadline_first(&self->jobs);
        if (index == JOB_NOBODY || job_at(&self->jobs, index)->deadline_ms > self->now.mono_ms) {
            return;
        }
        job_expire(self, index);
    }
}

static void
tick(struct dispatch *self)
{
    expire_due(self);
    job_forget_recent(self);
    if (self->now.mono_ms >= self->second_ms) {
        self->second_ms = self->now.mono_ms + LIMIT_POSITIONS_MS;
        worker_second(self);
        gateway_second(self);
    }
    self->tick_ms = self->now.mono_ms + LIMIT_CORE_TICK_MS;
}

void
dispatch_set_durability(struct dispatch *self, enum durability durability)
{
    self->config.durability = durability;
}

int64_t
dispatch_deadline_ms(const struct dispatch *self)
{
    return self->tick_ms;
}

static void
loaded(struct dispatch *self)
{
    self->loaded = true;
    self->adopt_until_ms = self->now.mono_ms + LIMIT_ADOPT_GRACE_MS;
    self->silence_from_ms = self->now.mono_ms;
    self->tick_ms = self->second_ms = self->now.mono_ms;
    self->rematch = true; /* workers that came during the rebuild */
}

/* Peers that hear it look for the next leader at once, and not when we have been silent. */
static void
farewell(struct dispatch *self)
{
    for (uint32_t slot = 0; slot < self->roster.n_workers; slot++) {
        const struct worker *worker = &self->roster.workers[slot];
        if (worker->used && worker->session != 0) {
            send_frame(self, &worker->peer, worker->session, FRAME_NO_SESSION);
        }
    }
    for (uint32_t gateway = 0; gateway < LIMIT_GATEWAYS; gateway++) {
        const struct gateway *slot = &self->roster.gateways[gateway];
        if (slot->used) {
            send_frame(self, &slot->peer, slot->session, FRAME_NO_SESSION);
        }
    }
}

/* -- events -- */

static enum verdict
on_event(struct dispatch *self, const struct dispatch_event *event)
{
    switch (event->kind) {
    case EVENT_FRAME:
        return event->peer.side == DOOR_WORKERS ? worker_frame(self, event)
                                                : gateway_frame(self, event);
    case EVENT_GONE:
        event->peer.side == DOOR_WORKERS ? worker_gone(self, &event->peer)
                                         : gateway_gone(self, &event->peer);
        return VERDICT_OK;
    case EVENT_LAGGING:
        if (event->peer.side == DOOR_GATEWAYS) {
            gateway_lagging(self, &event->peer);
        }
        return VERDICT_OK;
    case EVENT_COMMITTED:
        return job_committed(self, event);
    case EVENT_RECORD:
        return event->inquiry.kind == INQUIRY_CANCEL ? gateway_record(self, event)
                                                     : worker_record(self, event);
    case EVENT_LOAD:
        return job_load(self, event);
    case EVENT_LOADED:
        loaded(self);
        return VERDICT_OK;
    case EVENT_SWEEP:
        worker_sweep(self, event);
        return VERDICT_OK;
    case EVENT_TICK:
        tick(self);
        return VERDICT_OK;
    case EVENT_TERM: /* sessions of the old epoch are answered NO_SESSION and open new ones */
        self->config.epoch = event->epoch;
        self->config.epoch_hash = event->epoch_hash;
        return VERDICT_OK;
    case EVENT_RESTORE:
    case EVENT_RESTORE_MORE:
        job_restore(self, event->kind == EVENT_RESTORE, event->most);
        return VERDICT_OK;
    case EVENT_CLOSING:
        self->closing = true;
        return VERDICT_OK;
    case EVENT_FAREWELL:
        farewell(self);
        return VERDICT_OK;
    case EVENT_KIND_COUNT:
        break;
    }
    assert(false);
    return VERDICT_MISPLACED;
}

enum verdict
dispatch_step(struct dispatch *self, struct moment now, const struct dispatch_event *event,
              struct effects *effects)
{
    effects_clear(effects);
    self->now = now;
    self->effects = effects;
    enum verdict verdict = on_event(self, event);
    if (self->rematch) {
        worker_rematch(self);
    }
    self->effects = NULL;
    return verdict;
}

bool
dispatch_is_restoring(const struct dispatch *self)
{
    return self->restoring;
}

void
dispatch_stats(const struct dispatch *self, struct dispatch_stats *out)
{
    *out = self->stats;
    out->queued = self->queue.queued;
    out->running = self->running;
    out->workers = self->roster.alive;
    for (uint32_t i = 0; i < LIMIT_GATEWAYS; i++) {
        out->gateways += self->roster.gateways[i].used;
    }
    out->bytes = self->jobs.bytes + (uint64_t)self->jobs.n_used * (sizeof(struct job) + 20);
}

/* -- invariants -- */

/* A queued job stands in the tree of its bucket and class, where its key says. */
static void
check_tree(const struct dispatch *self, uint32_t index)
{
    const struct job *job = job_at(&self->jobs, index);
    uint32_t root = self->queue.buckets[job->bucket].roots[job->header.class_];
    struct ahead ahead = order_ahead(&self->jobs, root, job->key, job->header.sequence);
    assert(order_at(&self->jobs, root, ahead.jobs) == index);
}

static void
check_queue(const struct dispatch *self, uint32_t live)
{
    const struct queue *queue = &self->queue;
    uint32_t in_trees = 0;
    uint32_t bound = 0;
    for (uint32_t i = 0; i < queue->n_buckets; i++) {
        bound += queue->buckets[i].jobs;
        for (uint32_t class_ = 0; class_ < CLASS_COUNT; class_++) {
            in_trees += order_total(&self->jobs, queue->buckets[i].roots[class_]).jobs;
        }
    }
    assert(in_trees == queue->queued && bound == live - self->recent.count);
    uint32_t of_tenants = 0;
    for (uint32_t i = 0; i < queue->n_tenants; i++) {
        of_tenants += queue->tenants[i].jobs;
    }
    assert(of_tenants == bound);
}

static uint32_t
check_list(const struct dispatch *self, const struct job_list *list)
{
    uint32_t n = 0;
    for (uint32_t i = list->first; i != JOB_NOBODY; i = job_at(&self->jobs, i)->next) {
        n++;
    }
    assert(n == list->count);
    return n;
}

void
dispatch_check(const struct dispatch *self)
{
    uint32_t queued = 0;
    uint32_t running = 0;
    uint32_t live = 0;
    for (uint32_t i = 0; i < self->jobs.n_used; i++) {
        const struct job *job = job_at(&self->jobs, i);
        if (job->request == NULL) {
            continue; /* a free slot */
        }
        bool settled = job->pending == PENDING_NONE;
        live++;
        assert(job->header.state != JOB_NONE);
        assert((job->heap_at != JOB_NOBODY) == (settled && job->header.state == JOB_QUEUED));
        assert(job->header.grant <= LIMIT_GRANTS);
        queued += settled && job->header.state == JOB_QUEUED;
        running += settled && job->header.state == JOB_RUNNING;
        if (settled && job->header.state == JOB_QUEUED) {
            check_tree(self, i);
        }
    }
    check_queue(self, live);
    assert(live == self->jobs.count);
    assert(queued == self->queue.queued && queued == self->jobs.heap_count);
    assert(running == self->running);
    uint32_t leased = check_list(self, &self->orphans);
    check_list(self, &self->recent);
    for (uint32_t slot = 0; slot < self->roster.n_workers; slot++) {
        const struct worker *worker = &self->roster.workers[slot];
        if (worker->used) {
            leased += check_list(self, &worker->leases);
        }
        assert(worker->in_free == (worker->used && worker_credit(worker) > 0));
    }
    assert(leased == running);
}
