#pragma once
/*
 * event_stream — reads Server-Sent Events out of bytes as they come. Pure.
 *
 * Lines may end in LF, CR or CRLF; comments and unknown fields are skipped; an event without data
 * is none. The id of the last event is kept over events that have none.
 */
#include "common/limits.h"
#include <stdbool.h>
#include <stddef.h>

struct event_stream; /* opaque */

struct stream_event {
    const char *name; /* "message" if the stream names none */
    const char *id;   /* "" if none came yet */
    const char *data; /* ends in a NUL */
    size_t data_length;
};

/* Borrows the event for the call. */
typedef void (*stream_event_fn)(void *context, const struct stream_event *event);

int event_stream_new(struct event_stream **out, stream_event_fn fn, void *context); /* 0, -ENOMEM */
void event_stream_destroy(struct event_stream **self_p);
/* 0, or -EMSGSIZE: an event is larger than LIMIT_STREAM_EVENT; the stream is of no use any more. */
int event_stream_feed(struct event_stream *self, const char *bytes, size_t length);
/* A new connection begins: what was half read is dropped, the last id stays. */
void event_stream_restart(struct event_stream *self);
const char *event_stream_last_id(const struct event_stream *self);
