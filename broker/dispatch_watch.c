#include "broker/dispatch_private.h"
#include <assert.h>
#include <string.h>

enum {
    ENTRIES_BYTES = LIMIT_FRAME_BYTES / 2, /* of one JOBS frame: the rest goes into another */
};

struct frame *
gateway_send(struct dispatch *self, uint32_t gateway, enum frame_kind kind)
{
    const struct gateway *to = &self->roster.gateways[gateway];
    return send_frame(self, &to->peer, to->session, kind);
}

struct list
gateway_bases(struct dispatch *self)
{
    struct upload_base *bases = effects_memory(self->effects, LIMIT_UPLOAD_BASES * sizeof *bases);
    uint32_t n = 0;
    for (uint32_t i = 0; i < LIMIT_GATEWAYS && n < LIMIT_UPLOAD_BASES; i++) {
        const struct gateway *gateway = &self->roster.gateways[i];
        for (uint32_t k = 0; gateway->used && !gateway->storage_full && k < gateway->n_bases &&
                             n < LIMIT_UPLOAD_BASES;
             k++) {
            bool known = false;
            for (uint32_t b = 0; b < n; b++) {
                known |= slice_is(bases[b].url, gateway->bases[k]);
            }
            if (!known) {
                bases[n++].url = slice_of(gateway->bases[k]);
            }
        }
    }
    return (struct list){ bases, n };
}

/* -- how a job stands -- */

static bool
takes(const struct dispatch *self, const struct job *job, const struct kind *kind)
{
    return bucket_fits(&self->queue.buckets[job->bucket], &kind->can);
}

enum wait_reason
gateway_reason(const struct dispatch *self, const struct job *job)
{
    if (self->roster.alive == 0) {
        return WAIT_NO_WORKER;
    }
    const struct bucket *bucket = &self->queue.buckets[job->bucket];
    enum wait_reason reason = WAIT_NO_MODEL;
    for (uint32_t i = 0; i < self->roster.n_kinds; i++) {
        if (takes(self, job, &self->roster.kinds[i])) {
            return WAIT_NONE;
        }
        struct bucket small = *bucket;
        small.level = 0;
        if (bucket_fits(&small, &self->roster.kinds[i].can)) {
            reason = WAIT_TOO_LARGE;
        }
    }
    return reason;
}

struct standing {
    uint32_t position, eta_s;
    enum wait_reason reason;
};

static uint32_t
whole_seconds(double seconds)
{
    return seconds < 1 ? 1 : seconds > 1e9 ? ETA_UNKNOWN - 1 : (uint32_t)(seconds + 0.5);
}

/* An estimate: others may come before it, workers may come and go. */
static struct standing
job_standing(const struct dispatch *self, const struct job *job)
{
    struct standing standing = { .eta_s = ETA_UNKNOWN };
    const struct capability *who[LIMIT_KINDS];
    uint32_t n = 0;
    double speed = 0;
    double instances = 0;
    for (uint32_t i = 0; i < self->roster.n_kinds; i++) {
        const struct kind *kind = &self->roster.kinds[i];
        if (takes(self, job, kind)) {
            who[n++] = &kind->can;
            speed += kind->speed;
            instances += kind->instances;
        }
    }
    double own = speed > 0 ? job->cost * instances / speed : 0;
    if (job_told_state(job) == JOB_RUNNING) {
        double left = job->steps > job->step ? (double)(job->steps - job->step) / job->steps : 0;
        standing.eta_s = n > 0 ? whole_seconds(own * left) : ETA_UNKNOWN;
        return standing;
    }
    if (job_told_state(job) != JOB_QUEUED) {
        return standing;
    }
    standing.reason = gateway_reason(self, job);
    struct ahead ahead = queue_ahead(&self->queue, job, who, n);
    standing.position = 1 + ahead.jobs;
    if (speed > 0) {
        standing.eta_s = whole_seconds((double)ahead.cost / speed + own);
    }
    return standing;
}

static void
entry_fill(struct dispatch *self, const struct job *job, bool full, struct job_entry *entry)
{
    struct standing standing = job_standing(self, job);
    entry->id = job->id;
    entry->header = job->header;
    entry->header.state = (uint8_t)job_told_state(job);
    entry->header.revision -= job->pending != PENDING_NONE;
    entry->header.grant = (uint8_t)(entry->header.grant - (job->pending == PENDING_GRANT));
    entry->position = standing.position;
    entry->eta_s = standing.eta_s;
    entry->reason = (uint8_t)standing.reason;
    entry->step = job->step;
    entry->steps = job->steps;
    uint32_t slot = worker_of(self, job);
    if (slot != ROSTER_NOBODY && entry->header.state != JOB_QUEUED) {
        entry->worker = slice_of(self->roster.workers[slot].name);
    }
    if (entry->header.state == JOB_FAILED && job->ordeal != NULL) {
        entry->code = job->ordeal->code;
        entry->message = (struct slice){ job->ordeal->message, job->ordeal->n_message };
    }
    if (full) {
        entry->request = (struct slice){ job->request, job->request_length };
        if (entry->header.state == JOB_SUCCEEDED) {
            entry->result = (struct slice){ job->result, job->result_length };
        }
    }
}

/* The deadline stands in the packed envelope as Redis has it. */
static uint64_t
request_deadline(const struct job *job)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        value = value << 8 | job->request[ENVELOPE_DEADLINE_AT + i];
    }
    return value;
}

void
gateway_accepted(struct dispatch *self, uint32_t gateway, const struct job *job)
{
    struct standing standing = job_standing(self, job);
    gateway_send(self, gateway, FRAME_ACCEPTED)->accepted = (struct accepted){
        .id = job->id,
        .revision = job->header.revision - (job->pending != PENDING_NONE),
        .position = standing.position,
        .eta_s = standing.eta_s,
        .submit_ms = job->header.submit_ms,
        .deadline_ms = request_deadline(job),
        .reason = (uint8_t)standing.reason,
    };
}

/* -- events -- */

static void
send_entry(struct dispatch *self, uint32_t gateway, const struct job_entry *entry)
{
    struct job_entry *copy = effects_memory(self->effects, sizeof *copy);
    *copy = *entry;
    gateway_send(self, gateway, FRAME_JOBS)->jobs.entries = (struct list){ copy, 1 };
}

/* Tells the watchers; returns those that lag and wait for their snapshot. */
static uint64_t
tell_watchers(struct dispatch *self, const struct job *job, const struct job_entry *entry)
{
    uint64_t lagging = 0;
    for (uint64_t left = job->watchers; left != 0; left &= left - 1) {
        uint32_t gateway = (uint32_t)__builtin_ctzll(left);
        if (self->roster.gateways[gateway].lagging) {
            lagging |= 1ULL << gateway;
        } else {
            send_entry(self, gateway, entry);
        }
    }
    return lagging;
}

void
watch_tell(struct dispatch *self, struct job *job)
{
    if (job->watchers == 0) {
        return;
    }
    bool ended = job_is_terminal(job_told_state(job));
    struct job_entry entry = { 0 };
    entry_fill(self, job, ended, &entry);
    uint64_t lagging = tell_watchers(self, job, &entry);
    if (ended) {
        job->watchers = lagging;
    }
}

void
watch_tell_none(struct dispatch *self, struct job *job)
{
    struct job_entry entry = { .id = job->id, .eta_s = ETA_UNKNOWN };
    tell_watchers(self, job, &entry);
    job->watchers = 0;
}

/* -- STATUS, WATCH -- */

/* Entries of the ids from `from` on that fit one frame; returns how many. */
static uint32_t
fill_entries(struct dispatch *self, const struct named_jobs *asked, uint32_t from,
             struct job_entry *entries)
{
    const struct named_job *ids = asked->ids.items;
    size_t bytes = 0;
    uint32_t n = 0;
    while (from + n < asked->ids.count && bytes < ENTRIES_BYTES) {
        uint32_t index = jobs_find(&self->jobs, &ids[from + n].id);
        struct job_entry *entry = &entries[n++];
        *entry = (struct job_entry){ .id = ids[from + n - 1].id, .eta_s = ETA_UNKNOWN };
        if (index != JOB_NOBODY) {
            entry_fill(self, job_at(&self->jobs, index), asked->full, entry);
        }
        bytes += 256 + (size_t)entry->request.length + entry->result.length;
    }
    return n;
}

static enum verdict
gateway_status(struct dispatch *self, uint32_t gateway, const struct named_jobs *asked)
{
    for (uint32_t from = 0; from < asked->ids.count;) {
        struct job_entry *entries =
            effects_memory(self->effects, (asked->ids.count - from) * sizeof *entries);
        uint32_t n = fill_entries(self, asked, from, entries);
        gateway_send(self, gateway, FRAME_JOBS)->jobs.entries = (struct list){ entries, n };
        from += n;
    }
    return VERDICT_OK;
}

static enum verdict
gateway_watch(struct dispatch *self, uint32_t gateway, const struct named_jobs *asked, bool on)
{
    const struct named_job *ids = asked->ids.items;
    for (uint32_t i = 0; i < asked->ids.count; i++) {
        uint32_t index = jobs_find(&self->jobs, &ids[i].id);
        if (index == JOB_NOBODY) {
            continue;
        }
        struct job *job = job_at(&self->jobs, index);
        uint64_t bit = 1ULL << gateway;
        bool ended = job_is_terminal(job_told_state(job));
        job->watchers = on && !ended ? job->watchers | bit : job->watchers & ~bit;
    }
    return on ? gateway_status(self, gateway, asked) : VERDICT_OK;
}

/* -- sessions -- */

static void
gateway_close(struct dispatch *self, uint32_t gateway)
{
    roster_gateway_remove(&self->roster, gateway);
    for (uint32_t i = 0; i < self->jobs.n_used; i++) {
        struct job *job = job_at(&self->jobs, i);
        job->watchers &= ~(1ULL << gateway);
        job->askers &= ~(1ULL << gateway);
        if (job->gateway == gateway) {
            job->gateway = UINT8_MAX;
        }
    }
}

static enum verdict
gateway_hello(struct dispatch *self, const struct dispatch_event *event)
{
    const struct gateway_hello *hello = &event->frame->gateway_hello;
    if (event->frame->epoch > self->config.epoch || event->frame->session == 0) {
        return VERDICT_MISPLACED;
    }
    uint32_t gateway = roster_gateway_at(&self->roster, &event->peer);
    if (gateway != ROSTER_NOBODY) {
        gateway_close(self, gateway);
    }
    gateway = hello->version == PROTOCOL_VERSION
                  ? roster_gateway_add(&self->roster, event->frame->session, &event->peer)
                  : ROSTER_NOBODY;
    if (gateway == ROSTER_NOBODY) {
        const char *why = hello->version == PROTOCOL_VERSION
                              ? "LIMIT_GATEWAYS gateway threads are here already"
                              : "another protocol version: update this gateway";
        struct frame *frame =
            send_frame(self, &event->peer, event->frame->session, FRAME_HELLO_REFUSED);
        frame->hello_refused = (struct hello_refused){ slice_of(why), false };
        return VERDICT_REFUSED;
    }
    struct gateway *slot = &self->roster.gateways[gateway];
    slot->heard_ms = self->now.mono_ms;
    slot->storage_full = hello->storage_full;
    const struct upload_base *bases = hello->bases.items;
    for (uint32_t i = 0; i < hello->bases.count; i++) {
        memcpy(slot->bases[i], bases[i].url.bytes, bases[i].url.length);
    }
    slot->n_bases = (uint8_t)hello->bases.count;
    struct upload_key *key = effects_memory(self->effects, sizeof *key);
    key->key = (struct slice){ self->config.upload_key, 32 };
    struct frame *frame = gateway_send(self, gateway, FRAME_GATEWAY_WELCOME);
    frame->gateway_welcome = (struct gateway_welcome){ .version = PROTOCOL_VERSION,
                                                       .keys = { key, 1 },
                                                       .redis_ms = self->now.redis_ms,
                                                       .retention_s = self->config.retention_s,
                                                       .broker = slice_of(self->config.name) };
    return VERDICT_OK;
}

static enum verdict
gateway_ping(struct dispatch *self, uint32_t gateway, const struct ping *ping)
{
    struct gateway *slot = &self->roster.gateways[gateway];
    slot->storage_full = ping->storage_full;
    gateway_send(self, gateway, FRAME_PONG)->pong =
        (struct pong){ .redis_ms = self->now.redis_ms,
                       .queued = self->queue.queued,
                       .running = self->running,
                       .workers = self->roster.alive,
                       .durability = (uint8_t)self->config.durability };
    return VERDICT_OK;
}

static enum verdict
gateway_admin(struct dispatch *self, uint32_t gateway, const struct admin *admin)
{
    uint32_t slot = roster_by_name(&self->roster, admin->worker);
    bool found = slot != ROSTER_NOBODY && self->roster.workers[slot].session != 0;
    if (found) {
        struct worker *worker = &self->roster.workers[slot];
        worker->draining = true;
        roster_refresh(&self->roster, slot);
        self->rematch = true; /* a job that preferred it may take another one now */
        send_frame(self, &worker->peer, worker->session, FRAME_DRAIN);
    }
    gateway_send(self, gateway, FRAME_ADMIN_ANSWER)->admin_answer =
        (struct admin_answer){ admin->op, admin->worker, found };
    return VERDICT_OK;
}

static enum verdict
gateway_session_frame(struct dispatch *self, uint32_t gateway, const struct dispatch_event *event)
{
    const struct frame *frame = event->frame;
    self->roster.gateways[gateway].heard_ms = self->now.mono_ms;
    switch ((int)frame->kind) {
    case FRAME_PING:
        return gateway_ping(self, gateway, &frame->ping);
    case FRAME_SUBMIT:
        return job_submit(self, gateway, event);
    case FRAME_WITHDRAW:
        return job_cancel(self, gateway, &frame->withdraw.id, NULL);
    case FRAME_CANCEL:
        return job_cancel(self, gateway, &frame->cancel.id, &frame->cancel.tenant);
    case FRAME_STATUS:
        return gateway_status(self, gateway, &frame->named_jobs);
    case FRAME_WATCH:
        return gateway_watch(self, gateway, &frame->named_jobs, true);
    case FRAME_UNWATCH:
        return gateway_watch(self, gateway, &frame->named_jobs, false);
    case FRAME_ADMIN:
        return gateway_admin(self, gateway, &frame->admin);
    default:
        return VERDICT_MISPLACED;
    }
}

enum verdict
gateway_frame(struct dispatch *self, const struct dispatch_event *event)
{
    const struct frame *frame = event->frame;
    if (frame->kind == FRAME_GATEWAY_HELLO) {
        return gateway_hello(self, event);
    }
    uint32_t gateway = roster_gateway(&self->roster, frame->session);
    if (gateway == ROSTER_NOBODY || frame->epoch != self->config.epoch ||
        !peer_equal(&self->roster.gateways[gateway].peer, &event->peer)) {
        send_frame(self, &event->peer, frame->session, FRAME_NO_SESSION);
        return frame->epoch != self->config.epoch ? VERDICT_OLD_EPOCH : VERDICT_NO_SESSION;
    }
    return gateway_session_frame(self, gateway, event);
}

/* The answer to a CANCEL or WITHDRAW of a job that memory does not have. */
enum verdict
gateway_record(struct dispatch *self, const struct dispatch_event *event)
{
    uint32_t gateway = roster_gateway(&self->roster, event->inquiry.session);
    if (gateway == ROSTER_NOBODY) {
        return VERDICT_NO_SESSION;
    }
    const struct job_record *record = event->record;
    enum job_state state = record != NULL ? record->header.state : JOB_NONE;
    if (record != NULL && event->inquiry.of_tenant &&
        !slice_is(record->envelope.tenant, event->inquiry.tenant)) {
        state = JOB_NONE;
    }
    if (state != JOB_NONE && !job_is_terminal(state)) {
        return VERDICT_FROZEN; /* live after all: the gateway asks again */
    }
    gateway_send(self, gateway, FRAME_ANSWER)->answer =
        (struct answer){ event->inquiry.id, (uint8_t)state };
    return VERDICT_OK;
}

void
gateway_gone(struct dispatch *self, const struct peer *peer)
{
    uint32_t gateway = roster_gateway_at(&self->roster, peer);
    if (gateway != ROSTER_NOBODY) {
        gateway_close(self, gateway);
    }
}

void
gateway_lagging(struct dispatch *self, const struct peer *peer)
{
    uint32_t gateway = roster_gateway_at(&self->roster, peer);
    if (gateway != ROSTER_NOBODY) {
        self->roster.gateways[gateway].lagging = true;
    }
}

/* -- once a second -- */

static void
send_some(struct dispatch *self, uint32_t gateway, struct job_entry *entries, uint32_t n)
{
    if (n > 0) {
        gateway_send(self, gateway, FRAME_JOBS)->jobs.entries = (struct list){ entries, n };
    }
}

/* Positions of watched queued jobs, round robin; of a gateway that lagged all that it watches. */
static void
send_positions(struct dispatch *self, uint32_t gateway)
{
    struct gateway *slot = &self->roster.gateways[gateway];
    uint32_t used = self->jobs.n_used;
    uint32_t look = used < LIMIT_POSITION_LOOK || slot->lagging ? used : LIMIT_POSITION_LOOK;
    struct job_entry *entries = NULL;
    size_t bytes = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < look; i++) {
        struct job *job = job_at(&self->jobs, slot->positions_from++ % used);
        bool wanted = job->watchers >> gateway & 1 && job->pending != PENDING_SUBMIT;
        if (!wanted || (!slot->lagging && job_told_state(job) != JOB_QUEUED)) {
            continue;
        }
        if (entries == NULL) {
            entries = effects_memory(self->effects, LIMIT_LIST * sizeof *entries);
        }
        bool ended = job_is_terminal(job_told_state(job));
        job->watchers &= ended ? ~(1ULL << gateway) : UINT64_MAX;
        entry_fill(self, job, ended, &entries[n]);
        bytes += 256 + (size_t)entries[n].request.length + entries[n].result.length;
        if (++n == LIMIT_LIST || bytes >= ENTRIES_BYTES) {
            send_some(self, gateway, entries, n);
            entries = NULL;
            bytes = n = 0;
            if (!slot->lagging) {
                return;
            }
        }
    }
    send_some(self, gateway, entries, n);
    slot->lagging = false;
}

void
gateway_second(struct dispatch *self)
{
    for (uint32_t gateway = 0; gateway < LIMIT_GATEWAYS; gateway++) {
        const struct gateway *slot = &self->roster.gateways[gateway];
        if (!slot->used) {
            continue;
        }
        if (self->now.mono_ms - slot->heard_ms >= LIMIT_GATEWAY_SILENT_MS) {
            gateway_close(self, gateway);
        } else {
            send_positions(self, gateway);
        }
    }
}
