#pragma once
/*
 * http_server — HTTP/1.1 on a reactor: evhttp with every trap of it cured in one place.
 *
 * What it does for its user: TCP_NODELAY; refusal (400 and close) of conflicting framing, bad
 * header names, bodies on GET/HEAD/DELETE, bad paths; 413 for bodies over the limit; one deadline
 * (LIMIT_HTTP_REQUEST_MS) until a request is whole, so that a dripping client is cut off; a held
 * request whose client leaves is reported; HEAD never gets a body; a slow reader of a stream is
 * closed at LIMIT_STREAM_UNSENT bytes, one of an answer at LIMIT_HTTP_READ_RATE; orderly drain. Its
 * own refusals are application/problem+json (RFC 9457).
 *
 * Limits, all of libevent 2.1: put a proxy in front of a public port.
 *  - What it cannot see: bare LF line ends, folded headers, a NUL in a header's value, `0x3` as a
 *    chunk size. A body reaches the handler whole, so there is no early refusal of an upload.
 *  - What evhttp answers by itself, in its own HTML and with `Connection: close`: 400 for a request
 *    that it cannot parse and for headers over LIMIT_HTTP_HEADERS; 413 for bodies announced or
 * grown to more than body_max + LIMIT_HTTP_REFUSED_BYTES (below that the 413 is a problem+json),
 * and for chunk extensions; 417 for an unknown Expect; 501 for CONNECT, TRACE and unknown methods.
 *  - A client that half-closes (shutdown of its sending side) counts as gone.
 *  - A held client that sends more than LIMIT_HTTP_HELD_READ bytes ahead is not seen leaving before
 *    its answer is written.
 *
 *              on_request                       respond / stream_end
 *   (reading) ------------> HELD by the handler ---------------------> answered, next request
 *                             | client leaves: on_gone, once; then the handle is dead
 */
#include "common/reactor.h"
#include <event2/buffer.h>
#include <stddef.h>

enum http_method {
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_PATCH,
    HTTP_METHOD_COUNT,
};

struct http_server;
struct http_exchange; /* one request and its answer; valid until answered or on_gone */

struct http_server_config {
    const char *host; /* address to bind */
    uint16_t port;    /* 0: any */
    bool reuse_port;  /* several reactors share the port (SO_REUSEPORT) */
    size_t body_max;  /* bytes; more is 413 */
    /* 0: unlimited. Else accepting pauses at this many open connections and each answer closes its
     * connection, so that at most parallel_max bodies are in memory. For uploads: a client that
     * connects and says nothing holds a place for request_ms. */
    uint32_t parallel_max;
    int64_t request_ms; /* 0: LIMIT_HTTP_REQUEST_MS; tests have less time */
    /* Clients can connect at once, and are served from http_server_open() on: who restarts in the
     * place of another is not seen half made. */
    bool opens_later;
    void (*on_request)(void *context, struct http_exchange *exchange);
    void *context;
};

/* Binds and listens. 0, or -errno (EADDRINUSE, EADDRNOTAVAIL, EINVAL for a bad host). */
int http_server_new(struct http_server **out, struct reactor *reactor,
                    const struct http_server_config *config);
/* Cuts what is still open: on_gone is called for each held request and stream. Never from inside a
 * callback of this server. */
void http_server_destroy(struct http_server **self_p);
uint16_t http_server_port(const struct http_server *self);
/* With opens_later: serves from now on. Again, or without it: changes nothing. */
void http_server_open(struct http_server *self);
/* An orderly end. From its begin on every answer carries `Connection: close`.
 *
 *     LINGER --linger_ms--> DEAF --nobody waits at the door--> CLOSED --all answered--> over
 *
 * LINGER: new connections are served as ever, so that a load balancer has time to hear that this
 * server is leaving. DEAF: no new connection begins; those that the kernel holds are accepted, so
 * that the close resets none. CLOSED: connections are refused, streams are ended, each with its
 * on_gone. Over: every answer is written, no connection is in the middle of a request or younger
 * than LIMIT_HTTP_FIRST_MS and without one, and no request came for LIMIT_HTTP_LINGER_MS. Then what
 * is idle is closed. */
struct http_drain {
    int64_t linger_ms;    /* 0: none */
    int64_t limit_ms;     /* of the rest; then it is over, whoever still waits */
    reactor_fn on_closed; /* CLOSED begins: answer what would be held for long. NULL: nothing is */
    reactor_fn done;      /* once, from the loop */
    void *context;        /* of both */
};
/* Begins it; *order is copied. Again: changes nothing. */
void http_server_drain(struct http_server *self, const struct http_drain *order);
/* Requests given to on_request and not yet answered; a stream is answered when it starts. */
uint32_t http_server_in_flight(const struct http_server *self);

/* -- the request; all strings are borrowed and live as long as the exchange -- */
enum http_method http_method(const struct http_exchange *exchange);
const char *http_path(const struct http_exchange *exchange);  /* raw, starts with '/', no query */
const char *http_query(const struct http_exchange *exchange); /* raw, without '?', "" if none */
/* Value of a query argument, percent-decoded into out ('+' is a space). Never cut: false, and out
 * is
 * "", if it does not fit, an escape is bad, it holds a NUL or the argument is absent. */
bool http_query_get(const struct http_exchange *exchange, const char *name, char *out, size_t size);
const char *http_header(const struct http_exchange *exchange, const char *name); /* NULL: absent */
/* The whole body, contiguous; *length may be 0. Lives until the answer. */
const void *http_body(const struct http_exchange *exchange, size_t *length);

/* -- the answer: exactly one of respond, or stream_start ... stream_end -- */
/* Called once if the client leaves before the answer is begun, or during a stream (also at drain
 * and destroy); afterwards the handle is dead. Who keeps a handle past on_request must set it. */
void http_on_gone(struct http_exchange *exchange, reactor_fn on_gone, void *context);
/* Adds a header to the coming answer; name and value are copied. A value with a line end is dropped
 * and logged. */
void http_add_header(struct http_exchange *exchange, const char *name, const char *value);
/* Answers with a body that is copied; content_type NULL: no Content-Type. Ends the exchange. */
void http_respond(struct http_exchange *exchange, int status, const char *content_type,
                  const void *body, size_t length);
/* The same, taking ownership of a malloc'ed body: no copy. */
void http_respond_take(struct http_exchange *exchange, int status, const char *content_type,
                       void *body, size_t length);
/* Server-sent events: 200 text/event-stream, no buffering, no time-out. To HEAD only the headers
 * are sent, what follows is swallowed. */
void http_stream_start(struct http_exchange *exchange);
/* Sends bytes. False: the client was too slow and has been closed; the handle is dead (on_gone is
 * not called). */
bool http_stream_send(struct http_exchange *exchange, const void *bytes, size_t length);
void http_stream_end(struct http_exchange *exchange);
