#pragma once
/*
 * agent_world — an agent core with a clock, and one line for each thing that may happen to it.
 * Every step checks the invariants. For test_agent.c and test_agent_session.c.
 */
#include "common/scope.h"
#include "worker/agent.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

enum { START_MS = 1000000, STEPS = 9 };

struct world {
    struct agent *agent;
    int64_t now_ms;
    struct agent_effects effects;
    uint64_t epoch;
};

static inline enum agent_verdict
give(struct world *w, const struct agent_event *event)
{
    enum agent_verdict verdict = agent_step(w->agent, w->now_ms, event, &w->effects);
    agent_check(w->agent);
    return verdict;
}

static inline const struct agent_effect *
find(const struct world *w, enum agent_effect_kind kind)
{
    for (uint32_t i = 0; i < w->effects.count; i++) {
        if (w->effects.items[i].kind == kind) {
            return &w->effects.items[i];
        }
    }
    return NULL;
}

static inline bool
did(const struct world *w, enum agent_effect_kind kind)
{
    return find(w, kind) != NULL;
}

/* Lets time pass and ticks once at its end. */
static inline void
pass(struct world *w, int64_t ms)
{
    w->now_ms += ms;
    give(w, &(struct agent_event){ .kind = AGENT_ON_TICK });
}

static inline enum agent_verdict
frame(struct world *w, struct frame *f)
{
    struct agent_event event = { .kind = AGENT_ON_FRAME };
    f->session = agent_session(w->agent);
    f->epoch = w->epoch;
    event.frame.frame = f;
    event.frame.fits = UINT32_MAX;
    event.frame.n_pictures = 1;
    return give(w, &event);
}

static inline enum agent_verdict
say(struct world *w, enum frame_kind kind)
{
    struct frame f = { .kind = kind };
    return frame(w, &f);
}

/* A complete BROKER_STATE that counts the lease, or none. */
static inline void
broker_state(struct world *w, const struct lease *lease, bool complete)
{
    struct leased leased;
    struct frame f = { .kind = FRAME_BROKER_STATE };
    f.broker_state.complete = complete;
    if (lease != NULL) {
        leased.lease = *lease;
        f.broker_state.leases = (struct list){ .items = &leased, .count = 1 };
    }
    frame(w, &f);
}

static inline struct lease
lease_of(uint8_t job, uint8_t grant)
{
    struct lease lease = { .epoch = 7, .grant = grant };
    lease.job.bytes[0] = job;
    return lease;
}

static inline struct frame
job_frame(uint32_t number, struct lease lease)
{
    static const struct upload_base bases[2];
    struct frame f = { .kind = FRAME_JOB };
    f.job.number = number;
    f.job.lease = lease;
    f.job.bases = (struct list){ .items = bases, .count = 2 };
    return f;
}

static inline enum agent_verdict
job(struct world *w, uint32_t number, struct lease lease)
{
    struct frame f = job_frame(number, lease);
    return frame(w, &f);
}

static inline enum agent_verdict
about(struct world *w, enum frame_kind kind, struct lease lease)
{
    struct frame f = { .kind = kind };
    f.leased.lease = lease;
    return frame(w, &f);
}

static inline void
instance(struct world *w, uint8_t index, bool ready)
{
    struct agent_event event = { .kind = AGENT_ON_INSTANCE };
    event.instance.index = index;
    event.instance.ready = ready;
    give(w, &event);
}

static inline void
beat(struct world *w, uint64_t incarnation, bool newer)
{
    struct agent_event event = { .kind = AGENT_ON_BEAT };
    event.beat.incarnation = incarnation;
    event.beat.newer = newer;
    give(w, &event);
}

static inline enum agent_verdict
leader(struct world *w, uint64_t epoch, const char *door)
{
    struct agent_event event = { .kind = AGENT_ON_LEADER };
    event.leader.epoch = epoch;
    event.leader.door = (struct slice){ .bytes = door, .length = (uint32_t)strlen(door) };
    return give(w, &event);
}

/* The same for one that takes a job while it draws another. */
static inline void
queueing(struct world *w, uint8_t index, bool ready)
{
    struct agent_event event = { .kind = AGENT_ON_INSTANCE };
    event.instance.index = index;
    event.instance.ready = ready;
    event.instance.queues = true;
    give(w, &event);
}

/* The serial of the lease that is longest on the instance; 0: none is. */
static inline uint32_t
serial_on(const struct world *w, uint8_t index)
{
    uint32_t serial = 0;
    for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
        const struct agent_held *h = agent_held(w->agent, slot);
        bool on_it = (h->state == HELD_DRAWING || h->state == HELD_AHEAD) && h->instance == index;
        if (on_it && (serial == 0 || h->serial < serial)) {
            serial = h->serial;
        }
    }
    return serial;
}

static inline enum agent_verdict
on_serial(struct world *w, enum agent_event_kind kind, uint8_t index, uint32_t serial)
{
    struct agent_event event = { .kind = kind };
    event.job.index = index;
    event.job.serial = serial;
    return give(w, &event);
}

static inline void
on_instance(struct world *w, enum agent_event_kind kind, uint8_t index)
{
    on_serial(w, kind, index, serial_on(w, index));
}

static inline void
step_of(struct world *w, uint8_t index, uint32_t serial, uint8_t number)
{
    struct agent_event event = { .kind = AGENT_ON_STEP };
    event.step.index = index;
    event.step.serial = serial;
    event.step.step = number;
    event.step.steps = STEPS;
    give(w, &event);
}

static inline void
step(struct world *w, uint8_t index, uint8_t number)
{
    step_of(w, index, serial_on(w, index), number);
}

static inline void
drawn(struct world *w, uint8_t index)
{
    struct agent_event event = { .kind = AGENT_ON_DRAWN };
    event.drawn.index = index;
    event.drawn.serial = serial_on(w, index);
    event.drawn.n_pictures = 1;
    give(w, &event);
}

static inline void
failed(struct world *w, uint8_t index, bool taken)
{
    struct agent_event event = { .kind = AGENT_ON_FAILED };
    event.failed.index = index;
    event.failed.serial = serial_on(w, index);
    event.failed.code = FAIL_INSTANCE_ERROR;
    event.failed.taken = taken;
    event.failed.message = (struct slice){ .bytes = "no", .length = 2 };
    give(w, &event);
}

static inline enum agent_verdict
checked(struct world *w, const struct agent_effect *check, enum check_outcome outcome)
{
    static const uint8_t hash[32] = { 1, 2, 3 };
    struct agent_event event = { .kind = AGENT_ON_CHECKED };
    event.checked.slot = check->slot;
    event.checked.serial = check->serial;
    event.checked.outcome = outcome;
    event.checked.message = (struct slice){ .bytes = "32x32", .length = 5 };
    event.checked.picture = hash;
    return give(w, &event);
}

static inline enum agent_verdict
uploaded(struct world *w, const struct agent_effect *upload, enum upload_outcome outcome)
{
    struct agent_event event = { .kind = AGENT_ON_UPLOADED };
    event.uploaded.slot = upload->slot;
    event.uploaded.serial = upload->serial;
    event.uploaded.outcome = outcome;
    return give(w, &event);
}

/* An agent with an incarnation and n ready instances that knows no leader yet. */
static inline void
world_open(struct world *w, uint8_t n_instances)
{
    struct agent_config config = { .n_instances = n_instances, .seed = 4711 };
    *w = (struct world){ .now_ms = START_MS, .epoch = 5 };
    cr_assert(zero(int, agent_new(&w->agent, &config)));
    pass(w, 0);
    cr_assert(did(w, AGENT_DO_BEAT));
    beat(w, 99, false);
    for (uint8_t i = 0; i < n_instances; i++) {
        instance(w, i, true);
    }
    give(w, &(struct agent_event){ .kind = AGENT_ON_CAPABILITY, .capability = 1 });
}

/* The same with an open session and the first STATE said. */
static inline void
world_meet(struct world *w, uint8_t n_instances)
{
    world_open(w, n_instances);
    pass(w, 0);
    cr_assert(did(w, AGENT_DO_READ_LEADER));
    leader(w, w->epoch, "a:1");
    cr_assert(did(w, AGENT_DO_CONNECT) && did(w, AGENT_DO_HELLO));
    say(w, FRAME_WORKER_WELCOME);
    cr_assert(agent_is_open(w->agent));
    pass(w, 0);
    cr_assert(did(w, AGENT_DO_STATE));
}

static inline const struct agent_held *
held(const struct world *w, struct lease lease)
{
    for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
        const struct agent_held *h = agent_held(w->agent, slot);
        if (h->state != HELD_NONE && memcmp(&h->lease.job, &lease.job, sizeof lease.job) == 0 &&
            h->lease.grant == lease.grant) {
            return h;
        }
    }
    return NULL;
}

/* Gets job A drawn on instance 0 and checked; returns the first DO_UPLOAD. */
static inline struct agent_effect
upload_of(struct world *w, struct lease lease)
{
    job(w, 1, lease);
    on_instance(w, AGENT_ON_TAKEN, 0);
    drawn(w, 0);
    instance(w, 0, true);
    for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
        const struct agent_held *h = agent_held(w->agent, slot);
        if (h->state == HELD_CHECKING) {
            struct agent_effect check = { .slot = (uint8_t)slot, .serial = h->serial };
            checked(w, &check, CHECK_GOOD);
            cr_assert(did(w, AGENT_DO_UPLOAD));
            return *find(w, AGENT_DO_UPLOAD);
        }
    }
    cr_assert(false, "nothing was drawn");
    return (struct agent_effect){ 0 };
}

#define WORLD(w, n)                                                                                \
    struct world w;                                                                                \
    world_meet(&(w), n);                                                                           \
    CLEANUP(agent_destroy) struct agent *w##_agent = (w).agent;                                    \
    (void)w##_agent
#define A lease_of(1, 1)
#define B lease_of(2, 1)
#define C lease_of(3, 1)
