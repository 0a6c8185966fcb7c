/* Into memory at the start of a term, into Redis again when it lost its tail, out of memory when
 * nobody asks any more. */
#include "broker/dispatch_private.h"
#include <assert.h>

enum verdict
job_load(struct dispatch *self, const struct dispatch_event *event)
{
    const struct job_record *record = event->record;
    enum job_state state = record->header.state;
    if ((state != JOB_QUEUED && state != JOB_RUNNING) || record->header.grant > LIMIT_GRANTS ||
        jobs_find(&self->jobs, &event->id) != JOB_NOBODY) {
        return VERDICT_BAD_RECORD;
    }
    uint32_t index = jobs_add(&self->jobs, &event->id, record->request);
    assert(index != JOB_NOBODY);
    struct job *job = job_at(&self->jobs, index);
    job->header = record->header;
    job->key = MUTANT(LOADKEY) ? 0 : record->envelope.key;
    job->steps = record->envelope.steps;
    int64_t left_ms = (int64_t)(record->envelope.deadline_ms - self->now.redis_ms);
    job->deadline_ms = self->now.mono_ms + left_ms;
    if (!queue_bind(&self->queue, job, &record->envelope)) {
        jobs_remove(&self->jobs, index);
        return VERDICT_BAD_RECORD;
    }
    if (self->config.sequence < job->header.sequence) {
        self->config.sequence = job->header.sequence;
    }
    if (state == JOB_QUEUED) {
        queue_key_loaded(&self->queue, job);
        job_enqueue(self, index);
    } else {
        job_list_append(&self->jobs, &self->orphans, index);
        self->running++;
    }
    return VERDICT_OK;
}

/* The whole record as it was told last. */
static void
restore_one(struct dispatch *self, struct job *job)
{
    struct op *op = job_op(self, job, OP_RESTORE);
    if (job->pending != PENDING_NONE) { /* its transition is committed behind this */
        op->header.state = job->was;
        op->header.revision--;
        op->header.grant = (uint8_t)(op->header.grant - (job->pending == PENDING_GRANT));
        op->header.tries = (uint8_t)(op->header.tries - job->counted);
        job->restored = true;
        op->result = (struct slice){ 0 };
    }
}

/* In parts: a million effects in one step would be gigabytes. No commit but a restore's is answered
 * meanwhile, so no job that was told leaves its slot before its turn. */
void
job_restore(struct dispatch *self, bool first, uint32_t most)
{
    if (first) {
        self->restoring = true;
        self->restore_from = 0;
    } else if (!self->restoring) {
        return;
    }
    uint32_t left = most > 0 && most < LIMIT_RESTORE_CHUNK ? most : LIMIT_RESTORE_CHUNK;
    uint32_t look = LIMIT_RESTORE_LOOK;
    while (left > 0 && look > 0 && self->restore_from < self->jobs.n_used) {
        struct job *job = job_at(&self->jobs, self->restore_from++);
        look--;
        bool left_out = MUTANT(RESTORELESS) && job->pending != PENDING_NONE;
        if (job->request != NULL && job_told_state(job) != JOB_NONE && !left_out) {
            restore_one(self, job);
            left--;
        }
    }
    self->restoring = self->restore_from < self->jobs.n_used;
}

/* While Redis is away, and shortly after, any end may have to be committed again: it may have lost
 * what it confirmed last. */
static bool
redis_is_steady(const struct dispatch *self)
{
    return self->sweep_ms != 0 && self->now.mono_ms - self->sweep_ms <= LIMIT_CLOCK_SLIP_MS &&
           self->now.mono_ms - self->steady_from_ms >= LIMIT_RECENT_MS;
}

void
job_forget_recent(struct dispatch *self)
{
    if (self->restoring || !redis_is_steady(self)) {
        return;
    }
    while (self->recent.first != JOB_NOBODY) {
        uint32_t index = self->recent.first;
        if (self->now.mono_ms - job_at(&self->jobs, index)->recent.end_ms < LIMIT_RECENT_MS) {
            return;
        }
        job_list_remove(&self->jobs, &self->recent, index);
        jobs_remove(&self->jobs, index);
    }
}
