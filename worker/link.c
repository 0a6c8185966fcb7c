#include "worker/link.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "common/zmq_link.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { COMPLAINT_MS = 1000 };

struct link {
    struct reactor *reactor;
    struct zmq_link *zmq; /* NULL: not connected */
    struct unpacker *unpacker;
    struct buffer buffer;
    link_frame_fn on_frame;
    void *context;
    uint64_t n_malformed;
    int64_t complained_ms;
};

int
link_new(struct link **out, struct reactor *reactor, link_frame_fn on_frame, void *context)
{
    CLEANUP(link_destroy) struct link *self = calloc(1, sizeof *self);
    if (self == NULL || unpacker_new(&self->unpacker) != 0) {
        return -ENOMEM;
    }
    self->reactor = reactor;
    self->on_frame = on_frame;
    self->context = context;
    *out = self;
    self = NULL;
    return 0;
}

void
link_destroy(struct link **self_p)
{
    struct link *self = *self_p;
    if (self == NULL) {
        return;
    }
    zmq_link_destroy(&self->zmq);
    unpacker_destroy(&self->unpacker);
    buffer_destroy(&self->buffer);
    free(self);
    *self_p = NULL;
}

static void
complain(struct link *self, const char *what, const char *why)
{
    int64_t now_ms = clock_mono_ms();
    if (self->complained_ms == 0 || now_ms - self->complained_ms >= COMPLAINT_MS) {
        self->complained_ms = now_ms;
        log_warn("%s error=\"%s\" count=%" PRIu64, what, why, self->n_malformed);
    }
}

static void
on_message(void *context, const struct zmq_peer *from, const void *bytes, size_t length)
{
    struct link *self = context;
    struct frame frame;
    (void)from;
    if (frame_decode(self->unpacker, bytes, length, &frame) != 0) {
        self->n_malformed++;
        complain(self, "frame-malformed", unpack_error(self->unpacker));
        return;
    }
    self->on_frame(self->context, &frame);
}

void
link_close(struct link *self)
{
    zmq_link_destroy(&self->zmq);
}

void
link_connect(struct link *self, const char *address)
{
    struct zmq_link_events events = { .on_message = on_message, .context = self };
    link_close(self);
    int rc = zmq_link_connect(&self->zmq, self->reactor, address, &events);
    if (rc != 0) {
        log_error("broker-address-bad address=\"%s\" error=\"%s\"", address, strerror(-rc));
    }
}

void
link_send(struct link *self, const struct frame *frame)
{
    if (self->zmq == NULL) {
        return;
    }
    self->buffer.length = 0;
    frame_encode(&self->buffer, frame);
    int rc = zmq_link_send(self->zmq, NULL, self->buffer.bytes, self->buffer.length);
    if (rc != 0) {
        complain(self, "frame-not-sent", strerror(-rc));
    }
}

void
link_flush(struct link *self)
{
    if (self->zmq != NULL) {
        zmq_link_flush(self->zmq);
    }
}
