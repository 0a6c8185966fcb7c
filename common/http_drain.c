#include "common/http_exchange.h"
#include "common/limits.h"
#include "common/log.h"
#include <assert.h>
#include <errno.h>
#include <event2/listener.h>
#include <linux/filter.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* -- the door -- */

/* From now on the kernel drops what asks for a new connection, and lets a handshake that has begun
 * come to its end. Closing a listening socket resets the connections that nobody has accepted, and
 * some may always come between the last accept() and close(); behind this filter none can. Who asks
 * meanwhile asks again after a second, and is refused. */
static bool
door_deafen(const struct http_server *self)
{
    enum { TCP_FLAGS = 13, SYN = 0x02, SYN_AND_ACK = 0x12 }; /* byte 13 of a TCP header */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, TCP_FLAGS),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN_AND_ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog program = { sizeof code / sizeof code[0], code };
    int fd = evconnlistener_get_fd(self->listener);
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0) {
        log_warn("http-door-not-deaf error=\"%s\" loss=\"a client that connects in the moment of "
                 "the close may be reset\"",
                 strerror(errno));
        return false;
    }
    return true;
}

static bool
door_has_somebody(const struct http_server *self)
{
    struct pollfd door = { .fd = evconnlistener_get_fd(self->listener), .events = POLLIN };
    return poll(&door, 1, 0) > 0;
}

static void
streams_end(void *context)
{
    struct http_server *self = context;
    struct http_exchange *exchange = NULL;
    while ((exchange = LIST_FIRST(&self->streams)) != NULL) {
        reactor_fn on_gone = exchange->on_gone;
        void *on_gone_context = exchange->context;
        http_stream_end(exchange);
        if (on_gone != NULL) {
            on_gone(on_gone_context);
        }
    }
}

static void
door_close(struct http_server *self)
{
    evhttp_del_accept_socket(self->http, self->door);
    self->door = NULL;
    self->listener = NULL;
    if (self->drain.on_closed != NULL) {
        self->drain.on_closed(self->drain.context);
    }
    streams_end(self);
}

/* -- the phases -- */

static void
drain_over(void *context)
{
    struct http_server *self = context;
    if (self->phase == DRAIN_OVER) {
        return;
    }
    if (self->door != NULL) {
        door_close(self); /* the limit came first */
    }
    self->phase = DRAIN_OVER;
    timer_stop(self->drain_limit);
    timer_stop(self->drain_timer);
    http_guard_shut_all(self->guard); /* clients of idle connections see the end now */
    if (self->drain.done != NULL) {
        self->drain.done(self->drain.context);
    }
}

void
http_drain_step(struct http_server *self)
{
    if (self->phase != DRAIN_CLOSED) {
        return;
    }
    if (self->n_unwritten > 0) {
        timer_stop(self->drain_timer);
    } else {
        timer_in_ms(self->drain_timer,
                    http_guard_count(self->guard) == 0 ? 0 : LIMIT_HTTP_LINGER_MS);
    }
}

/* The time of the phase is over. */
static void
on_drain_timer(void *context)
{
    struct http_server *self = context;
    switch (self->phase) {
    case DRAIN_LINGER:
        self->phase = DRAIN_DEAF;
        timer_in_ms(self->drain_timer, door_deafen(self) ? LIMIT_HTTP_DEAF_MS : 0);
        break;
    case DRAIN_DEAF:
        if (door_has_somebody(self)) { /* accepted in this turn, or when a place is free */
            timer_in_ms(self->drain_timer, LIMIT_HTTP_DOOR_MS);
            break;
        }
        self->phase = DRAIN_CLOSED;
        door_close(self);
        http_drain_step(self);
        break;
    case DRAIN_CLOSED:
        if (http_guard_expects(self->guard)) {
            timer_in_ms(self->drain_timer, LIMIT_HTTP_LINGER_MS);
        } else {
            drain_over(self);
        }
        break;
    case DRAIN_NONE:
    case DRAIN_OVER:
    case DRAIN_PHASE_COUNT:
        assert(false);
        break;
    }
}

void
http_drain_on_stream(struct http_server *self)
{
    if (self->phase >= DRAIN_CLOSED) {
        kick_now(self->drain_streams); /* when its first events are sent */
    }
}

void
http_server_drain(struct http_server *self, const struct http_drain *order)
{
    if (self->phase != DRAIN_NONE) {
        return;
    }
    http_server_open(self); /* who waits at the door is not left there */
    self->phase = DRAIN_LINGER;
    self->drain = *order;
    timer_in_ms(self->drain_limit, order->linger_ms + order->limit_ms);
    timer_in_ms(self->drain_timer, order->linger_ms);
}

/* -- life -- */

int
http_drain_new(struct http_server *self)
{
    int rc = timer_new(&self->drain_limit, self->reactor, drain_over, self);
    rc = rc ? rc : timer_new(&self->drain_timer, self->reactor, on_drain_timer, self);
    return rc ? rc : kick_new(&self->drain_streams, self->reactor, streams_end, self);
}

void
http_drain_destroy(struct http_server *self)
{
    kick_destroy(&self->drain_streams);
    timer_destroy(&self->drain_timer);
    timer_destroy(&self->drain_limit);
}
