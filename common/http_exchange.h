#pragma once
/*
 * http_exchange — the life of one request inside http_server; private to it.
 *
 *     exchange_new --> HELD --> STREAM --> ANSWERED --> (written or lost) FREE
 *                        `------------------^
 *
 * An exchange lives until evhttp has written the answer or has lost the connection. Neither is
 * ever told from inside one of our calls to evhttp, except evhttp_free(): so a handler may answer
 * at once and the server may still look at the exchange when the handler returns.
 */
#include "common/http_guard.h"
#include "common/http_server.h"
#include <event2/http.h>
#include <sys/queue.h>

enum exchange_state {
    EXCHANGE_FREE,
    EXCHANGE_HELD,     /* the handler's, not answered */
    EXCHANGE_STREAM,   /* stream_start was called */
    EXCHANGE_ANSWERED, /* the handle is dead; evhttp still writes */
    EXCHANGE_STATE_COUNT,
};

struct http_exchange {
    LIST_ENTRY(http_exchange) link; /* in idle, busy or streams of the server */
    struct http_server *server;
    struct evhttp_request *request;
    enum exchange_state state;
    bool untimed; /* the connection's read time-out is off */
    bool closes;  /* `Connection: close` was sent */
    reactor_fn on_gone;
    void *context;
};

LIST_HEAD(exchange_list, http_exchange);

enum drain_phase {
    DRAIN_NONE,
    DRAIN_LINGER, /* new connections are served */
    DRAIN_DEAF,   /* no new ones come; those that the kernel has are accepted */
    DRAIN_CLOSED, /* the door is gone; what is under way is answered */
    DRAIN_OVER,   /* done was called */
    DRAIN_PHASE_COUNT,
};

struct http_server {
    struct http_server_config config;
    struct reactor *reactor;
    struct evhttp *http;
    struct evhttp_bound_socket *door; /* NULL from DRAIN_CLOSED on */
    struct evconnlistener *listener;  /* the door's */
    struct http_guard *guard;
    struct evbuffer *scratch; /* a stream's bytes on their way to evhttp */
    struct exchange_list idle, busy, streams;
    uint32_t n_unanswered, n_unwritten;
    uint16_t port;
    bool paused, waits; /* waits: for http_server_open() */
    enum drain_phase phase;
    struct http_drain drain;
    struct timer *drain_limit, *drain_timer; /* the timer: of the phase */
    struct kick *drain_streams;
};

/* Takes a request that evhttp has just handed over. Aborts without memory. */
struct http_exchange *exchange_new(struct http_server *self, struct evhttp_request *request);
/* Lets a request wait for its answer: sees the client leave, and no time-out ends it. */
void exchange_hold(struct http_exchange *exchange);
/* Answers with a problem+json and closes the connection. `detail` is plain text without quotes. */
void exchange_refuse(struct http_exchange *exchange, int status, const char *detail);
/* In http_server.c: a place for a connection may be free again, or none is. */
void http_server_accept_or_pause(struct http_server *self);

/* -- in http_drain.c -- */
int http_drain_new(struct http_server *self); /* 0 or -ENOMEM; the reactor is set */
void http_drain_destroy(struct http_server *self);
/* A request came, or an answer has left or was lost. */
void http_drain_step(struct http_server *self);
/* A stream was started: one that comes too late has its first events, and ends. */
void http_drain_on_stream(struct http_server *self);
