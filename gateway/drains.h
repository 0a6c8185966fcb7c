#pragma once
/*
 * drains — ADMINs on their way ("drain this worker"), repeated each LIMIT_REPEAT_MS and after a new
 * session until the broker has answered.
 *
 * To drain again does no harm. What DRAIN_TOLD promises: the broker of this session has sent DRAIN.
 * Whether the worker heard it is told by its next beat ("draining" in /v1/workers).
 */
#include "gateway/broker_link.h"

struct drains;
struct held_drain;

enum drain_verdict {
    DRAIN_TOLD,   /* the broker told the worker, or tells it when it says HELLO again */
    DRAIN_ABSENT, /* no worker of that name has a session with the broker */
    DRAIN_LATE,   /* no broker answered within LIMIT_SUBMIT_MS; the worker may drain or not */
    DRAIN_VERDICT_COUNT,
};

/* Called once, never from inside drains_add(); the handle is dead then. */
typedef void (*drain_fn)(void *context, enum drain_verdict verdict);

int drains_new(struct drains **out, struct reactor *reactor, struct broker_link *link);
void drains_destroy(struct drains **self_p); /* nobody is told */
/* Asks to drain the worker; its name, at most LIMIT_WORKER_NAME bytes, is copied. NULL:
 * LIMIT_DRAINS_HELD wait already. */
struct held_drain *drains_add(struct drains *self, const char *worker, drain_fn fn, void *context);
/* The caller has left; the question itself goes on. *held_p becomes NULL; NULL is fine. */
void drains_drop(struct held_drain **held_p);

void drains_on_open(struct drains *self);
void drains_on_answer(struct drains *self, const struct admin_answer *answer);
