#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "worker/instance_private.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first probes of a process that just started come quickly, then ever slower up to the limit.
 */
enum { PROBE_FIRST_MS = 50 };

const char *
instance_state_name(enum instance_state state)
{
    static const char *const names[INSTANCE_STATE_COUNT] = {
        [INSTANCE_STARTING] = "starting", [INSTANCE_READY] = "ready",   [INSTANCE_BUSY] = "busy",
        [INSTANCE_DOWN] = "down",         [INSTANCE_BROKEN] = "broken",
    };
    assert(state < INSTANCE_STATE_COUNT);
    return names[state];
}

void
drawing_clear(struct drawing *self)
{
    for (uint32_t i = 0; i < LIMIT_IMAGES; i++) {
        free(self->pictures[i].bytes);
    }
    *self = (struct drawing){ 0 };
}

/* The last thing a caller does with the instance: the agent may give it the next job in on_state.
 */
void
instance_set_state(struct instance *self, enum instance_state state)
{
    const struct instance_events *events = &self->owner->events;
    if (self->state == state) {
        return;
    }
    /* A job more or less is no news. */
    bool routine = (self->state == INSTANCE_BUSY && state == INSTANCE_READY);
    log_write(routine ? LOG_DEBUG : LOG_INFO, "instance-state instance=%s from=%s to=%s",
              self->name, instance_state_name(self->state), instance_state_name(state));
    self->state = state;
    events->on_state(events->context, self->index, state);
}

/* -- health -- */

static void
probe_soon(struct instance *self)
{
    self->probe_pause_ms = PROBE_FIRST_MS;
    timer_in_ms(self->probe_timer, self->probe_pause_ms);
}

static void
probe_later(struct instance *self)
{
    int64_t doubled = self->probe_pause_ms * 2;
    self->probe_pause_ms = doubled < LIMIT_PROBE_MS ? doubled : LIMIT_PROBE_MS;
    timer_in_ms(self->probe_timer, self->probe_pause_ms);
}

static void
on_probe_due(void *context)
{
    struct instance *self = context;
    if (self->state == INSTANCE_BUSY || self->drawing) {
        return; /* the driver hears it first; probing goes on when the job has ended */
    }
    self->driver->probe_cancel(self->drive);
    /* on_probed sets it anew; this is for a probe that could not even be sent. */
    timer_in_ms(self->probe_timer, LIMIT_PROBE_ANSWER_MS + LIMIT_PROBE_MS);
    self->driver->probe(self->drive);
}

/* Keeps a failing or occupied instance out of reach, longer each time. */
static void
leave_alone(struct instance *self)
{
    self->leave_alone_ms = clock_mono_ms() + self->pause_ms;
    self->pause_ms *= 2;
    self->pause_ms = self->pause_ms < LIMIT_RESTART_MAX_MS ? self->pause_ms : LIMIT_RESTART_MAX_MS;
}

static bool
is_bad(const struct instance *self)
{
    return self->error_streak >= LIMIT_ERROR_STREAK || self->bad_pictures >= LIMIT_ERROR_STREAK;
}

/* It fails job after job: one that fails fast would swallow the queue. */
static void
take_out(struct instance *self)
{
    log_warn("instance-taken-out instance=%s failures=%u bad_pictures=%u", self->name,
             self->error_streak, self->bad_pictures);
    leave_alone(self);
    /* On probation: one more and it is out again. */
    self->error_streak = self->bad_pictures = LIMIT_ERROR_STREAK - 1;
    if (self->life == LIFE_RUNNING) {
        life_restart(self, "too many failures");
        return;
    }
    instance_set_state(self, INSTANCE_DOWN);
}

static void
on_unhealthy(struct instance *self, const struct health *health)
{
    bool ours = self->life != LIFE_NONE;
    self->probes_failed++;
    if (ours && !self->was_ready) {
        if (clock_mono_ms() > self->ready_by_ms) {
            life_restart(self, "not ready in time");
        }
        return; /* nobody listens yet: it is starting */
    }
    if (self->probes_failed < LIMIT_PROBES_FAILED) {
        return;
    }
    if (ours) {
        life_restart(self, "health checks fail");
        return;
    }
    if (self->probes_failed == LIMIT_PROBES_FAILED) {
        log_warn("instance-unreachable instance=%s url=%s error=\"%s\"", self->name, self->url,
                 health->message);
    }
    self->warm = self->was_ready = false;
    instance_set_state(self, INSTANCE_DOWN);
}

static void
on_healthy(struct instance *self, const struct health *health)
{
    bool restarted = strcmp(self->health.epoch, health->epoch) != 0;
    if (restarted && self->health.answered) {
        log_info("instance-restarted instance=%s epoch=%s", self->name, health->epoch);
        self->warm = false;
    }
    self->probes_failed = 0;
    self->health = *health;
    if (!self->model_set) {
        memcpy(self->model, health->model, sizeof self->model);
    }
    if (!health->ready) {
        if (self->life == LIFE_RUNNING && clock_mono_ms() > self->ready_by_ms) {
            life_restart(self, "not ready in time");
            return;
        }
        instance_set_state(self, INSTANCE_STARTING);
        return;
    }
    self->was_ready = true;
    self->ready_by_ms = clock_mono_ms() + self->owner->startup_ms; /* should it be un-ready again */
    if (is_bad(self)) {
        take_out(self);
    } else if (clock_mono_ms() >= self->leave_alone_ms) {
        instance_set_state(self, INSTANCE_READY);
    }
}

static void
on_probed(void *context, const struct health *health)
{
    struct instance *self = context;
    if (self->drawing) {
        return; /* it was given a job meanwhile: that tells more */
    }
    probe_later(self);
    if (health->answered) {
        on_healthy(self, health);
    } else {
        on_unhealthy(self, health);
    }
}

/* -- drawing: what the driver reports -- */

/* What the driver can do, less what this server has not. */
static bool
has_feature(const struct instance *self, enum driver_feature feature)
{
    return (self->driver->features & ~self->health.lacks & (unsigned)feature) != 0;
}

static int64_t
stuck_limit_ms(const struct instance *self)
{
    const struct supervisor *owner = self->owner;
    int64_t limit_ms = LIMIT_STUCK_STEPS * self->usual_step_ms;
    int64_t least_ms = has_feature(self, DRIVER_STEPS) ? owner->stuck_ms : LIMIT_OPAQUE_MS;
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

static void
on_taken(void *context)
{
    struct instance *self = context;
    const struct instance_events *events = &self->owner->events;
    self->taken = true;
    watch_for_silence(self);
    if (self->reporting) {
        events->on_taken(events->context, self->index);
    }
}

static void
on_step(void *context, uint32_t step, uint32_t steps)
{
    struct instance *self = context;
    const struct instance_events *events = &self->owner->events;
    if (!self->reporting || step <= self->step || step > steps || steps > UINT8_MAX) {
        return; /* no news, or nonsense: neither moves the deadline */
    }
    int64_t each_ms = (clock_mono_ms() - self->step_at_ms) / (step - self->step);
    self->usual_step_ms =
        self->usual_step_ms == 0 ? each_ms : (7 * self->usual_step_ms + each_ms) / 8;
    self->step = step;
    watch_for_silence(self);
    events->on_step(events->context, self->index, (uint8_t)step, (uint8_t)steps);
}

static void
on_picture(void *context, uint32_t i, const struct drawn_picture *picture)
{
    struct instance *self = context;
    assert(i == self->result.n && i < LIMIT_IMAGES);
    watch_for_silence(self);
    self->result.pictures[self->result.n++] = *picture;
}

static void
on_drawn(void *context, uint32_t gpu_ms)
{
    struct instance *self = context;
    const struct instance_events *events = &self->owner->events;
    struct drawing result = self->result;
    result.gpu_ms = gpu_ms;
    self->result = (struct drawing){ 0 };
    self->warm = true;
    self->error_streak = 0;
    self->pause_ms = LIMIT_RESTART_MIN_MS;
    assert(self->reporting);
    self->reporting = false;
    events->on_drawn(events->context, self->index, &result);
}

/* Tells the agent that the job has failed, once. */
static void
report_failure(struct instance *self, const struct failure *failure)
{
    const struct instance_events *events = &self->owner->events;
    if (!self->reporting) {
        return;
    }
    self->reporting = false;
    drawing_clear(&self->result);
    log_warn("instance-failed instance=%s code=%s taken=%d message=\"%s\"", self->name,
             fail_code_name(failure->code), failure->taken, failure->message);
    events->on_failed(events->context, self->index, failure->code, failure->message, failure->taken,
                      failure->final);
}

static void
on_failed(void *context, const struct failure *failure)
{
    struct instance *self = context;
    bool sick = failure->code == FAIL_INSTANCE_ERROR || failure->code == FAIL_BAD_PICTURE;
    if (failure->busy || failure->code == FAIL_INSTANCE_DIED) {
        leave_alone(self);
    } else if (sick) {
        self->error_streak++;
    }
    timer_in_ms(self->stuck_timer, LIMIT_STOP_MS); /* should the GPU not become free */
    report_failure(self, failure);
}

/* The driver is idle again: where the instance goes from here. */
static void
on_free(void *context)
{
    struct instance *self = context;
    timer_stop(self->stuck_timer);
    drawing_clear(&self->result);
    self->drawing = self->reporting = false;
    if (self->owner->stopping) {
        instance_set_state(self, INSTANCE_DOWN);
        supervisor_check_stopped(self->owner);
        return;
    }
    probe_soon(self);
    if (is_bad(self)) {
        take_out(self);
        return;
    }
    bool alone = clock_mono_ms() < self->leave_alone_ms;
    instance_set_state(self, alone ? INSTANCE_DOWN : INSTANCE_READY);
}

/* No step for too long, or an interrupt that is not obeyed. */
static void
on_stuck(void *context)
{
    struct instance *self = context;
    char message[96];
    bool was_reporting = self->reporting;
    snprintf(message, sizeof message, "no step for %lld ms",
             (long long)(clock_mono_ms() - self->step_at_ms));
    if (self->life != LIFE_NONE) {
        instance_went_down(self, FAIL_INSTANCE_STUCK, message);
        life_restart(self, was_reporting ? "stuck" : "does not stop drawing");
        return;
    }
    if (was_reporting) {
        self->error_streak++;
        instance_interrupt(self->owner, self->index); /* before the report: the agent may ask too */
        self->reporting = true;
        report_failure(self, &(struct failure){ .code = FAIL_INSTANCE_STUCK,
                                                .message = message,
                                                .taken = self->taken });
        return;
    }
    /* It was told to stop long ago. Not ours to kill: forget the job and look again later. */
    log_warn("instance-does-not-stop instance=%s", self->name);
    instance_went_down(self, FAIL_INSTANCE_STUCK, message);
    leave_alone(self);
    if (self->owner->stopping) {
        supervisor_check_stopped(self->owner);
        return;
    }
    probe_soon(self);
}

/* -- life -- */

void
instance_begin(struct instance *self)
{
    self->pause_ms = LIMIT_RESTART_MIN_MS;
    self->backoff_ms = LIMIT_RESTART_MIN_MS;
    if (self->life == LIFE_NONE) {
        probe_soon(self);
    } else {
        life_begin(self, 0);
    }
}

void
instance_came_up(struct instance *self)
{
    self->was_ready = self->warm = false;
    self->probes_failed = 0;
    self->error_streak = self->bad_pictures = 0;
    self->health = (struct health){ 0 };
    self->leave_alone_ms = 0;
    self->ready_by_ms = clock_mono_ms() + self->owner->startup_ms;
    probe_soon(self);
    instance_set_state(self, INSTANCE_STARTING);
}

void
instance_went_down(struct instance *self, enum fail_code code, const char *why)
{
    timer_stop(self->probe_timer);
    timer_stop(self->stuck_timer);
    /* Drops all requests: there is nobody to answer them, or nobody we would believe. */
    self->driver->close(&self->drive);
    int rc = self->driver->open(&self->drive, &self->host);
    if (rc != 0) {
        abort(); /* out of memory */
    }
    self->drawing = false;
    self->was_ready = false;
    report_failure(self, &(struct failure){ .code = code, .message = why, .taken = self->taken });
    drawing_clear(&self->result);
    instance_set_state(self, INSTANCE_DOWN);
}

void
instance_stop(struct instance *self)
{
    bool attached = self->life == LIFE_NONE;
    timer_stop(self->probe_timer);
    if (attached && self->drawing) {
        instance_interrupt(self->owner, self->index); /* it shall not draw on for nobody */
        return;
    }
    self->reporting = false;
    if (self->state != INSTANCE_BROKEN) {
        instance_went_down(self, FAIL_NONE, "");
    }
    life_stop(self);
}

int
instance_open(struct instance *self)
{
    struct reactor *reactor = self->owner->reactor;
    self->host = (struct driver_host){
        .reactor = reactor,
        .http = self->owner->http,
        .words = &self->words,
        .url = self->url,
        .on_probed = on_probed,
        .on_taken = on_taken,
        .on_step = on_step,
        .on_picture = on_picture,
        .on_drawn = on_drawn,
        .on_failed = on_failed,
        .on_free = on_free,
        .context = self,
    };
    int rc = timer_new(&self->probe_timer, reactor, on_probe_due, self);
    rc = rc ? rc : timer_new(&self->stuck_timer, reactor, on_stuck, self);
    return rc ? rc : self->driver->open(&self->drive, &self->host);
}

void
instance_close(struct instance *self)
{
    if (self->driver != NULL) {
        self->driver->close(&self->drive);
    }
    timer_destroy(&self->probe_timer);
    timer_destroy(&self->stuck_timer);
    timer_destroy(&self->life_timer);
    drawing_clear(&self->result);
}

int
instance_draw(struct supervisor *owner, uint32_t index, const struct draw_request *request)
{
    assert(index < owner->n_instances);
    struct instance *self = &owner->instances[index];
    if (self->state != INSTANCE_READY || self->drawing || owner->stopping) {
        return -EBUSY;
    }
    timer_stop(self->probe_timer);
    self->driver->probe_cancel(self->drive);
    self->step = 0;
    self->taken = false;
    if (self->driver->draw(self->drive, request) != 0) {
        probe_soon(self);
        return -EBUSY;
    }
    self->drawing = self->reporting = true;
    self->state = INSTANCE_BUSY; /* the caller knows: no on_state from inside */
    watch_for_silence(self);
    return 0;
}

void
instance_interrupt(struct supervisor *owner, uint32_t index)
{
    assert(index < owner->n_instances);
    struct instance *self = &owner->instances[index];
    if (!self->drawing || !self->reporting) {
        return;
    }
    self->reporting = false;
    timer_in_ms(self->stuck_timer,
                has_feature(self, DRIVER_INTERRUPT) ? LIMIT_STOP_MS : LIMIT_OPAQUE_MS);
    self->driver->interrupt(self->drive);
}

void
instance_judge(struct supervisor *owner, uint32_t index, bool good)
{
    assert(index < owner->n_instances);
    struct instance *self = &owner->instances[index];
    self->bad_pictures = good ? 0 : self->bad_pictures + 1;
    if (is_bad(self) && self->state == INSTANCE_READY && !owner->stopping) {
        timer_in_ms(self->probe_timer, 0); /* what follows is done from the loop */
    }
}
