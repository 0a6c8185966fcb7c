#pragma once
/*
 * cancels — CANCELs on their way, repeated each LIMIT_REPEAT_MS until the broker has answered.
 *
 * After LIMIT_SUBMIT_MS without an answer the caller hears CANCEL_LATE; the job may be cancelled or
 * not. Several cancels of one job share their frames.
 */
#include "gateway/broker_link.h"

struct cancels;
struct held_cancel;

enum cancel_verdict {
    CANCEL_DONE,    /* the job has ended, now or before: see its state */
    CANCEL_UNKNOWN, /* no such job of this tenant */
    CANCEL_LATE,    /* nobody answered in time */
    CANCEL_VERDICT_COUNT,
};

/* Called once, never from inside cancels_add(); the handle is dead then. */
typedef void (*cancel_fn)(void *context, enum cancel_verdict verdict);

int cancels_new(struct cancels **out, struct reactor *reactor, struct broker_link *link);
void cancels_destroy(struct cancels **self_p); /* nobody is told */
/* Cancels the job for the tenant, whose name is borrowed for good. NULL: too many wait already. */
struct held_cancel *cancels_add(struct cancels *self, const char *tenant, const struct job_id *id,
                                cancel_fn fn, void *context);
/* The caller has left; the cancel itself goes on. *held_p becomes NULL; NULL is fine. */
void cancels_drop(struct held_cancel **held_p);

void cancels_on_open(struct cancels *self);
void cancels_on_answer(struct cancels *self, const struct answer *answer);
