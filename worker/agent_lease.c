#include "worker/agent_inside.h"
#include <assert.h>
#include <string.h>

/*
 * The leases held: from the broker, and back to it.
 */

/* clang-format off */ /* the columns are the rule; an absent entry is HELD_NONE: only FORGET may lead there */
static const enum held_state held_next[HELD_STATE_COUNT][HELD_INPUT_COUNT] = {
    [HELD_NONE]      = { [HELD_IN_JOB] = HELD_WAITING },
    [HELD_WAITING]   = { [HELD_IN_DRAW] = HELD_DRAWING, [HELD_IN_QUEUE] = HELD_AHEAD,
                         [HELD_IN_FAIL] = HELD_FAILED },
    [HELD_AHEAD]     = { [HELD_IN_DRAW] = HELD_DRAWING, [HELD_IN_NOT_DRAWN] = HELD_WAITING,
                         [HELD_IN_FAIL] = HELD_FAILED },
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
    if (agent_is_placed(held->open.state) && !agent_is_placed(next)) {
        agent_place_leave(self, held);
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
    if (agent_is_placed(held->open.state)) {
        agent_do_slot(self, AGENT_DO_INTERRUPT, held);
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
    if (agent_is_placed(held->open.state)) {
        agent_do_slot(self, AGENT_DO_INTERRUPT, held);
    }
    agent_fail(self, held,
               &(struct agent_failure){ .code = FAIL_WORKER_LEAVING, .message = agent_words(why) });
}

/* -- counts -- */

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
        .end_ms = NEVER,
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

/* -- leaving, time -- */

void
agent_lease_hand_back(struct agent *self, bool all)
{
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        struct held *held = &self->held[i];
        bool unfinished = held->open.state != HELD_NONE && !is_finished(held);
        bool begun = held->open.state >= HELD_DRAWING;
        if (unfinished && (all || !begun)) {
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
        case HELD_AHEAD:
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
    int64_t earliest = agent_place_deadline_ms(self);
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        int64_t deadline = held_deadline_ms(self, &self->held[i]);
        earliest = deadline < earliest ? deadline : earliest;
    }
    return earliest;
}
