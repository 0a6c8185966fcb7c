#pragma once
/*
 * agent — what one worker owes its broker, its instances and its pictures: who draws which lease,
 * what is told to whom, and when it is told again.
 *
 * The worker's core. Pure: the same calls give the same effects. No I/O, no clock (time comes in),
 * no payload: requests, pictures and upload addresses stay outside, kept by the caller under the
 * number of the lease's slot. The caller performs the effects in order before the next step.
 *
 * A lease held:
 *                place free            drawn             checked               stored
 *     WAITING ---------------> DRAWING --------> CHECKING ----------> UPLOADING --------> DONE
 *        | ^ \  it draws still   ^  |                |                    |                 |
 *        | |  `--------> AHEAD --'  |                |                    |                 | ACK
 *        | | was busy      |  begun |                |                    |                 v
 *        | `---------------+--------|                |                    |                NONE
 *        | no place in     | instance failed        | bad, one colour    | refused, late   ^
 *        `-----------------+--------+----------------+--------------------+--> FAILED ------'
 *     STOP, STALE, ACK, a newer grant, or a BROKER_STATE without it: from anywhere to NONE; but
 * what is DONE or FAILED is never dropped because a BROKER_STATE lacks it.
 *
 * A session:   leader read       WELCOME
 *         NONE ---------> GREETING ------> OPEN      nothing heard for LIMIT_SUSPECT_MS: NONE
 *                          ^  NO_SESSION, other models |
 *                          `---------------------------'
 *
 * The GPU never waits for a picture to be encoded, fetched or stored. An instance that queues (its
 * driver says so) may hold, besides the pictures that are on their way to us, one job that it draws
 * and one AHEAD of its turn. The one ahead is asked for LIMIT_AHEAD_MS before the estimated end of
 * the drawing, not sooner: a job that waits here could be drawn by another GPU that is free. It is
 * no try and cannot be stuck before the instance begins it.
 *
 * Invariants (agent_check() asserts them): a lease that is DRAWING or AHEAD and its instance name
 * each other, and nobody else; at most one is AHEAD at an instance; one lease a job; what is held
 * in the later states is not on an instance.
 */
#include "proto/frames.h"

enum agent_verdict {
    AGENT_OK,
    AGENT_STALE,    /* about a lease, drawing or session that is no longer held: ignored */
    AGENT_FULL,     /* a JOB beyond LIMIT_WORKER_LEASES: not taken, the broker takes it back */
    AGENT_NO_FRAME, /* a frame that no worker should get: ignored */
    AGENT_VERDICT_COUNT,
};
const char *agent_verdict_name(enum agent_verdict verdict); /* "stale" */

enum held_state {
    HELD_NONE,
    HELD_WAITING,  /* for a free place */
    HELD_AHEAD,    /* at an instance that draws another; not begun */
    HELD_DRAWING,  /* begun; until its pictures are fetched */
    HELD_CHECKING, /* on the helper thread */
    HELD_UPLOADING,
    HELD_DONE,   /* DONE is repeated until it is answered */
    HELD_FAILED, /* FAIL is repeated until it is answered */
    HELD_STATE_COUNT,
};

/* What others may see of a lease held. */
struct agent_held {
    enum held_state state; /* HELD_NONE: the slot is free, the rest means nothing */
    struct lease lease;
    uint32_t serial;  /* tells two users of one slot apart */
    uint8_t instance; /* that draws or drew it; AGENT_NO_INSTANCE: none has */
    uint8_t n_pictures;
    bool taken;          /* an instance began it: it is a try */
    bool accept_uniform; /* an earlier attempt drew one colour: deliver with a warning */
    uint32_t warnings;   /* enum job_warning */
    /* HELD_FAILED only */
    enum fail_code code;
    bool counted, final_;
    uint8_t picture[32]; /* SHA-256 of a one-coloured picture */
    uint16_t message_length;
    char message[LIMIT_REASON_BYTES];
};
enum { AGENT_NO_INSTANCE = 255 };
_Static_assert((int)LIMIT_INSTANCES < (int)AGENT_NO_INSTANCE,
               "an instance's number is not the absent one");

enum agent_event_kind {
    AGENT_ON_TICK,   /* agent_deadline_ms() is reached */
    AGENT_ON_BEAT,   /* Redis answered a beat, or did not */
    AGENT_ON_LEADER, /* Redis answered who leads, or did not */
    AGENT_ON_FRAME,
    AGENT_ON_CAPABILITY, /* models or sizes of the instances became known, or changed */
    AGENT_ON_INSTANCE,   /* an instance is ready, or is not */
    AGENT_ON_NOT_DRAWN,  /* DO_DRAW met a busy instance */
    AGENT_ON_TAKEN,      /* the instance began its job */
    AGENT_ON_STEP,
    AGENT_ON_DRAWN,
    AGENT_ON_FAILED,   /* the instance failed its job, begun or ahead */
    AGENT_ON_CHECKED,  /* the answer to DO_CHECK */
    AGENT_ON_UPLOADED, /* the answer to DO_UPLOAD */
    AGENT_ON_DRAIN,    /* SIGTERM: as DRAIN, but bounded by LIMIT_DRAIN_MS */
    AGENT_ON_STOPPED,  /* the answer to DO_STOP_INSTANCES */
    AGENT_EVENT_COUNT,
};

enum check_outcome {
    CHECK_GOOD,
    CHECK_UNIFORM, /* at least one picture has one colour */
    CHECK_BAD,
    CHECK_NOT_DONE, /* the helper thread takes no more */
    CHECK_OUTCOME_COUNT,
};

enum upload_outcome {
    UPLOAD_STORED,
    UPLOAD_EXPIRED,     /* 410: the grant is too old */
    UPLOAD_REFUSED,     /* this store will never take it: 400, 403, 409, 413 */
    UPLOAD_UNREACHABLE, /* no answer, 5xx, 507: another base may take it, or this one later */
    UPLOAD_OUTCOME_COUNT,
};

struct agent_event {
    enum agent_event_kind kind;
    union {
        struct {
            uint64_t incarnation; /* of this process; 0: no answer, or no function library yet */
            bool newer;           /* a newer process of this name is at work */
        } beat;
        struct {
            uint64_t epoch;    /* 0: nobody leads, its door is closed, or no answer */
            struct slice door; /* "HOST:PORT", at most LIMIT_URL bytes */
        } leader;
        struct {
            const struct frame *frame;
            /* Of a JOB: */
            uint32_t fits;      /* bit i: instance i can draw it */
            uint8_t n_pictures; /* 1..LIMIT_IMAGES; 0: the request does not decode */
        } frame;
        uint32_t capability; /* changes when the HELLO would say something else; 0: nothing known */
        struct {
            uint8_t index;
            bool ready;  /* it draws nothing and would */
            bool queues; /* it takes a job while it draws another */
        } instance;
        struct {
            uint8_t index;
            uint32_t serial; /* of the lease, as DO_DRAW gave it; here and below */
        } job;               /* NOT_DRAWN, TAKEN */
        struct {
            uint8_t index, step, steps;
            uint32_t serial;
        } step;
        struct {
            uint8_t index, n_pictures;
            uint32_t serial;
        } drawn;
        struct {
            uint8_t index;
            uint32_t serial;
            enum fail_code code;
            bool taken, final_;
            struct slice message; /* valid UTF-8; more than LIMIT_REASON_BYTES is not allowed */
        } failed;
        struct {
            uint8_t slot;
            uint32_t serial;
            enum check_outcome outcome;
            struct slice message;   /* CHECK_BAD; like failed.message */
            const uint8_t *picture; /* CHECK_UNIFORM: SHA-256 of the first one */
        } checked;
        struct {
            uint8_t slot;
            uint32_t serial;
            enum upload_outcome outcome;
        } uploaded;
    };
};

enum agent_effect_kind {
    AGENT_DO_BEAT,        /* -> ON_BEAT */
    AGENT_DO_READ_LEADER, /* -> ON_LEADER */
    AGENT_DO_CONNECT,     /* a new DEALER to agent_door(); an older one is closed */
    AGENT_DO_DISCONNECT,
    AGENT_DO_HELLO, /* opens agent_session(), lists all leases held */
    AGENT_DO_STATE,
    AGENT_DO_PROGRESS, /* slot, step, steps */
    AGENT_DO_DONE,     /* slot */
    AGENT_DO_FAIL,     /* slot */
    AGENT_DO_REGRANT,  /* slot */
    AGENT_DO_BYE,
    AGENT_DO_KEEP, /* slot: keep request and upload grant of the JOB that is this step's event */
    AGENT_DO_NEW_GRANT,      /* slot: keep the grant of the GRANT that is this step's event */
    AGENT_DO_DRAW,           /* slot, serial, instance: which may draw another still */
    AGENT_DO_INTERRUPT,      /* slot, serial, instance */
    AGENT_DO_CHECK,          /* slot, serial: the drawing of this step's event -> ON_CHECKED */
    AGENT_DO_UPLOAD,         /* slot, serial, picture, base -> ON_UPLOADED */
    AGENT_DO_DROP,           /* slot: the lease failed; uploads are cancelled, pictures are freed */
    AGENT_DO_FORGET,         /* slot: the lease is gone, and all that was kept for it */
    AGENT_DO_STOP_INSTANCES, /* -> ON_STOPPED */
    AGENT_DO_EXIT,           /* rc */
    AGENT_EFFECT_COUNT,
};

struct agent_effect {
    enum agent_effect_kind kind;
    uint32_t serial;
    uint8_t slot, instance, picture, base, step, steps;
    int rc; /* 0: an orderly end; -1: a newer process of this name is at work */
};

/* A step does at most four things to each lease, and a few that belong to none. */
enum { AGENT_EFFECTS_MAX = 4 * LIMIT_WORKER_LEASES + 16 };
struct agent_effects {
    uint32_t count;
    struct agent_effect items[AGENT_EFFECTS_MAX];
};

struct agent_config {
    uint8_t n_instances; /* 1..LIMIT_INSTANCES */
    uint64_t seed;       /* session numbers are drawn from it: another one for each process */
};

struct agent; /* opaque */

/* Makes an agent that holds nothing, owned by the caller. 0, or -ENOMEM and *out is untouched. */
int agent_new(struct agent **out, const struct agent_config *config);
/* Frees *self_p and sets it to NULL; NULL is fine. */
void agent_destroy(struct agent **self_p);
/* Applies one event at now_ms (monotonic milliseconds, never backwards) and replaces *effects.
 * Borrows `event` for the call. Time bounded by LIMIT_WORKER_LEASES x LIMIT_INSTANCES. */
enum agent_verdict agent_step(struct agent *self, int64_t now_ms, const struct agent_event *event,
                              struct agent_effects *effects);
/* When ON_TICK must come at the latest; may lie in the past: then at the end of this turn. An
 * earlier or further ON_TICK does no harm. INT64_MAX: never. */
int64_t agent_deadline_ms(const struct agent *self);
/* Asserts the invariants; for tests and simulations. */
void agent_check(const struct agent *self);

/* What frames and facts are made of. */
uint64_t agent_incarnation(const struct agent *self); /* 0: not known yet */
uint64_t agent_session(const struct agent *self);     /* 0: none */
uint64_t agent_epoch(const struct agent *self);       /* of the session's leader; 0: not known */
bool agent_is_open(const struct agent *self);         /* WELCOME came */
bool agent_is_draining(const struct agent *self);
const char *agent_door(const struct agent *self); /* "HOST:PORT" of the last DO_CONNECT */
uint32_t agent_last_job(const struct agent *self);
/* Free places that the broker may fill: ready instances without a lease and queueing ones that are
 * near the end of a drawing with none ahead, less the leases that wait for a place; no more than
 * slots are free; 0 while draining or while LIMIT_HELD_RESULTS results wait to be stored or
 * acknowledged. It may grow by time alone: agent_deadline_ms() tells when. */
uint8_t agent_pull(const struct agent *self);
uint32_t agent_held_results(const struct agent *self);
/* slot < LIMIT_WORKER_LEASES. Valid until the next step. */
const struct agent_held *agent_held(const struct agent *self, uint32_t slot);
