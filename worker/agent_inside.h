#pragma once
/*
 * agent_inside — what agent.c (the step), agent_session.c (Redis and the leader), agent_lease.c
 * (the leases held), agent_place.c (where they are drawn) and agent_picture.c (what was drawn)
 * share. Nobody else includes it.
 */
#include "common/mutant.h"
#include "worker/agent.h"

#define NEVER INT64_MAX

enum held_input {
    HELD_IN_JOB,
    HELD_IN_QUEUE, /* goes to an instance that draws another */
    HELD_IN_DRAW,  /* goes to an idle instance, or is begun by the one it is at */
    HELD_IN_NOT_DRAWN,
    HELD_IN_DRAWN,
    HELD_IN_CHECKED,
    HELD_IN_STORED,
    HELD_IN_FAIL,
    HELD_IN_FORGET,
    HELD_INPUT_COUNT,
};

struct held {
    struct agent_held open;
    uint32_t fits;
    uint32_t flags;
    /* WAITING: handed back then. UPLOADING: the next PUT, NEVER while one is under way or a grant
     * is awaited. DONE, FAILED: told again then. */
    int64_t due_ms;
    int64_t give_up_ms;  /* CHECKING, UPLOADING: held too long then */
    int64_t regrant_ms;  /* REGRANT is said (again) then; NEVER: no new grant is needed */
    int64_t progress_ms; /* of the last PROGRESS */
    int64_t back_off_ms;
    /* DRAWING: */
    int64_t begun_ms;
    int64_t end_ms; /* when its last step is made, estimated; NEVER: nothing is known */
    bool made;      /* its last step is made: the GPU has done with it */
    uint8_t picture, base, n_bases;
    uint8_t n_failed; /* bases that failed one after the other */
    bool expired;     /* nothing is put until a new grant came */
    bool under_way;   /* one PUT */
};

struct place {
    bool ready;
    bool queues;
    bool refused;   /* it would not take one more: not asked again until something ends on it */
    uint8_t n_jobs; /* leases on it, DRAWING and AHEAD */
    uint8_t slots[LIMIT_PLACE_JOBS];
    bool has_failed;
    struct job_id
        failed; /* the job that failed here last: its next attempt goes elsewhere if it can */
};
enum { NO_SLOT = 255 };
_Static_assert((int)LIMIT_WORKER_LEASES < (int)NO_SLOT, "a slot's number is not the absent one");

enum session_state { SESSION_NONE, SESSION_GREETING, SESSION_OPEN, SESSION_STATE_COUNT };

enum phase {
    PHASE_WORKING,
    PHASE_DRAINING, /* pulls nothing, finishes what it holds */
    PHASE_LEAVING,  /* BYE is said, the instances are being stopped */
    PHASE_STOPPED,  /* they are */
    PHASE_GONE,
    PHASE_COUNT,
};

struct agent {
    struct agent_effects *effects; /* of the step under way */
    int64_t now_ms;
    struct agent_config config;
    enum phase phase;
    int64_t drain_ms; /* what is not finished then fails; NEVER: DRAIN without a bound */
    int64_t leave_ms; /* leaves then, acknowledged or not */

    uint64_t incarnation;
    bool beat_under_way;
    int64_t beat_ms; /* the next one */

    bool leader_under_way;
    int64_t leader_ms; /* the next read, if one is needed */
    int64_t alone_ms;  /* since when there is no session */
    int64_t lower_ms;  /* since when the key names a lower epoch than ours; NEVER: it does not */
    uint64_t leader_epoch; /* named by the key when we connected */
    char door[LIMIT_URL + 1];

    uint32_t capability;
    enum session_state session_state;
    uint64_t session, epoch; /* epoch: the highest seen */
    uint64_t random;
    int64_t heard_ms;
    int64_t hello_ms; /* of the last HELLO */
    bool hello_owed;
    uint32_t last_job;
    int64_t state_ms; /* the next STATE */
    bool state_owed;  /* something changed since the last */
    uint8_t pull_told;

    uint32_t serial;
    struct held held[LIMIT_WORKER_LEASES];
    struct place places[LIMIT_INSTANCES];
};

/* agent.c */
struct agent_effect *agent_do(struct agent *self, enum agent_effect_kind kind);
void agent_do_slot(struct agent *self, enum agent_effect_kind kind, const struct held *held);
uint8_t agent_slot_of(const struct agent *self, const struct held *held);
bool agent_lease_same(const struct lease *a, const struct lease *b);

/* agent_session.c */
enum agent_verdict agent_session_on_beat(struct agent *self, const struct agent_event *event);
enum agent_verdict agent_session_on_leader(struct agent *self, const struct agent_event *event);
enum agent_verdict agent_session_on_capability(struct agent *self, uint32_t capability);
enum agent_verdict agent_session_on_frame(struct agent *self, const struct agent_event *event);
void agent_session_tick(struct agent *self);
void agent_session_tell(struct agent *self); /* STATE, if one is owed or due: last in a tick */
int64_t agent_session_deadline_ms(const struct agent *self);

/* agent_lease.c */
enum agent_verdict agent_lease_on_job(struct agent *self, const struct agent_event *event);
enum agent_verdict agent_lease_on_grant(struct agent *self, const struct grant_frame *frame);
enum agent_verdict agent_lease_on_ended(struct agent *self, const struct lease *lease);
void agent_lease_on_broker_state(struct agent *self, const struct broker_state *state);
void agent_lease_on_welcome(struct agent *self);
/* Those that no instance has begun, or all that are not finished. */
void agent_lease_hand_back(struct agent *self, bool all);
void agent_lease_tick(struct agent *self);
int64_t agent_lease_deadline_ms(const struct agent *self);
uint32_t agent_lease_count(const struct agent *self);

struct agent_failure {
    enum fail_code code;
    bool counted, final_;
    struct slice message;
};
void agent_held_move(struct agent *self, struct held *held, enum held_input input);
void agent_held_tell(struct agent *self, struct held *held);
void agent_fail(struct agent *self, struct held *held, const struct agent_failure *failure);
void agent_fail_leaving(struct agent *self, struct held *held, const char *why);
struct slice agent_words(const char *literal);

/* agent_place.c */
static inline bool
agent_is_placed(enum held_state state)
{
    return state == HELD_AHEAD || state == HELD_DRAWING;
}
enum agent_verdict agent_place_on_instance(struct agent *self, const struct agent_event *event);
void agent_place_leave(struct agent *self, const struct held *held); /* what it had is forgotten */
void agent_place_assign(struct agent *self);               /* gives waiting leases to free places */
int64_t agent_place_deadline_ms(const struct agent *self); /* when one becomes free by time */

/* agent_picture.c */
enum agent_verdict agent_picture_on_checked(struct agent *self, const struct agent_event *event);
enum agent_verdict agent_picture_on_uploaded(struct agent *self, const struct agent_event *event);
void agent_picture_tick(struct agent *self, struct held *held);
