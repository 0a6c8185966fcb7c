#pragma once
/*
 * job_wait — waits until a job has ended, but no longer than asked.
 *
 * For long polls, `Prefer: wait`, and faces whose clients know no polling.
 */
#include "gateway/lookups.h"

struct waits; /* those of one reactor */
struct job_wait;

int waits_new(struct waits **out, struct reactor *reactor, struct lookups *lookups);
void waits_destroy(struct waits **self_p); /* nobody waits any more */
/* Ends all waits now, as if their time were over: the process stops. */
void waits_end(struct waits *self);

/* Calls order->fn once: when the job has ended, with what it is after limit_ms, or at once if it is
 * not LOOKUP_FOUND. Never from inside this call; the handle is dead then. */
struct job_wait *job_wait_start(struct waits *waits, const struct lookup_order *order,
                                int64_t limit_ms);
/* *wait_p becomes NULL; NULL is fine. */
void job_wait_drop(struct job_wait **wait_p);
