#pragma once
/*
 * zmq_link — one ROUTER or DEALER on a reactor. All traps of ZMQ_FD live in its .c.
 *
 * Each message is one part of payload; on a ROUTER a routing id of at most LIMIT_ROUTING_ID bytes
 * stands before it. Messages with more parts are dropped and counted. Sends are queued and leave in
 * one burst later in the same turn of the loop. Options set: MAXMSGSIZE LIMIT_FRAME_BYTES, LINGER
 * 0, ZMTP heartbeats (1 s, time-out 3 s), SNDHWM/RCVHWM LIMIT_HWM; ROUTER: ROUTER_MANDATORY;
 * DEALER: IMMEDIATE.
 *
 * A DEALER without a connection, or whose peer takes no more, keeps its messages in its own queue
 * and sends them when it can: frames that must not reach a later peer carry a session (see
 * PROTOCOL.md). All of a link belongs to its reactor's thread; links of several threads share one
 * ZeroMQ context.
 */
#include "common/reactor.h"
#include <stddef.h>

struct zmq_link;

struct zmq_peer {
    uint8_t length; /* 0 on a DEALER */
    uint8_t id[32];
};

enum link_trouble {
    LINK_GONE,    /* EHOSTUNREACH: no such peer any more; its session is over */
    LINK_LAGGING, /* EAGAIN: the peer's queue is full; the message was dropped */
    LINK_TROUBLE_COUNT,
};

struct zmq_link_events {
    /* A message came; borrows everything for the call. */
    void (*on_message)(void *context, const struct zmq_peer *from, const void *bytes,
                       size_t length);
    /* A queued message could not be sent and is dropped. Never called for a DEALER. May be NULL. */
    void (*on_trouble)(void *context, const struct zmq_peer *to, enum link_trouble trouble);
    /* All messages of this turn were given to on_message; may be NULL. */
    void (*on_turn_end)(void *context);
    void *context;
};

/* Binds a ROUTER to host:port (port 0: any). host is an IPv4 or IPv6 address (brackets allowed), an
 * interface's name, "localhost" or "*". 0, or -errno (EADDRINUSE, EADDRNOTAVAIL, EINVAL for a bad
 * host). *events is copied. */
int zmq_link_bind(struct zmq_link **out, struct reactor *reactor, const char *host, uint16_t port,
                  const struct zmq_link_events *events);
/* Connects a DEALER to "HOST:PORT" ("[::1]:5555" for IPv6; a name is resolved to IPv4). 0, or
 * -errno (EINVAL for a bad address); that nobody listens there is no error: ZeroMQ goes on trying.
 */
int zmq_link_connect(struct zmq_link **out, struct reactor *reactor, const char *address,
                     const struct zmq_link_events *events);
void zmq_link_destroy(struct zmq_link **self_p); /* may be called inside its own callbacks */
/* The port really bound; 0 on a DEALER. */
uint16_t zmq_link_port(const struct zmq_link *self);
/* Queues one message; the bytes are copied; `to` is NULL on a DEALER. 0, -ENOBUFS if it and what
 * waits already are more than LIMIT_LINK_UNSENT bytes, -EMSGSIZE above LIMIT_FRAME_BYTES, -ENOMEM.
 */
int zmq_link_send(struct zmq_link *self, const struct zmq_peer *to, const void *bytes,
                  size_t length);
/* Hands what is queued to ZeroMQ right now instead of later in this turn. Its own thread writes it
 * to the peers a moment later: what it has not written yet at zmq_link_destroy() is lost (LINGER
 * 0). */
void zmq_link_flush(struct zmq_link *self);
/* Messages with a wrong number of parts seen so far. */
uint64_t zmq_link_malformed(const struct zmq_link *self);
