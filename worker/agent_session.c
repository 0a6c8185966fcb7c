#include "worker/agent_inside.h"
#include <assert.h>
#include <string.h>

/*
 * The session with the leader, and the beats that tell Redis that this process lives.
 *
 * The leader key is read while there is no open session, and while an open one is quiet: a leader
 * that died is then left as soon as its successor is named, not only after LIMIT_SUSPECT_MS.
 */

/* splitmix64: session numbers must differ, not be secret. Never 0. */
static uint64_t
random_next(struct agent *self)
{
    uint64_t z = 0;
    while (z == 0) {
        self->random += 0x9e3779b97f4a7c15U;
        z = self->random;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
        z ^= z >> 31;
    }
    return z;
}

static void
greet(struct agent *self)
{
    self->session_state = SESSION_GREETING;
    self->session = random_next(self);
    self->last_job = 0; /* JOBs are numbered in a session */
    self->hello_ms = self->now_ms;
    self->hello_owed = false;
    self->state_owed = false; /* the HELLO and the STATE after WELCOME say it */
    agent_do(self, AGENT_DO_HELLO);
}

static void
lose(struct agent *self)
{
    self->session_state = SESSION_NONE;
    self->session = 0;
    self->alone_ms = self->now_ms;
    self->leader_ms = self->now_ms;
    agent_do(self, AGENT_DO_DISCONNECT);
}

/* -- Redis -- */

enum agent_verdict
agent_session_on_beat(struct agent *self, const struct agent_event *event)
{
    self->beat_under_way = false;
    if (self->phase > PHASE_DRAINING) {
        return AGENT_STALE;
    }
    if (event->beat.newer) {
        self->phase = PHASE_GONE;
        agent_do(self, AGENT_DO_EXIT)->rc = -1;
        return AGENT_OK;
    }
    if (self->incarnation == 0 && event->beat.incarnation != 0) {
        self->incarnation = event->beat.incarnation;
        self->alone_ms = self->now_ms;
        self->leader_ms = self->now_ms;
    }
    if (self->incarnation == 0) {
        self->beat_ms = self->now_ms + LIMIT_LEADER_POLL_MS; /* Redis or its functions come yet */
    }
    return AGENT_OK;
}

/* A tenth of the time without a session: a leader found late adds that little to the outage. */
static int64_t
leader_pace_ms(const struct agent *self)
{
    int64_t pace = self->session_state == SESSION_OPEN ? 0 : (self->now_ms - self->alone_ms) / 10;
    pace = pace < LIMIT_LEADER_POLL_MS ? LIMIT_LEADER_POLL_MS : pace;
    return pace > LIMIT_LEADER_POLL_MAX_MS ? LIMIT_LEADER_POLL_MAX_MS : pace;
}

/* A key that names a lower epoch than the highest seen was read before the election that we know
 * of. One that goes on doing so tells that Redis lost its data: then the key is right. */
static bool
is_outdated(struct agent *self, uint64_t epoch)
{
    if (epoch >= self->epoch) {
        self->lower_ms = NEVER;
        return false;
    }
    if (self->lower_ms == NEVER) {
        self->lower_ms = self->now_ms;
    }
    return self->now_ms < self->lower_ms + LIMIT_SUSPECT_MS;
}

static bool
door_is(const struct agent *self, struct slice door)
{
    return strlen(self->door) == door.length && memcmp(self->door, door.bytes, door.length) == 0;
}

enum agent_verdict
agent_session_on_leader(struct agent *self, const struct agent_event *event)
{
    struct slice door = event->leader.door;
    uint64_t epoch = event->leader.epoch;
    self->leader_under_way = false;
    self->leader_ms = self->now_ms + leader_pace_ms(self);
    if (self->phase > PHASE_DRAINING || epoch == 0 || is_outdated(self, epoch)) {
        return AGENT_STALE;
    }
    uint64_t known = self->session_state == SESSION_OPEN ? self->epoch : self->leader_epoch;
    if (self->session_state != SESSION_NONE && epoch == known && door_is(self, door)) {
        return AGENT_OK;
    }
    assert(door.length <= LIMIT_URL);
    memcpy(self->door, door.bytes, door.length);
    self->door[door.length] = '\0';
    self->leader_epoch = epoch;
    self->epoch = epoch;
    self->heard_ms = self->now_ms;
    agent_do(self, AGENT_DO_CONNECT);
    greet(self);
    return AGENT_OK;
}

enum agent_verdict
agent_session_on_capability(struct agent *self, uint32_t capability)
{
    if (capability == self->capability || capability == 0) {
        return AGENT_OK; /* what was known stays known while instances are down */
    }
    if (self->capability == 0) {
        self->alone_ms = self->now_ms;
        self->leader_ms = self->now_ms;
    }
    self->capability = capability;
    self->hello_owed = self->session_state != SESSION_NONE;
    return AGENT_OK;
}

/* -- frames -- */

static enum agent_verdict
on_welcome(struct agent *self)
{
    if (self->session_state != SESSION_GREETING) {
        return AGENT_STALE;
    }
    self->session_state = SESSION_OPEN;
    self->state_owed = true;
    self->state_ms = self->now_ms;
    agent_lease_on_welcome(self);
    return AGENT_OK;
}

static enum agent_verdict
on_refused(struct agent *self, const struct hello_refused *refused)
{
    if (refused->newer) {
        self->phase = PHASE_GONE;
        agent_do(self, AGENT_DO_EXIT)->rc = -1;
        return AGENT_OK;
    }
    lose(self); /* another leader, or this one later, may think otherwise */
    self->leader_ms = self->now_ms + LIMIT_LEADER_POLL_MAX_MS;
    return AGENT_OK;
}

/* Frames of an open session. */
static enum agent_verdict
on_open(struct agent *self, const struct agent_event *event)
{
    const struct frame *frame = event->frame.frame;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wswitch-enum" /* the other kinds are no business of a worker */
    switch (frame->kind) {
    case FRAME_BROKER_STATE:
        agent_lease_on_broker_state(self, &frame->broker_state);
        return AGENT_OK;
    case FRAME_JOB:
        if (frame->job.number > self->last_job) {
            self->last_job = frame->job.number;
            self->state_owed = true;
        }
        return agent_lease_on_job(self, event);
    case FRAME_GRANT:
        return agent_lease_on_grant(self, &frame->grant);
    case FRAME_STOP:
    case FRAME_STALE:
    case FRAME_ACK:
        return agent_lease_on_ended(self, &frame->leased.lease);
    case FRAME_DRAIN:
        return AGENT_OK; /* agent.c */
    default:
        return AGENT_NO_FRAME;
    }
#pragma GCC diagnostic pop
}

enum agent_verdict
agent_session_on_frame(struct agent *self, const struct agent_event *event)
{
    const struct frame *frame = event->frame.frame;
    bool ours = self->session != 0 && frame->session == self->session;
    if (frame->kind == FRAME_NO_SESSION && self->session_state != SESSION_NONE &&
        (ours || frame->session == 0)) {
        /* Said once it is answered, not at once: a broker that always answers so is not flooded. */
        self->hello_owed = true;
        if (self->session_state == SESSION_OPEN) { /* a leader that stops: who is the next one? */
            self->alone_ms = self->leader_ms = self->now_ms;
        }
        return AGENT_OK;
    }
    if (!ours || (frame->epoch < self->epoch && frame->kind != FRAME_HELLO_REFUSED)) {
        return AGENT_STALE;
    }
    if (frame->kind == FRAME_HELLO_REFUSED) {
        return on_refused(self, &frame->hello_refused);
    }
    self->epoch = frame->epoch;
    self->heard_ms = self->now_ms;
    if (frame->kind == FRAME_WORKER_WELCOME) {
        return on_welcome(self);
    }
    return self->session_state == SESSION_OPEN ? on_open(self, event) : AGENT_STALE;
}

/* -- time -- */

/* When the key is read next. A HELLO needs an incarnation, and something to offer. */
static int64_t
read_leader_ms(const struct agent *self)
{
    int64_t quiet_ms = self->heard_ms + LIMIT_QUIET_MS;
    if (self->leader_under_way || self->incarnation == 0 || self->capability == 0) {
        return NEVER;
    }
    if (self->session_state == SESSION_OPEN && quiet_ms > self->leader_ms) {
        return quiet_ms;
    }
    return self->leader_ms;
}

void
agent_session_tick(struct agent *self)
{
    if (!self->beat_under_way && self->now_ms >= self->beat_ms) {
        self->beat_under_way = true;
        self->beat_ms = self->now_ms + LIMIT_BEAT_MS;
        agent_do(self, AGENT_DO_BEAT);
    }
    if (self->session_state != SESSION_NONE && self->now_ms >= self->heard_ms + LIMIT_SUSPECT_MS) {
        lose(self);
    }
    if (self->hello_owed && self->session_state != SESSION_NONE &&
        self->now_ms >= self->hello_ms + LIMIT_HELLO_MS) {
        greet(self);
    }
    if (self->now_ms >= read_leader_ms(self)) {
        self->leader_under_way = true;
        agent_do(self, AGENT_DO_READ_LEADER);
    }
}

void
agent_session_tell(struct agent *self)
{
    if (self->session_state != SESSION_OPEN ||
        (!self->state_owed && self->now_ms < self->state_ms)) {
        return;
    }
    self->state_owed = false;
    self->state_ms = self->now_ms + LIMIT_STATE_MS;
    self->pull_told = agent_pull(self);
    agent_do(self, AGENT_DO_STATE);
}

static int64_t
earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t
agent_session_deadline_ms(const struct agent *self)
{
    int64_t deadline = self->beat_under_way ? NEVER : self->beat_ms;
    deadline = earlier(deadline, read_leader_ms(self));
    if (self->session_state != SESSION_NONE) {
        deadline = earlier(deadline, self->heard_ms + LIMIT_SUSPECT_MS);
    }
    if (self->session_state != SESSION_NONE && self->hello_owed) {
        deadline = earlier(deadline, self->hello_ms + LIMIT_HELLO_MS);
    }
    if (self->session_state == SESSION_OPEN) {
        deadline = earlier(deadline, self->state_owed ? self->now_ms : self->state_ms);
    }
    return deadline;
}
