#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "worker/instance_private.h"
#include "worker/message.h"
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first probes of a process that just started come quickly, then ever slower up to the limit.
 */
enum { PROBE_FIRST_MS = 50 };

#define IN_A_ROW "3 failures in a row"
_Static_assert(LIMIT_ERROR_STREAK == 3, "IN_A_ROW says so");

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

void
instance_set_reason(struct instance *self, const char *text)
{
    message_text(self->reason, sizeof self->reason, text);
}

void
instance_explain(struct instance *self, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    instance_set_reason(self, text);
}

/* The last thing a caller does with the instance: the agent may give it the next job in on_state.
 */
void
instance_set_state(struct instance *self, enum instance_state state)
{
    const struct instance_events *events = &self->owner->events;
    if (state == INSTANCE_READY) {
        instance_set_reason(self, "");
    }
    if (self->state == state) {
        return;
    }
    /* A job more or less is no news. */
    bool routine = (self->state == INSTANCE_BUSY && state == INSTANCE_READY);
    log_write(routine ? LOG_DEBUG : LOG_INFO,
              "instance-state instance=%s from=%s to=%s reason=\"%s\"", self->name,
              instance_state_name(self->state), instance_state_name(state), self->reason);
    self->state = state;
    self->state_since_ms = clock_mono_ms();
    events->on_state(events->context, self->index, state);
}

/* -- health -- */

void
instance_probe_soon(struct instance *self)
{
    self->probe_pause_ms = PROBE_FIRST_MS;
    timer_in_ms(self->probe_timer, self->probe_pause_ms);
}

bool
instance_has_feature(const struct instance *self, enum driver_feature feature)
{
    return (self->driver->features & ~self->health.lacks & (unsigned)feature) != 0;
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
    if (self->state == INSTANCE_BUSY || lanes_busy(self)) {
        return; /* the driver hears it first; probing goes on when the job has ended */
    }
    self->driver->probe_cancel(self->lanes[0].drive);
    /* on_probed sets it anew; this is for a probe that could not even be sent. */
    timer_in_ms(self->probe_timer, LIMIT_PROBE_ANSWER_MS + LIMIT_PROBE_MS);
    self->driver->probe(self->lanes[0].drive);
}

void
instance_leave_alone(struct instance *self)
{
    self->leave_alone_ms = clock_mono_ms() + self->pause_ms;
    self->pause_ms *= 2;
    self->pause_ms = self->pause_ms < LIMIT_RESTART_MAX_MS ? self->pause_ms : LIMIT_RESTART_MAX_MS;
}

bool
instance_is_bad(const struct instance *self)
{
    return self->error_streak >= LIMIT_ERROR_STREAK || self->bad_pictures >= LIMIT_ERROR_STREAK;
}

void
instance_take_out(struct instance *self)
{
    log_warn("instance-taken-out instance=%s failures=%u bad_pictures=%u", self->name,
             self->error_streak, self->bad_pictures);
    instance_explain(self, "taken out: %s, last: %s",
                     self->on_probation ? "failed again" : IN_A_ROW, self->last_failure);
    if (clock_mono_ms() >= self->leave_alone_ms) { /* a lost device has done that */
        instance_leave_alone(self);
    }
    self->on_probation = true; /* also the next process, until it has drawn a good picture */
    self->error_streak = self->bad_pictures = LIMIT_ERROR_STREAK - 1;
    if (self->life == LIFE_RUNNING) {
        char why[sizeof self->reason];
        memcpy(why, self->reason, sizeof why);
        life_restart(self, why);
        return;
    }
    instance_set_state(self, INSTANCE_DOWN);
}

/* `said` by its server, or of the connection to it. */
static void
give_up_waiting(struct instance *self, const char *said)
{
    char why[256];
    snprintf(why, sizeof why, "not ready within %lld ms: %s", (long long)self->owner->startup_ms,
             said);
    life_restart(self, why);
}

/* Its next job may come, but for a self-test that is owed. */
static void
be_ready(struct instance *self)
{
    if (selftest_is_due(self)) {
        selftest_begin(self);
    } else {
        instance_set_state(self, INSTANCE_READY);
    }
}

void
instance_go_on(struct instance *self)
{
    if (instance_is_bad(self)) {
        instance_take_out(self);
    } else if (clock_mono_ms() < self->leave_alone_ms) {
        instance_set_state(self, INSTANCE_DOWN);
    } else {
        be_ready(self);
    }
}

static void
on_unhealthy(struct instance *self, const struct health *health)
{
    char why[256];
    bool ours = self->life != LIFE_NONE;
    self->probes_failed++;
    if (ours && !self->was_ready) {
        if (clock_mono_ms() > self->ready_by_ms) {
            give_up_waiting(self, health->message);
        }
        return; /* nobody listens yet: it is starting */
    }
    if (self->probes_failed < LIMIT_PROBES_FAILED) {
        return;
    }
    snprintf(why, sizeof why, "health checks fail: %s", health->message);
    if (ours) {
        life_restart(self, why);
        return;
    }
    instance_set_reason(self, why);
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
            give_up_waiting(self, "its server answers that it is not");
            return;
        }
        if (self->reason[0] == '\0') { /* else that tells why it starts anew */
            instance_set_reason(self, "its server answers that it is not ready");
        }
        instance_set_state(self, INSTANCE_STARTING);
        return;
    }
    self->was_ready = true;
    self->on_trial = false;
    self->ready_by_ms = clock_mono_ms() + self->owner->startup_ms; /* should it be un-ready again */
    if (instance_is_bad(self)) {
        instance_take_out(self);
    } else if (clock_mono_ms() >= self->leave_alone_ms) {
        be_ready(self);
    }
}

static void
on_probed(void *context, const struct health *health)
{
    const struct lane *lane = context;
    struct instance *self = lane->instance;
    if (lanes_busy(self) || self->selftest == SELFTEST_CHECKING) {
        return; /* it was given a job meanwhile: that tells more */
    }
    probe_later(self);
    if (health->answered) {
        on_healthy(self, health);
    } else {
        on_unhealthy(self, health);
    }
}

/* -- life -- */

void
instance_begin(struct instance *self)
{
    self->pause_ms = LIMIT_RESTART_MIN_MS;
    self->backoff_ms = LIMIT_RESTART_MIN_MS;
    if (self->life == LIFE_NONE) {
        instance_probe_soon(self);
    } else {
        life_begin(self, 0);
    }
}

void
instance_came_up(struct instance *self)
{
    self->was_ready = self->warm = false;
    self->probes_failed = 0;
    self->lost_device = false;
    if (!self->on_probation) {
        self->error_streak = self->bad_pictures = 0;
    }
    self->health = (struct health){ 0 };
    self->leave_alone_ms = 0;
    self->ready_by_ms = clock_mono_ms() + self->owner->startup_ms;
    instance_probe_soon(self);
    instance_set_state(self, INSTANCE_STARTING);
}

void
instance_went_down(struct instance *self, enum fail_code code, const char *why)
{
    timer_stop(self->probe_timer);
    self->was_ready = false;
    lanes_drop(self, code, why);
    selftest_drop(self);
    instance_set_state(self, INSTANCE_DOWN);
}

void
instance_stop(struct instance *self)
{
    bool attached = self->life == LIFE_NONE;
    timer_stop(self->probe_timer);
    lanes_interrupt(self); /* it shall not draw on for nobody */
    if (attached && lanes_busy(self)) {
        return;
    }
    if (self->state != INSTANCE_BROKEN) {
        instance_went_down(self, FAIL_NONE, "");
    }
    life_stop(self);
}

int
instance_open(struct instance *self)
{
    selftest_open(self);
    int rc = timer_new(&self->probe_timer, self->owner->reactor, on_probe_due, self);
    return rc ? rc : lanes_open(self, on_probed);
}

void
instance_close(struct instance *self)
{
    lanes_close(self);
    selftest_drop(self);
    timer_destroy(&self->probe_timer);
    timer_destroy(&self->life_timer);
}

void
instance_judge(struct supervisor *owner, uint32_t index, const struct judgement *judgement)
{
    assert(index < owner->n_instances);
    struct instance *self = &owner->instances[index];
    switch (judgement->kind) {
    case JUDGED_GOOD:
        selftest_row_ends(self);
        self->bad_pictures = 0;
        self->on_probation = false;
        self->pause_ms = LIMIT_RESTART_MIN_MS;
        break;
    case JUDGED_BAD:
        selftest_row_ends(self);
        self->bad_pictures++;
        message_text(self->last_failure, sizeof self->last_failure, judgement->message);
        break;
    case JUDGED_UNIFORM:
        selftest_uniform(self, &judgement->job);
        break;
    case JUDGED_KIND_COUNT:
        assert(false);
    }
    bool out = instance_is_bad(self) || selftest_is_due(self);
    if (out && self->state == INSTANCE_READY && !owner->stopping) {
        timer_in_ms(self->probe_timer, 0); /* what follows is done from the loop */
    }
}
