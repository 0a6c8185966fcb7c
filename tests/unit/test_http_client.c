#include "common/http_client.h"
#include "common/http_server.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BIG = 3 * 1024 * 1024 };

struct world {
    struct reactor *reactor;
    struct http_server *server;
    struct http_client *client;
    struct timer *timer;
    struct http_call *call;
    int n_requests, n_responses, wanted, n_gone;
    int status, error;
    char text[256], type[64], seen[512];
    size_t length;
    char url[128];
    /* of a stream */
    struct http_exchange *stream;
    char heard[256];
    bool cancels; /* when it hears something */
};

static void
gone(void *context)
{
    struct world *w = context;
    w->n_gone++;
}

static void
on_request(void *context, struct http_exchange *exchange)
{
    struct world *w = context;
    size_t length = 0;
    const void *body = http_body(exchange, &length);
    const char *expect = http_header(exchange, "Expect");
    const char *type = http_header(exchange, "Content-Type");
    const char *extra = http_header(exchange, "X-Extra");
    w->n_requests++;
    (void)snprintf(w->seen, sizeof w->seen, "%d %s%s expect=%s type=%s extra=%s",
                   (int)http_method(exchange), http_path(exchange), http_query(exchange),
                   expect ? expect : "-", type ? type : "-", extra ? extra : "-");
    if (strcmp(http_path(exchange), "/hold") == 0) {
        http_on_gone(exchange, gone, w);
    } else if (strcmp(http_path(exchange), "/big") == 0) {
        http_respond_take(exchange, 200, "image/png", calloc(1, BIG), BIG);
    } else if (strcmp(http_path(exchange), "/stream") == 0) {
        w->stream = exchange;
        http_stream_start(exchange);
        http_on_gone(exchange, gone, w);
        (void)http_stream_send(exchange, "one", 3);
    } else if (strcmp(http_path(exchange), "/refused") == 0) {
        http_respond(exchange, 503, "text/plain", "full", 4);
    } else if (strcmp(http_path(exchange), "/none") == 0) {
        http_respond(exchange, 204, NULL, NULL, 0);
    } else if (strcmp(http_path(exchange), "/moved") == 0) {
        http_add_header(exchange, "Location", "/echo");
        http_respond(exchange, 307, NULL, NULL, 0);
    } else {
        http_respond(exchange, 200, "text/plain", body, length);
    }
}

static void
stop(void *context)
{
    struct world *w = context;
    reactor_stop(w->reactor, 0);
}

static void
on_response(void *context, const struct http_response *response)
{
    struct world *w = context;
    w->call = NULL;
    w->status = response->status;
    w->error = response->error;
    w->length = response->body_length;
    (void)snprintf(w->type, sizeof w->type, "%s", response->content_type);
    (void)snprintf(w->text, sizeof w->text, "%s%.*s", response->message,
                   (int)(response->body_length < 200 ? response->body_length : 200),
                   (const char *)response->body);
    if (++w->n_responses == w->wanted) {
        timer_in_ms(w->timer, 20); /* the server's time to see what the client closed */
    }
}

static struct http_request
request_for(struct world *w, const char *method, const char *path)
{
    (void)snprintf(w->url, sizeof w->url, "http://127.0.0.1:%u%s", http_server_port(w->server),
                   path);
    return (struct http_request){
        .method = method, .url = w->url, .limit_ms = 3000, .response_max = 4194304
    };
}

static void
world_open(struct world *w)
{
    process_setup();
    setenv("http_proxy", "http://127.0.0.1:1", 1); /* must not be used */
    *w = (struct world){ .wanted = 1 };
    const struct http_server_config config = {
        .host = "127.0.0.1", .body_max = BIG, .on_request = on_request, .context = w
    };
    cr_assert(zero(int, reactor_new(&w->reactor, false)));
    cr_assert(zero(int, timer_new(&w->timer, w->reactor, stop, w)));
    cr_assert(zero(int, http_server_new(&w->server, w->reactor, &config)));
    cr_assert(zero(int, http_client_new(&w->client, w->reactor)));
}

static void
world_close(struct world *w)
{
    http_client_destroy(&w->client);
    http_server_destroy(&w->server);
    timer_destroy(&w->timer);
    reactor_destroy(&w->reactor);
}

static void
run_one(struct world *w, const struct http_request *request)
{
    w->n_responses = 0;
    w->call = http_client_start(w->client, request, on_response, w);
    cr_assert(not(zero(ptr, w->call)));
    cr_assert(zero(int, w->n_responses), "never from inside the start");
    reactor_run(w->reactor);
    cr_assert(eq(int, w->n_responses, 1));
}

Test(http_client, each_method_carries_its_body)
{
    struct world w;
    world_open(&w);
    struct http_request r = request_for(&w, "GET", "/echo?a=b");
    run_one(&w, &r);
    cr_assert(eq(int, w.status, 200));
    cr_assert(eq(str, w.seen, "0 /echoa=b expect=- type=- extra=-"));
    r = request_for(&w, "POST", "/echo");
    r.body = "{}";
    r.body_length = 2;
    r.content_type = "application/json";
    r.headers[0] = "X-Extra: 1";
    run_one(&w, &r);
    cr_assert(eq(str, w.text, "{}"));
    cr_assert(eq(str, w.type, "text/plain"));
    cr_assert(eq(str, w.seen, "2 /echo expect=- type=application/json extra=1"));
    r = request_for(&w, "DELETE", "/none");
    run_one(&w, &r);
    cr_assert(eq(int, w.status, 204));
    cr_assert(zero(sz, w.length));
    r = request_for(&w, "GET", "/moved");
    run_one(&w, &r);
    cr_assert(eq(int, w.status, 307), "redirects are not followed");
    world_close(&w);
}

Test(http_client, a_large_body_goes_and_comes_without_expect)
{
    struct world w;
    char *big = malloc(BIG);
    memset(big, 'p', BIG);
    world_open(&w);
    struct http_request r = request_for(&w, "PUT", "/echo");
    r.body = big;
    r.body_length = BIG;
    run_one(&w, &r);
    cr_assert(eq(int, w.status, 200));
    cr_assert(eq(sz, w.length, BIG));
    cr_assert(eq(str, w.seen, "3 /echo expect=- type=- extra=-"));
    world_close(&w);
    free(big);
}

Test(http_client, a_response_over_its_limit_fails)
{
    struct world w;
    world_open(&w);
    struct http_request r = request_for(&w, "GET", "/big");
    r.response_max = BIG;
    run_one(&w, &r);
    cr_assert(eq(int, w.status, 200));
    cr_assert(eq(sz, w.length, BIG));
    r.response_max = BIG - 1;
    run_one(&w, &r);
    cr_assert(zero(int, w.status));
    cr_assert(eq(int, w.error, EMSGSIZE));
    world_close(&w);
}

Test(http_client, silence_and_refusal_have_names)
{
    struct world w;
    world_open(&w);
    struct http_request r = request_for(&w, "GET", "/hold");
    r.limit_ms = 100;
    run_one(&w, &r);
    cr_assert(eq(int, w.error, ETIMEDOUT));
    cr_assert(eq(int, w.n_gone, 1), "the connection was closed");
    cr_assert(ne(str, w.text, ""));
    r = request_for(&w, "GET", "/");
    r.url = "http://127.0.0.1:1/";
    run_one(&w, &r);
    cr_assert(eq(int, w.error, ECONNREFUSED));
    world_close(&w);
}

/* The server dies with the request, and a new one takes its place at once. */
static void
die_and_come_back(void *context)
{
    struct world *w = context;
    const struct http_server_config config = { .host = "127.0.0.1",
                                               .port = http_server_port(w->server),
                                               .body_max = BIG,
                                               .on_request = on_request,
                                               .context = w };
    http_server_destroy(&w->server);
    cr_assert(zero(int, http_server_new(&w->server, w->reactor, &config)));
}

Test(http_client, a_post_that_dies_with_a_used_connection_is_not_sent_again)
{
    struct world w;
    struct timer *death = NULL;
    world_open(&w);
    cr_assert(zero(int, timer_new(&death, w.reactor, die_and_come_back, &w)));
    struct http_request r = request_for(&w, "GET", "/echo");
    run_one(&w, &r);
    cr_assert(eq(int, w.status, 200), "a connection is kept");
    r = request_for(&w, "POST", "/hold");
    r.body = "draw";
    r.body_length = 4;
    r.limit_ms = 1000;
    timer_in_ms(death, 100);
    run_one(&w, &r);
    cr_assert(eq(int, w.n_requests, 2), "the server's successor was asked, too");
    cr_assert(zero(int, w.status));
    cr_assert(ne(int, w.error, ETIMEDOUT), "the loss is told at once: %s", w.text);
    cr_assert(ne(int, w.error, ECONNREFUSED), "that would say that nobody had it");
    timer_destroy(&death);
    world_close(&w);
}

Test(http_client, a_cancelled_call_is_closed_and_not_told)
{
    struct world w;
    world_open(&w);
    struct http_request r = request_for(&w, "GET", "/hold");
    struct http_call *call = http_client_start(w.client, &r, on_response, &w);
    timer_in_ms(w.timer, 50);
    reactor_run(w.reactor);
    cr_assert(eq(int, w.n_requests, 1));
    http_call_cancel(&call);
    cr_assert(zero(ptr, call));
    http_call_cancel(&call);
    timer_in_ms(w.timer, 50);
    reactor_run(w.reactor);
    cr_assert(eq(int, w.n_gone, 1));
    cr_assert(zero(int, w.n_responses));
    /* and a call still open when the client is destroyed */
    (void)http_client_start(w.client, &r, on_response, &w);
    timer_in_ms(w.timer, 50);
    reactor_run(w.reactor);
    world_close(&w);
    cr_assert(zero(int, w.n_responses));
}

Test(http_client, many_calls_at_once)
{
    struct world w;
    world_open(&w);
    struct http_request r = request_for(&w, "POST", "/echo");
    r.body = "x";
    r.body_length = 1;
    w.wanted = 200;
    for (int i = 0; i < w.wanted; i++) {
        cr_assert(not(zero(ptr, http_client_start(w.client, &r, on_response, &w))));
    }
    reactor_run(w.reactor);
    cr_assert(eq(int, w.n_responses, 200));
    cr_assert(eq(int, w.n_requests, 200));
    world_close(&w);
}

Test(http_client, a_bad_url_is_refused)
{
    struct world w;
    world_open(&w);
    struct http_request r = request_for(&w, "GET", "/");
    static const char *const bad[] = { "",         "127.0.0.1",   "file:///etc/passwd",
                                       "ftp://a/", "http://a b/", "http://:80/" };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        r.url = bad[i];
        cr_assert(zero(ptr, http_client_start(w.client, &r, on_response, &w)), "%s", bad[i]);
    }
    world_close(&w);
}

/* Each piece is answered by the next, and the last one by the end. */
static void
on_bytes(void *context, const void *bytes, size_t length)
{
    struct world *w = context;
    size_t used = strlen(w->heard);
    (void)snprintf(w->heard + used, sizeof w->heard - used, "%.*s|", (int)length,
                   (const char *)bytes);
    if (w->cancels) {
        http_call_cancel(&w->call);
        timer_in_ms(w->timer, 50);
    } else if (strstr(w->heard, "two") == NULL) {
        cr_assert(http_stream_send(w->stream, "two", 3));
    } else {
        http_stream_end(w->stream);
    }
}

Test(http_client, a_stream_is_handed_over_as_it_comes)
{
    struct world w;
    world_open(&w);
    struct http_request r = request_for(&w, "GET", "/stream");
    r.on_bytes = on_bytes;
    run_one(&w, &r);
    cr_assert(eq(str, w.heard, (char *)"one|two|"));
    cr_assert(eq(int, w.status, 200));
    cr_assert(zero(sz, w.length), "the response has no body then");
    r = request_for(&w, "GET", "/refused");
    r.on_bytes = on_bytes;
    w.heard[0] = '\0';
    run_one(&w, &r);
    cr_assert(eq(int, w.status, 503));
    cr_assert(eq(str, w.text, (char *)"full"));
    cr_assert(zero(sz, strlen(w.heard)), "a refusal is no stream");
    world_close(&w);
}

Test(http_client, a_stream_may_be_cancelled_while_it_is_heard)
{
    struct world w;
    world_open(&w);
    struct http_request r = request_for(&w, "GET", "/stream");
    r.on_bytes = on_bytes;
    w.cancels = true;
    w.call = http_client_start(w.client, &r, on_response, &w);
    reactor_run(w.reactor);
    cr_assert(eq(str, w.heard, (char *)"one|"));
    cr_assert(zero(int, w.n_responses));
    cr_assert(eq(int, w.n_gone, 1));
    world_close(&w);
}

static void
on_bytes_kept(void *context, const void *bytes, size_t length)
{
    struct world *w = context;
    (void)snprintf(w->heard, sizeof w->heard, "%.*s", (int)length, (const char *)bytes);
}

Test(http_client, a_stream_that_falls_silent_is_timed_out)
{
    struct world w;
    world_open(&w);
    struct http_request r = request_for(&w, "GET", "/stream");
    r.on_bytes = on_bytes_kept;
    r.limit_ms = 20000;
    r.quiet_ms = 1000;
    run_one(&w, &r);
    cr_assert(eq(int, w.error, ETIMEDOUT));
    cr_assert(eq(str, w.heard, (char *)"one"));
    world_close(&w);
}
