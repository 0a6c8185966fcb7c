#include "worker/agent_inside.h"
#include <assert.h>
#include <string.h>

/*
 * The leases held and the places they are drawn in.
 */

/* clang-format off */ /* the columns are the rule; an absent entry is HELD_NONE: only FORGET may lead there */
static const enum held_state held_next[HELD_STATE_COUNT][HELD_INPUT_COUNT] = {
    [HELD_NONE]      = { [HELD_IN_JOB] = HELD_WAITING },
    [HELD_WAITING]   = { [HELD_IN_DRAW] = HELD_DRAWING, [HELD_IN_FAIL] = HELD_FAILED },
    [HELD_DRAWING]   = { [HELD_IN_NOT_DRAWN] = HELD_WAITING, [HELD_IN_DRAWN] = HELD_CHECKING,
                         [HELD_IN_FAIL] = HELD_FAILED },
    [HELD_CHECKING]  = { [HELD_IN_CHECKED] = HELD_UPLOADING, [HELD_IN_FAIL] = HELD_FAILED },
    [HELD_UPLOADING] = { [HELD_IN_STORED] = HELD_DONE, [HELD_IN_FAIL] = HELD_FAILED },
    [HELD_DONE]      = { 0 },
    [HELD_FAILED]    = { 0 },
};
/* clang-format on */

/* The only door through which a lease's state changes. */
void
agent_held_move(struct agent *self, struct held *held, enum held_input input)
{
    enum held_state next = held_next[held->open.state][input];
    assert((next == HELD_NONE) == (input == HELD_IN_FORGET));
    if (held->open.state == HELD_DRAWING) {
        self->places[held->open.instance].slot = NO_SLOT;
    }
    held->open.state = next;
    held->due_ms = NEVER;
    held->regrant_ms = NEVER;
    self->state_owed = true;
}

static bool
is_finished(const struct held *held)
{
    return held->open.state == HELD_DONE || held->open.state == HELD_FAILED;
}

static struct held *
held_find(struct agent *self, const struct lease *lease)
{
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        struct held *held = &self->held[i];
        if (held->open.state != HELD_NONE && agent_lease_same(&held->open.lease, lease)) {
            return held;
        }
    }
    return NULL;
}

static struct held *
held_of_job(struct agent *self, const struct job_id *job)
{
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        struct held *held = &self->held[i];
        if (held->open.state != HELD_NONE &&
            memcmp(held->open.lease.job.bytes, job->bytes, sizeof job->bytes) == 0) {
            return held;
        }
    }
    return NULL;
}

static void
forget(struct agent *self, struct held *held)
{
    if (held->open.state == HELD_DRAWING) {
        agent_do(self, AGENT_DO_INTERRUPT)->instance = held->open.instance;
    }
    agent_do_slot(self, AGENT_DO_FORGET, held);
    agent_held_move(self, held, HELD_IN_FORGET);
}

/* Says DONE or FAIL, for the first time or again. */
void
agent_held_tell(struct agent *self, struct held *held)
{
    held->due_ms = MUTANT(NORESEND) ? NEVER : self->now_ms + LIMIT_REPEAT_MS;
    if (self->session_state == SESSION_OPEN) {
        bool done = held->open.state == HELD_DONE;
        agent_do_slot(self, done ? AGENT_DO_DONE : AGENT_DO_FAIL, held);
    }
}

struct slice
agent_words(const char *literal)
{
    return (struct slice){ .bytes = literal, .length = (uint32_t)strlen(literal) };
}

void
agent_fail(struct agent *self, struct held *held, const struct agent_failure *failure)
{
    struct agent_held *open = &held->open;
    assert(failure->code != FAIL_NONE && failure->message.length <= LIMIT_REASON_BYTES);
    if (failure->counted && open->instance != AGENT_NO_INSTANCE) {
        self->places[open->instance].has_failed = true;
        self->places[open->instance].failed = open->lease.job;
    }
    agent_held_move(self, held, HELD_IN_FAIL);
    open->code = failure->code;
    open->counted = failure->counted;
    open->final_ = failure->final_;
    open->message_length = (uint16_t)failure->message.length;
    memcpy(open->message, failure->message.bytes, failure->message.length);
    agent_do_slot(self, AGENT_DO_DROP, held);
    agent_held_tell(self, held);
}

void
agent_fail_leaving(struct agent *self, struct held *held, const char *why)
{
    if (held->open.state == HELD_DRAWING) {
        agent_do(self, AGENT_DO_INTERRUPT)->instance = held->open.instance;
    }
    agent_fail(self, held,
               &(struct agent_failure){ .code = FAIL_WORKER_LEAVING, .message = agent_words(why) });
}

/* -- places -- */

uint32_t
agent_held_results(const struct agent *self)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        n += self->held[i].open.state >= HELD_CHECKING;
    }
    return n;
}

uint32_t
agent_lease_count(const struct agent *self)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        n += self->held[i].open.state != HELD_NONE;
    }
    return n;
}

uint8_t
agent_pull(const struct agent *self)
{
    uint32_t n_free = 0;
    uint32_t n_waiting = 0;
    if (self->phase != PHASE_WORKING || agent_held_results(self) >= LIMIT_HELD_RESULTS) {
        return 0;
    }
    for (uint32_t i = 0; i < self->config.n_instances; i++) {
        n_free += self->places[i].ready && self->places[i].slot == NO_SLOT;
    }
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        n_waiting += self->held[i].open.state == HELD_WAITING;
    }
    return (uint8_t)(n_free > n_waiting ? n_free - n_waiting : 0);
}
_Static_assert(
    LIMIT_HELD_RESULTS + 3 * LIMIT_INSTANCES <= LIMIT_WORKER_LEASES,
    "results at their limit, what is drawn, what was pulled and what one race adds have slots");

/* A free place that can draw it; one where this job did not fail last, if there is one. */
static uint8_t
place_for(const struct agent *self, const struct held *held)
{
    uint8_t best = AGENT_NO_INSTANCE;
    for (uint8_t i = 0; i < self->config.n_instances; i++) {
        const struct place *place = &self->places[i];
        if (!place->ready || place->slot != NO_SLOT || (held->fits >> i & 1U) == 0) {
            continue;
        }
        bool failed_here = place->has_failed &&
                           memcmp(&place->failed, &held->open.lease.job, sizeof place->failed) == 0;
        if (!failed_here) {
            return i;
        }
        best = i;
    }
    return best;
}

static void
draw(struct agent *self, struct held *held, uint8_t instance)
{
    agent_held_move(self, held, HELD_IN_DRAW);
    held->open.instance = instance;
    self->places[instance].slot = agent_slot_of(self, held);
    self->places[instance].ready = false; /* until the instance says so again */
    agent_do_slot(self, AGENT_DO_DRAW, held);
}

void
agent_lease_assign(struct agent *self)
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

/* -- from the broker -- */

static struct held *
take(struct agent *self, const struct agent_event *event)
{
    const struct job_frame *job = &event->frame.frame->job;
    struct held *held = NULL;
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES && held == NULL; i++) {
        held = self->held[i].open.state == HELD_NONE ? &self->held[i] : NULL;
    }
    if (held == NULL) {
        return NULL;
    }
    *held = (struct held){
        .open = { .lease = job->lease,
                  .serial = ++self->serial,
                  .instance = AGENT_NO_INSTANCE,
                  .n_pictures = event->frame.n_pictures,
                  .accept_uniform = (job->flags & JOB_FLAG_UNIFORM) != 0 },
        .fits = event->frame.fits,
        .n_bases = (uint8_t)job->bases.count,
        .back_off_ms = LIMIT_UPLOAD_RETRY_MS,
        .give_up_ms = NEVER,
        .progress_ms = -LIMIT_PROGRESS_MS,
    };
    agent_held_move(self, held, HELD_IN_JOB);
    held->due_ms = self->now_ms + LIMIT_PLACE_WAIT_MS;
    agent_do_slot(self, AGENT_DO_KEEP, held);
    return held;
}

enum agent_verdict
agent_lease_on_job(struct agent *self, const struct agent_event *event)
{
    const struct lease *lease = &event->frame.frame->job.lease;
    struct held *held = held_of_job(self, &lease->job);
    if (held != NULL && agent_lease_same(&held->open.lease, lease)) {
        if (is_finished(held)) {
            agent_held_tell(self, held);
        }
        return AGENT_OK; /* sent again: it is not run twice */
    }
    if (held != NULL && lease->grant < held->open.lease.grant) {
        return AGENT_STALE;
    }
    if (held != NULL) {
        forget(self, held); /* its lease ended without our knowing */
    }
    held = take(self, event);
    if (held == NULL) {
        return AGENT_FULL;
    }
    if (event->frame.n_pictures == 0) {
        agent_fail(self, held,
                   &(struct agent_failure){
                       .code = FAIL_INSTANCE_REFUSED,
                       .final_ = true,
                       .message = agent_words("the worker cannot read this request") });
    } else if (self->phase != PHASE_WORKING) {
        agent_fail_leaving(self, held, "the worker is draining");
    } else if (event->frame.fits == 0) {
        agent_fail_leaving(self, held,
                           "no instance of this worker has the model and takes the size");
    }
    return AGENT_OK;
}

enum agent_verdict
agent_lease_on_grant(struct agent *self, const struct grant_frame *frame)
{
    struct held *held = held_find(self, &frame->lease);
    if (held == NULL || is_finished(held)) {
        return AGENT_STALE;
    }
    agent_do_slot(self, AGENT_DO_NEW_GRANT, held);
    held->n_bases = (uint8_t)frame->bases.count;
    held->base = 0;
    held->n_failed = 0;
    held->expired = false;
    held->regrant_ms = NEVER;
    /* due_ms stays: a broker that grants dead bases over and over does not make us hurry. */
    return AGENT_OK;
}

enum agent_verdict
agent_lease_on_ended(struct agent *self, const struct lease *lease)
{
    struct held *held = held_find(self, lease);
    if (held == NULL) {
        return AGENT_STALE;
    }
    forget(self, held);
    return AGENT_OK;
}

static bool
broker_counts(const struct broker_state *state, const struct lease *lease)
{
    const struct leased *leases = state->leases.items;
    for (uint32_t i = 0; i < state->leases.count; i++) {
        if (agent_lease_same(&leases[i].lease, lease)) {
            return true;
        }
    }
    return false;
}

void
agent_lease_on_broker_state(struct agent *self, const struct broker_state *state)
{
    if (!state->complete) {
        return;
    }
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        struct held *held = &self->held[i];
        if (held->open.state != HELD_NONE && !is_finished(held) &&
            !broker_counts(state, &held->open.lease)) {
            forget(self, held);
        }
    }
}

void
agent_lease_on_welcome(struct agent *self)
{
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        struct held *held = &self->held[i];
        if (is_finished(held) && !MUTANT(NORESEND)) {
            held->due_ms = self->now_ms; /* the next tick tells it */
        } else if (held->regrant_ms != NEVER) {
            held->regrant_ms = self->now_ms;
        }
    }
}

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

static void
on_taken(struct agent *self, struct held *held)
{
    if (!held->open.taken) {
        held->open.taken = true; /* also told by STATE and HELLO, should this frame be lost */
        say_progress(self, held, 0, 0);
    }
}

static void
on_step(struct agent *self, struct held *held, uint8_t step, uint8_t steps)
{
    on_taken(self, held);
    if (step >= steps || self->now_ms >= held->progress_ms + LIMIT_PROGRESS_MS) {
        say_progress(self, held, step, steps);
    }
}

static void
on_drawn(struct agent *self, struct held *held, uint8_t n_pictures)
{
    held->open.taken = true;
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
    agent_held_move(self, held, HELD_IN_NOT_DRAWN);
    held->open.instance = AGENT_NO_INSTANCE;
    held->due_ms = self->now_ms + LIMIT_PLACE_WAIT_MS;
}

static uint8_t
instance_of(const struct agent_event *event)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wswitch-enum" /* agent.c sends no other kinds here */
    switch (event->kind) {
    case AGENT_ON_INSTANCE:
        return event->instance.index;
    case AGENT_ON_STEP:
        return event->step.index;
    case AGENT_ON_DRAWN:
        return event->drawn.index;
    case AGENT_ON_FAILED:
        return event->failed.index;
    default:
        return event->index;
    }
#pragma GCC diagnostic pop
}

enum agent_verdict
agent_lease_on_instance(struct agent *self, const struct agent_event *event)
{
    uint8_t index = instance_of(event);
    assert(index < self->config.n_instances);
    struct place *place = &self->places[index];
    if (event->kind == AGENT_ON_INSTANCE) {
        place->ready = event->instance.ready;
        return AGENT_OK;
    }
    if (place->slot == NO_SLOT) {
        return AGENT_STALE;
    }
    struct held *held = &self->held[place->slot];
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

/* -- leaving, time -- */

void
agent_lease_hand_back(struct agent *self, bool all)
{
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        struct held *held = &self->held[i];
        bool unfinished = held->open.state != HELD_NONE && !is_finished(held);
        if (unfinished && (all || held->open.state == HELD_WAITING)) {
            agent_fail_leaving(self, held, "the worker is draining");
        }
    }
}

void
agent_lease_tick(struct agent *self)
{
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        struct held *held = &self->held[i];
        switch (held->open.state) {
        case HELD_WAITING:
            if (self->now_ms >= held->due_ms) {
                agent_fail_leaving(self, held, "the place that was free is gone");
            }
            break;
        case HELD_UPLOADING:
            agent_picture_tick(self, held);
            break;
        case HELD_DONE:
        case HELD_FAILED:
            if (self->now_ms >= held->due_ms) {
                agent_held_tell(self, held);
            }
            break;
        case HELD_NONE:
        case HELD_DRAWING:
        case HELD_CHECKING:
            break;
        case HELD_STATE_COUNT:
            assert(false);
        }
    }
}

static int64_t
held_deadline_ms(const struct agent *self, const struct held *held)
{
    bool open = self->session_state == SESSION_OPEN;
    int64_t deadline = NEVER;
    if (held->open.state == HELD_NONE || (is_finished(held) && !open)) {
        return NEVER; /* nobody to tell: WELCOME sets it going again */
    }
    if (held->open.state == HELD_UPLOADING) {
        deadline = held->give_up_ms;
        if (open && held->regrant_ms < deadline) {
            deadline = held->regrant_ms;
        }
        if (held->under_way || held->expired) {
            return deadline;
        }
    }
    return held->due_ms < deadline ? held->due_ms : deadline;
}

int64_t
agent_lease_deadline_ms(const struct agent *self)
{
    int64_t earliest = NEVER;
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        int64_t deadline = held_deadline_ms(self, &self->held[i]);
        earliest = deadline < earliest ? deadline : earliest;
    }
    return earliest;
}
