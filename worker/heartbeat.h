#pragma once
/*
 * heartbeat — the worker's only connection to Redis: its beats, and the question who leads.
 *
 * A beat is sent by the loop itself, so that it proves that the loop turns. When is the agent's
 * business; this edge sends, reads the answer and says so once when Redis goes or comes back.
 */
#include "common/reactor.h"
#include "proto/pack.h"

struct heartbeat;

/* Both may be called from inside the function that asked, when Redis is away. */
struct heartbeat_events {
    /* incarnation 0: no answer, an error, or the function library is not loaded yet. */
    void (*on_beat)(void *context, uint64_t incarnation, bool newer);
    /* epoch 0: nobody leads, the door is closed, or no answer. The door is borrowed for the call.
     */
    void (*on_leader)(void *context, uint64_t epoch, struct slice door);
    void *context;
};

/* 0, -EINVAL (bad URL, logged), -ENOMEM. `name` is the worker's, borrowed for life. */
int heartbeat_new(struct heartbeat **out, struct reactor *reactor, const char *redis_url,
                  const char *name, const struct heartbeat_events *events);
void heartbeat_destroy(struct heartbeat **self_p); /* unanswered questions are not called back */
/* Says that `incarnation` of this worker lives (0: asks for one), with facts as JSON. */
void heartbeat_beat(struct heartbeat *self, uint64_t incarnation, const char *facts);
void heartbeat_read_leader(struct heartbeat *self);
