#include "common/clock.h"
#include "common/log.h"
#include "worker/instance_private.h"
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

/* -- silence -- */

static int64_t
stuck_limit_ms(struct instance *self)
{
    const struct supervisor *owner = self->owner;
    int64_t limit_ms = LIMIT_STUCK_STEPS * self->usual_step_ms;
    const struct lane *lane = silent_one(self);
    bool waits = lane != NULL && lane->waiting && !lane->begun;
    bool tells = instance_has_feature(self, DRIVER_STEPS) && !waits;
    int64_t least_ms = tells ? owner->stuck_ms : owner->opaque_ms;
    limit_ms = limit_ms > least_ms ? limit_ms : least_ms;
    if (!self->warm && limit_ms < owner->startup_ms) {
        limit_ms = owner->startup_ms; /* the first job loads and compiles */
    }
    return limit_ms;
}

static void
watch_for_silence(struct instance *self)
{
    self->step_at_ms = clock_mono_ms();
    timer_in_ms(self->stuck_timer, stuck_limit_ms(self));
}

/* -- what is told -- */

/* Tells the agent that the job has failed, once. */
static void
report_failure(struct lane *lane, const struct failure *failure)
{
    struct instance *self = lane->instance;
    const struct instance_events *events = &self->owner->events;
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
    const struct instance_events *events = &self->owner->events;
    lane->begun = true;
    watch_for_silence(self);
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
    if (lane == silent_one(lane->instance)) {
        watch_for_silence(lane->instance);
    }
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
    const struct instance_events *events = &self->owner->events;
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
    int64_t each_ms = (clock_mono_ms() - self->step_at_ms) / (step - lane->step);
    self->usual_step_ms =
        self->usual_step_ms == 0 ? each_ms : (7 * self->usual_step_ms + each_ms) / 8;
    lane->step = step;
    self->health.lacks &= ~(unsigned)DRIVER_STEPS; /* a backlog leaves no time for a health check */
    watch_for_silence(self);
    events->on_step(events->context, self->index, lane->serial, (uint8_t)step, (uint8_t)steps);
    if (step == steps) {
        make(lane);
    }
}

static void
on_picture(void *context, uint32_t i, const struct drawn_picture *picture)
{
    struct lane *lane = context;
    assert(i == lane->result.n && i < LIMIT_IMAGES);
    watch_for_silence(lane->instance);
    lane->result.pictures[lane->result.n++] = *picture;
}

static void
on_drawn(void *context, uint32_t gpu_ms)
{
    struct lane *lane = context;
    struct instance *self = lane->instance;
    const struct instance_events *events = &self->owner->events;
    struct drawing result = lane->result;
    result.gpu_ms = gpu_ms;
    lane->result = (struct drawing){ 0 };
    self->warm = true;
    self->error_streak = 0;
    self->pause_ms = LIMIT_RESTART_MIN_MS;
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
        other->lost = other->lost || (other != lane && !other->begun);
    }
}

static void
on_failed(void *context, const struct failure *failure)
{
    struct lane *lane = context;
    struct instance *self = lane->instance;
    const struct instance_events *events = &self->owner->events;
    bool sick = failure->code == FAIL_INSTANCE_ERROR || failure->code == FAIL_BAD_PICTURE;
    if (failure->busy && draws_another(lane)) {
        if (lane->reporting) { /* busy with what we gave it: its queue is shorter than thought */
            lane->reporting = false;
            events->on_refused(events->context, self->index, lane->serial);
        }
        return;
    }
    if (failure->code == FAIL_INSTANCE_DIED) {
        lose_others(lane);
    }
    if (failure->busy || failure->code == FAIL_INSTANCE_DIED) {
        instance_leave_alone(self);
    } else if (sick) {
        self->error_streak++;
    }
    timer_in_ms(self->stuck_timer, LIMIT_STOP_MS); /* should the GPU not become free */
    report_failure(lane, failure);
}

/* The driver is idle again: where the instance goes from here. */
static void
on_free(void *context)
{
    struct lane *lane = context;
    struct instance *self = lane->instance;
    drawing_clear(&lane->result);
    lane->drawing = lane->reporting = false;
    if (lanes_busy(self)) {
        watch_for_silence(self);
        begin_front(self);
        return;
    }
    timer_stop(self->stuck_timer);
    if (self->owner->stopping) {
        instance_set_state(self, INSTANCE_DOWN);
        supervisor_check_stopped(self->owner);
        return;
    }
    instance_probe_soon(self);
    if (instance_is_bad(self)) {
        instance_take_out(self);
        return;
    }
    bool alone = clock_mono_ms() < self->leave_alone_ms;
    instance_set_state(self, alone ? INSTANCE_DOWN : INSTANCE_READY);
}

static void
interrupt(struct lane *lane)
{
    struct instance *self = lane->instance;
    if (!lane->drawing || !lane->reporting) {
        return;
    }
    lane->reporting = false;
    if (lane == silent_one(self)) {
        timer_in_ms(self->stuck_timer, instance_has_feature(self, DRIVER_INTERRUPT)
                                           ? LIMIT_STOP_MS
                                           : self->owner->opaque_ms);
    }
    self->driver->interrupt(lane->drive);
}

/* No step for too long, or an interrupt that is not obeyed. */
static void
on_stuck(void *context)
{
    struct instance *self = context;
    struct lane *lane = silent_one(self);
    char message[96];
    bool was_reporting = lane != NULL && lane->reporting;
    snprintf(message, sizeof message, "no step for %lld ms",
             (long long)(clock_mono_ms() - self->step_at_ms));
    if (self->life != LIFE_NONE) {
        instance_went_down(self, FAIL_INSTANCE_STUCK, message);
        life_restart(self, was_reporting ? "stuck" : "does not stop drawing");
        return;
    }
    if (was_reporting) {
        self->error_streak++;
        interrupt(lane); /* before the report: the agent may ask too */
        lane->reporting = true;
        report_failure(lane, &(struct failure){ .code = FAIL_INSTANCE_STUCK,
                                                .message = message,
                                                .taken = lane->accepted });
        return;
    }
    /* It was told to stop long ago. Not ours to kill: forget the job and look again later. */
    log_warn("instance-does-not-stop instance=%s", self->name);
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
        lane->host = (struct driver_host){
            .reactor = reactor,
            .http = self->owner->http,
            .words = &self->words,
            .url = self->url,
            .on_probed = on_probed,
            .on_waiting = on_waiting,
            .on_taken = on_taken,
            .on_step = on_step,
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
           !instance_is_bad(self) && clock_mono_ms() >= self->leave_alone_ms;
}

int
instance_draw(struct supervisor *owner, uint32_t index, const struct draw_request *request)
{
    assert(index < owner->n_instances);
    struct instance *self = &owner->instances[index];
    struct lane *lane = idle_lane(self);
    bool first = self->state == INSTANCE_READY && !lanes_busy(self);
    if (owner->stopping || lane == NULL || (!first && !would_queue(self))) {
        return -EBUSY;
    }
    if (first) {
        timer_stop(self->probe_timer);
        self->driver->probe_cancel(self->lanes[0].drive);
    }
    lane->step = 0;
    lane->accepted = lane->waiting = lane->begun = lane->lost = lane->made = false;
    if (self->driver->draw(lane->drive, request) != 0) {
        if (first) {
            instance_probe_soon(self);
        }
        return -EBUSY;
    }
    lane->drawing = lane->reporting = true;
    lane->order = ++self->n_draws;
    lane->serial = request->serial;
    if (lane == silent_one(self)) {
        watch_for_silence(self);
    }
    self->state = INSTANCE_BUSY; /* the caller knows: no on_state from inside */
    return 0;
}

void
instance_interrupt(struct supervisor *owner, uint32_t index, uint32_t serial)
{
    assert(index < owner->n_instances);
    struct instance *self = &owner->instances[index];
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        if (self->lanes[i].serial == serial) {
            interrupt(&self->lanes[i]);
        }
    }
}
