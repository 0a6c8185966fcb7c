#include "broker/dispatch_private.h"

struct avoid_question {
    const struct dispatch *dispatch;
    uint64_t incarnation;
};

static bool
avoided_by(const struct job *job, uint64_t incarnation)
{
    for (uint32_t i = 0; job->ordeal != NULL && i < JOB_AVOIDS; i++) {
        if (job->ordeal->avoid[i] == incarnation) {
            return true;
        }
    }
    return false;
}

/* A retry goes to another worker while one that can take it is alive. */
static bool
job_avoids(const void *context, const struct job *job)
{
    const struct avoid_question *question = context;
    if (job->ordeal == NULL || !avoided_by(job, question->incarnation)) {
        return false;
    }
    const struct dispatch *self = question->dispatch;
    for (uint32_t slot = 0; slot < self->roster.n_workers; slot++) {
        const struct worker *other = &self->roster.workers[slot];
        if (other->used && other->session != 0 && !other->draining &&
            bucket_fits(&self->queue.buckets[job->bucket], &other->can) &&
            !avoided_by(job, other->incarnation)) {
            return true;
        }
    }
    return false;
}

void
worker_serve(struct dispatch *self, uint32_t slot)
{
    struct worker *worker = &self->roster.workers[slot];
    struct avoid_question question = { self, worker->incarnation };
    while (self->loaded && !self->closing && worker_credit(worker) > 0) {
        uint32_t index = queue_pick(&self->queue, &worker->can, job_avoids, &question);
        if (index == JOB_NOBODY) {
            return;
        }
        job_grant(self, index, slot);
    }
}

void
worker_offer(struct dispatch *self, uint32_t index)
{
    const struct job *job = job_at(&self->jobs, index);
    uint32_t best = ROSTER_NOBODY;
    uint32_t looked = 0;
    for (uint32_t slot = self->roster.free_first;
         slot != ROSTER_NOBODY && looked < LIMIT_OFFER_LOOK;
         slot = self->roster.workers[slot].free_next) {
        const struct worker *worker = &self->roster.workers[slot];
        struct avoid_question question = { self, worker->incarnation };
        if (!bucket_fits(&self->queue.buckets[job->bucket], &worker->can) ||
            job_avoids(&question, job)) {
            continue;
        }
        looked++;
        if (best == ROSTER_NOBODY || worker->speed > self->roster.workers[best].speed) {
            best = slot;
        }
    }
    if (best != ROSTER_NOBODY) {
        worker_serve(self, best);
    }
}

void
worker_rematch(struct dispatch *self)
{
    self->rematch = false;
    uint32_t next;
    for (uint32_t slot = self->roster.free_first; slot != ROSTER_NOBODY; slot = next) {
        next = self->roster.workers[slot].free_next;
        worker_serve(self, slot);
    }
}
