#include "common/http_server.h"
#include "common/http_exchange.h"
#include "common/http_framing.h"
#include "common/limits.h"
#include <assert.h>
#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -- accepting -- */

void
http_server_accept_or_pause(struct http_server *self)
{
    if (self->config.parallel_max == 0 || self->door == NULL || self->waits) {
        return;
    }
    bool full = http_guard_count(self->guard) >= self->config.parallel_max;
    if (full != self->paused) {
        self->paused = full;
        full ? evconnlistener_disable(self->listener) : evconnlistener_enable(self->listener);
    }
}

static void
on_sweep(void *context)
{
    struct http_server *self = context;
    if (self->paused) {
        http_guard_recount(self->guard); /* evhttp closed some without telling us */
        http_server_accept_or_pause(self);
    }
}

/* evhttp_set_bevcb: called at accept, before the descriptor is set. */
static struct bufferevent *
on_accept(struct event_base *base, void *context)
{
    struct http_server *self = context;
    struct bufferevent *connection = bufferevent_socket_new(base, -1, 0);
    if (connection != NULL) {
        http_guard_adopt(self->guard, connection);
        http_server_accept_or_pause(self);
    }
    return connection;
}

static void
on_http(struct evhttp_request *request, void *context)
{
    struct http_server *self = context;
    struct http_exchange *exchange = exchange_new(self, request);
    const char *fault = http_framing_fault(request);
    if (fault != NULL) {
        exchange_refuse(exchange, 400, fault);
        return;
    }
    if (evbuffer_get_length(evhttp_request_get_input_buffer(request)) > self->config.body_max) {
        char detail[80];
        (void)snprintf(detail, sizeof detail, "the body is larger than %zu bytes",
                       self->config.body_max);
        exchange_refuse(exchange, 413, detail);
        return;
    }
    self->config.on_request(self->config.context, exchange);
    if (exchange->state == EXCHANGE_HELD) {
        exchange_hold(exchange);
    }
}

/* -- the server -- */

/* A listening socket, or -errno. */
static int
listen_at(const struct http_server_config *config, uint16_t *port)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST };
    struct addrinfo *address = NULL;
    const char *host = strcmp(config->host, "localhost") == 0 ? "127.0.0.1" : config->host;
    char service[8];
    const int on = 1;
    (void)snprintf(service, sizeof service, "%u", config->port);
    if (getaddrinfo(host, service, &hints, &address) != 0) {
        return -EINVAL;
    }
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } bound = { .v6 = { 0 } };
    socklen_t size = sizeof bound;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    /* TCP_NODELAY is inherited by what is accepted; without it TLS and answers in two parts wait
     * 40 ms for a delayed ACK. */
    bool ok =
        fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        (!config->reuse_port || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0) &&
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 &&
        bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0 &&
        getsockname(fd, &bound.any, &size) == 0;
    int rc = ok ? fd : errno > 0 ? -errno : -EIO;
    if (ok) {
        *port = ntohs(bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
    } else if (fd >= 0) {
        close(fd);
    }
    freeaddrinfo(address);
    return rc;
}

static int
open_door(struct http_server *self)
{
    const ev_uint16_t methods = EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_POST |
                                EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS |
                                EVHTTP_REQ_PATCH;
    int fd = listen_at(&self->config, &self->port);
    if (fd < 0) {
        return fd;
    }
    evhttp_set_gencb(self->http, on_http, self);
    evhttp_set_bevcb(self->http, on_accept, self);
    evhttp_set_allowed_methods(self->http, methods);
    evhttp_set_default_content_type(self->http, NULL);
    evhttp_set_timeout(self->http, LIMIT_HTTP_IDLE_S);
    evhttp_set_max_headers_size(self->http, LIMIT_HTTP_HEADERS);
    evhttp_set_max_body_size(self->http,
                             (ev_ssize_t)(self->config.body_max + LIMIT_HTTP_REFUSED_BYTES));
    self->door = evhttp_accept_socket_with_handle(self->http, fd);
    if (self->door == NULL) {
        close(fd);
        return -ENOMEM;
    }
    self->listener = evhttp_bound_socket_get_listener(self->door);
    self->waits = self->config.opens_later;
    if (self->waits) {
        evconnlistener_disable(self->listener);
    }
    return 0;
}

int
http_server_new(struct http_server **out, struct reactor *reactor,
                const struct http_server_config *config)
{
    struct http_server *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    int64_t request_ms = config->request_ms == 0 ? LIMIT_HTTP_REQUEST_MS : config->request_ms;
    self->config = *config;
    self->reactor = reactor;
    self->http = evhttp_new(reactor_base(reactor));
    self->scratch = evbuffer_new();
    int rc = self->http == NULL || self->scratch == NULL ? -ENOMEM : 0;
    rc = rc ? rc : http_guard_new(&self->guard, reactor, request_ms, on_sweep, self);
    rc = rc ? rc : http_drain_new(self);
    rc = rc ? rc : open_door(self);
    if (rc != 0) {
        http_server_destroy(&self);
        return rc;
    }
    self->config.host = NULL; /* was borrowed */
    *out = self;
    return 0;
}

void
http_server_destroy(struct http_server **self_p)
{
    struct http_server *self = *self_p;
    if (self == NULL) {
        return;
    }
    if (self->http != NULL) {
        self->door = NULL;
        evhttp_free(self->http); /* on_lost() for each exchange */
    }
    assert(LIST_EMPTY(&self->busy) && LIST_EMPTY(&self->streams));
    struct http_exchange *exchange = NULL;
    while ((exchange = LIST_FIRST(&self->idle)) != NULL) {
        LIST_REMOVE(exchange, link);
        free(exchange);
    }
    http_drain_destroy(self);
    http_guard_destroy(&self->guard);
    if (self->scratch != NULL) {
        evbuffer_free(self->scratch);
    }
    free(self);
    *self_p = NULL;
}

void
http_server_open(struct http_server *self)
{
    if (self->waits && self->door != NULL) {
        self->waits = false;
        evconnlistener_enable(self->listener);
    }
}

uint16_t
http_server_port(const struct http_server *self)
{
    return self->port;
}

uint32_t
http_server_in_flight(const struct http_server *self)
{
    return self->n_unanswered;
}
