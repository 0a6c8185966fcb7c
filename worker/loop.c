#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "worker/loop_inside.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* -- step -- */

static void
step(struct loop *self, const struct agent_event *event)
{
    enum agent_verdict verdict = agent_step(self->agent, clock_mono_ms(), event, &self->effects);
    if (event->kind == AGENT_ON_FRAME && verdict != AGENT_OK) {
        log_debug("frame-ignored kind=%s verdict=%s", frame_kind_name(event->frame.frame->kind),
                  agent_verdict_name(verdict));
    }
    for (uint32_t i = 0; i < self->effects.count; i++) {
        loop_perform(self, &self->effects.items[i]);
    }
    self->frame = NULL;
    self->drawing = NULL;
}

static void
arm(struct loop *self)
{
    int64_t deadline_ms = agent_deadline_ms(self->agent);
    int64_t now_ms = clock_mono_ms();
    if (deadline_ms <= now_ms) {
        kick_now(self->kick);
    } else if (deadline_ms != INT64_MAX) {
        timer_in_ms(self->timer, deadline_ms - now_ms);
    } else {
        timer_stop(self->timer);
    }
}

void
loop_give(struct loop *self, const struct agent_event *event)
{
    if (self->stepping) {
        assert(self->n_later < LATER_MAX);
        self->later[self->n_later++] = *event;
        return;
    }
    self->stepping = true;
    step(self, event);
    for (uint32_t i = 0; i < self->n_later; i++) {
        struct agent_event next = self->later[i];
        step(self, &next);
    }
    self->n_later = 0;
    self->stepping = false;
    arm(self);
}

void
loop_give_about(struct loop *self, enum agent_event_kind kind, uint32_t index, uint32_t serial)
{
    struct agent_event event = { .kind = kind };
    event.job.index = (uint8_t)index;
    event.job.serial = serial;
    loop_give(self, &event);
}

void
loop_give_capability(struct loop *self)
{
    struct agent_event event = { .kind = AGENT_ON_CAPABILITY };
    capability_refresh(&self->capability, self->supervisor, self->options->model);
    event.capability = self->capability.version;
    loop_give(self, &event);
}

void
loop_drain(void *loop)
{
    struct agent_event event = { .kind = AGENT_ON_DRAIN };
    loop_give(loop, &event);
}

/* -- what the edges say -- */

static void
on_beat(void *context, uint64_t incarnation, bool newer)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_BEAT };
    event.beat.incarnation = incarnation;
    event.beat.newer = newer;
    loop_give(self, &event);
    if (incarnation != 0 && !self->is_ready && !self->stepping) {
        self->is_ready = true;
        ready_print(self->options->common.ready_file, "worker", "name=%s incarnation=%016" PRIx64,
                    self->options->name, incarnation);
    }
}

static void
on_leader(void *context, uint64_t epoch, struct slice door)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_LEADER };
    assert(!self->stepping || epoch == 0); /* the door would not outlive the call */
    event.leader.epoch = epoch;
    event.leader.door = door;
    loop_give(self, &event);
}

static void
on_frame(void *context, const struct frame *frame)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_FRAME };
    assert(!self->stepping);
    event.frame.frame = frame;
    if (frame->kind == FRAME_JOB) {
        self->envelope = (struct envelope){ 0 };
        self->body = (struct job_body){ 0 };
        int rc =
            job_request_decode(&self->unpacker, frame->job.request, &self->envelope, &self->body);
        if (rc == 0) {
            event.frame.n_pictures = self->envelope.n;
            event.frame.fits =
                capability_fits(self->supervisor, self->options->model, &self->envelope);
        }
    }
    self->frame = frame;
    loop_give(self, &event);
    if (frame->kind == FRAME_WORKER_WELCOME && agent_is_open(self->agent)) {
        log_info("broker-welcome address=%s epoch=%" PRIu64, agent_door(self->agent),
                 agent_epoch(self->agent));
    } else if (frame->kind == FRAME_HELLO_REFUSED) {
        log_warn("broker-refused why=\"%.*s\"", (int)frame->hello_refused.why.length,
                 (const char *)frame->hello_refused.why.bytes);
    }
}

static void
on_tick(void *context)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_TICK };
    loop_give(self, &event);
    if (self->capability.version != 0) {
        loop_give_capability(self); /* a beat may have found another model behind the same door */
    }
    /* One that refused a job may be ready all the same, and so have nothing to tell. */
    for (uint32_t i = 0; i < supervisor_count(self->supervisor); i++) {
        bool ready = instance_state(self->supervisor, i) == INSTANCE_READY;
        if (ready && !self->told_ready[i] && clock_mono_ms() >= self->refused_until_ms[i]) {
            loop_give_state(self, i);
        }
    }
}

/* -- life -- */

static int
open_supervisor(struct loop *self)
{
    const struct options *options = self->options;
    struct supervisor_config config = { .attach = options->attach.items,
                                        .n_attach = options->attach.count,
                                        .start = options->start,
                                        .driver = options->driver,
                                        .n_start =
                                            options->start == NULL ? 0 : (uint32_t)options->n_start,
                                        .base_port = (uint16_t)options->base_port,
                                        .state_dir = options->state_dir,
                                        .stuck_ms = options->stuck_ms,
                                        .opaque_ms = options->opaque_ms,
                                        .startup_ms = options->startup_s * 1000,
                                        .helper = self->helper,
                                        .nvml = options->nvml,
                                        .devices = options->devices,
                                        .memory_mib = options->instance_memory_mib };
    struct instance_events events = loop_instance_events(self);
    int rc = supervisor_new(&self->supervisor, self->reactor, self->http, &config, &events);
    if (rc != 0) {
        return rc;
    }
    struct agent_config agent = { .n_instances = (uint8_t)supervisor_count(self->supervisor),
                                  .seed = random_u64() };
    return agent_new(&self->agent, &agent);
}

static int
open_edges(struct loop *self)
{
    struct heartbeat_events events = { .on_beat = on_beat,
                                       .on_leader = on_leader,
                                       .context = self };
    int rc = timer_new(&self->timer, self->reactor, on_tick, self);
    rc = rc ? rc : kick_new(&self->kick, self->reactor, on_tick, self);
    rc = rc ? rc : record_unpacker_new(&self->unpacker);
    rc = rc ? rc : http_client_new(&self->http, self->reactor);
    rc = rc ? rc : helper_thread_new(&self->helper, self->reactor);
    rc = rc ? rc : link_new(&self->link, self->reactor, on_frame, self);
    /* Instances last: nothing is killed or started for a worker that cannot come up. */
    rc = rc ? rc
            : heartbeat_new(&self->heartbeat, self->reactor, self->options->redis,
                            self->options->name, &events);
    return rc ? rc : open_supervisor(self);
}

int
loop_new(struct loop **out, struct reactor *reactor, const struct options *options)
{
    CLEANUP(loop_destroy) struct loop *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->options = options;
    self->reactor = reactor;
    int rc = open_edges(self);
    if (rc != 0 && rc != -EINVAL) { /* a bad setting is told where it is read */
        log_error("worker-not-started error=\"%s\"", strerror(-rc));
    }
    if (rc != 0) {
        return rc;
    }
    self->report = (struct report){ .worker = options->name,
                                    .link = self->link,
                                    .agent = self->agent,
                                    .capability = &self->capability,
                                    .supervisor = self->supervisor,
                                    .parcels = self->parcels };
    for (uint32_t i = 0; i < supervisor_count(self->supervisor); i++) {
        loop_give_state(self, i);
    }
    on_tick(self); /* the first beat */
    *out = self;
    self = NULL;
    return 0;
}

void
loop_destroy(struct loop **self_p)
{
    struct loop *self = *self_p;
    if (self == NULL) {
        return;
    }
    timer_destroy(&self->timer);
    kick_destroy(&self->kick);
    heartbeat_destroy(&self->heartbeat);
    link_destroy(&self->link);
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        parcel_destroy(&self->parcels[i]); /* checks find them gone */
    }
    supervisor_destroy(&self->supervisor);
    helper_thread_destroy(&self->helper);
    http_client_destroy(&self->http);
    record_unpacker_destroy(&self->unpacker);
    agent_destroy(&self->agent);
    free(self);
    *self_p = NULL;
}
