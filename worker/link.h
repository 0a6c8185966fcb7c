#pragma once
/*
 * link — the DEALER to the leading broker: frames out, frames in.
 *
 * At most one connection at a time; a new one drops the old with all that it had not sent. What is
 * in the frames is the caller's business: no session, no epoch is looked at here.
 */
#include "common/reactor.h"
#include "proto/frames.h"

struct link;

/* A frame came; it and all it points to is borrowed for the call. */
typedef void (*link_frame_fn)(void *context, const struct frame *frame);

int link_new(struct link **out, struct reactor *reactor, link_frame_fn on_frame, void *context);
void link_destroy(struct link **self_p);
/* Drops the connection there is and makes one to "HOST:PORT". A bad address is logged; the caller
 * will hear nothing from it. */
void link_connect(struct link *self, const char *address);
void link_close(struct link *self);
/* Sends a frame; without a connection, or with too much unsent, it is dropped: all that matters is
 * repeated until it is answered. */
void link_send(struct link *self, const struct frame *frame);
/* Hands what is queued to ZeroMQ now: before the process ends. */
void link_flush(struct link *self);
