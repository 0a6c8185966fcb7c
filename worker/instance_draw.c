#include "common/clock.h"
#include "common/log.h"
#include "worker/device_error.h"
#include "worker/instance_private.h"
#include "worker/message.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * What an instance draws. Each job has a lane, and each lane a driver of its own.
 *
 * Jobs have the GPU in the order in which they were given to the server. The front is the first
 * whose last step is not made: it has begun as soon as the server has it, and silence is its fault.
 * Those behind it are no tries yet. Those before it are encoded and fetched.
 */

/* -- which lane -- */

static struct lane *
front_of(struct instance *self)
{
    struct lane *front = NULL;
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        struct lane *lane = &self->lanes[i];
        if (lane->drawing && !lane->made && (front == NULL || lane->order < front->order)) {
            front = lane;
        }
    }
    return front;
}

/* The one whose fault a silence is: the front, or, when all is drawn, what is fetched longest. */
static struct lane *
silent_one(struct instance *self)
{
    struct lane *found = front_of(self);
    for (uint32_t i = 0; i < self->n_lanes && found == NULL; i++) {
        found = self->lanes[i].drawing ? &self->lanes[i] : NULL;
    }
    return found;
}

static struct lane *
idle_lane(struct instance *self)
{
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        if (!self->lanes[i].drawing) {
            return &self->lanes[i];
        }
    }
    return NULL;
}

bool
lanes_busy(const struct instance *self)
{
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        if (self->lanes[i].drawing) {
            return true;
        }
    }
    return false;
}

static bool
is_test(const struct lane *lane)
{
    return lane->events != &lane->instance->owner->events;
}

/* -- silence -- */

static int64_t
limit_of(const struct lane *lane)
{
    const struct instance *self = lane->instance;
    const struct supervisor *owner = self->owner;
    bool waits = lane->waiting && !lane->begun;
    bool tells = instance_has_feature(self, DRIVER_STEPS) && !waits;
    if (lane->telling != TELLING_AS_HEALTH) {
        tells = lane->telling == TELLING_STEPS;
    }
    struct silence silence = { .pixels = lane->pixels,
                               .steps = tells ? 1 : lane->steps,
                               .least_ms = tells ? owner->stuck_ms : owner->opaque_ms,
                               /* the first job loads and compiles */
                               .warm_ms = self->warm ? 0 : owner->startup_ms };
    return usual_limit_ms(&self->usual, &silence);
}

/* The timer runs for one lane, each has its own limit. */
static void
arm(struct instance *self)
{
    const struct lane *lane = silent_one(self);
    if (lane == NULL) {
        timer_stop(self->stuck_timer);
        return;
    }
    timer_in_ms(self->stuck_timer, lane->due_ms - clock_mono_ms());
}

static void
bear(struct lane *lane, int64_t limit_ms)
{
    lane->due_ms = clock_mono_ms() + limit_ms;
    arm(lane->instance);
}

/* It told something: its silence begins now. */
static void
watch(struct lane *lane)
{
    lane->news_ms = clock_mono_ms();
    bear(lane, limit_of(lane));
}

/* Another has left, or the instance is warm now: no more than from now on is borne. */
static void
watch_next(struct instance *self)
{
    struct lane *lane = silent_one(self);
    int64_t due_ms = clock_mono_ms() + limit_of(lane);
    lane->due_ms = lane->due_ms < due_ms ? lane->due_ms : due_ms;
    arm(self);
}

/* What a step costs. The first one of an instance that was just started has its warm-up in it. */
static void
learn(struct lane *lane, uint32_t n_steps, int64_t since_ms)
{
    struct instance *self = lane->instance;
    int64_t took_ms = clock_mono_ms() - since_ms;
    self->last_step_ms = took_ms / n_steps;
    usual_learn(&self->usual, lane->pixels, n_steps, took_ms, !self->warm && lane->step == 0);
}

/* -- what is told -- */

/* Tells the agent that the job has failed, once. */
static void
report_failure(struct lane *lane, const struct failure *failure)
{
    struct instance *self = lane->instance;
    const struct instance_events *events = lane->events;
    struct failure told = *failure;
    if (!lane->reporting) {
        return;
    }
    lane->reporting = false;
    drawing_clear(&lane->result);
    told.taken = failure->taken && (lane->begun || (lane == front_of(self) && !lane->lost));
    log_warn("instance-failed instance=%s code=%s taken=%d message=\"%s\"", self->name,
             fail_code_name(told.code), told.taken, told.message);
    events->on_failed(events->context, self->index, lane->serial, &told);
}

static void
begin(struct lane *lane)
{
    struct instance *self = lane->instance;
    const struct instance_events *events = lane->events;
    lane->begun = true;
    lane->drawing_ms = clock_mono_ms();
    watch(lane);
    if (lane->reporting) {
        events->on_taken(events->context, self->index, lane->serial);
    }
}

/* The one in front has begun if the server has it. */
static void
begin_front(struct instance *self)
{
    struct lane *front = front_of(self);
    if (front != NULL && front->accepted && !front->begun && !front->lost) {
        begin(front);
    }
}

static void
make(struct lane *lane)
{
    if (!lane->made) {
        lane->made = true;
        begin_front(lane->instance);
    }
}

/* -- what the drivers report -- */

static void
on_waiting(void *context)
{
    struct lane *lane = context;
    lane->waiting = true;
    watch(lane);
}

static void
on_taken(void *context)
{
    struct lane *lane = context;
    lane->accepted = true;
    begin_front(lane->instance);
}

static void
on_step(void *context, uint32_t step, uint32_t steps)
{
    struct lane *lane = context;
    struct instance *self = lane->instance;
    const struct instance_events *events = lane->events;
    if (!lane->reporting || step <= lane->step || step > steps || steps > UINT8_MAX) {
        return; /* no news, or nonsense: neither moves the deadline */
    }
    for (uint32_t i = 0; i < self->n_lanes; i++) { /* whatever was before it has left the GPU */
        struct lane *other = &self->lanes[i];
        other->made = other->made || (other->drawing && other->order < lane->order);
    }
    if (!lane->begun) {
        begin(lane);
    }
    learn(lane, step - lane->step, lane->news_ms);
    lane->step = step;
    self->health.lacks &= ~(unsigned)DRIVER_STEPS; /* a backlog leaves no time for a health check */
    watch(lane);
    events->on_step(events->context, self->index, lane->serial, (uint8_t)step, (uint8_t)steps);
    if (step == steps) {
        make(lane);
    }
}

static void
on_work(void *context, bool tells)
{
    struct lane *lane = context;
    if (!lane->reporting) {
        return; /* it was told to stop: that has a limit of its own */
    }
    lane->telling = tells ? TELLING_STEPS : TELLING_NOTHING;
    bear(lane, limit_of(lane)); /* the usual step is not touched */
}

static void
on_picture(void *context, uint32_t i, const struct drawn_picture *picture)
{
    struct lane *lane = context;
    assert(i == lane->result.n && i < LIMIT_IMAGES);
    watch(lane);
    lane->result.pictures[lane->result.n++] = *picture;
}

static void
on_drawn(void *context, uint32_t gpu_ms)
{
    struct lane *lane = context;
    struct instance *self = lane->instance;
    const struct instance_events *events = lane->events;
    struct drawing result = lane->result;
    result.gpu_ms = gpu_ms;
    lane->result = (struct drawing){ 0 };
    if (!instance_has_feature(self, DRIVER_STEPS) && lane->begun) {
        learn(lane, lane->steps, lane->drawing_ms);
    }
    self->warm = true;
    if (!is_test(lane)) {
        self->error_streak = 0;
    }
    assert(lane->reporting);
    lane->reporting = false;
    events->on_drawn(events->context, self->index, lane->serial, &result);
    make(lane);
}

static bool
draws_another(const struct lane *lane)
{
    for (uint32_t i = 0; i < lane->instance->n_lanes; i++) {
        const struct lane *other = &lane->instance->lanes[i];
        if (other != lane && other->drawing) {
            return true;
        }
    }
    return false;
}

/* Each finds out for itself that the server is gone; which it was that died is known now. */
static void
lose_others(struct lane *lane)
{
    for (uint32_t i = 0; i < lane->instance->n_lanes; i++) {
        struct lane *other = &lane->instance->lanes[i];
        if (other != lane && other->drawing && !other->begun) {
            other->lost = true;
            watch(other);
        }
    }
}

/* What a failed job says of its instance. */
static void
blame(struct lane *lane, const struct failure *failure)
{
    struct instance *self = lane->instance;
    bool sick = failure->code == FAIL_INSTANCE_ERROR || failure->code == FAIL_BAD_PICTURE;
    bool lost = failure->code == FAIL_INSTANCE_ERROR && device_error_is(failure->message);
    if (failure->code == FAIL_INSTANCE_DIED) {
        lose_others(lane);
    }
    if (failure->busy || failure->code == FAIL_INSTANCE_DIED) {
        instance_explain(self, "%s: %s", failure->busy ? "takes no job" : "lost in a job",
                         failure->message);
        instance_leave_alone(self);
        return;
    }
    if (sick && !is_test(lane)) {
        self->error_streak++;
        message_text(self->last_failure, sizeof self->last_failure, failure->message);
    }
    if (lost) {
        instance_explain(self, "lost its device: %s", failure->message);
        self->lost_device = self->life == LIFE_RUNNING;
    }
    if (lost && self->life == LIFE_NONE) {
        instance_leave_alone(self); /* not ours to start anew: perhaps its owner does */
    }
}

static void
on_failed(void *context, const struct failure *failure)
{
    struct lane *lane = context;
    struct instance *self = lane->instance;
    const struct instance_events *events = lane->events;
    if (failure->busy && draws_another(lane)) {
        if (lane->reporting) { /* busy with what we gave it: its queue is shorter than thought */
            lane->reporting = false;
            events->on_refused(events->context, self->index, lane->serial);
        }
        return;
    }
    blame(lane, failure);
    bear(lane, LIMIT_STOP_MS); /* should the GPU not become free */
    report_failure(lane, failure);
}

/* Its device is lost. The jobs behind this one would fail as well: that is not their fault. */
static void
start_anew(struct lane *lane)
{
    struct instance *self = lane->instance;
    char why[sizeof self->reason];
    memcpy(why, self->reason, sizeof why);
    self->lost_device = false;
    lose_others(lane);
    life_restart(self, why);
}

/* The driver is idle again: where the instance goes from here. */
static void
on_free(void *context)
{
    struct lane *lane = context;
    struct instance *self = lane->instance;
    drawing_clear(&lane->result);
    lane->drawing = lane->reporting = false;
    if (self->lost_device && !self->owner->stopping) {
        start_anew(lane);
        return;
    }
    if (lanes_busy(self)) {
        begin_front(self);
        watch_next(self);
        return;
    }
    timer_stop(self->stuck_timer);
    if (self->owner->stopping) {
        instance_set_state(self, INSTANCE_DOWN);
        supervisor_check_stopped(self->owner);
        return;
    }
    if (is_test(lane)) {
        selftest_is_free(self);
        return;
    }
    instance_probe_soon(self);
    instance_go_on(self);
}

static void
interrupt(struct lane *lane)
{
    struct instance *self = lane->instance;
    if (!lane->drawing || !lane->reporting) {
        return;
    }
    lane->reporting = false;
    bear(lane,
         instance_has_feature(self, DRIVER_INTERRUPT) ? LIMIT_STOP_MS : self->owner->opaque_ms);
    self->driver->interrupt(lane->drive);
}

/* No step for too long, or an interrupt that is not obeyed. */
static void
on_stuck(void *context)
{
    struct instance *self = context;
    struct lane *lane = silent_one(self);
    char message[96];
    char why[128];
    bool was_reporting = lane != NULL && lane->reporting;
    snprintf(message, sizeof message, "no step for %lld ms",
             (long long)(lane == NULL ? 0 : clock_mono_ms() - lane->news_ms));
    if (self->life != LIFE_NONE) {
        snprintf(why, sizeof why, "%s: %s", was_reporting ? "stuck" : "does not stop drawing",
                 message);
        instance_set_reason(self, why);
        instance_went_down(self, FAIL_INSTANCE_STUCK, message);
        life_restart(self, why);
        return;
    }
    if (was_reporting) {
        if (!is_test(lane)) {
            self->error_streak++;
            snprintf(self->last_failure, sizeof self->last_failure, "stuck: %s", message);
        }
        instance_explain(self, "stuck: %s", message);
        interrupt(lane); /* before the report: the agent may ask too */
        lane->reporting = true;
        report_failure(lane, &(struct failure){ .code = FAIL_INSTANCE_STUCK,
                                                .message = message,
                                                .taken = lane->accepted });
        return;
    }
    /* It was told to stop long ago. Not ours to kill: forget the job and look again later. */
    log_warn("instance-does-not-stop instance=%s", self->name);
    instance_explain(self, "does not stop drawing: %s", message);
    instance_went_down(self, FAIL_INSTANCE_STUCK, message);
    instance_leave_alone(self);
    if (self->owner->stopping) {
        supervisor_check_stopped(self->owner);
        return;
    }
    instance_probe_soon(self);
}

/* -- life -- */

int
lanes_open(struct instance *self, void (*on_probed)(void *context, const struct health *health))
{
    struct reactor *reactor = self->owner->reactor;
    int rc = timer_new(&self->stuck_timer, reactor, on_stuck, self);
    uint32_t n = (self->driver->features & DRIVER_QUEUE) != 0 ? LIMIT_PLACE_JOBS : 1;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        struct lane *lane = &self->lanes[i];
        lane->instance = self;
        lane->events = &self->owner->events;
        lane->host = (struct driver_host){
            .reactor = reactor,
            .http = self->owner->http,
            .words = &self->words,
            .url = self->url,
            .on_probed = on_probed,
            .on_waiting = on_waiting,
            .on_taken = on_taken,
            .on_step = on_step,
            .on_work = on_work,
            .on_picture = on_picture,
            .on_drawn = on_drawn,
            .on_failed = on_failed,
            .on_free = on_free,
            .context = lane,
        };
        rc = self->driver->open(&lane->drive, &lane->host);
        self->n_lanes = rc == 0 ? i + 1 : self->n_lanes;
    }
    return rc;
}

void
lanes_close(struct instance *self)
{
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        self->driver->close(&self->lanes[i].drive);
        drawing_clear(&self->lanes[i].result);
    }
    timer_destroy(&self->stuck_timer);
}

void
lanes_drop(struct instance *self, enum fail_code code, const char *why)
{
    timer_stop(self->stuck_timer);
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        struct lane *lane = &self->lanes[i];
        self->driver->close(&lane->drive);
        int rc = self->driver->open(&lane->drive, &lane->host);
        if (rc != 0) {
            abort(); /* out of memory */
        }
        lane->drawing = false;
    }
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        struct lane *lane = &self->lanes[i];
        report_failure(lane,
                       &(struct failure){ .code = code, .message = why, .taken = lane->accepted });
        drawing_clear(&lane->result);
    }
}

void
lanes_interrupt(struct instance *self)
{
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        interrupt(&self->lanes[i]);
    }
}

/* A job more, beside what it has. */
static bool
would_queue(const struct instance *self)
{
    return self->state == INSTANCE_BUSY && instance_has_feature(self, DRIVER_QUEUE) &&
           !instance_is_bad(self) && !selftest_is_due(self) &&
           clock_mono_ms() >= self->leave_alone_ms;
}

static int
give(struct lane *lane, const struct draw_request *request, const struct instance_events *events)
{
    struct instance *self = lane->instance;
    lane->step = 0;
    lane->accepted = lane->waiting = lane->begun = lane->lost = lane->made = false;
    lane->telling = TELLING_AS_HEALTH;
    int rc = self->driver->draw(lane->drive, request);
    if (rc != 0) {
        return rc;
    }
    lane->events = events;
    lane->drawing = lane->reporting = true;
    lane->order = ++self->n_draws;
    lane->serial = request->serial;
    lane->pixels =
        (uint32_t)request->envelope->width * request->envelope->height * request->envelope->n;
    lane->steps = request->envelope->steps;
    watch(lane);
    return 0;
}

bool
lanes_test(struct instance *self, const struct draw_request *request)
{
    assert(!lanes_busy(self));
    timer_stop(self->probe_timer);
    self->driver->probe_cancel(self->lanes[0].drive);
    return give(&self->lanes[0], request, &self->selftest_events) == 0;
}

int
instance_draw(struct supervisor *owner, uint32_t index, const struct draw_request *request)
{
    assert(index < owner->n_instances);
    struct instance *self = &owner->instances[index];
    struct lane *lane = idle_lane(self);
    bool first = self->state == INSTANCE_READY && !lanes_busy(self) && !instance_is_bad(self) &&
                 !selftest_is_due(self);
    if (owner->stopping || lane == NULL || (!first && !would_queue(self))) {
        return -EBUSY;
    }
    if (first) {
        timer_stop(self->probe_timer);
        self->driver->probe_cancel(self->lanes[0].drive);
    }
    if (give(lane, request, &owner->events) != 0) {
        if (first) {
            instance_probe_soon(self);
        }
        return -EBUSY;
    }
    self->state_since_ms = self->state == INSTANCE_BUSY ? self->state_since_ms : clock_mono_ms();
    self->state = INSTANCE_BUSY; /* the caller knows: no on_state from inside */
    return 0;
}

void
instance_interrupt(struct supervisor *owner, uint32_t index, uint32_t serial)
{
    assert(index < owner->n_instances);
    struct instance *self = &owner->instances[index];
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        if (self->lanes[i].serial == serial && !is_test(&self->lanes[i])) {
            interrupt(&self->lanes[i]);
        }
    }
}
