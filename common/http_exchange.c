#include "common/http_exchange.h"
#include "common/http_framing.h"
#include "common/limits.h"
#include "common/log.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static const struct timeval idle_time = { LIMIT_HTTP_IDLE_S, 0 };

static struct bufferevent *
bufferevent_of(struct evhttp_connection *connection)
{
    return evhttp_connection_get_bufferevent(connection);
}

static int
fd_of(struct evhttp_connection *connection)
{
    return bufferevent_getfd(bufferevent_of(connection));
}

static void
exchange_file(struct http_exchange *exchange, struct exchange_list *list)
{
    LIST_REMOVE(exchange, link);
    LIST_INSERT_HEAD(list, exchange, link);
}

static void
exchange_answered(struct http_exchange *exchange)
{
    exchange->server->n_unanswered -= exchange->state == EXCHANGE_HELD;
    exchange->state = EXCHANGE_ANSWERED;
    exchange->on_gone = NULL;
    exchange_file(exchange, &exchange->server->busy);
}

static void
exchange_release(struct http_exchange *exchange)
{
    struct http_server *self = exchange->server;
    exchange->state = EXCHANGE_FREE;
    exchange->request = NULL;
    exchange_file(exchange, &self->idle);
    self->n_unwritten--;
    http_drain_step(self);
}

/* closecb: the connection is about to be freed, whatever the exchange was doing. */
static void
on_lost(struct evhttp_connection *connection, void *context)
{
    struct http_exchange *exchange = context;
    struct http_server *self = exchange->server;
    struct evhttp_request *request = exchange->request;
    reactor_fn on_gone = exchange->on_gone;
    void *on_gone_context = exchange->context;
    http_guard_forget(self->guard, fd_of(connection));
    exchange_answered(exchange);
    if (on_gone != NULL) {
        on_gone(on_gone_context);
    }
    exchange_release(exchange);
    /* A request that had no reply yet was detached by evhttp and is ours; else evhttp frees it. */
    if (evhttp_request_get_connection(request) == NULL) {
        evhttp_request_free(request);
    }
    http_server_accept_or_pause(self);
}

/* on_complete: the answer has left for the socket. */
static void
on_written(struct evhttp_request *request, void *context)
{
    struct http_exchange *exchange = context;
    struct http_server *self = exchange->server;
    struct evhttp_connection *connection = evhttp_request_get_connection(request);
    /* The callback belongs to the connection: left alone it would fire with a recycled exchange. */
    evhttp_connection_set_closecb(connection, NULL, NULL);
    /* A later body larger than the mark would never be whole. */
    bufferevent_setwatermark(bufferevent_of(connection), EV_READ, 0, 0);
    if (exchange->untimed) {
        bufferevent_set_timeouts(bufferevent_of(connection), &idle_time, &idle_time);
    }
    if (exchange->closes) {
        http_guard_forget(self->guard, fd_of(connection));
    } else {
        http_guard_rest(self->guard, fd_of(connection));
    }
    exchange_release(exchange);
    http_server_accept_or_pause(self);
}

struct http_exchange *
exchange_new(struct http_server *self, struct evhttp_request *request)
{
    struct http_exchange *exchange = LIST_FIRST(&self->idle);
    if (exchange == NULL) {
        exchange = calloc(1, sizeof *exchange);
        if (exchange == NULL) {
            abort();
        }
        exchange->server = self;
        LIST_INSERT_HEAD(&self->idle, exchange, link);
    }
    exchange_file(exchange, &self->busy);
    exchange->request = request;
    exchange->state = EXCHANGE_HELD;
    exchange->untimed = exchange->closes = false;
    exchange->on_gone = NULL;
    self->n_unanswered++;
    self->n_unwritten++;
    http_drain_step(self);

    struct evhttp_connection *connection = evhttp_request_get_connection(request);
    http_guard_clear(self->guard, fd_of(connection));
    evhttp_connection_set_closecb(connection, on_lost, exchange);
    evhttp_request_set_on_complete_cb(request, on_written, exchange);
    /* Reading goes on while we answer, to see the client leave: bound what it may send ahead. */
    bufferevent_setwatermark(bufferevent_of(connection), EV_READ, 0, LIMIT_HTTP_HELD_READ);
    return exchange;
}

/* A held request or a stream may be silent for long: only writing is timed. */
static void
exchange_untime(struct http_exchange *exchange)
{
    struct evhttp_connection *connection = evhttp_request_get_connection(exchange->request);
    bufferevent_set_timeouts(bufferevent_of(connection), NULL, &idle_time);
    exchange->untimed = true;
}

/* evhttp stops reading before it calls the handler, so nobody would see the client leave. Its read
 * callback must go before reading is enabled again: a pipelined byte would end the process. */
void
exchange_hold(struct http_exchange *exchange)
{
    struct evhttp_connection *connection = evhttp_request_get_connection(exchange->request);
    struct bufferevent *bufferevent = bufferevent_of(connection);
    bufferevent_data_cb on_read = NULL;
    bufferevent_data_cb on_write = NULL;
    bufferevent_event_cb on_event = NULL;
    void *context = NULL;
    bufferevent_getcb(bufferevent, &on_read, &on_write, &on_event, &context);
    bufferevent_setcb(bufferevent, NULL, on_write, on_event, context);
    exchange_untime(exchange);
    bufferevent_enable(bufferevent, EV_READ);
}

/* -- the request -- */

enum http_method
http_method(const struct http_exchange *exchange)
{
    switch ((int)evhttp_request_get_command(exchange->request)) {
    case EVHTTP_REQ_HEAD:
        return HTTP_HEAD;
    case EVHTTP_REQ_POST:
        return HTTP_POST;
    case EVHTTP_REQ_PUT:
        return HTTP_PUT;
    case EVHTTP_REQ_DELETE:
        return HTTP_DELETE;
    case EVHTTP_REQ_OPTIONS:
        return HTTP_OPTIONS;
    case EVHTTP_REQ_PATCH:
        return HTTP_PATCH;
    default: /* the others are not among the allowed methods */
        return HTTP_GET;
    }
}

const char *
http_path(const struct http_exchange *exchange)
{
    return evhttp_uri_get_path(evhttp_request_get_evhttp_uri(exchange->request));
}

const char *
http_query(const struct http_exchange *exchange)
{
    const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(exchange->request));
    return query == NULL ? "" : query;
}

bool
http_query_get(const struct http_exchange *exchange, const char *name, char *out, size_t size)
{
    return http_query_find(http_query(exchange), name, out, size);
}

const char *
http_header(const struct http_exchange *exchange, const char *name)
{
    return evhttp_find_header(evhttp_request_get_input_headers(exchange->request), name);
}

const void *
http_body(const struct http_exchange *exchange, size_t *length)
{
    struct evbuffer *input = evhttp_request_get_input_buffer(exchange->request);
    *length = evbuffer_get_length(input);
    return *length == 0 ? "" : (const void *)evbuffer_pullup(input, -1);
}

/* -- the answer -- */

void
http_on_gone(struct http_exchange *exchange, reactor_fn on_gone, void *context)
{
    assert(exchange->state == EXCHANGE_HELD || exchange->state == EXCHANGE_STREAM);
    exchange->on_gone = on_gone;
    exchange->context = context;
}

void
http_add_header(struct http_exchange *exchange, const char *name, const char *value)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(exchange->request);
    if (evhttp_add_header(headers, name, value) != 0) {
        log_warn("http-header-dropped name=%s", name);
    }
}

/* Sends status, headers and what lies in the request's output buffer. */
static void
send_answer(struct http_exchange *exchange, int status, const char *content_type, size_t length)
{
    struct http_server *self = exchange->server;
    struct evhttp_connection *connection = evhttp_request_get_connection(exchange->request);
    if (content_type != NULL) {
        http_add_header(exchange, "Content-Type", content_type);
    }
    if (status >= 200 && status != 204 && status != 304) {
        char text[24];
        (void)snprintf(text, sizeof text, "%zu", length);
        http_add_header(exchange, "Content-Length", text); /* HEAD has it too, without the body */
    }
    if (self->phase != DRAIN_NONE || self->config.parallel_max > 0) {
        exchange->closes = true;
    }
    if (exchange->closes) {
        http_add_header(exchange, "Connection", "close");
    }
    http_guard_arm(self->guard, fd_of(connection),
                   LIMIT_HTTP_REQUEST_MS + (int64_t)(length / LIMIT_HTTP_READ_RATE));
    struct evhttp_request *request = exchange->request;
    exchange_answered(exchange);
    evhttp_send_reply(request, status, http_phrase(status), NULL);
}

static bool
wants_body(const struct http_exchange *exchange, int status)
{
    return http_method(exchange) != HTTP_HEAD && status != 204 && status != 304;
}

void
http_respond(struct http_exchange *exchange, int status, const char *content_type, const void *body,
             size_t length)
{
    assert(exchange->state == EXCHANGE_HELD);
    if (length > 0 && wants_body(exchange, status)) {
        evbuffer_add(evhttp_request_get_output_buffer(exchange->request), body, length);
    }
    send_answer(exchange, status, content_type, length);
}

static void
free_body(const void *bytes, size_t length, void *body)
{
    (void)bytes;
    (void)length;
    free(body);
}

void
http_respond_take(struct http_exchange *exchange, int status, const char *content_type, void *body,
                  size_t length)
{
    assert(exchange->state == EXCHANGE_HELD);
    struct evbuffer *output = evhttp_request_get_output_buffer(exchange->request);
    if (length == 0 || !wants_body(exchange, status) ||
        evbuffer_add_reference(output, body, length, free_body, body) != 0) {
        free(body);
    }
    send_answer(exchange, status, content_type, length);
}

void
http_stream_start(struct http_exchange *exchange)
{
    assert(exchange->state == EXCHANGE_HELD);
    struct http_server *self = exchange->server;
    exchange->state = EXCHANGE_STREAM;
    self->n_unanswered--;
    exchange_file(exchange, &self->streams);
    exchange_untime(exchange);
    http_add_header(exchange, "Content-Type", "text/event-stream");
    http_add_header(exchange, "Cache-Control", "no-store");
    http_add_header(exchange, "X-Accel-Buffering", "no"); /* nginx would collect the events */
    if (self->phase != DRAIN_NONE || self->config.parallel_max > 0) {
        exchange->closes = true;
        http_add_header(exchange, "Connection", "close");
    }
    evhttp_send_reply_start(exchange->request, 200, http_phrase(200));
    http_drain_on_stream(self);
}

bool
http_stream_send(struct http_exchange *exchange, const void *bytes, size_t length)
{
    assert(exchange->state == EXCHANGE_STREAM);
    if (http_method(exchange) == HTTP_HEAD) {
        return true;
    }
    struct evhttp_connection *connection = evhttp_request_get_connection(exchange->request);
    struct evbuffer *output = bufferevent_get_output(bufferevent_of(connection));
    if (evbuffer_get_length(output) + length > LIMIT_STREAM_UNSENT) {
        exchange_answered(exchange); /* evhttp sees the end in a later turn: on_lost */
        http_guard_shut(fd_of(connection));
        return false;
    }
    evbuffer_add(exchange->server->scratch, bytes, length);
    evhttp_send_reply_chunk(exchange->request, exchange->server->scratch);
    return true;
}

void
http_stream_end(struct http_exchange *exchange)
{
    assert(exchange->state == EXCHANGE_STREAM);
    struct evhttp_connection *connection = evhttp_request_get_connection(exchange->request);
    http_guard_arm(exchange->server->guard, fd_of(connection), LIMIT_HTTP_REQUEST_MS);
    struct evhttp_request *request = exchange->request;
    exchange_answered(exchange);
    evhttp_send_reply_end(request);
}

void
exchange_refuse(struct http_exchange *exchange, int status, const char *detail)
{
    char body[512];
    int length = snprintf(body, sizeof body,
                          "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,"
                          "\"detail\":\"%s\",\"errors\":[]}",
                          http_phrase(status), status, detail);
    assert(length > 0 && (size_t)length < sizeof body);
    exchange->closes = true; /* where the next request begins is in doubt */
    http_respond(exchange, status, "application/problem+json", body, (size_t)length);
}
