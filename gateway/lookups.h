#pragma once
/*
 * lookups — what is known of a job: asked once, or watched until the caller has seen enough.
 *
 * The broker is asked first; ids asked in one turn of the loop share a frame, and an answer serves
 * everybody for LIMIT_STATUS_REUSE_MS. When it is silent for LIMIT_STATUS_MS, or does not hold the
 * job, Redis answers. One `interest` a job is shared by all that look at it:
 *
 *                   .-- WATCHED (asked again each LIMIT_REASK_MS) <--.
 *     lookup --> ASKED --JOBS------------------------------------> told --> IDLE --> freed
 *                   `--silence, not held, no session--> (Redis) ----^ `--> SOON (asked again)
 *
 * Nothing is ever told from inside these calls, but later in the same turn of the loop.
 */
#include "gateway/broker_link.h"
#include "gateway/render.h"

struct lookups;
struct lookup;

enum lookup_verdict {
    LOOKUP_FOUND,
    LOOKUP_UNKNOWN, /* no such job of this tenant */
    LOOKUP_AWAY,    /* neither broker nor Redis answered */
    LOOKUP_BROKEN,  /* its record does not decode; logged */
    LOOKUP_VERDICT_COUNT,
};

/* `view` only with LOOKUP_FOUND, borrowed for the call. */
typedef void (*lookup_fn)(void *context, enum lookup_verdict verdict, const struct job_view *view);

struct lookup_order {
    const char *tenant; /* borrowed for good */
    struct job_id id;
    lookup_fn fn;
    void *context;
};

int lookups_new(struct lookups **out, struct reactor *reactor, struct broker_link *link,
                struct redis_client *redis);
/* Nobody is told. Redis must be destroyed before: it calls back. */
void lookups_destroy(struct lookups **self_p);

/* Tells once what the job is; the handle is dead then. */
struct lookup *lookups_ask(struct lookups *self, const struct lookup_order *order);
/* Tells what the job is, then again at each change of state, progress, position or ETA, until
 * dropped. After a terminal state, UNKNOWN or BROKEN nothing more comes. */
struct lookup *lookups_watch(struct lookups *self, const struct lookup_order *order);
/* *lookup_p becomes NULL; NULL is fine. Inside fn only the own handle of a watch. */
void lookup_drop(struct lookup **lookup_p);

/* A submit with `watch` was accepted: the request is known already, JOBS frames follow by
 * themselves. Comes before the lookups_watch(). */
void lookups_seed(struct lookups *self, const struct accepted *accepted, struct slice request);
/* What is known of the job is old: the next lookup asks. */
void lookups_forget(struct lookups *self, const struct job_id *id);

void lookups_on_open(struct lookups *self);
void lookups_on_lost(struct lookups *self);
void lookups_on_jobs(struct lookups *self, const struct job_entries *jobs);
