#include "cli/event_stream.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 64 };

struct event_stream {
    stream_event_fn fn;
    void *context;
    char *line, *data; /* LIMIT_STREAM_EVENT + 1 bytes each */
    size_t line_length, data_length;
    bool has_data, after_cr;
    char name[NAME_MAX_BYTES], id[NAME_MAX_BYTES];
};

int
event_stream_new(struct event_stream **out, stream_event_fn fn, void *context)
{
    struct event_stream *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->fn = fn;
    self->context = context;
    self->line = malloc(LIMIT_STREAM_EVENT + 1);
    self->data = malloc(LIMIT_STREAM_EVENT + 1);
    if (self->line == NULL || self->data == NULL) {
        event_stream_destroy(&self);
        return -ENOMEM;
    }
    *out = self;
    return 0;
}

void
event_stream_destroy(struct event_stream **self_p)
{
    if (*self_p != NULL) {
        free((*self_p)->line);
        free((*self_p)->data);
        free(*self_p);
        *self_p = NULL;
    }
}

static void
event_end(struct event_stream *self)
{
    if (self->has_data) {
        self->data[self->data_length] = '\0';
        const struct stream_event event = { .name = self->name[0] != '\0' ? self->name : "message",
                                            .id = self->id,
                                            .data = self->data,
                                            .data_length = self->data_length };
        self->fn(self->context, &event);
    }
    self->has_data = false;
    self->data_length = 0;
    self->name[0] = '\0';
}

static int
data_add(struct event_stream *self, const char *value, size_t length)
{
    size_t newline = self->has_data ? 1 : 0;
    if (self->data_length + newline + length > LIMIT_STREAM_EVENT) {
        return -EMSGSIZE;
    }
    if (newline > 0) {
        self->data[self->data_length++] = '\n';
    }
    memcpy(self->data + self->data_length, value, length);
    self->data_length += length;
    self->has_data = true;
    return 0;
}

static int
line_end(struct event_stream *self)
{
    char *line = self->line;
    size_t length = self->line_length;
    self->line_length = 0;
    line[length] = '\0';
    if (length == 0) {
        event_end(self);
        return 0;
    }
    char *colon = memchr(line, ':', length);
    size_t name_length = colon != NULL ? (size_t)(colon - line) : length;
    char *value = colon != NULL ? colon + 1 : line + length;
    value += *value == ' ';
    size_t value_length = (size_t)(line + length - value);
    if (name_length == 4 && memcmp(line, "data", 4) == 0) {
        return data_add(self, value, value_length);
    }
    if (name_length == 5 && memcmp(line, "event", 5) == 0) {
        (void)snprintf(self->name, sizeof self->name, "%s", value);
    } else if (name_length == 2 && memcmp(line, "id", 2) == 0 && value_length < sizeof self->id &&
               strlen(value) == value_length) {
        memcpy(self->id, value, value_length + 1);
    }
    return 0;
}

int
event_stream_feed(struct event_stream *self, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        char c = bytes[i];
        bool second = c == '\n' && self->after_cr; /* of a CRLF */
        self->after_cr = c == '\r';
        if (second) {
            continue;
        }
        if (c == '\n' || c == '\r') {
            int rc = line_end(self);
            if (rc != 0) {
                return rc;
            }
        } else if (self->line_length == LIMIT_STREAM_EVENT) {
            return -EMSGSIZE;
        } else {
            self->line[self->line_length++] = c;
        }
    }
    return 0;
}

void
event_stream_restart(struct event_stream *self)
{
    self->line_length = self->data_length = 0;
    self->has_data = self->after_cr = false;
    self->name[0] = '\0';
}

const char *
event_stream_last_id(const struct event_stream *self)
{
    return self->id;
}
