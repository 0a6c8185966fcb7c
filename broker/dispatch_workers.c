#include "broker/dispatch_private.h"
#include <assert.h>
#include <string.h>

uint32_t
worker_of(const struct dispatch *self, const struct job *job)
{
    if (job->worker == ROSTER_NOBODY || job->worker >= self->roster.n_workers) {
        return ROSTER_NOBODY;
    }
    const struct worker *worker = &self->roster.workers[job->worker];
    bool same = worker->used && worker->incarnation == job->header.worker;
    return same ? job->worker : ROSTER_NOBODY;
}

static struct frame *
worker_send(struct dispatch *self, const struct worker *worker, enum frame_kind kind)
{
    return send_frame(self, &worker->peer, worker->session, kind);
}

static struct effect *
last_effect(struct dispatch *self)
{
    return &self->effects->items[self->effects->count - 1];
}

void
worker_tell(struct dispatch *self, const struct job *job, enum frame_kind kind)
{
    uint32_t slot = worker_of(self, job);
    if (slot != ROSTER_NOBODY && self->roster.workers[slot].session != 0) {
        worker_send(self, &self->roster.workers[slot], kind)->leased.lease = job_lease(job);
    }
}

void
worker_send_job(struct dispatch *self, uint32_t index, bool again)
{
    struct job *job = job_at(&self->jobs, index);
    struct worker *worker = &self->roster.workers[job->worker];
    if (!again) {
        job->lease.number = ++worker->sent_jobs;
        job->lease.told_ms = 0;
    }
    job->resent = again;
    job->lease.sent_ms = worker->job_ms = self->now.mono_ms;
    roster_refresh(&self->roster, job->worker);
    struct list bases = gateway_bases(self);
    struct frame *frame = worker_send(self, worker, FRAME_JOB);
    frame->job = (struct job_frame){ .number = job->lease.number,
                                     .lease = job_lease(job),
                                     .tries = job->header.tries,
                                     .flags = job->header.flags,
                                     .request = { job->request, job->request_length },
                                     .bases = bases };
    last_effect(self)->n_pictures = job->n;
}

/* -- leases of one worker -- */

static const struct held_lease *
held_find(const struct list *held, const struct lease *lease)
{
    const struct held_lease *items = held->items;
    for (uint32_t i = 0; i < held->count; i++) {
        if (lease_equal(&items[i].lease, lease)) {
            return &items[i];
        }
    }
    return NULL;
}

void
release_lost(struct dispatch *self, uint32_t index, enum fail_code code, bool counted)
{
    struct job *job = job_at(&self->jobs, index);
    uint32_t slot = worker_of(self, job);
    struct reason reason = { .code = code };
    if (slot != ROSTER_NOBODY) {
        reason.worker = slice_of(self->roster.workers[slot].name);
    }
    reason.message =
        slice_of(code == FAIL_WORKER_LOST      ? "the worker fell silent and was evicted"
                 : code == FAIL_WORKER_LEAVING ? "the worker left before it had the job"
                                               : "the worker does not hold the job");
    job_release(self, index, &reason, counted, false);
}

/* Releases every lease of the list that `held` does not name. */
void
release_unheld(struct dispatch *self, struct job_list *list, const struct list *held)
{
    uint32_t next;
    for (uint32_t index = list->first; index != JOB_NOBODY; index = next) {
        struct job *job = job_at(&self->jobs, index);
        next = job->next;
        struct lease lease = job_lease(job);
        if (held_find(held, &lease) == NULL) {
            release_lost(self, index, FAIL_LEASE_LOST, false);
        }
    }
}

static void
worker_close(struct dispatch *self, uint32_t slot)
{
    roster_close(&self->roster, slot);
    roster_count_kinds(&self->roster);
    self->rematch = true; /* a job that avoided others may take them now */
}

/* -- HELLO -- */

static enum verdict
hello_refuse(struct dispatch *self, const struct dispatch_event *event, const char *why, bool newer)
{
    struct frame *frame =
        send_frame(self, &event->peer, event->frame->session, FRAME_HELLO_REFUSED);
    frame->hello_refused = (struct hello_refused){ slice_of(why), newer };
    return VERDICT_REFUSED;
}

static void
hello_capability(struct dispatch *self, const struct worker_hello *hello, struct capability *can)
{
    *can = (struct capability){ .features = hello->features };
    uint32_t level = hello->max_pixels / PIXELS_PER_LEVEL;
    can->level = (uint16_t)(level > UINT16_MAX ? UINT16_MAX : level);
    const struct model_name *models = hello->models.items;
    for (uint32_t i = 0; i < hello->models.count; i++) {
        uint16_t model = queue_model(&self->queue, models[i].name);
        if (model != QUEUE_NONE) {
            can->models[can->n_models++] = model;
        }
    }
    can->turns = queue_turns(&self->queue, can);
}

/* The job whose last lease this is, given to this worker's process; or NULL. */
static struct job *
held_job(const struct dispatch *self, const struct worker *worker, const struct held_lease *held)
{
    uint32_t index = jobs_find(&self->jobs, &held->lease.job);
    struct job *job = index == JOB_NOBODY ? NULL : job_at(&self->jobs, index);
    if (job == NULL || job->header.worker != worker->incarnation) {
        return NULL;
    }
    struct lease own = job_lease(job);
    return lease_equal(&own, &held->lease) ? job : NULL;
}

/* The lease goes on: it was loaded, or a new session of the same process lists it. */
static void
lease_adopt(struct dispatch *self, uint32_t slot, struct job *job, const struct held_lease *held)
{
    if (job->header.state != JOB_RUNNING || job->pending != PENDING_NONE) {
        return; /* its DONE or FAIL is repeated and answered then */
    }
    job->taken |= held->taken;
    if (worker_of(self, job) == ROSTER_NOBODY) {
        uint32_t index = jobs_find(&self->jobs, &job->id);
        job_list_remove(&self->jobs, &self->orphans, index);
        job_list_append(&self->jobs, &self->roster.workers[slot].leases, index);
        job->worker = slot;
        job->lease.number = 0;
        job->lease.told_ms = 0;
        watch_tell(self, job);
    }
}

/* Takes what the worker holds: adopts leases that match the record, asks Redis about the others. */
static void
hello_leases(struct dispatch *self, uint32_t slot, const struct list *held)
{
    struct worker *worker = &self->roster.workers[slot];
    const struct held_lease *items = held->items;
    for (uint32_t i = 0; i < held->count; i++) {
        struct job *job = held_job(self, worker, &items[i]);
        if (job == NULL) {
            struct inquiry inquiry = { .kind = INQUIRY_HELLO,
                                       .session = worker->session,
                                       .lease = items[i].lease,
                                       .id = items[i].lease.job };
            send_read(self, &inquiry);
            continue;
        }
        if (job->header.state == JOB_RUNNING && job->pending == PENDING_NONE) {
            job->lease.number = 0; /* numbers begin anew with the session */
        }
        lease_adopt(self, slot, job, &items[i]);
    }
}

static void
release_orphans(struct dispatch *self, uint64_t incarnation, const struct list *held)
{
    uint32_t next;
    for (uint32_t index = self->orphans.first; index != JOB_NOBODY; index = next) {
        struct job *job = job_at(&self->jobs, index);
        next = job->next;
        struct lease lease = job_lease(job);
        if (job->header.worker == incarnation && held_find(held, &lease) == NULL) {
            release_lost(self, index, FAIL_LEASE_LOST, false);
        }
    }
}

static enum verdict
worker_hello(struct dispatch *self, const struct dispatch_event *event)
{
    static const struct list nothing;
    const struct worker_hello *hello = &event->frame->worker_hello;
    if (hello->version != PROTOCOL_VERSION) {
        return hello_refuse(self, event, "another protocol version: update this worker", false);
    }
    if (event->frame->epoch > self->config.epoch || hello->name.length == 0 ||
        event->frame->session == 0) {
        return VERDICT_MISPLACED;
    }
    uint32_t slot = roster_by_name(&self->roster, hello->name);
    if (slot == ROSTER_NOBODY) {
        slot = roster_add(&self->roster, hello->name);
    }
    if (slot == ROSTER_NOBODY) {
        return hello_refuse(self, event, "LIMIT_WORKERS workers are here already", false);
    }
    struct worker *worker = &self->roster.workers[slot];
    if (hello->incarnation < worker->incarnation) {
        return hello_refuse(self, event, "a newer process of this name is at work", true);
    }
    if (hello->incarnation > worker->incarnation && !MUTANT(NOINC)) {
        release_unheld(self, &worker->leases, &nothing); /* they died with the old process */
        worker->granting = 0;
        worker->speed = 0;
        worker->draining = false;
    }
    worker->incarnation = hello->incarnation;
    if (!roster_open(&self->roster, slot, event->frame->session, &event->peer)) {
        return hello_refuse(self, event, "out of memory", false);
    }
    hello_capability(self, hello, &worker->can);
    worker->instances = hello->instances;
    worker->quiet = false;
    worker->heard_ms = worker->beat_ms = self->now.mono_ms;
    struct frame *frame = worker_send(self, worker, FRAME_WORKER_WELCOME);
    frame->worker_welcome = (struct worker_welcome){ PROTOCOL_VERSION, self->now.redis_ms };
    if (worker->draining) {
        worker_send(self, worker, FRAME_DRAIN); /* the session that was told is gone */
    }
    if (!MUTANT(NOINC)) {
        release_unheld(self, &worker->leases, &hello->leases);
    }
    release_orphans(self, worker->incarnation, &hello->leases);
    hello_leases(self, slot, &hello->leases);
    roster_count_kinds(&self->roster);
    return VERDICT_OK;
}

/* -- STATE -- */

/* Holds what the worker says against what we count for it. */
static void
state_leases(struct dispatch *self, struct worker *worker, const struct worker_state *state)
{
    bool expected = false; /* a JOB that it has not seen and that is still its */
    uint32_t next;
    for (uint32_t index = worker->leases.first; index != JOB_NOBODY; index = next) {
        struct job *job = job_at(&self->jobs, index);
        next = job->next;
        struct lease lease = job_lease(job);
        const struct held_lease *held = held_find(&state->leases, &lease);
        if (MUTANT(NOINVENTORY) || (MUTANT(NOINC) && job->header.worker != worker->incarnation)) {
            continue;
        }
        if (held != NULL) {
            job->taken |= held->taken;
        } else if (job->lease.number <= state->last_job) {
            release_lost(self, index, FAIL_LEASE_LOST, false);
        } else if (self->now.mono_ms - job->lease.sent_ms >= LIMIT_RESEND_MS) {
            if (job->resent) {
                release_lost(self, index, FAIL_LEASE_LOST, false);
            } else {
                worker_send_job(self, index, true);
                expected = true;
            }
        } else {
            expected = true;
        }
    }
    if (!expected && self->now.mono_ms - worker->job_ms >= LIMIT_RESEND_MS) {
        worker->last_job = worker->sent_jobs; /* what was lost takes no place for ever */
    }
}

/* Tells what we count for the worker, and what it holds of jobs whose end is not committed: a lease
 * left out would be interrupted. */
static void
state_tell(struct dispatch *self, struct worker *worker, const struct list *held)
{
    struct leased *leases =
        effects_memory(self->effects, (size_t)LIMIT_WORKER_LEASES * sizeof *leases);
    const struct held_lease *items = held->items;
    uint32_t n = 0;
    for (uint32_t i = 0; i < held->count && n < LIMIT_WORKER_LEASES; i++) {
        const struct job *job = held_job(self, worker, &items[i]);
        if (job != NULL && job->pending != PENDING_NONE && job->was == JOB_RUNNING) {
            leases[n++].lease = items[i].lease;
        }
    }
    for (uint32_t index = worker->leases.first; index != JOB_NOBODY && n < LIMIT_WORKER_LEASES;
         index = job_at(&self->jobs, index)->next) {
        leases[n++].lease = job_lease(job_at(&self->jobs, index));
    }
    worker_send(self, worker, FRAME_BROKER_STATE)->broker_state =
        (struct broker_state){ self->loaded, { leases, n } };
    worker->told_ms = self->now.mono_ms;
}

static enum verdict
worker_state(struct dispatch *self, uint32_t slot, const struct worker_state *state)
{
    struct worker *worker = &self->roster.workers[slot];
    worker->pull = state->pull;
    if (state->last_job <= worker->sent_jobs && state->last_job > worker->last_job) {
        worker->last_job = state->last_job;
    }
    const struct held_lease *held = state->leases.items;
    for (uint32_t i = 0; i < state->leases.count && self->orphans.count > 0; i++) {
        struct job *job = held_job(self, worker, &held[i]); /* loaded after its HELLO */
        if (job != NULL) {
            lease_adopt(self, slot, job, &held[i]);
        }
    }
    state_leases(self, worker, state);
    if (worker->draining && state->pull > 0 && !MUTANT(DRAINONCE)) {
        worker_send(self, worker, FRAME_DRAIN); /* it does not know: the first one was lost */
    }
    roster_refresh(&self->roster, slot);
    if (self->now.mono_ms - worker->told_ms >= LIMIT_STATE_MS ||
        state->leases.count > worker->leases.count) {
        state_tell(self, worker, &state->leases);
    }
    worker_serve(self, slot);
    return VERDICT_OK;
}

/* -- results -- */

/* The job whose running lease this is, or JOB_NOBODY with *verdict saying what to do. */
static uint32_t
leased_job(struct dispatch *self, const struct worker *worker, const struct lease *lease,
           enum verdict *verdict)
{
    uint32_t index = jobs_find(&self->jobs, &lease->job);
    *verdict = VERDICT_STALE;
    if (index == JOB_NOBODY) {
        return JOB_NOBODY;
    }
    const struct job *job = job_at(&self->jobs, index);
    if (job->pending != PENDING_NONE) {
        *verdict = VERDICT_FROZEN;
        return JOB_NOBODY;
    }
    struct lease own = job_lease(job);
    bool same = lease_equal(&own, lease) && job->header.worker == worker->incarnation;
    same |= MUTANT(BYJOB);
    same &= !MUTANT(EPOCHCMP) || lease->epoch == self->config.epoch_hash;
    if (same && job->header.state == JOB_SUCCEEDED && !MUTANT(DUPSTALE)) {
        *verdict = VERDICT_OK; /* its ACK was lost */
        return JOB_NOBODY;
    }
    if (!same || job->header.state != JOB_RUNNING) {
        return JOB_NOBODY;
    }
    *verdict = VERDICT_OK;
    return index;
}

static enum verdict
lease_ask(struct dispatch *self, const struct worker *worker, enum inquiry_kind kind,
          const struct lease *lease)
{
    struct inquiry inquiry = {
        .kind = kind, .session = worker->session, .lease = *lease, .id = lease->job
    };
    send_read(self, &inquiry);
    self->stats.stale++;
    if (MUTANT(STALEUNFENCED) || (MUTANT(UNLOADEDSTALE) && !self->loaded)) {
        worker_send(self, worker, FRAME_STALE)->leased.lease = *lease;
    }
    return VERDICT_STALE;
}

static void
speed_learn(const struct dispatch *self, struct worker *worker, const struct job *job)
{
    double seconds = (double)(self->now.redis_ms - job->header.start_ms) / 1000;
    if (self->now.redis_ms <= job->header.start_ms) {
        seconds = 0.001;
    }
    double speed = job->cost / seconds;
    worker->speed = worker->speed > 0 ? worker->speed * 0.8 + speed * 0.2 : speed;
}

static enum verdict
worker_done(struct dispatch *self, struct worker *worker, const struct done *done)
{
    enum verdict verdict;
    uint32_t index = leased_job(self, worker, &done->lease, &verdict);
    if (index != JOB_NOBODY) {
        speed_learn(self, worker, job_at(&self->jobs, index));
        job_done(self, index, done->result);
        return VERDICT_OK;
    }
    if (verdict == VERDICT_OK) {
        worker_send(self, worker, FRAME_ACK)->leased.lease = done->lease;
    }
    return verdict == VERDICT_STALE ? lease_ask(self, worker, INQUIRY_DONE, &done->lease) : verdict;
}

static enum verdict
worker_fail(struct dispatch *self, struct worker *worker, const struct fail *fail)
{
    enum verdict verdict;
    uint32_t index = leased_job(self, worker, &fail->lease, &verdict);
    if (index == JOB_NOBODY) {
        return verdict == VERDICT_FROZEN ? verdict
                                         : lease_ask(self, worker, INQUIRY_FAIL, &fail->lease);
    }
    bool never_counts = fail->code == FAIL_STORAGE || fail->code == FAIL_WORKER_LEAVING;
    struct reason reason = { .code = fail->code == FAIL_NONE ? FAIL_INSTANCE_ERROR : fail->code,
                             .worker = slice_of(worker->name),
                             .instance = fail->instance,
                             .message = fail->message };
    job_release(self, index, &reason, fail->counted && !never_counts,
                fail->final_ && !never_counts);
    return VERDICT_OK;
}

static enum verdict
worker_progress(struct dispatch *self, struct worker *worker, const struct progress *progress)
{
    enum verdict verdict;
    uint32_t index = leased_job(self, worker, &progress->lease, &verdict);
    if (index == JOB_NOBODY) {
        return verdict; /* BROKER_STATE tells a worker what it holds in vain */
    }
    struct job *job = job_at(&self->jobs, index);
    job->taken = true;
    job->step = progress->step;
    job->steps = progress->steps > 0 ? progress->steps : job->steps;
    job->header.progress = progress->step;
    if (self->now.mono_ms - job->lease.told_ms >= LIMIT_PROGRESS_MS || job->step == job->steps) {
        job->lease.told_ms = self->now.mono_ms;
        watch_tell(self, job);
    }
    return VERDICT_OK;
}

static enum verdict
worker_regrant(struct dispatch *self, struct worker *worker, const struct lease *lease)
{
    enum verdict verdict;
    uint32_t index = leased_job(self, worker, lease, &verdict);
    if (index == JOB_NOBODY) {
        return verdict == VERDICT_STALE ? lease_ask(self, worker, INQUIRY_REGRANT, lease) : verdict;
    }
    struct list bases = gateway_bases(self);
    struct frame *frame = worker_send(self, worker, FRAME_GRANT);
    frame->grant = (struct grant_frame){ .lease = *lease, .bases = bases };
    last_effect(self)->n_pictures = job_at(&self->jobs, index)->n;
    return VERDICT_OK;
}

static enum verdict
worker_bye(struct dispatch *self, uint32_t slot)
{
    struct worker *worker = &self->roster.workers[slot];
    uint32_t next;
    for (uint32_t index = worker->leases.first; index != JOB_NOBODY; index = next) {
        next = job_at(&self->jobs, index)->next;
        release_lost(self, index, FAIL_WORKER_LEAVING, false); /* its JOB met the BYE */
    }
    struct op *op = &effects_add(self->effects, EFFECT_COMMIT)->op;
    *op = (struct op){ .kind = OP_WORKER_LEFT };
    char *name = effects_memory(self->effects, sizeof worker->name);
    memcpy(name, worker->name, sizeof worker->name);
    op->worker = slice_of(name);
    roster_remove(&self->roster, slot);
    roster_count_kinds(&self->roster);
    self->rematch = true;
    return VERDICT_OK;
}

/* -- frames -- */

static enum verdict
session_frame(struct dispatch *self, uint32_t slot, const struct frame *frame)
{
    struct worker *worker = &self->roster.workers[slot];
    worker->heard_ms = self->now.mono_ms;
    switch ((int)frame->kind) {
    case FRAME_WORKER_STATE:
        return worker_state(self, slot, &frame->worker_state);
    case FRAME_PROGRESS:
        return worker_progress(self, worker, &frame->progress);
    case FRAME_DONE:
        return worker_done(self, worker, &frame->done);
    case FRAME_FAIL:
        return worker_fail(self, worker, &frame->fail);
    case FRAME_REGRANT:
        return worker_regrant(self, worker, &frame->leased.lease);
    case FRAME_BYE:
        return worker_bye(self, slot);
    default:
        return VERDICT_MISPLACED;
    }
}

enum verdict
worker_frame(struct dispatch *self, const struct dispatch_event *event)
{
    const struct frame *frame = event->frame;
    if (frame->kind == FRAME_WORKER_HELLO) {
        return worker_hello(self, event);
    }
    uint32_t slot = roster_by_session(&self->roster, frame->session);
    if (slot == ROSTER_NOBODY || frame->epoch != self->config.epoch ||
        !peer_equal(&self->roster.workers[slot].peer, &event->peer)) {
        send_frame(self, &event->peer, frame->session, FRAME_NO_SESSION);
        return frame->epoch != self->config.epoch ? VERDICT_OLD_EPOCH : VERDICT_NO_SESSION;
    }
    return session_frame(self, slot, frame);
}

/* STALE, or ACK, for a lease that memory did not confirm: the record has been read meanwhile. */
enum verdict
worker_record(struct dispatch *self, const struct dispatch_event *event)
{
    const struct inquiry *inquiry = &event->inquiry;
    uint32_t slot = roster_by_session(&self->roster, inquiry->session);
    if (slot == ROSTER_NOBODY) {
        return VERDICT_NO_SESSION;
    }
    struct worker *worker = &self->roster.workers[slot];
    uint32_t index = jobs_find(&self->jobs, &inquiry->lease.job);
    if (index != JOB_NOBODY && job_at(&self->jobs, index)->pending != PENDING_NONE) {
        return VERDICT_FROZEN; /* the worker asks again */
    }
    const struct job_header *header = event->record != NULL ? &event->record->header : NULL;
    bool same = header != NULL && header->worker == worker->incarnation &&
                header->grant == inquiry->lease.grant && header->epoch == inquiry->lease.epoch;
    if (same && header->state == JOB_RUNNING) {
        return VERDICT_FROZEN; /* ours after all: the repeated frame is taken */
    }
    same &= !MUTANT(NOREAD) || (header != NULL && !job_is_terminal(header->state));
    bool accepted = same && header->state == JOB_SUCCEEDED && !MUTANT(DUPSTALE);
    worker_send(self, worker, accepted ? FRAME_ACK : FRAME_STALE)->leased.lease = inquiry->lease;
    return accepted ? VERDICT_OK : VERDICT_STALE;
}

void
worker_gone(struct dispatch *self, const struct peer *peer)
{
    for (uint32_t slot = 0; slot < self->roster.n_workers; slot++) {
        const struct worker *worker = &self->roster.workers[slot];
        if (worker->used && worker->session != 0 && peer_equal(&worker->peer, peer)) {
            worker_close(self, slot);
        }
    }
}
