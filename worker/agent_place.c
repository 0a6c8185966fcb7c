#include "worker/agent_inside.h"
#include <assert.h>
#include <string.h>

/*
 * The places at the instances: who draws what, and who may have the next job how soon.
 */

/* What is on a place. */
struct load {
    bool ahead;        /* one that is not begun */
    uint32_t n_unmade; /* begun, and the GPU still at it */
    int64_t end_ms;    /* of the last of these, estimated; NEVER: nothing is known */
};

static struct load
load_of(const struct agent *self, const struct place *place)
{
    struct load load = { .end_ms = NEVER };
    for (uint32_t i = 0; i < place->n_jobs; i++) {
        const struct held *held = &self->held[place->slots[i]];
        load.ahead = load.ahead || held->open.state == HELD_AHEAD;
        if (held->open.state == HELD_DRAWING && !held->made) {
            load.n_unmade++;
            load.end_ms = held->end_ms;
        }
    }
    return load;
}

/* When the next job may be asked for; NEVER: not before something happens. */
static int64_t
room_ms(const struct agent *self, const struct place *place)
{
    if (place->n_jobs == 0) {
        return place->ready ? self->now_ms : NEVER;
    }
    if (!place->queues || place->refused || place->n_jobs >= LIMIT_PLACE_JOBS) {
        return NEVER;
    }
    struct load load = load_of(self, place);
    if (load.ahead || load.n_unmade > 1 || (load.n_unmade == 1 && load.end_ms == NEVER)) {
        return NEVER;
    }
    return load.n_unmade == 0 ? self->now_ms : load.end_ms - LIMIT_AHEAD_MS;
}

static bool
has_room(const struct agent *self, const struct place *place)
{
    return room_ms(self, place) <= self->now_ms;
}

int64_t
agent_place_deadline_ms(const struct agent *self)
{
    int64_t earliest = NEVER;
    for (uint32_t i = 0; i < self->config.n_instances; i++) {
        int64_t due_ms = room_ms(self, &self->places[i]);
        if (due_ms > self->now_ms && due_ms < earliest) {
            earliest = due_ms;
        }
    }
    return earliest;
}

uint8_t
agent_pull(const struct agent *self)
{
    uint32_t n_free = 0;
    uint32_t n_waiting = 0;
    uint32_t n_slots = LIMIT_WORKER_LEASES - agent_lease_count(self);
    if (self->phase != PHASE_WORKING || agent_held_results(self) >= LIMIT_HELD_RESULTS) {
        return 0;
    }
    for (uint32_t i = 0; i < self->config.n_instances; i++) {
        n_free += has_room(self, &self->places[i]);
    }
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        n_waiting += self->held[i].open.state == HELD_WAITING;
    }
    n_free = n_free > n_waiting ? n_free - n_waiting : 0;
    return (uint8_t)(n_free < n_slots ? n_free : n_slots);
}
_Static_assert(LIMIT_HELD_RESULTS + 3 * LIMIT_INSTANCES <= LIMIT_WORKER_LEASES,
               "results at their limit leave slots for what is fetched, drawn and ahead");

/* -- to a place -- */

/* A place that has room and can draw it: an idle one before one that draws still, and both before
 * one where this job failed last. */
static uint8_t
place_for(const struct agent *self, const struct held *held)
{
    uint8_t best = AGENT_NO_INSTANCE;
    uint32_t best_cost = UINT32_MAX;
    for (uint8_t i = 0; i < self->config.n_instances; i++) {
        const struct place *place = &self->places[i];
        if (!has_room(self, place) || (held->fits >> i & 1U) == 0) {
            continue;
        }
        bool failed_here = place->has_failed &&
                           memcmp(&place->failed, &held->open.lease.job, sizeof place->failed) == 0;
        uint32_t cost = 2U * failed_here + (place->n_jobs > 0);
        if (cost < best_cost) {
            best = i;
            best_cost = cost;
        }
    }
    return best;
}

static void
draw(struct agent *self, struct held *held, uint8_t instance)
{
    struct place *place = &self->places[instance];
    bool ahead = load_of(self, place).n_unmade > 0;
    agent_held_move(self, held, ahead ? HELD_IN_QUEUE : HELD_IN_DRAW);
    held->open.instance = instance;
    held->begun_ms = self->now_ms;
    held->end_ms = NEVER;
    held->made = false;
    place->slots[place->n_jobs++] = agent_slot_of(self, held);
    place->ready = false; /* until the instance says so again */
    agent_do_slot(self, AGENT_DO_DRAW, held);
}

void
agent_place_leave(struct agent *self, const struct held *held)
{
    struct place *place = &self->places[held->open.instance];
    uint8_t slot = agent_slot_of(self, held);
    uint8_t n_left = 0;
    for (uint32_t i = 0; i < place->n_jobs; i++) {
        if (place->slots[i] != slot) {
            place->slots[n_left++] = place->slots[i];
        }
    }
    assert(n_left + 1 == place->n_jobs);
    place->n_jobs = n_left;
    place->refused = false;
}

void
agent_place_assign(struct agent *self)
{
    uint64_t tried = 0; /* bit i: slot i waits on, no place fits */
    for (;;) {
        struct held *first = NULL;
        for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
            struct held *held = &self->held[i];
            if (held->open.state == HELD_WAITING && (tried >> i & 1U) == 0 &&
                (first == NULL || held->open.serial < first->open.serial)) {
                first = held;
            }
        }
        if (first == NULL) {
            return;
        }
        tried |= UINT64_C(1) << agent_slot_of(self, first);
        uint8_t instance = place_for(self, first);
        if (instance != AGENT_NO_INSTANCE) {
            draw(self, first, instance);
        }
    }
}
_Static_assert(LIMIT_WORKER_LEASES <= 64, "one bit a slot");

/* -- from the instances -- */

static void
say_progress(struct agent *self, struct held *held, uint8_t step, uint8_t steps)
{
    held->progress_ms = self->now_ms;
    if (self->session_state == SESSION_OPEN) {
        agent_do_slot(self, AGENT_DO_PROGRESS, held);
        self->effects->items[self->effects->count - 1].step = step;
        self->effects->items[self->effects->count - 1].steps = steps;
    }
}

/* It has begun, whatever was said before. */
static void
on_taken(struct agent *self, struct held *held)
{
    if (held->open.state == HELD_AHEAD) {
        agent_held_move(self, held, HELD_IN_DRAW);
    }
    if (!held->open.taken) {
        held->open.taken = true; /* also told by STATE and HELLO, should this frame be lost */
        held->begun_ms = self->now_ms;
        say_progress(self, held, 0, 0);
    }
}

static void
on_step(struct agent *self, struct held *held, uint8_t step, uint8_t steps)
{
    on_taken(self, held);
    if (step > 0 && step <= steps) {
        int64_t each_ms = (self->now_ms - held->begun_ms) / step;
        held->end_ms = self->now_ms + each_ms * (steps - step);
        held->made = step == steps;
    }
    if (step >= steps || self->now_ms >= held->progress_ms + LIMIT_PROGRESS_MS) {
        say_progress(self, held, step, steps);
    }
}

static void
on_drawn(struct agent *self, struct held *held, uint8_t n_pictures)
{
    on_taken(self, held);
    if (n_pictures != held->open.n_pictures) {
        agent_fail(self, held,
                   &(struct agent_failure){
                       .code = FAIL_BAD_PICTURE,
                       .counted = true,
                       .message = agent_words("the instance drew another number of pictures") });
        return;
    }
    agent_held_move(self, held, HELD_IN_DRAWN);
    held->give_up_ms = self->now_ms + LIMIT_HELD_RESULT_MS;
    agent_do_slot(self, AGENT_DO_CHECK, held);
}

static void
on_failed(struct agent *self, struct held *held, const struct agent_event *event)
{
    held->open.taken = held->open.taken || event->failed.taken;
    agent_fail(self, held,
               &(struct agent_failure){ .code = event->failed.code,
                                        .counted = held->open.taken,
                                        .final_ = event->failed.final_,
                                        .message = event->failed.message });
}

static void
on_not_drawn(struct agent *self, struct held *held)
{
    struct place *place = &self->places[held->open.instance];
    agent_held_move(self, held, HELD_IN_NOT_DRAWN);
    place->refused = place->n_jobs > 0;
    held->open.instance = AGENT_NO_INSTANCE;
    held->due_ms = self->now_ms + LIMIT_PLACE_WAIT_MS;
}

struct source {
    uint8_t index;
    uint32_t serial;
};

static struct source
source_of(const struct agent_event *event)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wswitch-enum" /* agent.c sends no other kinds here */
    switch (event->kind) {
    case AGENT_ON_INSTANCE:
        return (struct source){ event->instance.index, 0 };
    case AGENT_ON_STEP:
        return (struct source){ event->step.index, event->step.serial };
    case AGENT_ON_DRAWN:
        return (struct source){ event->drawn.index, event->drawn.serial };
    case AGENT_ON_FAILED:
        return (struct source){ event->failed.index, event->failed.serial };
    default:
        return (struct source){ event->job.index, event->job.serial };
    }
#pragma GCC diagnostic pop
}

static struct held *
held_at(struct agent *self, const struct source *source)
{
    const struct place *place = &self->places[source->index];
    for (uint32_t i = 0; i < place->n_jobs; i++) {
        struct held *held = &self->held[place->slots[i]];
        if (held->open.serial == source->serial) {
            return held;
        }
    }
    return NULL;
}

enum agent_verdict
agent_place_on_instance(struct agent *self, const struct agent_event *event)
{
    struct source source = source_of(event);
    assert(source.index < self->config.n_instances);
    if (event->kind == AGENT_ON_INSTANCE) {
        struct place *place = &self->places[source.index];
        place->ready = event->instance.ready;
        place->queues = event->instance.queues;
        return AGENT_OK;
    }
    struct held *held = held_at(self, &source);
    if (held == NULL) {
        return AGENT_STALE;
    }
    if (event->kind == AGENT_ON_TAKEN) {
        on_taken(self, held);
    } else if (event->kind == AGENT_ON_STEP) {
        on_step(self, held, event->step.step, event->step.steps);
    } else if (event->kind == AGENT_ON_DRAWN) {
        on_drawn(self, held, event->drawn.n_pictures);
    } else if (event->kind == AGENT_ON_FAILED) {
        on_failed(self, held, event);
    } else {
        assert(event->kind == AGENT_ON_NOT_DRAWN);
        on_not_drawn(self, held);
    }
    return AGENT_OK;
}
