#include "gateway/broker_link.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "common/zmq_link.h"
#include "proto/keys.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum link_state { LINK_AWAY, LINK_GREETING, LINK_OPEN, LINK_STATE_COUNT };

struct broker_link {
    struct broker_link_config config;
    struct reactor *reactor;
    struct redis_client *redis;
    struct zmq_link *socket; /* NULL while AWAY */
    struct timer *poll, *ping;
    struct unpacker *unpacker;
    struct buffer out;
    enum link_state state;
    char door[LIMIT_URL];     /* of the socket */
    uint64_t session, leader; /* leader: epoch number that the key told with the door */
    struct broker_facts facts;
    int64_t heard_ms, hello_ms, redis_minus_mono_ms, complained_ms;
    bool asking; /* a GET of the leader key is under way */
    uint64_t n_bad;
};

static bool
frame_send(struct broker_link *self, struct frame *frame)
{
    frame->session = self->session;
    frame->epoch = self->state == LINK_OPEN ? self->facts.epoch : self->leader;
    self->out.length = 0;
    frame_encode(&self->out, frame);
    return zmq_link_send(self->socket, NULL, self->out.bytes, self->out.length) == 0;
}

static void
hello_send(struct broker_link *self)
{
    struct upload_base base = { slice_of(self->config.uploads_url) };
    struct frame hello = { .kind = FRAME_GATEWAY_HELLO };
    hello.gateway_hello = (struct gateway_hello){
        .version = PROTOCOL_VERSION,
        .name = slice_of(self->config.name),
        .store = slice_of(self->config.store),
        .bases = { &base, 1 },
        .storage_full = self->config.storage_full(self->config.context),
    };
    self->session = random_u64();
    self->hello_ms = clock_mono_ms();
    (void)frame_send(self, &hello); /* repeated until WELCOME */
}

/* OPEN ends; what waits for answers of this session is told. */
static void
session_end(struct broker_link *self, enum link_state next, const char *why)
{
    bool was_open = self->state == LINK_OPEN;
    self->state = next;
    if (was_open) {
        log_warn("session-lost door=%s why=\"%s\"", self->door, why);
        self->config.on_lost(self->config.context);
    }
}

static void
link_close(struct broker_link *self, const char *why)
{
    zmq_link_destroy(&self->socket);
    session_end(self, LINK_AWAY, why);
}

static void
clock_set(struct broker_link *self, uint64_t redis_ms)
{
    self->redis_minus_mono_ms = (int64_t)redis_ms - clock_mono_ms();
}

static void
ping_send(struct broker_link *self)
{
    struct frame ping = { .kind = FRAME_PING };
    ping.ping.storage_full = self->config.storage_full(self->config.context);
    (void)broker_link_send(self, &ping);
}

static void
on_welcome(struct broker_link *self, const struct frame *frame)
{
    if (self->state != LINK_GREETING) {
        return; /* the answer to a HELLO that was repeated */
    }
    self->state = LINK_OPEN;
    self->facts.epoch = frame->epoch;
    self->facts.retention_s = frame->gateway_welcome.retention_s;
    clock_set(self, frame->gateway_welcome.redis_ms);
    log_info("session-open door=%s epoch=%" PRIu64 " broker=\"%.*s\"", self->door, frame->epoch,
             (int)frame->gateway_welcome.broker.length,
             (const char *)frame->gateway_welcome.broker.bytes);
    self->config.on_open(self->config.context, &frame->gateway_welcome);
    ping_send(self); /* its answer has the rest of the facts */
}

static void
on_refused(struct broker_link *self, const struct frame *frame)
{
    log_error("hello-refused door=%s why=\"%.*s\" do=\"all gateways must share one --artifacts "
              "directory: mount the same one, or use an empty Redis\"",
              self->door, (int)frame->hello_refused.why.length,
              (const char *)frame->hello_refused.why.bytes);
    self->config.on_refused(self->config.context);
}

static void
on_frame(struct broker_link *self, const struct frame *frame)
{
    switch (frame->kind) {
    case FRAME_GATEWAY_WELCOME:
        on_welcome(self, frame);
        break;
    case FRAME_PONG:
        self->facts.queued = frame->pong.queued;
        self->facts.running = frame->pong.running;
        self->facts.workers = frame->pong.workers;
        self->facts.durability = (enum durability)frame->pong.durability;
        clock_set(self, frame->pong.redis_ms);
        break;
    case FRAME_NO_SESSION: /* the tick says HELLO again, so that this cannot become a storm */
        session_end(self, LINK_GREETING, "the broker does not know our session");
        self->hello_ms = 0;
        break;
    case FRAME_HELLO_REFUSED:
        on_refused(self, frame);
        break;
    case FRAME_ACCEPTED:
    case FRAME_KNOWN:
    case FRAME_REFUSED:
    case FRAME_ANSWER:
    case FRAME_JOBS:
    case FRAME_ADMIN_ANSWER:
        if (self->state == LINK_OPEN) {
            self->config.on_frame(self->config.context, frame);
        }
        break;
    case FRAME_NONE:
    case FRAME_GATEWAY_HELLO:
    case FRAME_PING:
    case FRAME_SUBMIT:
    case FRAME_WITHDRAW:
    case FRAME_CANCEL:
    case FRAME_STATUS:
    case FRAME_WATCH:
    case FRAME_UNWATCH:
    case FRAME_ADMIN:
    case FRAME_WORKER_HELLO:
    case FRAME_WORKER_STATE:
    case FRAME_PROGRESS:
    case FRAME_DONE:
    case FRAME_FAIL:
    case FRAME_REGRANT:
    case FRAME_BYE:
    case FRAME_WORKER_WELCOME:
    case FRAME_BROKER_STATE:
    case FRAME_JOB:
    case FRAME_STOP:
    case FRAME_GRANT:
    case FRAME_STALE:
    case FRAME_ACK:
    case FRAME_DRAIN:
    case FRAME_KIND_COUNT:
        self->n_bad++; /* nothing that a broker tells a gateway */
        break;
    }
}

static void
on_message(void *context, const struct zmq_peer *from, const void *bytes, size_t length)
{
    struct broker_link *self = context;
    struct frame frame;
    (void)from;
    if (frame_decode(self->unpacker, bytes, length, &frame) != 0) {
        self->n_bad++;
        if (clock_mono_ms() - self->complained_ms > LIMIT_STATE_MS) {
            self->complained_ms = clock_mono_ms();
            log_warn("frame-unreadable count=%" PRIu64 " why=\"%s\"", self->n_bad,
                     unpack_error(self->unpacker));
        }
        return;
    }
    if (frame.session != self->session || frame.epoch < self->facts.epoch) {
        return; /* of an earlier session, or of a broker that was deposed */
    }
    self->heard_ms = clock_mono_ms();
    on_frame(self, &frame);
}

static void
door_open(struct broker_link *self, const char *door, uint64_t epoch)
{
    const struct zmq_link_events events = { .on_message = on_message, .context = self };
    link_close(self, "another broker leads");
    int rc = zmq_link_connect(&self->socket, self->reactor, door, &events);
    if (rc != 0) {
        log_error("door-unusable door=%s error=\"%s\"", door, strerror(-rc));
        return;
    }
    (void)snprintf(self->door, sizeof self->door, "%s", door);
    self->leader = epoch;
    self->state = LINK_GREETING;
    self->heard_ms = clock_mono_ms();
    hello_send(self);
}

/* "<nonce> <epoch number> <gateway door> <worker door>" */
static void
on_leader(void *context, const redisReply *reply)
{
    struct broker_link *self = context;
    char nonce[65];
    char door[LIMIT_URL];
    char number[24];
    char *end = NULL;
    _Static_assert(LIMIT_URL == 256, "the width in the pattern below");
    self->asking = false;
    if (self->redis == NULL || reply == NULL || reply->type != REDIS_REPLY_STRING ||
        sscanf(reply->str, "%64s %23s %255s", nonce, number, door) != 3 || strcmp(door, "-") == 0) {
        return; /* nobody leads, or it is not ready yet */
    }
    uint64_t epoch = strtoull(number, &end, 10);
    if (*end != '\0') {
        return;
    }
    if (epoch < self->facts.epoch) {
        if (self->state != LINK_AWAY || clock_mono_ms() - self->heard_ms < LIMIT_SUSPECT_MS) {
            return; /* a broker that was deposed */
        }
        log_warn("epoch-fell from=%" PRIu64 " to=%" PRIu64 " why=\"Redis lost its data\"",
                 self->facts.epoch, epoch);
        self->facts.epoch = epoch;
    }
    if (self->state == LINK_AWAY || epoch > self->leader || strcmp(door, self->door) != 0) {
        door_open(self, door, epoch);
    }
}

static void
leader_ask(struct broker_link *self)
{
    if (!self->asking && self->redis != NULL && redis_client_is_up(self->redis)) {
        self->asking = true;
        redis_client_call(self->redis, on_leader, self, "GET %s", KEY_LEADER);
    }
}

/* Every LIMIT_STANDBY_POLL_MS: while there is no session, or its PONG is overdue (a successor is
 * then followed at once and not after the silence). */
static void
on_poll(void *context)
{
    struct broker_link *self = context;
    int64_t now = clock_mono_ms();
    if (self->state == LINK_OPEN && now - self->heard_ms < LIMIT_STATE_MS * 3 / 2) {
        return;
    }
    if (self->state == LINK_GREETING && now - self->heard_ms > LIMIT_SUSPECT_MS) {
        link_close(self, "no answer to HELLO");
    } else if (self->state == LINK_GREETING && now - self->hello_ms > LIMIT_REPEAT_MS) {
        hello_send(self);
    }
    leader_ask(self);
}

/* Each second: while there is one. */
static void
on_ping(void *context)
{
    struct broker_link *self = context;
    if (self->state != LINK_OPEN) {
        return;
    }
    if (clock_mono_ms() - self->heard_ms > LIMIT_SUSPECT_MS) {
        link_close(self, "the broker is silent");
        return;
    }
    ping_send(self);
    leader_ask(self);
}

int
broker_link_new(struct broker_link **out, struct reactor *reactor, struct redis_client *redis,
                const struct broker_link_config *config)
{
    CLEANUP(broker_link_destroy) struct broker_link *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->config = *config;
    self->reactor = reactor;
    self->redis = redis;
    int rc = unpacker_new(&self->unpacker);
    rc = rc ? rc : timer_new(&self->poll, reactor, on_poll, self);
    rc = rc ? rc : timer_new(&self->ping, reactor, on_ping, self);
    if (rc != 0) {
        return rc;
    }
    timer_every_ms(self->poll, LIMIT_STANDBY_POLL_MS);
    timer_every_ms(self->ping, LIMIT_STATE_MS);
    *out = self;
    self = NULL;
    return 0;
}

void
broker_link_destroy(struct broker_link **self_p)
{
    struct broker_link *self = *self_p;
    if (self == NULL) {
        return;
    }
    zmq_link_destroy(&self->socket);
    timer_destroy(&self->poll);
    timer_destroy(&self->ping);
    unpacker_destroy(&self->unpacker);
    buffer_destroy(&self->out);
    free(self);
    *self_p = NULL;
}

void
broker_link_stop(struct broker_link *self)
{
    self->redis = NULL;
}

bool
broker_link_is_open(const struct broker_link *self)
{
    return self->state == LINK_OPEN;
}

bool
broker_link_send(struct broker_link *self, struct frame *frame)
{
    return self->state == LINK_OPEN && frame_send(self, frame);
}

const struct broker_facts *
broker_link_facts(const struct broker_link *self)
{
    return &self->facts;
}

uint64_t
broker_link_redis_ms(const struct broker_link *self)
{
    return self->redis_minus_mono_ms == 0 ? 0
                                          : (uint64_t)(clock_mono_ms() + self->redis_minus_mono_ms);
}
