#include "worker/loop.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "worker/facts.h"
#include "worker/heartbeat.h"
#include "worker/report.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Events that edges give while effects are performed: a few for each lease and instance. */
enum { LATER_MAX = 4 * (LIMIT_WORKER_LEASES + LIMIT_INSTANCES) };

struct loop {
    const struct options *options;
    struct reactor *reactor;
    struct http_client *http;
    struct helper_thread *helper;
    struct heartbeat *heartbeat;
    struct link *link;
    struct supervisor *supervisor;
    struct agent *agent;
    struct timer *timer; /* the agent's deadline */
    struct kick *kick;   /* a deadline that is past: at the end of this turn */
    struct record_unpacker unpacker;
    struct capability capability;
    struct report report;
    struct parcel *parcels[LIMIT_WORKER_LEASES]; /* by slot */
    bool is_ready;
    /* Of each instance: the agent holds it for ready; when it may hear so after a refused draw. */
    bool told_ready[LIMIT_INSTANCES];
    int64_t refused_until_ms[LIMIT_INSTANCES];

    bool stepping;
    struct agent_effects effects;
    uint32_t n_later;
    struct agent_event later[LATER_MAX];
    /* What the event under way brought, for the effects that keep it. */
    const struct frame *frame;
    struct envelope envelope;
    struct job_body body;
    struct drawing *drawing;
};

static void loop_give(struct loop *self, const struct agent_event *event);

/* -- perform -- */

static void
give_about(struct loop *self, enum agent_event_kind kind, uint32_t index, uint32_t serial)
{
    struct agent_event event = { .kind = kind };
    event.job.index = (uint8_t)index;
    event.job.serial = serial;
    loop_give(self, &event);
}

static void
perform_beat(struct loop *self)
{
    char facts[LIMIT_FACTS_BYTES];
    capability_refresh(&self->capability, self->supervisor, self->options->model);
    facts_write(facts, self->agent, &self->capability, self->supervisor);
    heartbeat_beat(self->heartbeat, agent_incarnation(self->agent), facts);
}

static void
on_checked(void *context, const struct parcel *parcel, enum check_outcome outcome,
           struct slice message, const uint8_t *picture)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_CHECKED };
    if (outcome == CHECK_GOOD || outcome == CHECK_BAD) {
        uint8_t instance = agent_held(self->agent, parcel_slot(parcel))->instance;
        instance_judge(self->supervisor, instance, outcome == CHECK_GOOD);
    }
    event.checked.slot = parcel_slot(parcel);
    event.checked.serial = parcel_serial(parcel);
    event.checked.outcome = outcome;
    event.checked.message = message;
    event.checked.picture = picture;
    loop_give(self, &event);
}

static void
on_uploaded(void *context, const struct parcel *parcel, enum upload_outcome outcome)
{
    struct agent_event event = { .kind = AGENT_ON_UPLOADED };
    event.uploaded.slot = parcel_slot(parcel);
    event.uploaded.serial = parcel_serial(parcel);
    event.uploaded.outcome = outcome;
    loop_give(context, &event);
}

static void
perform_keep(struct loop *self, const struct agent_effect *effect)
{
    struct parcel_events events = { .on_checked = on_checked,
                                    .on_uploaded = on_uploaded,
                                    .context = self };
    struct parcel_config config = { .slot = effect->slot,
                                    .serial = effect->serial,
                                    .frame = &self->frame->job,
                                    .envelope = &self->envelope,
                                    .body = &self->body,
                                    .events = &events };
    assert(self->parcels[effect->slot] == NULL);
    if (parcel_new(&self->parcels[effect->slot], &config) != 0) {
        abort(); /* out of memory */
    }
}

static void
perform_draw(struct loop *self, const struct agent_effect *effect)
{
    struct envelope envelope;
    struct job_body body;
    struct draw_request request = { .serial = effect->serial,
                                    .envelope = &envelope,
                                    .body = &body };
    const struct lease *lease = &agent_held(self->agent, effect->slot)->lease;
    struct slice bytes = parcel_request(self->parcels[effect->slot]);
    int rc = job_request_decode(&self->unpacker, bytes, &envelope, &body);
    assert(rc == 0); /* it did when the JOB came */
    job_id_print(&lease->job, request.id);
    snprintf(request.id + JOB_ID_TEXT, sizeof request.id - JOB_ID_TEXT, ".%u", lease->grant);
    self->told_ready[effect->instance] = false;
    if (instance_draw(self->supervisor, effect->instance, &request) != 0) {
        self->refused_until_ms[effect->instance] = clock_mono_ms() + LIMIT_PROBE_MS;
        give_about(self, AGENT_ON_NOT_DRAWN, effect->instance, effect->serial);
    }
}

static void
perform_check(struct loop *self, const struct agent_effect *effect)
{
    struct parcel *parcel = self->parcels[effect->slot];
    if (parcel_check(parcel, self->helper, self->drawing) != 0) {
        on_checked(self, parcel, CHECK_NOT_DONE, slice_of(""), NULL);
    }
}

static void
perform_upload(struct loop *self, const struct agent_effect *effect)
{
    struct parcel *parcel = self->parcels[effect->slot];
    if (parcel_upload(parcel, self->http, effect->picture, effect->base) != 0) {
        on_uploaded(self, parcel, UPLOAD_UNREACHABLE);
    }
}

static void
log_failure(const struct loop *self, const struct agent_effect *effect)
{
    const struct agent_held *held = agent_held(self->agent, effect->slot);
    char id[JOB_ID_TEXT + 1];
    char message[LIMIT_REASON_BYTES];
    job_id_print(&held->lease.job, id);
    memcpy(message, held->message, held->message_length);
    for (uint32_t i = 0; i < held->message_length; i++) {
        if (message[i] == '"') {
            message[i] = '\''; /* the log's own quotes end only where we end them */
        }
    }
    log_warn("job-failed job=%s grant=%u code=%s counted=%d final=%d message=\"%.*s\"", id,
             held->lease.grant, fail_code_name(held->code), held->counted, held->final_,
             held->message_length, message);
}

static void
on_stopped(void *context)
{
    struct agent_event event = { .kind = AGENT_ON_STOPPED };
    loop_give(context, &event);
}

static void
perform_exit(struct loop *self, const struct agent_effect *effect)
{
    if (effect->rc != 0) {
        log_error("worker-superseded name=%s incarnation=%016" PRIx64
                  " cure=\"a newer worker of this name is at work: give this one another --name\"",
                  self->options->name, agent_incarnation(self->agent));
    } else {
        log_info("worker-left name=%s", self->options->name);
    }
    reactor_stop(self->reactor, effect->rc == 0 ? 0 : -EEXIST);
}

static void
perform(struct loop *self, const struct agent_effect *effect)
{
    switch (effect->kind) {
    case AGENT_DO_BEAT:
        perform_beat(self);
        break;
    case AGENT_DO_READ_LEADER:
        heartbeat_read_leader(self->heartbeat);
        break;
    case AGENT_DO_CONNECT:
        log_info("broker-connecting address=%s epoch=%" PRIu64, agent_door(self->agent),
                 agent_epoch(self->agent));
        link_connect(self->link, agent_door(self->agent));
        break;
    case AGENT_DO_DISCONNECT:
        log_warn("broker-lost address=%s", agent_door(self->agent));
        link_close(self->link);
        break;
    case AGENT_DO_HELLO:
    case AGENT_DO_STATE:
    case AGENT_DO_PROGRESS:
    case AGENT_DO_DONE:
    case AGENT_DO_FAIL:
    case AGENT_DO_REGRANT:
    case AGENT_DO_BYE:
        report_send(&self->report, effect);
        break;
    case AGENT_DO_KEEP:
        perform_keep(self, effect);
        break;
    case AGENT_DO_NEW_GRANT:
        parcel_set_grant(self->parcels[effect->slot], &self->frame->grant.bases,
                         self->frame->grant.token);
        break;
    case AGENT_DO_DRAW:
        perform_draw(self, effect);
        break;
    case AGENT_DO_INTERRUPT:
        instance_interrupt(self->supervisor, effect->instance, effect->serial);
        break;
    case AGENT_DO_CHECK:
        perform_check(self, effect);
        break;
    case AGENT_DO_UPLOAD:
        perform_upload(self, effect);
        break;
    case AGENT_DO_DROP:
        log_failure(self, effect);
        parcel_drop(self->parcels[effect->slot]);
        break;
    case AGENT_DO_FORGET:
        parcel_destroy(&self->parcels[effect->slot]);
        break;
    case AGENT_DO_STOP_INSTANCES:
        supervisor_stop(self->supervisor, on_stopped, self);
        break;
    case AGENT_DO_EXIT:
        perform_exit(self, effect);
        break;
    case AGENT_EFFECT_COUNT:
        assert(false);
    }
}

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
        perform(self, &self->effects.items[i]);
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

/* Steps and performs; what the edges say meanwhile is stepped after it. Such events bring no frame,
 * drawing or text: those come from the loop alone. */
static void
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

static void
give_capability(struct loop *self)
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
on_state(void *context, uint32_t index, enum instance_state state)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_INSTANCE };
    event.instance.index = (uint8_t)index;
    event.instance.ready = state == INSTANCE_READY;
    event.instance.queues = instance_queues(self->supervisor, index);
    if (self->agent == NULL) {
        return; /* the supervisor is being made */
    }
    self->told_ready[index] = event.instance.ready;
    loop_give(self, &event);
    if (!self->stepping) {
        give_capability(self);
    }
}

static void
on_taken(void *context, uint32_t index, uint32_t serial)
{
    struct loop *self = context;
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        const struct agent_held *held = agent_held(self->agent, i);
        if (held->state != HELD_NONE && held->serial == serial) { /* offered before; begun now */
            char id[JOB_ID_TEXT + 1];
            job_id_print(&held->lease.job, id);
            log_info("job-drawing job=%s grant=%u instance=%s", id, held->lease.grant,
                     instance_name(self->supervisor, index));
        }
    }
    give_about(self, AGENT_ON_TAKEN, index, serial);
}

static void
on_refused(void *context, uint32_t index, uint32_t serial)
{
    give_about(context, AGENT_ON_NOT_DRAWN, index, serial);
}

static void
on_step(void *context, uint32_t index, uint32_t serial, uint8_t number, uint8_t steps)
{
    struct agent_event event = { .kind = AGENT_ON_STEP };
    event.step.index = (uint8_t)index;
    event.step.serial = serial;
    event.step.step = number;
    event.step.steps = steps;
    loop_give(context, &event);
}

/* The instance may have told its state before its end: the agent hears it again. */
static void
give_state(struct loop *self, uint32_t index)
{
    on_state(self, index, instance_state(self->supervisor, index));
}

static void
on_tick(void *context)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_TICK };
    loop_give(self, &event);
    if (self->capability.version != 0) {
        give_capability(self); /* a beat may have found another model behind the same door */
    }
    /* One that refused a job may be ready all the same, and so have nothing to tell. */
    for (uint32_t i = 0; i < supervisor_count(self->supervisor); i++) {
        bool ready = instance_state(self->supervisor, i) == INSTANCE_READY;
        if (ready && !self->told_ready[i] && clock_mono_ms() >= self->refused_until_ms[i]) {
            give_state(self, i);
        }
    }
}

static void
on_drawn(void *context, uint32_t index, uint32_t serial, struct drawing *drawing)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_DRAWN };
    assert(!self->stepping);
    event.drawn.index = (uint8_t)index;
    event.drawn.serial = serial;
    event.drawn.n_pictures = (uint8_t)drawing->n;
    self->drawing = drawing;
    loop_give(self, &event);
    drawing_clear(drawing); /* nothing is left in it if it was taken */
    give_state(self, index);
}

/* What an instance says, as a frame takes it: cut, and ASCII only if it is not UTF-8. */
static uint32_t
clean(char out[LIMIT_REASON_BYTES], const char *message)
{
    size_t length = strnlen(message, LIMIT_REASON_BYTES);
    bool cut = length == LIMIT_REASON_BYTES;
    while (cut && length > 0 && ((unsigned char)message[length] & 0xc0U) == 0x80U) {
        length--; /* not inside a character */
    }
    memcpy(out, message, length);
    bool valid = utf8_valid(out, length, NULL);
    for (size_t i = 0; i < length; i++) {
        bool control = (unsigned char)out[i] < ' ';
        if (control || (!valid && (unsigned char)out[i] >= 0x7f)) {
            out[i] = '?';
        }
    }
    return (uint32_t)length;
}

static void
on_failed(void *context, uint32_t index, uint32_t serial, const struct failure *failure)
{
    struct loop *self = context;
    char text[LIMIT_REASON_BYTES] = "";
    struct agent_event event = { .kind = AGENT_ON_FAILED };
    assert(!self->stepping);
    event.failed.index = (uint8_t)index;
    event.failed.serial = serial;
    event.failed.code = failure->code;
    event.failed.taken = failure->taken;
    event.failed.final_ = failure->final;
    event.failed.message = (struct slice){ .bytes = text, .length = clean(text, failure->message) };
    loop_give(self, &event);
    give_state(self, index);
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
                                        .startup_ms = options->startup_s * 1000 };
    struct instance_events events = { .on_state = on_state,
                                      .on_taken = on_taken,
                                      .on_step = on_step,
                                      .on_drawn = on_drawn,
                                      .on_failed = on_failed,
                                      .on_refused = on_refused,
                                      .context = self };
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
        give_state(self, i);
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
