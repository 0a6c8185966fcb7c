#include "worker/agent.h"
#include "worker/agent_inside.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *
agent_verdict_name(enum agent_verdict verdict)
{
    static const char *const names[AGENT_VERDICT_COUNT] = {
        [AGENT_OK] = "ok",
        [AGENT_STALE] = "stale",
        [AGENT_FULL] = "full",
        [AGENT_NO_FRAME] = "no_frame",
    };
    assert(verdict < AGENT_VERDICT_COUNT);
    return names[verdict];
}

int
agent_new(struct agent **out, const struct agent_config *config)
{
    assert(config->n_instances > 0 && config->n_instances <= LIMIT_INSTANCES);
    struct agent *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->config = *config;
    self->random = config->seed;
    self->drain_ms = NEVER;
    self->leave_ms = NEVER;
    self->lower_ms = NEVER;
    *out = self;
    return 0;
}

void
agent_destroy(struct agent **self_p)
{
    free(*self_p);
    *self_p = NULL;
}

/* -- what the parts share -- */

struct agent_effect *
agent_do(struct agent *self, enum agent_effect_kind kind)
{
    assert(self->effects->count < AGENT_EFFECTS_MAX);
    struct agent_effect *effect = &self->effects->items[self->effects->count++];
    *effect = (struct agent_effect){ .kind = kind, .instance = AGENT_NO_INSTANCE, .slot = NO_SLOT };
    return effect;
}

void
agent_do_slot(struct agent *self, enum agent_effect_kind kind, const struct held *held)
{
    struct agent_effect *effect = agent_do(self, kind);
    effect->slot = agent_slot_of(self, held);
    effect->serial = held->open.serial;
    effect->instance = held->open.instance;
    effect->picture = held->picture;
    effect->base = held->base;
}

uint8_t
agent_slot_of(const struct agent *self, const struct held *held)
{
    return (uint8_t)(held - self->held);
}

bool
agent_lease_same(const struct lease *a, const struct lease *b)
{
    return memcmp(a->job.bytes, b->job.bytes, sizeof a->job.bytes) == 0 && a->epoch == b->epoch &&
           a->grant == b->grant;
}

/* -- leaving -- */

/* Every lease is answered, or there is no more time: says BYE and stops the instances. */
static void
leave_if_done(struct agent *self)
{
    bool out_of_time = self->now_ms >= self->leave_ms;
    if (self->phase != PHASE_DRAINING || (agent_lease_count(self) > 0 && !out_of_time)) {
        return;
    }
    self->phase = PHASE_LEAVING;
    if (self->session_state == SESSION_OPEN) {
        agent_do(self, AGENT_DO_BYE);
    }
    self->leave_ms = self->now_ms + LIMIT_BYE_MS;
    agent_do(self, AGENT_DO_STOP_INSTANCES);
}

static void
start_draining(struct agent *self, bool bounded)
{
    if (self->phase > PHASE_DRAINING) {
        return;
    }
    self->phase = PHASE_DRAINING;
    if (bounded && self->drain_ms == NEVER && self->leave_ms == NEVER) {
        self->drain_ms = self->now_ms + LIMIT_DRAIN_MS;
    }
    agent_lease_hand_back(self, false);
}

static void
drain_tick(struct agent *self)
{
    if (self->phase == PHASE_DRAINING && self->now_ms >= self->drain_ms) {
        self->drain_ms = NEVER;
        self->leave_ms = self->now_ms + LIMIT_LEAVE_MS;
        agent_lease_hand_back(self, true);
    }
    if (self->phase == PHASE_STOPPED && self->now_ms >= self->leave_ms) {
        self->phase = PHASE_GONE;
        agent_do(self, AGENT_DO_EXIT)->rc = 0;
    }
}

static int64_t
drain_deadline_ms(const struct agent *self)
{
    if (self->phase == PHASE_DRAINING) {
        return self->drain_ms < self->leave_ms ? self->drain_ms : self->leave_ms;
    }
    return self->phase == PHASE_STOPPED ? self->leave_ms : NEVER;
}

/* -- the step -- */

static void
tick(struct agent *self)
{
    if (self->phase <= PHASE_DRAINING) {
        agent_session_tick(self);
        agent_lease_tick(self);
    }
    drain_tick(self);
}

static enum agent_verdict
on_frame(struct agent *self, const struct agent_event *event)
{
    if (self->phase > PHASE_DRAINING) {
        return AGENT_STALE; /* BYE is said: whatever is held was handed back */
    }
    enum agent_verdict verdict = agent_session_on_frame(self, event);
    if (verdict == AGENT_OK && event->frame.frame->kind == FRAME_DRAIN) {
        start_draining(self, false);
    }
    return verdict;
}

static enum agent_verdict
apply(struct agent *self, const struct agent_event *event)
{
    switch (event->kind) {
    case AGENT_ON_TICK:
        tick(self);
        return AGENT_OK;
    case AGENT_ON_BEAT:
        return agent_session_on_beat(self, event);
    case AGENT_ON_LEADER:
        return agent_session_on_leader(self, event);
    case AGENT_ON_CAPABILITY:
        return agent_session_on_capability(self, event->capability);
    case AGENT_ON_FRAME:
        return on_frame(self, event);
    case AGENT_ON_INSTANCE:
    case AGENT_ON_NOT_DRAWN:
    case AGENT_ON_TAKEN:
    case AGENT_ON_STEP:
    case AGENT_ON_DRAWN:
    case AGENT_ON_FAILED:
        return agent_place_on_instance(self, event);
    case AGENT_ON_CHECKED:
        return agent_picture_on_checked(self, event);
    case AGENT_ON_UPLOADED:
        return agent_picture_on_uploaded(self, event);
    case AGENT_ON_DRAIN:
        start_draining(self, true);
        return AGENT_OK;
    case AGENT_ON_STOPPED:
        self->phase = self->phase == PHASE_LEAVING ? PHASE_STOPPED : self->phase;
        return AGENT_OK;
    case AGENT_EVENT_COUNT:
        break;
    }
    assert(false);
    return AGENT_OK;
}

enum agent_verdict
agent_step(struct agent *self, int64_t now_ms, const struct agent_event *event,
           struct agent_effects *effects)
{
    assert(now_ms >= self->now_ms);
    self->now_ms = now_ms;
    self->effects = effects;
    effects->count = 0;
    enum agent_verdict verdict = AGENT_OK;
    if (self->phase != PHASE_GONE) {
        verdict = apply(self, event);
        if (self->phase == PHASE_WORKING) {
            agent_place_assign(self);
        }
        leave_if_done(self);
        self->state_owed = self->state_owed || agent_pull(self) != self->pull_told;
        if (event->kind == AGENT_ON_TICK && self->phase <= PHASE_DRAINING) {
            agent_session_tell(self); /* last: it speaks of all that the tick changed */
        }
    }
    self->effects = NULL;
    return verdict;
}

int64_t
agent_deadline_ms(const struct agent *self)
{
    int64_t drain = drain_deadline_ms(self);
    if (self->phase > PHASE_DRAINING) {
        return drain;
    }
    int64_t session = agent_session_deadline_ms(self);
    int64_t lease = agent_lease_deadline_ms(self);
    int64_t earliest = session < lease ? session : lease;
    return earliest < drain ? earliest : drain;
}

/* -- what others may see -- */

uint64_t
agent_incarnation(const struct agent *self)
{
    return self->incarnation;
}

uint64_t
agent_session(const struct agent *self)
{
    return self->session;
}

uint64_t
agent_epoch(const struct agent *self)
{
    return self->epoch;
}

bool
agent_is_open(const struct agent *self)
{
    return self->session_state == SESSION_OPEN;
}

bool
agent_is_draining(const struct agent *self)
{
    return self->phase != PHASE_WORKING;
}

const char *
agent_door(const struct agent *self)
{
    return self->door;
}

uint32_t
agent_last_job(const struct agent *self)
{
    return self->last_job;
}

const struct agent_held *
agent_held(const struct agent *self, uint32_t slot)
{
    assert(slot < LIMIT_WORKER_LEASES);
    return &self->held[slot].open;
}

static void
check_held(const struct agent *self, uint32_t slot)
{
    const struct agent_held *held = &self->held[slot].open;
    if (held->state == HELD_NONE) {
        return;
    }
    assert(held->serial != 0);
    if (held->state == HELD_DRAWING || held->state == HELD_AHEAD) {
        assert(held->instance < self->config.n_instances);
        const struct place *place = &self->places[held->instance];
        uint32_t n_named = 0;
        for (uint32_t i = 0; i < place->n_jobs; i++) {
            n_named += place->slots[i] == slot;
        }
        assert(n_named == 1);
    }
    assert((held->code != FAIL_NONE) == (held->state == HELD_FAILED));
    for (uint32_t other = 0; other < slot; other++) {
        const struct agent_held *earlier = &self->held[other].open;
        assert(earlier->state == HELD_NONE ||
               memcmp(&earlier->lease.job, &held->lease.job, sizeof held->lease.job) != 0);
    }
}

static void
check_place(const struct agent *self, uint32_t index)
{
    const struct place *place = &self->places[index];
    uint32_t n_ahead = 0;
    assert(place->n_jobs <= LIMIT_PLACE_JOBS);
    assert(place->n_jobs == 0 || index < self->config.n_instances);
    for (uint32_t i = 0; i < place->n_jobs; i++) {
        const struct agent_held *held = &self->held[place->slots[i]].open;
        assert(held->state == HELD_DRAWING || held->state == HELD_AHEAD);
        assert(held->instance == index);
        n_ahead += held->state == HELD_AHEAD;
    }
    assert(n_ahead <= 1);
}

void
agent_check(const struct agent *self)
{
    for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
        check_held(self, slot);
    }
    for (uint32_t i = 0; i < LIMIT_INSTANCES; i++) {
        check_place(self, i);
    }
    assert((self->session_state == SESSION_NONE) == (self->session == 0));
    assert(self->pull_told <= LIMIT_INSTANCES);
}
