#include "worker/drivers/sse.h"
#include "common/limits.h"
#include <stdlib.h>
#include <string.h>

bool
sse_push(struct sse *self, const void *bytes, size_t length)
{
    if (length > (size_t)LIMIT_STREAM_EVENT - self->length) {
        return false;
    }
    if (self->length + length > self->allocated) {
        size_t wanted = 2 * (self->length + length);
        char *grown = realloc(self->bytes, wanted);
        if (grown == NULL) {
            abort();
        }
        self->bytes = grown;
        self->allocated = wanted;
    }
    if (length > 0) {
        memcpy(self->bytes + self->length, bytes, length);
        self->length += length;
    }
    return true;
}

static void
drop(struct sse *self, size_t length)
{
    self->length -= length;
    memmove(self->bytes, self->bytes + length, self->length);
}

/* The line that begins at `at`: its length without the end, and where the next one begins. False:
 * it is not whole. */
static bool
line_at(const struct sse *self, size_t at, size_t *length, size_t *next)
{
    const char *start = self->bytes + at;
    const char *end = memchr(start, '\n', self->length - at);
    if (end == NULL) {
        return false;
    }
    *length = (size_t)(end - start);
    *next = at + *length + 1;
    if (*length > 0 && start[*length - 1] == '\r') {
        --*length;
    }
    return true;
}

/* Packs the data lines before `end` together at the front of the buffer, joined by LF. */
static size_t
pack_data(struct sse *self, size_t end)
{
    size_t used = 0;
    size_t length = 0;
    size_t next = 0;
    for (size_t at = 0; at < end && line_at(self, at, &length, &next); at = next) {
        const char *line = self->bytes + at;
        if (length < 5 || memcmp(line, "data:", 5) != 0) {
            continue;
        }
        size_t skip = length > 5 && line[5] == ' ' ? 6 : 5;
        if (used > 0) {
            self->bytes[used++] = '\n';
        }
        memmove(self->bytes + used, line + skip, length - skip);
        used += length - skip;
    }
    return used;
}

bool
sse_next(struct sse *self, const char **data, size_t *length)
{
    size_t at = 0;
    size_t line = 0;
    size_t next = 0;
    if (self->taken > 0) {
        drop(self, self->taken);
        self->taken = 0;
    }
    while (self->length > at && line_at(self, at, &line, &next)) {
        if (line > 0) {
            at = next;
            continue;
        }
        size_t packed = pack_data(self, at); /* an empty line ends the event */
        if (packed > 0) {
            self->bytes[packed] = '\0'; /* "data:" made room */
            self->taken = next;
            *data = self->bytes;
            *length = packed;
            return true;
        }
        drop(self, next);
        at = 0;
    }
    return false;
}

void
sse_clear(struct sse *self)
{
    free(self->bytes);
    *self = (struct sse){ 0 };
}
