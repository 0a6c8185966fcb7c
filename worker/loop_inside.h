#pragma once
/*
 * loop_inside — what loop.c (the step, the session's edges, life), loop_perform.c (what the core
 * wants done) and loop_instances.c (what the instances say) share. Nobody else includes it.
 */
#include "worker/heartbeat.h"
#include "worker/loop.h"
#include "worker/report.h"

/* Events that edges give while effects are performed: a few for each lease and instance. */
enum { LATER_MAX = 4 * (LIMIT_WORKER_LEASES + LIMIT_INSTANCES) };

struct loop {
    const struct options *options;
    struct reactor *reactor;
    struct http_client *http;
    struct helper_thread *helper;
    struct heartbeat *heartbeat;
    struct link *link;
    struct supervisor *supervisor;
    struct agent *agent;
    struct timer *timer; /* the agent's deadline */
    struct kick *kick;   /* a deadline that is past: at the end of this turn */
    struct record_unpacker unpacker;
    struct capability capability;
    struct report report;
    struct parcel *parcels[LIMIT_WORKER_LEASES]; /* by slot */
    bool is_ready;
    /* Of each instance: the agent holds it for ready; when it may hear so after a refused draw. */
    bool told_ready[LIMIT_INSTANCES];
    int64_t refused_until_ms[LIMIT_INSTANCES];

    bool stepping;
    struct agent_effects effects;
    uint32_t n_later;
    struct agent_event later[LATER_MAX];
    /* What the event under way brought, for the effects that keep it. */
    const struct frame *frame;
    struct envelope envelope;
    struct job_body body;
    struct drawing *drawing;
};

/* -- loop.c -- */
/* Steps and performs; what the edges say meanwhile is stepped after it. Such events bring no frame,
 * drawing or text: those come from the loop alone. */
void loop_give(struct loop *self, const struct agent_event *event);
/* An event that names an instance and a job, no more. */
void loop_give_about(struct loop *self, enum agent_event_kind kind, uint32_t index,
                     uint32_t serial);
/* Looks whether the instances offer something else than they did. */
void loop_give_capability(struct loop *self);

/* -- loop_perform.c -- */
void loop_perform(struct loop *self, const struct agent_effect *effect);

/* -- loop_instances.c -- */
struct instance_events loop_instance_events(struct loop *self);
/* The instance may have told its state before its end: the agent hears it again. */
void loop_give_state(struct loop *self, uint32_t index);
