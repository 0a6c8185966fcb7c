#include "tests/storm/storm.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

/*
 * What worker/loop*.c and report.c do around the agent's core, on simulated edges.
 */

static int64_t
clock_of(const struct worker_host *self)
{
    return storm.now_ms + self->process.clock_ms;
}

/* ---- the broker ---- */

struct held_list {
    struct held_lease items[LIMIT_WORKER_LEASES];
    uint32_t count;
};

static struct list
held_leases(const struct worker_host *self, struct held_list *out)
{
    out->count = 0;
    for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
        const struct agent_held *held = agent_held(self->agent, slot);
        if (held->state != HELD_NONE) {
            out->items[out->count++] = (struct held_lease){
                .lease = held->lease,
                .taken = held->taken,
                .finished = held->state == HELD_DONE || held->state == HELD_FAILED,
            };
        }
    }
    return (struct list){ out->items, out->count };
}

uint64_t
picture_of(const struct lease *lease, uint64_t incarnation)
{
    uint64_t z = incarnation * 0x9e3779b97f4a7c15U ^ (uint64_t)job_number(&lease->job) << 40 ^
                 (uint64_t)lease->epoch << 8 ^ lease->grant;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    return (z ^ (z >> 27)) | 1;
}

static struct slice
result_of(const struct worker_host *self, const struct agent_held *held)
{
    static struct buffer buffer;
    uint8_t hash[32] = { 0 };
    uint64_t picture = picture_of(&held->lease, agent_incarnation(self->agent));
    memcpy(hash, &picture, sizeof picture);
    struct result_image images[LIMIT_IMAGES];
    for (uint32_t i = 0; i < held->n_pictures; i++) {
        images[i] = (struct result_image){
            .width = 512, .height = 512, .seed = i, .bytes = 1000, .sha256 = { hash, sizeof hash }
        };
    }
    struct result result = { .worker = slice_of(self->name),
                             .instance = slice_of("i"),
                             .warnings = held->warnings,
                             .message = slice_of(""),
                             .images = { images, held->n_pictures } };
    buffer.length = 0;
    pack_struct(&buffer, &result_shape, &result);
    return (struct slice){ buffer.bytes, (uint32_t)buffer.length };
}

static void
fill_lease_frame(struct worker_host *self, const struct agent_effect *effect, struct frame *frame)
{
    const struct agent_held *held = agent_held(self->agent, effect->slot);
    if (effect->kind == AGENT_DO_DONE) {
        frame->kind = FRAME_DONE;
        frame->done = (struct done){ held->lease, result_of(self, held) };
    } else if (effect->kind == AGENT_DO_FAIL) {
        frame->kind = FRAME_FAIL;
        frame->fail = (struct fail){ .lease = held->lease,
                                     .code = (uint8_t)held->code,
                                     .counted = held->counted,
                                     .final_ = held->final_,
                                     .instance = slice_of("i"),
                                     .message = { held->message, held->message_length },
                                     .picture = { held->picture, 0 } };
    } else if (effect->kind == AGENT_DO_PROGRESS) {
        frame->kind = FRAME_PROGRESS;
        frame->progress = (struct progress){ held->lease, effect->step, effect->steps };
    } else {
        frame->kind = FRAME_REGRANT;
        frame->leased.lease = held->lease;
    }
}

static void
report(struct worker_host *self, const struct agent_effect *effect)
{
    struct held_list held;
    struct model_name models[2] = { { slice_of(self->model) }, { slice_of("m") } };
    struct frame frame = { .session = agent_session(self->agent),
                           .epoch = agent_epoch(self->agent) };
    if (effect->kind == AGENT_DO_HELLO) {
        frame.kind = FRAME_WORKER_HELLO;
        frame.worker_hello = (struct worker_hello){
            .version = PROTOCOL_VERSION,
            .name = slice_of(self->name),
            .incarnation = agent_incarnation(self->agent),
            .models = { models, strcmp(self->model, "m") == 0 ? 1 : 2 },
            .instances = self->n_instances,
            .max_pixels = 4096 * 1024,
            .leases = held_leases(self, &held),
        };
    } else if (effect->kind == AGENT_DO_STATE) {
        frame.kind = FRAME_WORKER_STATE;
        frame.worker_state = (struct worker_state){ .pull = agent_pull(self->agent),
                                                    .last_job = agent_last_job(self->agent),
                                                    .leases = held_leases(self, &held) };
    } else if (effect->kind == AGENT_DO_BYE) {
        frame.kind = FRAME_BYE;
    } else {
        fill_lease_frame(self, effect, &frame);
    }
    trace("worker %s(%u): %s", self->name, self->index, frame_kind_name(frame.kind));
    dealer_send(&self->dealer, &frame);
}

static void
on_frame(void *owner, const void *bytes, uint32_t length)
{
    struct worker_host *self = owner;
    struct frame frame;
    struct agent_event event = { .kind = AGENT_ON_FRAME };
    int rc = frame_decode(storm.frames, bytes, length, &frame);
    assert(rc == 0);
    event.frame.frame = &frame;
    struct envelope envelope;
    struct job_body body;
    if (frame.kind == FRAME_JOB &&
        job_request_decode(&storm.requests, frame.job.request, &envelope, &body) == 0) {
        event.frame.n_pictures = envelope.n;
        event.frame.fits = (1U << self->n_instances) - 1;
    }
    trace("worker %s(%u) gets %s", self->name, self->index, frame_kind_name(frame.kind));
    check_answered(self, &frame);
    self->frame = &frame;
    worker_give(self, &event);
    self->frame = NULL;
}

/* ---- Redis ---- */

static void
on_redis(void *owner, const struct command *command, const struct reply *reply)
{
    struct worker_host *self = owner;
    struct agent_event event = { .kind = AGENT_ON_BEAT };
    char door[8] = "";
    if (self->agent == NULL) {
        return;
    }
    if (command->kind == COMMAND_BEAT) {
        event.beat.newer = reply != NULL && reply->kind == REPLY_NO;
        event.beat.incarnation = reply != NULL && reply->kind == REPLY_OK ? reply->number : 0;
    } else {
        event.kind = AGENT_ON_LEADER;
        if (reply != NULL && reply->kind == REPLY_OK && reply->workers_door) {
            (void)snprintf(door, sizeof door, "b%u", reply->broker);
            event.leader.epoch = reply->number;
        }
        event.leader.door = slice_of(door);
    }
    worker_give(self, &event);
}

static void
ask_redis(struct worker_host *self, enum command_kind kind)
{
    struct command *command = edge_command(&self->redis, kind, on_redis, self);
    (void)snprintf(command->worker, sizeof command->worker, "%s", self->name);
    command->incarnation = agent_incarnation(self->agent);
    edge_send(command);
}

/* ---- pictures ---- */

struct errand {
    uint8_t slot, picture, base;
    uint32_t serial;
    struct lease lease;
};

static struct errand *
errand_of(const struct worker_host *self, const struct agent_effect *effect)
{
    struct errand *errand = sim_memory(sizeof *errand);
    *errand = (struct errand){ .slot = effect->slot,
                               .picture = effect->picture,
                               .base = effect->base,
                               .serial = effect->serial,
                               .lease = agent_held(self->agent, effect->slot)->lease };
    return errand;
}

static void
on_checked(void *owner, void *data)
{
    static const uint8_t picture[32] = { 9 };
    struct worker_host *self = owner;
    const struct errand *errand = data;
    struct agent_event event = { .kind = AGENT_ON_CHECKED };
    event.checked.slot = errand->slot;
    event.checked.serial = errand->serial;
    event.checked.outcome = CHECK_GOOD;
    event.checked.message = slice_of("");
    event.checked.picture = picture;
    if (storm.weather.faults_on && chance(storm.weather.uniform)) {
        event.checked.outcome = (enum check_outcome)any(CHECK_OUTCOME_COUNT);
    }
    worker_give(self, &event);
}

static void
on_put(void *owner, void *data)
{
    struct worker_host *self = owner;
    const struct errand *errand = data;
    const struct parcel *parcel = &self->parcels[errand->slot];
    struct agent_event event = { .kind = AGENT_ON_UPLOADED };
    event.uploaded.slot = errand->slot;
    event.uploaded.serial = errand->serial;
    event.uploaded.outcome = UPLOAD_UNREACHABLE;
    const struct gateway_host *gateway =
        errand->base < parcel->n_bases ? &storm.gateways[parcel->bases[errand->base]] : NULL;
    if (storm.weather.faults_on && chance(storm.weather.fail_upload)) {
        fault(FAULT_UPLOAD_FAILS);
        event.uploaded.outcome = (enum upload_outcome)(1 + any(UPLOAD_OUTCOME_COUNT - 1));
    } else if (gateway != NULL && gateway->process.up &&
               gateway->process.paused_until <= storm.now_ms &&
               !net_blocked(self->process.host, gateway->process.host)) {
        check_stored(self, &errand->lease, errand->picture);
        if (!net_blocked(gateway->process.host, self->process.host)) {
            event.uploaded.outcome = UPLOAD_STORED;
        }
    }
    worker_give(self, &event);
}

static void
keep_bases(struct worker_host *self, uint8_t slot, const struct list *bases)
{
    struct parcel *parcel = &self->parcels[slot];
    const struct upload_base *items = bases->items;
    parcel->n_bases = (uint8_t)bases->count;
    for (uint32_t i = 0; i < bases->count; i++) {
        const char *url = items[i].url.bytes;
        parcel->bases[i] = (uint8_t)(url[1] - '0');
    }
}

/* ---- perform ---- */

static void
on_stopped(void *owner, void *data)
{
    (void)data;
    worker_give(owner, &(struct agent_event){ .kind = AGENT_ON_STOPPED });
}

static void
perform(struct worker_host *self, const struct agent_effect *effect)
{
    switch (effect->kind) {
    case AGENT_DO_BEAT:
        ask_redis(self, COMMAND_BEAT);
        break;
    case AGENT_DO_READ_LEADER:
        ask_redis(self, COMMAND_LEADER);
        break;
    case AGENT_DO_CONNECT:
        dealer_open(&self->dealer, (uint8_t)(agent_door(self->agent)[1] - '0'));
        break;
    case AGENT_DO_DISCONNECT:
        dealer_close(&self->dealer);
        break;
    case AGENT_DO_HELLO:
    case AGENT_DO_STATE:
    case AGENT_DO_PROGRESS:
    case AGENT_DO_DONE:
    case AGENT_DO_FAIL:
    case AGENT_DO_REGRANT:
    case AGENT_DO_BYE:
        report(self, effect);
        break;
    case AGENT_DO_KEEP:
        keep_bases(self, effect->slot, &self->frame->job.bases);
        check_taken(self, &agent_held(self->agent, effect->slot)->lease);
        break;
    case AGENT_DO_NEW_GRANT:
        keep_bases(self, effect->slot, &self->frame->grant.bases);
        break;
    case AGENT_DO_DRAW:
        instance_draw(self, effect);
        break;
    case AGENT_DO_INTERRUPT:
        instance_interrupt(self, effect);
        break;
    case AGENT_DO_CHECK:
        sim_at(storm.now_ms + between(0, 20), &self->process, on_checked, self,
               errand_of(self, effect));
        break;
    case AGENT_DO_UPLOAD:
        sim_at(storm.now_ms + between(1, 60), &self->process, on_put, self,
               errand_of(self, effect));
        break;
    case AGENT_DO_DROP:
    case AGENT_DO_FORGET:
        break;
    case AGENT_DO_STOP_INSTANCES:
        sim_at(storm.now_ms + between(1, 500), &self->process, on_stopped, self, NULL);
        break;
    case AGENT_DO_EXIT:
        trace("worker %s(%u): exits %d", self->name, self->index, effect->rc);
        self->process.up = false; /* the rest of this turn still runs */
        break;
    case AGENT_EFFECT_COUNT:
        assert(false);
    }
}

static void
on_tick(void *owner, void *data)
{
    struct worker_host *self = owner;
    if ((int64_t)tag_of(data) == self->tick_at) {
        self->tick_at = 0;
        worker_give(self, &(struct agent_event){ .kind = AGENT_ON_TICK });
    }
}

static void
arm(struct worker_host *self)
{
    int64_t deadline = agent_deadline_ms(self->agent);
    if (deadline == INT64_MAX) {
        return;
    }
    int64_t at = deadline - self->process.clock_ms;
    at = at < storm.now_ms ? storm.now_ms : at;
    if (self->tick_at == 0 || at < self->tick_at) {
        self->tick_at = at;
        sim_at(at, &self->process, on_tick, self, tag((uint64_t)at));
    }
}

static void
step(struct worker_host *self, const struct agent_event *event)
{
    agent_step(self->agent, clock_of(self), event, &self->effects);
    agent_check(self->agent);
    for (uint32_t i = 0; i < self->effects.count && self->process.up; i++) {
        struct agent_effect effect = self->effects.items[i];
        perform(self, &effect);
    }
}

/* Steps and performs; what the edges say meanwhile is stepped after it. */
void
worker_give(struct worker_host *self, const struct agent_event *event)
{
    if (self->agent == NULL || !self->process.up) {
        return;
    }
    if (self->stepping) {
        assert(self->n_later < sizeof self->later / sizeof self->later[0]);
        self->later[self->n_later++] = *event;
        return;
    }
    self->stepping = true;
    step(self, event);
    for (uint32_t i = 0; i < self->n_later && self->process.up; i++) {
        struct agent_event next = self->later[i];
        step(self, &next);
    }
    self->n_later = 0;
    self->stepping = false;
    if (!self->process.up) {
        worker_crash(self);
        return;
    }
    arm(self);
}

/* ---- life ---- */

void
worker_start(struct worker_host *self, const char *name, const char *model)
{
    struct agent_config config = { .n_instances = self->n_instances, .seed = any64() };
    self->process.host = (uint8_t)(HOST_WORKER + self->index);
    self->process.up = true;
    self->process.life++;
    self->process.paused_until = 0;
    self->process.clock_ms = between(1000, 100000);
    (void)snprintf(self->name, sizeof self->name, "%s", name);
    self->model = model;
    self->tick_at = 0;
    self->stepping = false;
    self->n_later = 0;
    memset(self->instances, 0, sizeof self->instances);
    self->redis.process = &self->process;
    self->dealer.process = &self->process;
    self->dealer.side = DOOR_WORKERS;
    self->dealer.receive = on_frame;
    self->dealer.owner = self;
    int rc = agent_new(&self->agent, &config);
    assert(rc == 0);
    trace("worker %s(%u): starts", name, self->index);
    edge_open(&self->redis);
    for (uint8_t i = 0; i < self->n_instances; i++) {
        instance_start(self, i);
    }
    self->capability = 1;
    worker_give(self, &(struct agent_event){ .kind = AGENT_ON_CAPABILITY, .capability = 1 });
    worker_give(self, &(struct agent_event){ .kind = AGENT_ON_TICK });
}

void
worker_crash(struct worker_host *self)
{
    trace("worker %s(%u): ends", self->name, self->index);
    dealer_close(&self->dealer);
    self->process.up = false;
    self->process.life++;
    self->redis.up = false;
    self->redis.connection++;
    agent_destroy(&self->agent);
}

void
worker_drain(struct worker_host *self)
{
    worker_give(self, &(struct agent_event){ .kind = AGENT_ON_DRAIN });
}

bool
worker_is_leaving(const struct worker_host *self)
{
    return self->agent != NULL && self->process.up && agent_is_draining(self->agent);
}

bool
worker_is_empty(const struct worker_host *self)
{
    for (uint32_t slot = 0; self->agent != NULL && slot < LIMIT_WORKER_LEASES; slot++) {
        if (agent_held(self->agent, slot)->state != HELD_NONE) {
            return false;
        }
    }
    return true;
}
