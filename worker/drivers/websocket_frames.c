#include "worker/drivers/websocket_frames.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* -- the handshake -- */

struct line {
    const char *name, *value;
    size_t name_length, value_length;
};

static bool
is_name(const struct line *line, const char *name)
{
    return line->name_length == strlen(name) &&
           strncasecmp(line->name, name, line->name_length) == 0;
}

/* "Name: value" between start and end. False: it is none. */
static bool
split(const char *start, const char *end, struct line *line)
{
    const char *colon = memchr(start, ':', (size_t)(end - start));
    if (colon == NULL || colon == start) {
        return false;
    }
    const char *value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t')) {
        value++;
    }
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    *line = (struct line){ .name = start,
                           .name_length = (size_t)(colon - start),
                           .value = value,
                           .value_length = (size_t)(end - value) };
    return true;
}

/* The value is a list of words between commas, and one of them is this. */
static bool
lists(const struct line *line, const char *word)
{
    const char *at = line->value;
    const char *end = line->value + line->value_length;
    while (at < end) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        const char *stop = comma != NULL ? comma : end;
        while (at < stop && (*at == ' ' || *at == '\t')) {
            at++;
        }
        const char *last = stop;
        while (last > at && (last[-1] == ' ' || last[-1] == '\t')) {
            last--;
        }
        if ((size_t)(last - at) == strlen(word) && strncasecmp(at, word, strlen(word)) == 0) {
            return true;
        }
        at = stop < end ? stop + 1 : end;
    }
    return false;
}

/* "HTTP/1.1 101 ...": its number, or 0. */
static int
status_of(const char *line, size_t length)
{
    if (length < 12 || memcmp(line, "HTTP/1.", 7) != 0 || line[8] != ' ') {
        return 0;
    }
    int status = 0;
    for (size_t i = 9; i < 12; i++) {
        if (line[i] < '0' || line[i] > '9') {
            return 0;
        }
        status = 10 * status + (line[i] - '0');
    }
    return length == 12 || line[12] == ' ' ? status : 0;
}

/* What the header lines between start and end say. */
static bool
is_agreed(const char *start, const char *end, const char *accept)
{
    bool upgrade = false;
    bool connection = false;
    bool accepted = false;
    while (start < end) {
        const char *stop = memmem(start, (size_t)(end - start), "\r\n", 2);
        struct line line;
        if (stop == NULL || !split(start, stop, &line)) {
            return false;
        }
        upgrade = upgrade || (is_name(&line, "Upgrade") && lists(&line, "websocket"));
        connection = connection || (is_name(&line, "Connection") && lists(&line, "upgrade"));
        if (is_name(&line, "Sec-WebSocket-Accept")) {
            if (line.value_length != strlen(accept) ||
                memcmp(line.value, accept, line.value_length) != 0) {
                return false;
            }
            accepted = true;
        }
        if (is_name(&line, "Sec-WebSocket-Extensions") ||
            is_name(&line, "Sec-WebSocket-Protocol")) {
            return false; /* none was asked for */
        }
        start = stop + 2;
    }
    return upgrade && connection && accepted;
}

enum websocket_answer
websocket_answer_read(const char *bytes, size_t length, const char *accept, int *status,
                      size_t *used)
{
    size_t seen = length < LIMIT_WEBSOCKET_ANSWER ? length : LIMIT_WEBSOCKET_ANSWER;
    const char *end = memmem(bytes, seen, "\r\n\r\n", 4);
    const char *first = memmem(bytes, seen, "\r\n", 2);
    *used = 0;
    *status = first == NULL ? 0 : status_of(bytes, (size_t)(first - bytes));
    if (first != NULL && *status != 101) {
        return WEBSOCKET_REFUSED;
    }
    if (end == NULL) {
        return seen == LIMIT_WEBSOCKET_ANSWER ? WEBSOCKET_REFUSED : WEBSOCKET_UNFINISHED;
    }
    if (first == NULL || first == end || !is_agreed(first + 2, end + 2, accept)) {
        return WEBSOCKET_REFUSED;
    }
    *used = (size_t)(end + 4 - bytes);
    return WEBSOCKET_ACCEPTED;
}

/* -- frames -- */

enum {
    OP_CONTINUATION = 0,
    OP_TEXT = 1,
    OP_BINARY = 2,
    FIN = 0x80,
    RESERVED = 0x70,
    MASKED = 0x80
};

static unsigned
opcode_of(const struct websocket_frames *self)
{
    return self->head[0] & 0x0FU;
}

static bool
is_control(const struct websocket_frames *self)
{
    return (opcode_of(self) & 8U) != 0;
}

/* Bytes of the head that is being read, as far as is known. */
static size_t
head_size(const struct websocket_frames *self)
{
    if (self->head_length < 2) {
        return 2;
    }
    unsigned short_length = self->head[1] & 0x7FU;
    return short_length == 126 ? 4 : short_length == 127 ? 10 : 2;
}

/* Not in the shortest form that it has, a length is a fault. */
static bool
read_length(struct websocket_frames *self)
{
    uint64_t length = self->head[1] & 0x7FU;
    size_t size = head_size(self);
    if (size == 2) {
        self->left = length;
        return true;
    }
    length = 0;
    for (size_t i = 2; i < size; i++) {
        length = length << 8 | self->head[i];
    }
    self->left = length;
    return size == 4 ? length >= 126 : length > UINT16_MAX && length <= INT64_MAX;
}

/* The frame may begin here. */
static bool
is_in_order(const struct websocket_frames *self)
{
    unsigned opcode = opcode_of(self);
    bool fin = (self->head[0] & FIN) != 0;
    if ((self->head[0] & RESERVED) != 0 || (self->head[1] & MASKED) != 0) {
        return false;
    }
    switch (opcode) {
    case OP_CONTINUATION:
        return self->in_message;
    case OP_TEXT:
    case OP_BINARY:
        return !self->in_message;
    case WEBSOCKET_OP_CLOSE:
    case WEBSOCKET_OP_PING:
    case WEBSOCKET_OP_PONG:
        return fin && self->left <= WEBSOCKET_CONTROL;
    default:
        return false;
    }
}

/* Room for the payload of a frame of a text, and a NUL. False: the message is to be skipped. */
static bool
make_room(struct websocket_frames *self)
{
    if (self->left > LIMIT_WEBSOCKET_TEXT - self->text_length) {
        return false;
    }
    size_t wanted = self->text_length + (size_t)self->left + 1;
    if (wanted <= self->text_allocated) {
        return true;
    }
    wanted = wanted < 2 * self->text_allocated ? 2 * self->text_allocated : wanted;
    char *grown = realloc(self->text, wanted);
    if (grown == NULL) {
        abort(); /* out of memory */
    }
    self->text = grown;
    self->text_allocated = wanted;
    return true;
}

/* The head is whole: what follows is the payload. False: it breaks the protocol. */
static bool
begin_payload(struct websocket_frames *self)
{
    unsigned opcode = opcode_of(self);
    if (!read_length(self) || !is_in_order(self)) {
        return false;
    }
    self->in_payload = true;
    if (is_control(self)) {
        self->control_length = 0;
        return true;
    }
    if (opcode != OP_CONTINUATION) {
        self->in_message = true;
        self->skips = opcode == OP_BINARY;
        self->text_length = 0;
    }
    self->skips = self->skips || !make_room(self);
    return true;
}

static size_t
take_head(struct websocket_frames *self, const uint8_t *bytes, size_t length)
{
    size_t used = 0;
    while (used < length && self->head_length < head_size(self)) {
        self->head[self->head_length++] = bytes[used++];
    }
    return used;
}

static size_t
take_payload(struct websocket_frames *self, const uint8_t *bytes, size_t length)
{
    size_t n = self->left < length ? (size_t)self->left : length;
    if (n > 0 && is_control(self)) {
        memcpy(self->control + self->control_length, bytes, n);
        self->control_length += n;
    } else if (n > 0 && !self->skips) {
        memcpy(self->text + self->text_length, bytes, n);
        self->text_length += n;
    }
    self->left -= n;
    return n;
}

/* The frame is whole. */
static enum websocket_event
end_frame(struct websocket_frames *self)
{
    unsigned opcode = opcode_of(self);
    self->in_payload = false;
    self->head_length = 0;
    if (opcode == WEBSOCKET_OP_CLOSE) {
        return self->control_length == 1 ? WEBSOCKET_BROKEN : WEBSOCKET_CLOSE;
    }
    if (opcode == WEBSOCKET_OP_PING || opcode == WEBSOCKET_OP_PONG) {
        return opcode == WEBSOCKET_OP_PING ? WEBSOCKET_PING : WEBSOCKET_PONG;
    }
    if ((self->head[0] & FIN) == 0) {
        return WEBSOCKET_NONE;
    }
    self->in_message = false;
    if (self->skips) {
        self->skipped++;
        return WEBSOCKET_NONE;
    }
    self->text[self->text_length] = '\0';
    return WEBSOCKET_TEXT;
}

enum websocket_event
websocket_frames_read(struct websocket_frames *self, const void *bytes, size_t length, size_t *used)
{
    const uint8_t *at = bytes;
    enum websocket_event event = WEBSOCKET_NONE;
    *used = 0;
    while (!self->broken && event == WEBSOCKET_NONE && *used < length) {
        if (!self->in_payload) {
            *used += take_head(self, at + *used, length - *used);
            if (self->head_length < head_size(self)) {
                break;
            }
            self->broken = !begin_payload(self);
        } else {
            *used += take_payload(self, at + *used, length - *used);
        }
        if (!self->broken && self->in_payload && self->left == 0) {
            event = end_frame(self);
            self->broken = event == WEBSOCKET_BROKEN;
        }
    }
    return self->broken ? WEBSOCKET_BROKEN : event;
}

void
websocket_frames_clear(struct websocket_frames *self)
{
    free(self->text);
    *self = (struct websocket_frames){ 0 };
}

size_t
websocket_control(uint8_t out[WEBSOCKET_FRAME], enum websocket_opcode opcode, const void *bytes,
                  size_t length, const uint8_t mask[4])
{
    const uint8_t *from = bytes;
    assert(length <= WEBSOCKET_CONTROL);
    out[0] = (uint8_t)(FIN | opcode);
    out[1] = (uint8_t)(MASKED | length);
    memcpy(out + 2, mask, 4);
    for (size_t i = 0; i < length; i++) {
        out[6 + i] = (uint8_t)(from[i] ^ mask[i % 4]);
    }
    return 6 + length;
}
