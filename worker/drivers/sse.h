#pragma once
/*
 * sse — cuts a stream of server-sent events into the data of its events.
 *
 * Only `data:` lines count; comments, names and ids of events are skipped. Lines may end in LF or
 * CRLF. Bounded by LIMIT_STREAM_EVENT.
 */
#include <stdbool.h>
#include <stddef.h>

struct sse {
    char *bytes; /* not yet taken */
    size_t length, allocated;
    size_t taken; /* bytes of the event given last */
};

/* Appends what came. False: an event over the limit; the stream is no use any more. */
bool sse_push(struct sse *self, const void *bytes, size_t length);
/* The data of the next whole event, NUL-terminated, good until the next call. False: none yet. */
bool sse_next(struct sse *self, const char **data, size_t *length);
void sse_clear(struct sse *self); /* frees the buffer; ready for another stream */
