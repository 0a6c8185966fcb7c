#include "common/clock.h"
#include "common/helper_thread.h"
#include "common/http_server.h"
#include "common/limits.h"
#include "common/scope.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BODY_MAX = 100000, REPLY_MAX = 256 * 1024 };

/* One server and one client, the client blocking on a thread of its own. */
struct world {
    struct reactor *reactor;
    struct helper_thread *client;
    struct http_server *server;
    struct timer *later;
    struct http_exchange *held[8];
    int n_held, n_gone, n_requests;
    bool stream_refused;
};

struct talk {
    uint16_t port;
    const char *says; /* sent at once */
    size_t length;    /* 0: strlen(says) */
    const char *then; /* not NULL: sent 50 ms later */
    bool waits;       /* opens a connection before, and closes it after 600 ms */
    bool early;       /* something was received by then */
    int drip_ms;      /* > 0: a byte each so many milliseconds */
    int leave_ms;     /* > 0: leaves after this long, without reading */
    int gulp;         /* > 0: the size of the receive buffer, and nothing is read for a second */
    char reply[REPLY_MAX];
    size_t received;
    int64_t took_ms;
    struct world *world;
};

static int
connect_to(const struct talk *talk)
{
    const struct timeval patience = { 8, 0 };
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(talk->port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (talk->gulp > 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &talk->gulp, sizeof talk->gulp);
    }
    return connect(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

static void
client_work(void *context)
{
    struct talk *talk = context;
    int64_t start_ms = clock_mono_ms();
    int before = talk->waits ? connect_to(talk) : -1;
    int fd = connect_to(talk);
    size_t length = talk->length > 0 ? talk->length : strlen(talk->says);
    for (size_t i = 0; i < length && talk->drip_ms > 0; i++) {
        if (send(fd, talk->says + i, 1, MSG_NOSIGNAL) < 0) {
            break;
        }
        usleep((unsigned)talk->drip_ms * 1000);
    }
    if (talk->drip_ms == 0) {
        (void)!send(fd, talk->says, length, MSG_NOSIGNAL);
    }
    if (talk->then != NULL) {
        usleep(50 * 1000);
        (void)!send(fd, talk->then, strlen(talk->then), MSG_NOSIGNAL);
    }
    if (talk->waits) {
        char byte = 0;
        usleep(600 * 1000);
        talk->early = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
        close(before);
    }
    if (talk->leave_ms > 0) {
        usleep((unsigned)talk->leave_ms * 1000);
        close(fd);
        usleep(100 * 1000); /* the server's time to notice */
        return;
    }
    if (talk->gulp > 0) {
        usleep(1000 * 1000);
    }
    ssize_t n = 0;
    while ((n = recv(fd, talk->reply + talk->received, REPLY_MAX - 1 - talk->received, 0)) > 0) {
        talk->received += (size_t)n;
    }
    talk->reply[talk->received] = '\0';
    talk->took_ms = clock_mono_ms() - start_ms;
    close(fd);
}

static void
client_done(void *context)
{
    struct talk *talk = context;
    reactor_stop(talk->world->reactor, 0);
}

static void
gone(void *context)
{
    struct world *w = context;
    w->n_gone++;
    w->n_held = 0;
}

static void
answer_held(void *context)
{
    struct world *w = context;
    for (int i = 0; i < w->n_held; i++) {
        http_respond(w->held[i], 200, "text/plain", "late", 4);
    }
    w->n_held = 0;
}

static void
flood(void *context)
{
    struct world *w = context;
    static char event[8192];
    memset(event, 'e', sizeof event);
    for (int i = 0; i < 4096; i++) {
        if (!http_stream_send(w->held[0], event, sizeof event)) {
            w->stream_refused = true;
            w->n_held = 0;
            return;
        }
    }
}

static void
on_request(void *context, struct http_exchange *exchange)
{
    struct world *w = context;
    const char *path = http_path(exchange);
    char text[64];
    size_t length = 0;
    w->n_requests++;
    if (strcmp(path, "/hello") == 0) {
        http_add_header(exchange, "X-Query", http_query(exchange));
        http_respond(exchange, 200, "text/plain", "hello", 5);
    } else if (strcmp(path, "/echo") == 0) {
        const void *body = http_body(exchange, &length);
        http_respond(exchange, 201, "application/octet-stream", body, length);
    } else if (strcmp(path, "/take") == 0) {
        http_respond_take(exchange, 200, "text/plain", strdup("taken"), 5);
    } else if (strcmp(path, "/empty") == 0) {
        http_respond(exchange, 204, NULL, NULL, 0);
    } else if (strcmp(path, "/arg") == 0) {
        bool found = http_query_get(exchange, "a", text, sizeof text);
        http_respond(exchange, found ? 200 : 422, NULL, text, strlen(text));
    } else if (strcmp(path, "/hold") == 0 || strcmp(path, "/late") == 0) {
        http_on_gone(exchange, gone, w);
        w->held[w->n_held++] = exchange;
        if (path[1] == 'l') {
            timer_in_ms(w->later, 100);
        }
    } else if (strcmp(path, "/stream") == 0 || strcmp(path, "/flood") == 0) {
        http_on_gone(exchange, gone, w);
        http_stream_start(exchange);
        http_stream_send(exchange, "data: 1\n\n", 9);
        http_stream_send(exchange, "data: 2\n\n", 9);
        if (path[1] == 'f') {
            w->held[0] = exchange;
            flood(w);
        } else if (strcmp(http_query(exchange), "stay") != 0) {
            http_stream_end(exchange);
        }
    } else {
        http_respond(exchange, 404, NULL, NULL, 0);
    }
}

static void
world_open(struct world *w, int64_t request_ms, uint32_t parallel_max)
{
    const struct http_server_config config = { .host = "127.0.0.1",
                                               .body_max = BODY_MAX,
                                               .parallel_max = parallel_max,
                                               .request_ms = request_ms,
                                               .on_request = on_request,
                                               .context = w };
    process_setup();
    *w = (struct world){ 0 };
    cr_assert(zero(int, reactor_new(&w->reactor, false)));
    cr_assert(zero(int, timer_new(&w->later, w->reactor, answer_held, w)));
    cr_assert(zero(int, helper_thread_new(&w->client, w->reactor)));
    cr_assert(zero(int, http_server_new(&w->server, w->reactor, &config)));
}

static void
world_close(struct world *w)
{
    http_server_destroy(&w->server);
    helper_thread_destroy(&w->client);
    timer_destroy(&w->later);
    reactor_destroy(&w->reactor);
}

static void
talk_to(struct world *w, struct talk *talk)
{
    talk->world = w;
    talk->port = http_server_port(w->server);
    cr_assert(zero(int, helper_thread_run(w->client, client_work, client_done, talk)));
    reactor_run(w->reactor);
}

/* A world for one exchange of bytes; the reply is the caller's to free. */
static char *
reply_to_two(const char *says, const char *then)
{
    struct world w;
    struct talk *talk = calloc(1, sizeof *talk);
    talk->says = says;
    talk->then = then;
    world_open(&w, 0, 0);
    talk_to(&w, talk);
    world_close(&w);
    char *reply = strdup(talk->reply);
    free(talk);
    return reply;
}

static char *
reply_to(const char *says)
{
    return reply_to_two(says, NULL);
}

static void
expect(const char *says, const char *status, const char *holds)
{
    char *reply = reply_to(says);
    cr_assert(strncmp(reply, status, strlen(status)) == 0, "%s\n->\n%s", says, reply);
    cr_assert(strstr(reply, holds) != NULL, "%s\n->\n%s", says, reply);
    free(reply);
}

#define END     "Host: a\r\nConnection: close\r\n\r\n"
#define PROBLEM "application/problem+json"

Test(http_server, a_get_is_answered)
{
    char *reply = reply_to("GET /hello?x=1 HTTP/1.1\r\n" END);
    cr_assert(strncmp(reply, "HTTP/1.1 200 OK\r\n", 17) == 0, "%s", reply);
    cr_assert(strstr(reply, "\r\nX-Query: x=1\r\n") && strstr(reply, "\r\nDate: "), "%s", reply);
    cr_assert(strstr(reply, "\r\nContent-Length: 5\r\n") && strstr(reply, "\r\n\r\nhello"));
    cr_assert(strstr(reply, "Server:") == NULL, "%s", reply);
    free(reply);
    expect("GET /take HTTP/1.1\r\n" END, "HTTP/1.1 200 OK", "\r\n\r\ntaken");
    expect("GET /none HTTP/1.1\r\n" END, "HTTP/1.1 404 Not Found", "Content-Length: 0");
}

Test(http_server, an_empty_answer_has_no_length)
{
    char *reply = reply_to("GET /empty HTTP/1.1\r\n" END);
    cr_assert(strncmp(reply, "HTTP/1.1 204 No Content", 23) == 0, "%s", reply);
    cr_assert(strstr(reply, "Content-") == NULL, "%s", reply);
    free(reply);
}

Test(http_server, head_has_a_length_and_no_body)
{
    char *reply = reply_to("HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /take HTTP/1.1\r\n" END);
    char *second = strstr(reply, "\r\n\r\nHTTP/1.1 200 OK");
    cr_assert(strstr(reply, "Content-Length: 5\r\n") != NULL, "%s", reply);
    cr_assert(second != NULL && strstr(second, "taken") != NULL, "%s", reply);
    cr_assert(strstr(reply, "hello") == NULL, "%s", reply);
    free(reply);
}

Test(http_server, arguments_are_decoded_or_refused)
{
    expect("GET /arg?b=0&a=%41+b%2B HTTP/1.1\r\n" END, "HTTP/1.1 200", "\r\n\r\nA b+");
    expect("GET /arg?a HTTP/1.1\r\n" END, "HTTP/1.1 200", "Content-Length: 0");
    expect("GET /arg?b=0 HTTP/1.1\r\n" END, "HTTP/1.1 422", "Content-Length: 0");
    expect("GET /arg?a=%4 HTTP/1.1\r\n" END, "HTTP/1.1 422", "Content-Length: 0");
    expect("GET /arg?a=%zz HTTP/1.1\r\n" END, "HTTP/1.1 422", "Content-Length: 0");
    expect("GET /arg?a=b%00 HTTP/1.1\r\n" END, "HTTP/1.1 422", "Content-Length: 0");
    expect("GET /arg?a=0123456789012345678901234567890123456789012345678901234567890123 "
           "HTTP/1.1\r\n" END,
           "HTTP/1.1 422", "Content-Length: 0");
}

Test(http_server, doubtful_framing_is_refused)
{
    const char *bad = "HTTP/1.1 400 Bad Request";
#define POST "POST /echo HTTP/1.1\r\nHost: a\r\n"
    expect(POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", bad, PROBLEM);
    expect(POST "Content-Length : 3\r\n\r\nabc", bad, PROBLEM);
    expect(POST "Content-Length: +3\r\n\r\nabc", bad, PROBLEM);
    expect(POST "Content-Length:\t3\r\n\r\nabc", bad, PROBLEM);
    expect(POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", bad, PROBLEM);
    expect(POST "Host: b\r\nContent-Length: 3\r\n\r\nabc", bad, PROBLEM);
    expect(POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", bad, "");
    expect("POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", bad, PROBLEM);
    expect("GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", bad, PROBLEM);
    expect("DELETE /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", bad, PROBLEM);
    expect("GET /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", bad,
           PROBLEM);
    expect("GET /hello HTTP/1.1\r\nHo(st: a\r\nHost: a\r\n\r\n", bad, PROBLEM);
}

Test(http_server, a_path_starts_with_one_slash_and_is_plain)
{
    const char *bad = "HTTP/1.1 400 Bad Request";
    expect("GET //evil/hello HTTP/1.1\r\n" END, bad, PROBLEM);
    expect("GET hello HTTP/1.1\r\n" END, bad, PROBLEM);
    expect("OPTIONS * HTTP/1.1\r\n" END, bad, PROBLEM);
    expect("GET /hel\xc3\xa9 HTTP/1.1\r\n" END, bad, "");
    expect("GET /hel\tlo HTTP/1.1\r\n" END, bad, "");
    expect("GET /hello#x HTTP/1.1\r\n" END, bad, PROBLEM);
    expect("GET http://a/hello HTTP/1.1\r\n" END, "HTTP/1.1 200", "hello");
    expect("GET /hel%6co HTTP/1.1\r\n" END, "HTTP/1.1 404", "");
    expect("BREW /hello HTTP/1.1\r\n" END, "HTTP/1.1 501", "");
}

Test(http_server, a_body_up_to_the_limit_is_taken)
{
    static char request[BODY_MAX + 4096];
    for (int length = BODY_MAX; length <= BODY_MAX + 1; length++) {
        int n = snprintf(request, sizeof request,
                         "PUT /echo HTTP/1.1\r\nContent-Length: %d\r\n" END, length);
        memset(request + n, 'b', (size_t)length);
        request[n + length] = '\0';
        expect(request, length == BODY_MAX ? "HTTP/1.1 201" : "HTTP/1.1 413",
               length == BODY_MAX ? "bbbb" : PROBLEM);
    }
    expect("PUT /echo HTTP/1.1\r\nContent-Length: 99999999999\r\n" END, "HTTP/1.1 413", "");
    expect("PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" END "3\r\nabc\r\n0\r\n\r\n",
           "HTTP/1.1 201", "\r\n\r\nabc");
}

Test(http_server, pipelined_requests_are_answered_in_order)
{
    char *reply = reply_to("GET /late HTTP/1.1\r\nHost: a\r\n\r\n"
                           "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
                           "GET /hello HTTP/1.1\r\n" END);
    char *late = strstr(reply, "\r\n\r\nlate");
    char *echo = late == NULL ? NULL : strstr(late, "\r\n\r\nabc");
    cr_assert(echo != NULL && strstr(echo, "\r\n\r\nhello") != NULL, "%s", reply);
    free(reply);
}

Test(http_server, a_large_body_may_follow_an_answer)
{
    static char request[BODY_MAX + 4096];
    int n = snprintf(request, sizeof request, "PUT /echo HTTP/1.1\r\nContent-Length: %d\r\n" END,
                     BODY_MAX);
    memset(request + n, 'b', BODY_MAX);
    cr_assert(gt(int, BODY_MAX, LIMIT_HTTP_HELD_READ), "more than may be read ahead");
    char *reply = reply_to_two("GET /late HTTP/1.1\r\nHost: a\r\n\r\n", request);
    cr_assert(gt(u64, strlen(reply), BODY_MAX));
    free(reply);
}

Test(http_server, a_held_request_sees_its_client_leave)
{
    struct world w;
    struct talk *talk = calloc(1, sizeof *talk);
    talk->says = "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n";
    talk->leave_ms = 50;
    world_open(&w, 0, 0);
    talk_to(&w, talk);
    cr_assert(eq(int, w.n_gone, 1));
    cr_assert(zero(u32, http_server_in_flight(w.server)));
    /* and with bytes of a further request behind it, which would end the process of a naive server
     */
    talk->says = "GET /hold HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\n" END;
    talk_to(&w, talk);
    cr_assert(eq(int, w.n_gone, 2));
    talk->says = "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n";
    talk->then = "GET /hello HTTP/1.1\r\n" END;
    talk_to(&w, talk);
    cr_assert(eq(int, w.n_gone, 3));
    cr_assert(eq(int, w.n_requests, 3), "what came after a lost request is not looked at");
    world_close(&w);
    free(talk);
}

Test(http_server, what_is_held_at_destroy_is_told)
{
    struct world w;
    struct talk *talk = calloc(1, sizeof *talk);
    talk->says = "GET /late HTTP/1.1\r\n" END;
    world_open(&w, 0, 0);
    talk_to(&w, talk);
    talk->says = "GET /stream?stay HTTP/1.1\r\nHost: a\r\n\r\n";
    talk->world = &w;
    talk->received = 0;
    cr_assert(zero(int, helper_thread_run(w.client, client_work, client_done, talk)));
    for (int i = 0; i < 100 && w.n_requests < 2; i++) {
        event_base_loop(reactor_base(w.reactor), EVLOOP_ONCE);
    }
    cr_assert(zero(int, w.n_gone));
    http_server_destroy(&w.server);
    cr_assert(eq(int, w.n_gone, 1));
    world_close(&w);
    free(talk);
}

Test(http_server, a_stream_is_chunked_and_ends)
{
    char *reply = reply_to("GET /stream HTTP/1.1\r\n" END);
    cr_assert(strstr(reply, "Content-Type: text/event-stream\r\n") != NULL, "%s", reply);
    cr_assert(strstr(reply, "\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n") != NULL, "%s",
              reply);
    free(reply);
    reply = reply_to("HEAD /stream HTTP/1.1\r\n" END);
    cr_assert(strstr(reply, "text/event-stream") && !strstr(reply, "data:"), "%s", reply);
    free(reply);
}

Test(http_server, a_stream_sees_its_client_leave)
{
    struct world w;
    struct talk *talk = calloc(1, sizeof *talk);
    talk->says = "GET /stream?stay HTTP/1.1\r\nHost: a\r\n\r\n";
    talk->leave_ms = 50;
    world_open(&w, 0, 0);
    talk_to(&w, talk);
    cr_assert(eq(int, w.n_gone, 1));
    world_close(&w);
    free(talk);
}

Test(http_server, a_slow_reader_of_a_stream_is_closed)
{
    struct world w;
    struct talk *talk = calloc(1, sizeof *talk);
    talk->says = "GET /flood HTTP/1.1\r\nHost: a\r\n\r\n";
    talk->gulp = 4096;
    world_open(&w, 0, 0);
    talk_to(&w, talk);
    cr_assert(w.stream_refused);
    cr_assert(zero(int, w.n_gone), "the sender was told by the result");
    cr_assert(lt(u64, talk->received, REPLY_MAX - 1), "the connection was ended");
    talk->says = "GET /hello HTTP/1.1\r\n" END;
    talk->gulp = 0;
    talk->received = 0;
    talk_to(&w, talk);
    cr_assert(strstr(talk->reply, "hello") != NULL, "the server lives");
    world_close(&w);
    free(talk);
}

Test(http_server, a_dripping_client_is_cut_off)
{
    struct world w;
    struct talk *talk = calloc(1, sizeof *talk);
    world_open(&w, 500, 0);
    talk->says =
        "GET /hello HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    talk->drip_ms = 40;
    talk_to(&w, talk);
    cr_assert(zero(u64, talk->received));
    cr_assert(talk->took_ms >= 480 && talk->took_ms < 1500, "%d ms", (int)talk->took_ms);
    /* the same in the second request of a connection */
    talk->says = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
                 "GET /hello HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    talk->drip_ms = 12;
    talk_to(&w, talk);
    cr_assert(eq(int, w.n_requests, 1));
    cr_assert(talk->took_ms >= 800 && talk->took_ms < 2500, "%d ms", (int)talk->took_ms);
    /* a held request is not cut */
    talk->says = "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n";
    talk->drip_ms = 0;
    talk->leave_ms = 1200;
    talk_to(&w, talk);
    cr_assert(eq(int, w.n_gone, 1));
    world_close(&w);
    free(talk);
}

Test(http_server, accepting_pauses_at_parallel_max_and_goes_on)
{
    struct world w;
    struct talk *talks[4];
    world_open(&w, 0, 1);
    for (int i = 0; i < 4; i++) {
        talks[i] = calloc(1, sizeof *talks[i]);
        talks[i]->says =
            "GET /late HTTP/1.1\r\nHost: a\r\n\r\n"; /* keep-alive, and closed all the same */
        if (i == 1) {
            talks[i]->says = "NONSENSE\r\n\r\n"; /* evhttp closes this one without telling us */
        }
        talks[i]->waits = i == 3;
        talk_to(&w, talks[i]);
    }
    cr_assert(talks[3]->early == false,
              "the second connection is not accepted while the first is open");
    cr_assert(strstr(talks[3]->reply, "late") != NULL, "%s", talks[3]->reply);
    cr_assert(strstr(talks[0]->reply, "Connection: close") != NULL, "%s", talks[0]->reply);
    cr_assert(strstr(talks[2]->reply, "late") != NULL, "%s", talks[2]->reply);
    world_close(&w);
    for (int i = 0; i < 4; i++) {
        free(talks[i]);
    }
}

Test(http_server, a_busy_port_and_a_bad_host_are_errors)
{
    struct world w;
    struct http_server *second = NULL;
    world_open(&w, 0, 0);
    struct http_server_config config = { .host = "127.0.0.1", .on_request = on_request };
    config.port = http_server_port(w.server);
    cr_assert(eq(int, http_server_new(&second, w.reactor, &config), -EADDRINUSE));
    config.host = "not-an-address";
    cr_assert(eq(int, http_server_new(&second, w.reactor, &config), -EINVAL));
    cr_assert(zero(ptr, second));
    world_close(&w);
}
