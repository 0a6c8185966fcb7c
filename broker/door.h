#pragma once
/*
 * door — the two ROUTERs, for gateways and for workers: bytes in, frames out, and back.
 *
 * Open only while this broker leads. What does not decode is counted, logged at most once a second,
 * and answered NO_SESSION.
 */
#include "broker/peer.h"
#include "common/reactor.h"
#include "proto/frames.h"
#include "proto/grant.h"

struct door;

struct door_events {
    /* A frame came. `envelope` is that of a SUBMIT's request, NULL if it cannot be read. */
    void (*on_frame)(void *context, const struct peer *from, const struct frame *frame,
                     const struct envelope *envelope);
    /* A frame could not be sent. lagging: the peer's queue was full; else there is no such peer. */
    void (*on_unsent)(void *context, const struct peer *to, bool lagging);
    void *context;
};

struct door_config {
    const char *host; /* to bind */
    uint16_t gateway_port, worker_port;
    const uint8_t *upload_key; /* GRANT_KEY_BYTES; outlives the door */
    uint64_t epoch;            /* of NO_SESSION for what does not decode */
};

/* Binds both. 0, or -errno (logged with the port and the cure). */
int door_open(struct door **out, struct reactor *reactor, const struct door_config *config,
              const struct door_events *events);
void door_close(struct door **self_p); /* may be called in its own callbacks */
uint16_t door_port(const struct door *self, enum door_side side);
/* Sends a frame. JOB and GRANT are signed here, for `n` pictures, until expires_ms (Redis TIME). */
void door_send(struct door *self, const struct peer *to, const struct frame *frame, uint8_t n,
               uint64_t expires_ms);
/* Messages that did not decode so far. */
uint64_t door_garbage(const struct door *self);
