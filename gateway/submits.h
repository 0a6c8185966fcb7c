#pragma once
/*
 * submits — jobs on their way to the broker, until it has answered for them.
 *
 * A submit without a session waits here and is sent in the next one; after a fail-over it is sent
 * again under the same id, which the broker takes once. After LIMIT_SUBMIT_MS its owner hears
 * SUBMIT_LATE; if it was ever sent, WITHDRAW(id) is then repeated until the broker answers, so that
 * nobody's job is drawn. A submit with an idempotency key is not withdrawn: its client asks again
 * under the key and may have been told of the job by then, which nobody but him may cancel.
 *
 *     submits_add --> WAITING --ACCEPTED, KNOWN, REFUSED--> told, gone
 *                        |  `--submits_drop--> gone: never sent later
 *                        `--LIMIT_SUBMIT_MS--> told; gone, or sent before and without a key:
 *                                              WITHDRAWING --ANSWER--> gone
 */
#include "gateway/broker_link.h"

struct submits;
struct held_submit;

enum submit_verdict {
    SUBMIT_ACCEPTED,
    SUBMIT_KNOWN,
    SUBMIT_REFUSED,
    SUBMIT_LATE, /* nobody answered in time */
    SUBMIT_VERDICT_COUNT,
};

struct submit_outcome {
    enum submit_verdict verdict;
    struct job_id id;
    struct slice request; /* as it was given */
    union {               /* by verdict; borrowed */
        const struct accepted *accepted;
        const struct known *known;
        const struct refused *refused;
    };
};

/* Called once, never from inside submits_add(); the handle is dead then. */
typedef void (*submit_fn)(void *context, const struct submit_outcome *outcome);

struct submit_order {
    struct job_id id;
    struct slice request; /* copied */
    bool watch;           /* JOBS frames shall follow */
    bool has_key;         /* an idempotency key: not withdrawn when late */
    submit_fn fn;
    void *context;
};

int submits_new(struct submits **out, struct reactor *reactor, struct broker_link *link);
/* Nobody is told. */
void submits_destroy(struct submits **self_p);
/* Sends the job, now or in the next session. NULL: LIMIT_SUBMITS_HELD or _MIB wait already. */
struct held_submit *submits_add(struct submits *self, const struct submit_order *order);
/* Nobody waits for it any more. *held_p becomes NULL; NULL is fine. */
void submits_drop(struct held_submit **held_p);

/* From the link: a session opened; a frame that answers a submit or a withdraw came. */
void submits_on_open(struct submits *self);
void submits_on_frame(struct submits *self, const struct frame *frame);
