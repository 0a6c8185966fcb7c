#include "common/zmq_link.h"
#include "common/limits.h"
#include "common/scope.h"
#include <assert.h>
#include <czmq.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

/*
 * ZMQ_FD says "commands wait", once, and never "a message waits"; sending, receiving and asking for
 * ZMQ_EVENTS all eat that signal. So one function alone touches the socket, link_turn(): it sends
 * what is queued, receives until there is nothing or LIMIT_LINK_BURST, and asks ZMQ_EVENTS last. If
 * there is more to do it kicks itself. Everything else only queues and kicks.
 */

struct unsent {
    zmq_msg_t message;
    struct zmq_peer to;
};

struct zmq_link {
    zsock_t *socket;
    void *handle; /* of libzmq, inside socket */
    bool is_router;
    struct event *readable;
    struct kick *kick;
    struct zmq_link_events events;

    struct unsent *ring; /* unsent messages: n_ring of them from `first` on */
    size_t ring_size;    /* a power of two, or 0 */
    size_t first;
    size_t n_ring;
    size_t unsent_bytes;
    bool sending;

    bool in_turn;
    bool dead; /* destroyed inside a callback: freed at the end of the turn */
    uint16_t port;
    uint64_t n_malformed;
};

_Static_assert(sizeof((struct zmq_peer *)0)->id == LIMIT_ROUTING_ID,
               "zmq_peer holds any id we take");

/* -- the queue of unsent messages -- */

static size_t
cost_of(size_t length)
{
    return length + sizeof(struct unsent);
}

static int
ring_grow(struct zmq_link *self)
{
    size_t size = self->ring_size == 0 ? 64 : self->ring_size * 2;
    struct unsent *ring = calloc(size, sizeof *ring);
    if (ring == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < self->n_ring; i++) {
        struct unsent *from = &self->ring[(self->first + i) & (self->ring_size - 1)];
        ring[i].to = from->to;
        zmq_msg_init(&ring[i].message);
        zmq_msg_move(&ring[i].message, &from->message); /* a zmq_msg_t may not be copied */
        zmq_msg_close(&from->message);
    }
    free(self->ring);
    self->ring = ring;
    self->ring_size = size;
    self->first = 0;
    return 0;
}

static void
ring_drop_first(struct zmq_link *self)
{
    self->first = (self->first + 1) & (self->ring_size - 1);
    self->n_ring--;
}

static void
ring_free(struct zmq_link *self)
{
    while (self->n_ring > 0) {
        zmq_msg_close(&self->ring[self->first].message);
        ring_drop_first(self);
    }
    free(self->ring);
    self->ring = NULL;
}

/* -- sending -- */

/* 0, or the errno of a message that was not taken; it is then still the caller's. */
static int
send_one(struct zmq_link *self, struct unsent *unsent)
{
    int rc = 0;
    while (self->is_router) {
        int flags = ZMQ_DONTWAIT | ZMQ_SNDMORE;
        rc = zmq_send(self->handle, unsent->to.id, unsent->to.length, flags);
        if (rc < 0 && errno != EINTR) {
            return errno;
        }
        if (rc >= 0) {
            break;
        }
    }
    do {
        rc = zmq_msg_send(&unsent->message, self->handle, ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? errno : 0;
}

static void
send_queued(struct zmq_link *self)
{
    if (self->sending) {
        return; /* flushed inside on_trouble: the loop below goes on anyway */
    }
    self->sending = true;
    while (self->n_ring > 0 && !self->dead) {
        struct unsent *unsent = &self->ring[self->first];
        size_t cost = cost_of(zmq_msg_size(&unsent->message));
        struct zmq_peer to = unsent->to;
        int error = send_one(self, unsent);
        if (error != 0 && !self->is_router) {
            break; /* no connection, or full: ZMQ_EVENTS will say POLLOUT */
        }
        if (error != 0) {
            zmq_msg_close(&unsent->message);
        }
        self->unsent_bytes -= cost;
        ring_drop_first(self); /* on_trouble may send, which may move the ring */
        if (error != 0 && self->events.on_trouble != NULL) {
            enum link_trouble trouble = error == EAGAIN ? LINK_LAGGING : LINK_GONE;
            self->events.on_trouble(self->events.context, &to, trouble);
        }
    }
    self->sending = false;
}

/* -- receiving -- */

static bool
receive_part(struct zmq_link *self, zmq_msg_t *part)
{
    int rc = 0;
    do {
        rc = zmq_msg_recv(part, self->handle, ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    return rc >= 0;
}

/* False: no message waits. */
static bool
receive_one(struct zmq_link *self)
{
    struct zmq_peer from = { .length = 0 };
    bool well_formed = true;
    zmq_msg_t part;
    zmq_msg_init(&part);
    bool came = receive_part(self, &part);
    if (came && self->is_router) {
        size_t length = zmq_msg_size(&part);
        well_formed = length > 0 && length <= sizeof from.id && zmq_msg_more(&part);
        if (well_formed) {
            from.length = (uint8_t)length;
            memcpy(from.id, zmq_msg_data(&part), length);
            receive_part(self, &part); /* the parts of a message arrive together */
        }
    }
    well_formed = well_formed && !zmq_msg_more(&part);
    if (came && well_formed) {
        self->events.on_message(self->events.context, &from, zmq_msg_data(&part),
                                zmq_msg_size(&part));
    } else if (came) {
        self->n_malformed++;
        while (zmq_msg_more(&part) && receive_part(self, &part)) {
        }
    }
    zmq_msg_close(&part);
    return came;
}

/* -- the turn -- */

static void
link_free(struct zmq_link *self)
{
    if (self->readable != NULL) {
        event_free(self->readable); /* before the socket closes its descriptor */
    }
    kick_destroy(&self->kick);
    ring_free(self);
    zsock_destroy(&self->socket);
    free(self);
}

static void
link_turn(struct zmq_link *self)
{
    uint32_t n_received = 0;
    int ready = 0;
    size_t size = sizeof ready;
    self->in_turn = true;
    send_queued(self);
    while (!self->dead && n_received < LIMIT_LINK_BURST && receive_one(self)) {
        n_received++;
    }
    if (!self->dead && n_received > 0 && self->events.on_turn_end != NULL) {
        self->events.on_turn_end(self->events.context);
    }
    self->in_turn = false;
    if (self->dead) {
        link_free(self);
        return;
    }
    /* Last, for asking eats the signal of what came meanwhile. */
    if (zmq_getsockopt(self->handle, ZMQ_EVENTS, &ready, &size) != 0) {
        return;
    }
    bool can_send = (ready & ZMQ_POLLOUT) != 0 && self->n_ring > 0;
    if ((ready & ZMQ_POLLIN) != 0 || can_send) {
        kick_now(self->kick);
    }
}

static void
on_readable(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    link_turn(context);
}

static void
on_kick(void *context)
{
    link_turn(context);
}

/* -- life -- */

static int
set_option(struct zmq_link *self, int name, int value)
{
    return zmq_setsockopt(self->handle, name, &value, sizeof value) == 0 ? 0 : -errno;
}

static int
set_options(struct zmq_link *self, bool ipv6)
{
    const struct {
        int name;
        int value;
    } options[] = {
        { ZMQ_LINGER, 0 },
        { ZMQ_SNDHWM, LIMIT_HWM },
        { ZMQ_RCVHWM, LIMIT_HWM },
        { ZMQ_HEARTBEAT_IVL, LIMIT_LINK_BEAT_MS },
        { ZMQ_HEARTBEAT_TIMEOUT, LIMIT_LINK_SILENCE_MS },
        { ZMQ_BACKLOG, LIMIT_LISTEN_BACKLOG },
        { ZMQ_RECONNECT_IVL_MAX, LIMIT_RECONNECT_MS },
        { ZMQ_CONNECT_TIMEOUT, LIMIT_LINK_SILENCE_MS }, /* a black hole is tried again */
        { ZMQ_IPV6, ipv6 },
        { self->is_router ? ZMQ_ROUTER_MANDATORY : ZMQ_IMMEDIATE, 1 },
    };
    int64_t frame_max = LIMIT_FRAME_BYTES;
    int rc = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(options); i++) {
        rc = rc ? rc : set_option(self, options[i].name, options[i].value);
    }
    if (rc == 0 &&
        zmq_setsockopt(self->handle, ZMQ_MAXMSGSIZE, &frame_max, sizeof frame_max) != 0) {
        rc = -errno;
    }
    return rc;
}

static pthread_once_t czmq_once = PTHREAD_ONCE_INIT;

/* czmq makes its one context at the first socket; two threads must not do that at once. */
static void
czmq_start(void)
{
    setenv("ZSYS_SIGHANDLER", "false", 1); /* where process_setup() was not called: tests */
    zsys_init();
}

static int
link_new(struct zmq_link **out, struct reactor *reactor, bool is_router,
         const struct zmq_link_events *events)
{
    CLEANUP(zmq_link_destroy) struct zmq_link *self = calloc(1, sizeof *self);
    assert(events->on_message != NULL);
    if (self == NULL) {
        return -ENOMEM;
    }
    pthread_once(&czmq_once, czmq_start);
    self->is_router = is_router;
    self->events = *events;
    self->socket = zsock_new(is_router ? ZMQ_ROUTER : ZMQ_DEALER);
    if (self->socket == NULL) {
        return -EMFILE; /* too many sockets or descriptors: czmq does not say which */
    }
    self->handle = zsock_resolve(self->socket);
    int rc = kick_new(&self->kick, reactor, on_kick, self);
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

/* Begins to watch the socket, once it is bound or connected. */
static int
link_watch(struct zmq_link *self, struct reactor *reactor)
{
    int fd = -1;
    size_t size = sizeof fd;
    if (zmq_getsockopt(self->handle, ZMQ_FD, &fd, &size) != 0) {
        return -errno;
    }
    self->readable = event_new(reactor_base(reactor), fd, EV_READ | EV_PERSIST, on_readable, self);
    if (self->readable == NULL || event_add(self->readable, NULL) != 0) {
        return -ENOMEM;
    }
    kick_now(self->kick); /* the signal may be past already */
    return 0;
}

/* libzmq's own numbers are of no use to a caller. */
static int
link_errno(void)
{
    int error = errno;
    return error == ENODEV || error >= ZMQ_HAUSNUMERO || error == 0 ? -EINVAL : -error;
}

static int
read_port(struct zmq_link *self)
{
    char endpoint[128];
    size_t size = sizeof endpoint;
    if (zmq_getsockopt(self->handle, ZMQ_LAST_ENDPOINT, endpoint, &size) != 0) {
        return -errno;
    }
    const char *colon = strrchr(endpoint, ':');
    self->port = colon == NULL ? 0 : (uint16_t)strtoul(colon + 1, NULL, 10);
    return self->port == 0 ? -EINVAL : 0;
}

int
zmq_link_bind(struct zmq_link **out, struct reactor *reactor, const char *host, uint16_t port,
              const struct zmq_link_events *events)
{
    CLEANUP(zmq_link_destroy) struct zmq_link *self = NULL;
    char endpoint[LIMIT_URL];
    char port_text[8] = "*";
    bool ipv6 = strchr(host, ':') != NULL;
    const char *address = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    if (port != 0) {
        snprintf(port_text, sizeof port_text, "%u", (unsigned)port);
    }
    int length =
        snprintf(endpoint, sizeof endpoint,
                 ipv6 && host[0] != '[' ? "tcp://[%s]:%s" : "tcp://%s:%s", address, port_text);
    if (host[0] == '\0' || length < 0 || (size_t)length >= sizeof endpoint) {
        return -EINVAL;
    }
    int rc = link_new(&self, reactor, true, events);
    rc = rc ? rc : set_options(self, ipv6);
    if (rc == 0 && zmq_bind(self->handle, endpoint) != 0) {
        rc = link_errno();
    }
    rc = rc ? rc : read_port(self);
    rc = rc ? rc : link_watch(self, reactor);
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

int
zmq_link_connect(struct zmq_link **out, struct reactor *reactor, const char *address,
                 const struct zmq_link_events *events)
{
    CLEANUP(zmq_link_destroy) struct zmq_link *self = NULL;
    char endpoint[LIMIT_URL];
    char *end = NULL;
    const char *colon = strrchr(address, ':');
    if (colon == NULL || colon == address || colon[1] < '0' || colon[1] > '9') {
        return -EINVAL;
    }
    /* libzmq would take ";" for a source address and any number as the port. */
    unsigned long port = strtoul(colon + 1, &end, 10);
    bool ipv6 = memchr(address, ':', (size_t)(colon - address)) != NULL;
    bool good = port > 0 && port <= UINT16_MAX && *end == '\0' && strchr(address, ';') == NULL &&
                (!ipv6 || (address[0] == '[' && colon[-1] == ']'));
    int length = snprintf(endpoint, sizeof endpoint, "tcp://%s", address);
    if (!good || length < 0 || (size_t)length >= sizeof endpoint) {
        return -EINVAL;
    }
    int rc = link_new(&self, reactor, false, events);
    rc = rc ? rc : set_options(self, ipv6);
    if (rc == 0 && zmq_connect(self->handle, endpoint) != 0) {
        rc = link_errno();
    }
    rc = rc ? rc : link_watch(self, reactor);
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

void
zmq_link_destroy(struct zmq_link **self_p)
{
    struct zmq_link *self = *self_p;
    *self_p = NULL;
    if (self == NULL) {
        return;
    }
    self->dead = true;
    if (!self->in_turn && !self->sending) {
        link_free(self);
    }
}

uint16_t
zmq_link_port(const struct zmq_link *self)
{
    return self->port;
}

int
zmq_link_send(struct zmq_link *self, const struct zmq_peer *to, const void *bytes, size_t length)
{
    assert(self->is_router == (to != NULL && to->length > 0));
    if (length > LIMIT_FRAME_BYTES) {
        return -EMSGSIZE;
    }
    if (self->unsent_bytes + cost_of(length) > LIMIT_LINK_UNSENT) {
        return -ENOBUFS;
    }
    if (self->n_ring == self->ring_size && ring_grow(self) != 0) {
        return -ENOMEM;
    }
    struct unsent *unsent = &self->ring[(self->first + self->n_ring) & (self->ring_size - 1)];
    if (zmq_msg_init_size(&unsent->message, length) != 0) {
        return -ENOMEM;
    }
    if (length > 0) {
        memcpy(zmq_msg_data(&unsent->message), bytes, length);
    }
    unsent->to = self->is_router ? *to : (struct zmq_peer){ .length = 0 };
    self->n_ring++;
    self->unsent_bytes += cost_of(length);
    kick_now(self->kick);
    return 0;
}

void
zmq_link_flush(struct zmq_link *self)
{
    bool nested = self->in_turn || self->sending;
    send_queued(self);
    if (nested) {
        return; /* the turn asks for ZMQ_EVENTS and frees a dead link */
    }
    if (self->dead) {
        link_free(self);
        return;
    }
    kick_now(self->kick); /* sending ate the signal */
}

uint64_t
zmq_link_malformed(const struct zmq_link *self)
{
    return self->n_malformed;
}
