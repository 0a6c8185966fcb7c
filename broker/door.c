#include "broker/door.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "common/zmq_link.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct side {
    struct door *door;
    enum door_side side;
    struct zmq_link *link;
};

struct door {
    struct side sides[DOOR_SIDE_COUNT];
    struct door_events events;
    const uint8_t *upload_key;
    uint64_t epoch;
    struct unpacker *unpacker;
    struct record_unpacker request;
    struct buffer out;
    uint64_t garbage;
    int64_t logged_ms; /* of the last line about garbage */
    uint32_t depth;
    bool dead;
};

static void
door_free(struct door *self)
{
    for (int i = 0; i < DOOR_SIDE_COUNT; i++) {
        zmq_link_destroy(&self->sides[i].link);
    }
    unpacker_destroy(&self->unpacker);
    record_unpacker_destroy(&self->request);
    buffer_destroy(&self->out);
    free(self);
}

void
door_close(struct door **self_p)
{
    struct door *self = *self_p;
    *self_p = NULL;
    if (self == NULL) {
        return;
    }
    self->dead = true;
    if (self->depth == 0) {
        door_free(self);
    }
}

static void
door_leave(struct door *self)
{
    self->depth--;
    if (self->dead && self->depth == 0) {
        door_free(self);
    }
}

static void
refuse_garbage(struct door *self, const struct peer *from, size_t length)
{
    self->garbage++;
    int64_t now = clock_mono_ms();
    if (now - self->logged_ms >= 1000) {
        self->logged_ms = now;
        log_warn("frame-refused side=%s bytes=%zu why=\"%s\" count=%llu",
                 from->side == DOOR_WORKERS ? "workers" : "gateways", length,
                 unpack_error(self->unpacker), (unsigned long long)self->garbage);
    }
    struct frame frame = { .kind = FRAME_NO_SESSION, .epoch = self->epoch };
    door_send(self, from, &frame, 0, 0);
}

static void
on_message(void *context, const struct zmq_peer *from, const void *bytes, size_t length)
{
    struct side *side = context;
    struct door *self = side->door;
    if (self->dead) {
        return;
    }
    self->depth++;
    struct peer peer = { .side = (uint8_t)side->side, .length = from->length };
    memcpy(peer.id, from->id, sizeof peer.id);
    struct frame frame;
    if (frame_decode(self->unpacker, bytes, length, &frame) != 0) {
        refuse_garbage(self, &peer, length);
        door_leave(self);
        return;
    }
    struct envelope envelope;
    struct job_body body;
    bool readable = frame.kind == FRAME_SUBMIT &&
                    job_request_decode(&self->request, frame.submit.request, &envelope, &body) == 0;
    self->events.on_frame(self->events.context, &peer, &frame, readable ? &envelope : NULL);
    door_leave(self);
}

static void
on_trouble(void *context, const struct zmq_peer *to, enum link_trouble trouble)
{
    struct side *side = context;
    struct door *self = side->door;
    if (self->dead) {
        return;
    }
    self->depth++;
    struct peer peer = { .side = (uint8_t)side->side, .length = to->length };
    memcpy(peer.id, to->id, sizeof peer.id);
    self->events.on_unsent(self->events.context, &peer, trouble == LINK_LAGGING);
    door_leave(self);
}

int
door_open(struct door **out, struct reactor *reactor, const struct door_config *config,
          const struct door_events *events)
{
    CLEANUP(door_close) struct door *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->events = *events;
    self->upload_key = config->upload_key;
    self->epoch = config->epoch;
    int rc = unpacker_new(&self->unpacker);
    rc = rc ? rc : record_unpacker_new(&self->request);
    const uint16_t ports[DOOR_SIDE_COUNT] = { config->gateway_port, config->worker_port };
    for (int i = 0; i < DOOR_SIDE_COUNT && rc == 0; i++) {
        struct side *side = &self->sides[i];
        *side = (struct side){ .door = self, .side = (enum door_side)i };
        struct zmq_link_events link_events = { .on_message = on_message,
                                               .on_trouble = on_trouble,
                                               .context = side };
        rc = zmq_link_bind(&side->link, reactor, config->host, ports[i], &link_events);
        if (rc != 0) {
            log_error("door-not-bound address=%s:%u error=\"%s\" cure=\"free the port, or name "
                      "another with --%s-port (0: any)\"",
                      config->host, ports[i], strerror(-rc), i == 0 ? "gateway" : "worker");
        }
    }
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

uint16_t
door_port(const struct door *self, enum door_side side)
{
    return zmq_link_port(self->sides[side].link);
}

uint64_t
door_garbage(const struct door *self)
{
    return self->garbage;
}

void
door_send(struct door *self, const struct peer *to, const struct frame *frame, uint8_t n,
          uint64_t expires_ms)
{
    struct frame out = *frame;
    char token[GRANT_TOKEN_MAX];
    if (frame->kind == FRAME_JOB || frame->kind == FRAME_GRANT) {
        bool job = frame->kind == FRAME_JOB;
        grant_sign(self->upload_key, job ? &frame->job.lease : &frame->grant.lease, n, expires_ms,
                   token);
        *(job ? &out.job.token : &out.grant.token) = slice_of(token);
    }
    self->out.length = 0;
    frame_encode(&self->out, &out);
    struct zmq_peer peer = { .length = to->length };
    memcpy(peer.id, to->id, sizeof peer.id);
    int rc = zmq_link_send(self->sides[to->side].link, &peer, self->out.bytes, self->out.length);
    if (rc != 0) {
        log_warn("frame-not-sent kind=%s error=\"%s\"", frame_kind_name(frame->kind),
                 strerror(-rc));
    }
}
