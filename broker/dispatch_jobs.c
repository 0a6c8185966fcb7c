#include "broker/dispatch_private.h"
#include <assert.h>
#include <string.h>

/* What a job costs in memory besides its request: its struct, its place in table and heap. */
enum { STRUCTURE_BYTES = sizeof(struct job) + 16 + 4 };

enum job_state
job_told_state(const struct job *job)
{
    return job->pending == PENDING_NONE ? job->header.state : job->was;
}

struct lease
job_lease(const struct job *job)
{
    return (struct lease){ job->id, job->header.epoch, job->header.grant };
}

/* Fills in what every op of a job says. */
struct op *
job_op(struct dispatch *self, struct job *job, enum op_kind kind)
{
    struct op *op = &effects_add(self->effects, EFFECT_COMMIT)->op;
    *op = (struct op){ .kind = kind,
                       .id = job->id,
                       .header = job->header,
                       .request = { job->request, job->request_length },
                       .result = { job->result, job->result_length } };
    if (job->header.state == JOB_FAILED && job->ordeal != NULL) {
        op->code = job->ordeal->code;
        op->message = (struct slice){ job->ordeal->message, job->ordeal->n_message };
    }
    return op;
}

/* The only door through which a state changes: the job is frozen until its commit is answered. */
static struct op *
job_move(struct dispatch *self, struct job *job, enum job_input input)
{
    static const uint8_t pending_of[JOB_INPUT_COUNT] = {
        [IN_SUBMIT] = PENDING_SUBMIT,   [IN_GRANT] = PENDING_GRANT, [IN_DONE] = PENDING_END,
        [IN_RELEASE] = PENDING_REQUEUE, [IN_GIVE_UP] = PENDING_END, [IN_CANCEL] = PENDING_END,
        [IN_EXPIRE] = PENDING_END,
    };
    static const enum op_kind op_of[JOB_INPUT_COUNT] = {
        [IN_SUBMIT] = OP_SUBMIT, [IN_GRANT] = OP_TOUCH,    [IN_DONE] = OP_FINISH,
        [IN_RELEASE] = OP_TOUCH, [IN_GIVE_UP] = OP_FINISH, [IN_CANCEL] = OP_FINISH,
        [IN_EXPIRE] = OP_FINISH,
    };
    enum job_state next = job_next(job->header.state, input);
    assert(next != JOB_NONE && job->pending == PENDING_NONE);
    job->was = job->header.state;
    job->header.state = (uint8_t)next;
    job->header.revision++;
    job->header.change_ms = self->now.redis_ms;
    job->pending = pending_of[input];
    return job_op(self, job, op_of[input]);
}

/* -- submit -- */

/* Writes one of the two numbers that stand in the packed envelope with a fixed width. */
static void
request_put(uint8_t *request, uint32_t at, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        request[at + i] = (uint8_t)(value >> (56 - 8 * i));
    }
}

static enum refusal
submit_refusal(const struct dispatch *self, const struct envelope *envelope, uint32_t length)
{
    uint32_t live = self->jobs.count - self->recent.count;
    uint64_t bytes = self->jobs.bytes + (uint64_t)live * STRUCTURE_BYTES;
    if (live >= self->config.max_jobs + MUTANT(OVERFULL) ||
        bytes + length + STRUCTURE_BYTES > self->config.max_bytes) {
        return REFUSAL_QUEUE_FULL;
    }
    const struct tenant *tenant = queue_tenant(&self->queue, envelope->tenant);
    if (tenant == NULL || self->queue.tenants_live <= 1 || MUTANT(NOSHARE)) {
        return REFUSAL_NONE;
    }
    uint64_t share = LIMIT_TENANT_SHARE_PERCENT;
    bool full = tenant->jobs * 100ULL >= self->config.max_jobs * share ||
                tenant->bytes * 100 >= self->config.max_bytes * share;
    return full ? REFUSAL_TENANT_FULL : REFUSAL_NONE;
}

/* Seconds until one place has come free, as the workers draw now; 1..60. */
static uint32_t
retry_after_s(const struct dispatch *self)
{
    double speed = 0;
    for (uint32_t i = 0; i < self->roster.n_kinds; i++) {
        speed += self->roster.kinds[i].speed;
    }
    double seconds = speed > 0 ? 2 * 8192 / speed : 60;
    return seconds < 1 ? 1 : seconds > 60 ? 60 : (uint32_t)seconds;
}

static enum verdict
submit_refuse(struct dispatch *self, uint32_t gateway, const struct job_id *id,
              enum refusal refusal)
{
    if (gateway == UINT8_MAX) {
        return VERDICT_REFUSED;
    }
    gateway_send(self, gateway, FRAME_REFUSED)->refused =
        (struct refused){ *id, (uint8_t)refusal, retry_after_s(self) };
    return VERDICT_REFUSED;
}

/* The same id again: a submit repeated after a new session, or its answer was lost. */
static enum verdict
submit_again(struct dispatch *self, uint32_t gateway, struct job *job, bool watch)
{
    if (watch) {
        job->watchers |= 1ULL << gateway;
    }
    if (job->pending == PENDING_SUBMIT) {
        job->gateway = (uint8_t)gateway;
        return VERDICT_FROZEN;
    }
    gateway_accepted(self, gateway, job);
    if (job_is_terminal(job_told_state(job))) {
        watch_tell(self, job); /* it ended before it was repeated */
    }
    return VERDICT_OK;
}

enum verdict
job_submit(struct dispatch *self, uint32_t gateway, const struct dispatch_event *event)
{
    const struct submit *submit = &event->frame->submit;
    uint32_t index = jobs_find(&self->jobs, &submit->id);
    if (index != JOB_NOBODY) {
        return submit_again(self, gateway, job_at(&self->jobs, index), submit->watch);
    }
    const struct envelope *envelope = event->envelope;
    if (envelope == NULL) {
        return submit_refuse(self, gateway, &submit->id, REFUSAL_BAD_REQUEST);
    }
    enum refusal refusal = submit_refusal(self, envelope, submit->request.length);
    if (refusal != REFUSAL_NONE) {
        return submit_refuse(self, gateway, &submit->id, refusal);
    }
    index = jobs_add(&self->jobs, &submit->id, submit->request);
    if (index == JOB_NOBODY) {
        return submit_refuse(self, gateway, &submit->id, REFUSAL_QUEUE_FULL);
    }
    struct job *job = job_at(&self->jobs, index);
    job->header.class_ = envelope->class_;
    if (!queue_bind(&self->queue, job, envelope)) {
        jobs_remove(&self->jobs, index);
        return submit_refuse(self, gateway, &submit->id, REFUSAL_QUEUE_FULL);
    }
    job->gateway = (uint8_t)gateway;
    job->watchers = submit->watch ? 1ULL << gateway : 0;
    job->steps = envelope->steps;
    job->header.sequence = ++self->config.sequence;
    job->header.submit_ms = self->now.redis_ms;
    job->key = queue_key(&self->queue, job);
    job->deadline_ms = self->now.mono_ms + (int64_t)envelope->expires_in_s * 1000;
    request_put(job->request, ENVELOPE_KEY_AT, job->key);
    request_put(job->request, ENVELOPE_DEADLINE_AT,
                self->now.redis_ms + (uint64_t)envelope->expires_in_s * 1000);
    job_move(self, job, IN_SUBMIT);
    if (MUTANT(EARLY202)) {
        gateway_accepted(self, gateway, job);
    }
    return VERDICT_OK;
}

/* -- into the queue and out of it -- */

void
job_enqueue(struct dispatch *self, uint32_t index)
{
    bool added = jobs_deadline_add(&self->jobs, index);
    assert(added); /* 4 bytes a job: out of memory ends the broker */
    queue_insert(&self->queue, index);
}

static void
job_dequeue(struct dispatch *self, uint32_t index)
{
    jobs_deadline_remove(&self->jobs, index);
    queue_remove(&self->queue, index);
}

/* Takes a RUNNING job out of its worker's list; job->worker stays, for the answer. */
static void
job_unlease(struct dispatch *self, uint32_t index)
{
    struct job *job = job_at(&self->jobs, index);
    uint32_t slot = worker_of(self, job);
    job_list_remove(&self->jobs,
                    slot == ROSTER_NOBODY ? &self->orphans : &self->roster.workers[slot].leases,
                    index);
    self->running--;
}

void
job_grant(struct dispatch *self, uint32_t index, uint32_t slot)
{
    struct job *job = job_at(&self->jobs, index);
    struct worker *worker = &self->roster.workers[slot];
    job_dequeue(self, index);
    queue_charge(&self->queue, &worker->can, job);
    if (!MUTANT(NOATT) || job->header.grant == 0) {
        job->header.grant++;
    }
    job->header.epoch = self->config.epoch_hash;
    job->header.worker = worker->incarnation;
    job->header.start_ms = self->now.redis_ms;
    job->header.progress = 0;
    job->worker = slot;
    job->step = 0;
    job->taken = job->resent = false;
    job->lease.number = 0; /* the tree's node stood there */
    job->lease.sent_ms = job->lease.told_ms = 0;
    worker->granting++;
    roster_refresh(&self->roster, slot);
    job_move(self, job, IN_GRANT);
    if (MUTANT(EARLYJOB)) {
        worker_send_job(self, index, false);
    }
}

void
job_done(struct dispatch *self, uint32_t index, struct slice result)
{
    struct job *job = job_at(&self->jobs, index);
    bool kept = job_set_result(&self->jobs, job, result);
    assert(kept);
    job->header.tries++; /* a result is proof that the instance took it */
    job->counted = true;
    job->header.progress = job->step = job->steps;
    job_unlease(self, index);
    job_move(self, job, IN_DONE);
    if (MUTANT(EARLYACK)) {
        worker_tell(self, job, FRAME_ACK);
    }
}

void
job_expire(struct dispatch *self, uint32_t index)
{
    job_dequeue(self, index);
    job_move(self, job_at(&self->jobs, index), IN_EXPIRE);
}

static void
ordeal_add(struct job *job, const struct reason *reason)
{
    struct job_ordeal *ordeal = job_ordeal(job);
    assert(ordeal != NULL);
    for (uint32_t i = 0; i < JOB_AVOIDS; i++) {
        if (ordeal->avoid[i] == 0 || ordeal->avoid[i] == job->header.worker) {
            ordeal->avoid[i] = job->header.worker;
            break;
        }
    }
    ordeal->code = (uint8_t)reason->code;
    assert(reason->message.length <= sizeof ordeal->message); /* the frame's own limit */
    ordeal->n_message = (uint16_t)reason->message.length;
    if (ordeal->n_message > 0) {
        memcpy(ordeal->message, reason->message.bytes, ordeal->n_message);
    }
}

void
job_release(struct dispatch *self, uint32_t index, const struct reason *reason, bool counted,
            bool final)
{
    struct job *job = job_at(&self->jobs, index);
    job_unlease(self, index);
    job->header.tries = (uint8_t)(job->header.tries + counted);
    job->counted = counted;
    job->fail_told = reason->code != FAIL_NONE && reason->code != FAIL_WORKER_LOST &&
                     reason->code != FAIL_LEASE_LOST;
    job->header.progress = job->step = 0;
    if (reason->code == FAIL_UNIFORM_IMAGE) {
        job->header.flags |= JOB_FLAG_UNIFORM;
    }
    if (counted || final) {
        ordeal_add(job, reason);
    }
    bool give_up = final || job->header.tries >= LIMIT_TRIES + MUTANT(NOLIMIT) ||
                   job->header.grant >= LIMIT_GRANTS;
    struct op *op = job_move(self, job, give_up ? IN_GIVE_UP : IN_RELEASE);
    op->reason = *reason;
    op->reason.attempt = job->header.grant;
    self->stats.requeued += !give_up;
    if (give_up) {
        struct job_ordeal *ordeal = job_ordeal(job);
        ordeal->code = final ? (uint8_t)reason->code : FAIL_TOO_MANY_ATTEMPTS;
        op->code = ordeal->code;
        op->message = (struct slice){ ordeal->message, ordeal->n_message };
        op->worker = reason->worker;
    }
}

/* -- cancel -- */

static void
job_answer(struct dispatch *self, struct job *job, enum job_state state)
{
    for (uint32_t i = 0; i < LIMIT_GATEWAYS; i++) {
        if (job->askers >> i & 1) {
            gateway_send(self, i, FRAME_ANSWER)->answer =
                (struct answer){ job->id, (uint8_t)state };
        }
    }
    job->askers = 0;
}

static void
cancel_begin(struct dispatch *self, uint32_t index)
{
    struct job *job = job_at(&self->jobs, index);
    if (job->header.state == JOB_QUEUED) {
        job_dequeue(self, index);
    } else {
        job_unlease(self, index);
    }
    job_move(self, job, IN_CANCEL);
    if (MUTANT(EARLYCANCEL)) {
        job_answer(self, job, job->header.state);
    }
}

enum verdict
job_cancel(struct dispatch *self, uint32_t gateway, const struct job_id *id,
           const struct slice *tenant)
{
    bool withdraw = tenant == NULL;
    uint32_t index = jobs_find(&self->jobs, id);
    if (index == JOB_NOBODY) {
        struct inquiry inquiry = { .kind = INQUIRY_CANCEL, .id = *id, .of_tenant = !withdraw };
        inquiry.session = self->roster.gateways[gateway].session;
        if (!withdraw) {
            assert(tenant->length < sizeof inquiry.tenant); /* the frame's own limit */
            memcpy(inquiry.tenant, tenant->bytes, tenant->length);
        }
        send_read(self, &inquiry);
        return VERDICT_OK;
    }
    struct job *job = job_at(&self->jobs, index);
    if (!withdraw && !slice_is(*tenant, self->queue.tenants[job->tenant].name)) {
        gateway_send(self, gateway, FRAME_ANSWER)->answer = (struct answer){ *id, JOB_NONE };
        return VERDICT_REFUSED;
    }
    job->askers |= 1ULL << gateway;
    if (job->pending != PENDING_NONE && !(MUTANT(NOFREEZE) && job->pending == PENDING_END)) {
        job->cancel_wanted |= !withdraw;
        job->withdraw_wanted |= withdraw;
        return VERDICT_FROZEN;
    }
    if (job_is_terminal(job->header.state) || (withdraw && job->header.state != JOB_QUEUED)) {
        job_answer(self, job, job->header.state);
        return VERDICT_OK;
    }
    cancel_begin(self, index);
    return VERDICT_OK;
}

/* -- committed -- */

/* The job has ended for good: it stays in memory for a while, for late questions and a restore. */
static void
job_retire(struct dispatch *self, uint32_t index)
{
    struct job *job = job_at(&self->jobs, index);
    self->stats.ended[job->header.state]++;
    queue_unbind(&self->queue, job);
    job->recent.end_ms = self->now.mono_ms;
    job_list_append(&self->jobs, &self->recent, index);
    if (self->recent.count > LIMIT_RECENT_JOBS) {
        uint32_t oldest = self->recent.first;
        job_list_remove(&self->jobs, &self->recent, oldest);
        jobs_remove(&self->jobs, oldest);
    }
}

/* A job that Redis does not have, or has ended: we know less than Redis. */
static void
job_drop(struct dispatch *self, uint32_t index)
{
    struct job *job = job_at(&self->jobs, index);
    watch_tell_none(self, job);
    for (uint32_t i = 0; i < LIMIT_GATEWAYS; i++) {
        if (job->askers >> i & 1) { /* the record knows how it ended */
            struct inquiry inquiry = { .kind = INQUIRY_CANCEL, .id = job->id };
            inquiry.session = self->roster.gateways[i].session;
            send_read(self, &inquiry);
        }
    }
    queue_unbind(&self->queue, job);
    jobs_remove(&self->jobs, index);
}

static enum verdict
submit_committed(struct dispatch *self, uint32_t index, const struct dispatch_event *event)
{
    struct job *job = job_at(&self->jobs, index);
    uint32_t gateway = job->gateway;
    job->gateway = UINT8_MAX;
    if (event->outcome == COMMIT_DONE) {
        self->stats.submitted++;
        job_enqueue(self, index);
        if (gateway != UINT8_MAX) {
            gateway_accepted(self, gateway, job);
        }
        return VERDICT_OK;
    }
    if (gateway != UINT8_MAX && event->outcome == COMMIT_EXISTS) {
        gateway_accepted(self, gateway, job); /* an ended job: its watcher is told to ask Redis */
    } else if (gateway != UINT8_MAX && event->outcome == COMMIT_KNOWN) {
        struct known *known = &gateway_send(self, gateway, FRAME_KNOWN)->known;
        uint8_t *hash = effects_memory(self->effects, 32);
        uint32_t length = event->body_hash.length < 32 ? event->body_hash.length : 32;
        memcpy(hash, event->body_hash.bytes, length);
        *known = (struct known){ job->id, event->first, { hash, length } };
    } else {
        submit_refuse(self, gateway, &job->id, REFUSAL_STORAGE_FULL);
        job->watchers = 0;
    }
    job_drop(self, index);
    return VERDICT_OK;
}

/* The grant is no longer on its way to Redis. */
static void
grant_answered(struct dispatch *self, uint32_t slot)
{
    struct worker *worker = &self->roster.workers[slot];
    worker->granting -= worker->granting > 0; /* 0: it left and came back meanwhile */
    roster_refresh(&self->roster, slot);
}

static void
grant_committed(struct dispatch *self, uint32_t index)
{
    struct job *job = job_at(&self->jobs, index);
    uint32_t slot = worker_of(self, job);
    struct worker *worker = slot == ROSTER_NOBODY ? NULL : &self->roster.workers[slot];
    job_list_append(&self->jobs, worker != NULL ? &worker->leases : &self->orphans, index);
    self->running++;
    if (worker != NULL) {
        grant_answered(self, slot);
    }
    if (job->cancel_wanted) {
        cancel_begin(self, index);
        return;
    }
    if (worker == NULL || worker->session == 0) { /* it left before the JOB did */
        struct reason lost = { .code = FAIL_NONE };
        job_release(self, index, &lost, false, false);
        return;
    }
    worker_send_job(self, index, false);
    watch_tell(self, job);
}

/* ACK of a FAIL. A worker whose lease was taken from it may hold a result: it hears STALE when it
 * says so, once the record was read. */
static void
fail_answered(struct dispatch *self, struct job *job)
{
    if (job->fail_told) {
        worker_tell(self, job, FRAME_ACK);
    }
    job->fail_told = false;
}

static void
end_committed(struct dispatch *self, uint32_t index)
{
    struct job *job = job_at(&self->jobs, index);
    if (job->was == JOB_RUNNING && job->header.state == JOB_FAILED) {
        fail_answered(self, job);
    } else if (job->was == JOB_RUNNING) {
        worker_tell(self, job, job->header.state == JOB_CANCELLED ? FRAME_STOP : FRAME_ACK);
    }
    job_answer(self, job, job->header.state);
    watch_tell(self, job);
    job_retire(self, index);
}

/* Undoes the bookkeeping of a grant whose record is gone. */
static void
grant_undo(struct dispatch *self, const struct job *job)
{
    uint32_t slot = worker_of(self, job);
    if (slot != ROSTER_NOBODY) {
        grant_answered(self, slot);
    }
}

enum verdict
job_committed(struct dispatch *self, const struct dispatch_event *event)
{
    uint32_t index = jobs_find(&self->jobs, &event->id);
    if (index == JOB_NOBODY) {
        return VERDICT_OK;
    }
    struct job *job = job_at(&self->jobs, index);
    enum job_pending pending = job->pending;
    if (pending == PENDING_NONE) {
        return VERDICT_OK;
    }
    if (event->outcome == COMMIT_ABSENT && job->restored) { /* Redis lost the record meanwhile */
        job->restored = false;
        job_op(self, job, pending == PENDING_END ? OP_FINISH : OP_TOUCH);
        return VERDICT_FROZEN;
    }
    job->pending = PENDING_NONE;
    job->restored = job->counted = false;
    if (pending == PENDING_SUBMIT && event->outcome != COMMIT_DONE) {
        return submit_committed(self, index, event);
    }
    if (event->outcome != COMMIT_DONE) {
        if (pending == PENDING_GRANT) {
            grant_undo(self, job);
        }
        job_drop(self, index);
        return VERDICT_BAD_RECORD;
    }
    switch (pending) {
    case PENDING_NONE:
        break;
    case PENDING_SUBMIT:
        submit_committed(self, index, event);
        break;
    case PENDING_GRANT:
        grant_committed(self, index);
        break;
    case PENDING_REQUEUE:
        job->key = MUTANT(KEYANEW) ? queue_key(&self->queue, job) : job->key;
        job_enqueue(self, index);
        fail_answered(self, job);
        watch_tell(self, job);
        break;
    case PENDING_END:
        end_committed(self, index);
        return VERDICT_OK;
    }
    if (job->header.state == JOB_QUEUED && job->pending == PENDING_NONE) {
        if (job->cancel_wanted || job->withdraw_wanted) {
            cancel_begin(self, index);
        } else {
            worker_offer(self, index);
        }
    } else if (job->withdraw_wanted && job->pending == PENDING_NONE) {
        job->withdraw_wanted = false; /* granted before: it runs */
        job_answer(self, job, job->header.state);
    }
    return VERDICT_OK;
}
