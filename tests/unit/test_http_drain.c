#include "common/clock.h"
#include "common/http_server.h"
#include "common/limits.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REPLY_MAX = 4096, PATIENCE_MS = 5000 };

static const char hello[] = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";

/* A server, and clients whose sockets never block: the loop is turned between their words. */
struct world {
    struct reactor *reactor;
    struct timer *pause;
    struct http_server *server;
    struct http_exchange *held;
    uint16_t port;
    int n_requests, n_closed, n_drained, n_gone;
    int64_t closed_ms, drained_ms;
};

static void
on_pause(void *context)
{
    struct world *w = context;
    reactor_stop(w->reactor, 0);
}

static void
turn_ms(struct world *w, int64_t ms)
{
    timer_in_ms(w->pause, ms);
    reactor_run(w->reactor);
}

static void
on_closed(void *context)
{
    struct world *w = context;
    w->n_closed++;
    w->closed_ms = clock_mono_ms();
}

static void
on_drained(void *context)
{
    struct world *w = context;
    w->n_drained++;
    w->drained_ms = clock_mono_ms();
}

static void
on_gone(void *context)
{
    struct world *w = context;
    w->n_gone++;
    w->held = NULL;
}

static void
on_request(void *context, struct http_exchange *exchange)
{
    struct world *w = context;
    const char *path = http_path(exchange);
    size_t length = 0;
    w->n_requests++;
    if (strcmp(path, "/hold") == 0) {
        http_on_gone(exchange, on_gone, w);
        w->held = exchange;
    } else if (strcmp(path, "/stream") == 0) {
        http_on_gone(exchange, on_gone, w);
        http_stream_start(exchange);
        http_stream_send(exchange, "data: 1\n\n", 9);
    } else {
        const void *body = http_body(exchange, &length);
        http_respond(exchange, 200, "text/plain", length > 0 ? body : "hello",
                     length > 0 ? length : 5);
    }
}

static void
world_open(struct world *w, uint32_t parallel_max)
{
    const struct http_server_config config = { .host = "127.0.0.1",
                                               .body_max = 1000,
                                               .parallel_max = parallel_max,
                                               .on_request = on_request,
                                               .context = w };
    process_setup();
    *w = (struct world){ 0 };
    cr_assert(zero(int, reactor_new(&w->reactor, false)));
    cr_assert(zero(int, timer_new(&w->pause, w->reactor, on_pause, w)));
    cr_assert(zero(int, http_server_new(&w->server, w->reactor, &config)));
    w->port = http_server_port(w->server);
}

static void
world_close(struct world *w)
{
    http_server_destroy(&w->server);
    timer_destroy(&w->pause);
    reactor_destroy(&w->reactor);
}

static void
drain(struct world *w, int64_t linger_ms, int64_t limit_ms)
{
    const struct http_drain order = { .linger_ms = linger_ms,
                                      .limit_ms = limit_ms,
                                      .on_closed = on_closed,
                                      .done = on_drained,
                                      .context = w };
    http_server_drain(w->server, &order);
}

/* 0 or errno. The kernel takes a connection before anybody accepts it. */
static int
call(uint16_t port, int *fd)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(*fd, (struct sockaddr *)&a, sizeof a) == 0 ? 0 : errno;
}

/* A client whose connection is accepted. */
static int
client(struct world *w)
{
    int fd = -1;
    int rc = call(w->port, &fd);
    cr_assert(zero(int, rc), "connect: %s", strerror(rc));
    turn_ms(w, 5);
    return fd;
}

static void
say(int fd, const char *text)
{
    cr_assert(eq(sz, (size_t)send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text)));
}

/* Turns the loop until the client has heard `wanted`, or the end if it is NULL. */
static void
hear(struct world *w, int fd, const char *wanted, char reply[REPLY_MAX])
{
    size_t used = strlen(reply);
    int64_t end_ms = clock_mono_ms() + PATIENCE_MS;
    ssize_t n = -1;
    while (n != 0 && (wanted == NULL || strstr(reply, wanted) == NULL)) {
        cr_assert(clock_mono_ms() < end_ms, "only \"%s\" was heard", reply);
        n = recv(fd, reply + used, REPLY_MAX - 1 - used, MSG_DONTWAIT);
        cr_assert(n >= 0 || errno == EAGAIN, "after \"%s\": %s", reply, strerror(errno));
        used += n > 0 ? (size_t)n : 0;
        reply[used] = '\0';
        if (n < 0) {
            turn_ms(w, 2);
        }
    }
    cr_assert(wanted == NULL || strstr(reply, wanted) != NULL, "the end came after \"%s\"", reply);
}

static void
turn_until(struct world *w, const int *n)
{
    int64_t end_ms = clock_mono_ms() + PATIENCE_MS;
    while (*n == 0) {
        cr_assert(clock_mono_ms() < end_ms, "it did not come");
        turn_ms(w, 2);
    }
}

Test(http_drain, answers_what_is_held_and_closes)
{
    struct world w;
    char reply[REPLY_MAX] = "";
    world_open(&w, 0);
    int fd = client(&w);
    say(fd, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    turn_until(&w, &w.n_requests);
    drain(&w, 0, 3000);
    turn_until(&w, &w.n_closed);
    turn_ms(&w, 2 * LIMIT_HTTP_LINGER_MS);
    cr_assert(zero(int, w.n_drained), "not before its answer");
    http_respond(w.held, 200, "text/plain", "late", 4);
    hear(&w, fd, NULL, reply);
    cr_assert(strstr(reply, "Connection: close") && strstr(reply, "late"), "%s", reply);
    turn_until(&w, &w.n_drained);
    cr_assert(eq(int, w.n_closed, 1));
    close(fd);
    world_close(&w);
}

Test(http_drain, while_it_lingers_clients_are_let_in_and_told_to_close)
{
    struct world w;
    world_open(&w, 0);
    int64_t begin_ms = clock_mono_ms();
    drain(&w, 300, 3000);
    for (int i = 0; i < 2; i++) {
        char reply[REPLY_MAX] = "";
        int fd = client(&w);
        say(fd, hello);
        hear(&w, fd, NULL, reply);
        cr_assert(strstr(reply, "200 OK") && strstr(reply, "Connection: close"), "%s", reply);
        close(fd);
    }
    cr_assert(zero(int, w.n_closed));
    turn_until(&w, &w.n_closed);
    cr_assert(w.closed_ms - begin_ms >= 300, "closed after %lld ms",
              (long long)(w.closed_ms - begin_ms));
    turn_until(&w, &w.n_drained);
    int fd = -1;
    cr_assert(eq(int, call(w.port, &fd), ECONNREFUSED));
    close(fd);
    world_close(&w);
}

Test(http_drain, who_is_in_the_kernels_queue_at_the_close_is_served)
{
    enum { N = 40 };
    struct world w;
    int fds[N];
    world_open(&w, 0);
    for (int i = 0; i < N; i++) { /* nobody accepts: the loop does not turn */
        cr_assert(zero(int, call(w.port, &fds[i])));
        say(fds[i], hello);
    }
    drain(&w, 0, 3000);
    for (int i = 0; i < N; i++) {
        char reply[REPLY_MAX] = "";
        hear(&w, fds[i], NULL, reply);
        cr_assert(strstr(reply, "200 OK") != NULL, "%d: %s", i, reply);
        close(fds[i]);
    }
    turn_until(&w, &w.n_drained);
    world_close(&w);
}

Test(http_drain, the_queue_of_a_door_with_few_places_is_served_before_it_closes)
{
    enum { N = 5 };
    struct world w;
    int fds[N];
    world_open(&w, 1);
    for (int i = 0; i < N; i++) {
        cr_assert(zero(int, call(w.port, &fds[i])));
        say(fds[i], hello);
    }
    drain(&w, 0, 3000);
    for (int i = 0; i < N; i++) {
        char reply[REPLY_MAX] = "";
        hear(&w, fds[i], NULL, reply);
        cr_assert(strstr(reply, "200 OK") != NULL, "%d: %s", i, reply);
        close(fds[i]);
    }
    turn_until(&w, &w.n_drained);
    world_close(&w);
}

Test(http_drain, a_request_of_which_a_part_has_come_is_waited_for)
{
    struct world w;
    char reply[REPLY_MAX] = "";
    world_open(&w, 0);
    int fd = client(&w);
    say(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nfir");
    turn_ms(&w, 20);
    drain(&w, 0, 3000);
    turn_until(&w, &w.n_closed);
    turn_ms(&w, 4 * LIMIT_HTTP_LINGER_MS);
    cr_assert(zero(int, w.n_drained));
    say(fd, "st!");
    hear(&w, fd, NULL, reply);
    cr_assert(strstr(reply, "first!") != NULL, "%s", reply);
    turn_until(&w, &w.n_drained);
    close(fd);
    world_close(&w);
}

Test(http_drain, a_new_connection_has_time_for_its_first_request_but_not_for_ever)
{
    struct world w;
    char reply[REPLY_MAX] = "";
    world_open(&w, 0);
    int slow = client(&w);
    int mute = client(&w);
    int64_t begin_ms = clock_mono_ms();
    drain(&w, 0, 5000);
    turn_until(&w, &w.n_closed);
    turn_ms(&w, 2 * LIMIT_HTTP_LINGER_MS);
    say(slow, hello);
    hear(&w, slow, NULL, reply);
    cr_assert(strstr(reply, "200 OK") != NULL, "%s", reply);
    turn_until(&w, &w.n_drained);
    cr_assert(w.drained_ms - begin_ms >= LIMIT_HTTP_FIRST_MS / 2, "the mute one has its time");
    cr_assert(w.drained_ms - begin_ms < 2 * LIMIT_HTTP_FIRST_MS, "and no more");
    close(slow);
    close(mute);
    world_close(&w);
}

Test(http_drain, an_idle_connection_sees_the_end_when_it_is_over)
{
    struct world w;
    char reply[REPLY_MAX] = "";
    world_open(&w, 0);
    int fd = client(&w);
    say(fd, hello);
    hear(&w, fd, "hello", reply);
    cr_assert(zero(ptr, strstr(reply, "Connection: close")));
    drain(&w, 50, 3000);
    turn_until(&w, &w.n_drained);
    reply[0] = '\0';
    hear(&w, fd, NULL, reply); /* the server is not destroyed yet */
    cr_assert(zero(sz, strlen(reply)));
    close(fd);
    world_close(&w);
}

Test(http_drain, streams_end_at_the_close_and_one_that_begins_later_after_its_first_events)
{
    struct world w;
    char early[REPLY_MAX] = "";
    char late[REPLY_MAX] = "";
    static const char stream[] = "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n";
    world_open(&w, 0);
    int first = client(&w);
    int second = client(&w);
    say(first, stream);
    hear(&w, first, "data: 1", early);
    say(second, "GET /stre"); /* keeps its connection */
    turn_ms(&w, 10);
    drain(&w, 100, 3000);
    turn_ms(&w, 50);
    cr_assert(zero(int, w.n_gone), "a stream goes on while it lingers");
    hear(&w, first, "0\r\n\r\n", early);
    cr_assert(eq(int, w.n_gone, 1));
    say(second, "am HTTP/1.1\r\nHost: a\r\n\r\n");
    hear(&w, second, NULL, late);
    cr_assert(strstr(late, "data: 1") && strstr(late, "0\r\n\r\n"), "%s", late);
    turn_until(&w, &w.n_drained);
    cr_assert(eq(int, w.n_gone, 2));
    close(first);
    close(second);
    world_close(&w);
}

Test(http_drain, one_that_opens_later_lets_clients_wait_and_a_drain_serves_them)
{
    struct http_server_config config = {
        .host = "127.0.0.1", .body_max = 1000, .opens_later = true, .on_request = on_request
    };
    for (int drains = 0; drains < 2; drains++) {
        struct world w;
        char reply[REPLY_MAX] = "";
        world_open(&w, 0);
        http_server_destroy(&w.server);
        config.context = &w;
        cr_assert(zero(int, http_server_new(&w.server, w.reactor, &config)));
        w.port = http_server_port(w.server);
        int fd = client(&w);
        say(fd, hello);
        turn_ms(&w, 50);
        cr_assert(zero(int, w.n_requests), "not yet");
        drains ? drain(&w, 0, 3000) : http_server_open(w.server);
        hear(&w, fd, "hello", reply);
        cr_assert(strstr(reply, "200 OK") != NULL, "%s", reply);
        close(fd);
        world_close(&w);
    }
}

Test(http_drain, its_limit_ends_it_whoever_waits)
{
    struct world w;
    world_open(&w, 0);
    int fd = client(&w);
    say(fd, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    turn_until(&w, &w.n_requests);
    int64_t begin_ms = clock_mono_ms();
    drain(&w, 0, 400);
    turn_until(&w, &w.n_drained);
    cr_assert(w.drained_ms - begin_ms >= 400);
    cr_assert(eq(int, w.n_closed, 1));
    close(fd);
    world_close(&w);
}

/* -- a client that connects as fast as it can -- */

struct hammer {
    uint16_t port;
    atomic_bool refused;
    int n_served, n_broken, last_errno;
};

static void *
hammer_main(void *context)
{
    struct hammer *self = context;
    const struct timeval patience = { 8, 0 };
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(self->port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    while (!self->refused) {
        char reply[REPLY_MAX];
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
            self->refused = true;
            self->n_broken += errno != ECONNREFUSED;
        } else if (send(fd, hello, sizeof hello - 1, MSG_NOSIGNAL) > 0 &&
                   recv(fd, reply, sizeof reply, 0) > 0) {
            self->n_served++;
        } else {
            self->n_broken++;
            self->last_errno = errno;
        }
        close(fd);
    }
    return NULL;
}

Test(http_drain, a_client_that_connects_at_any_moment_is_served_or_refused_never_reset)
{
    enum { ROUNDS = 4, HAMMERS = 3 };
    for (int round = 0; round < ROUNDS; round++) {
        struct world w;
        pthread_t threads[HAMMERS];
        struct hammer hammers[HAMMERS];
        world_open(&w, 0);
        for (int i = 0; i < HAMMERS; i++) {
            hammers[i] = (struct hammer){ .port = w.port };
            cr_assert(zero(int, pthread_create(&threads[i], NULL, hammer_main, &hammers[i])));
        }
        turn_ms(&w, 20);
        drain(&w, 0, 3000);
        turn_until(&w, &w.n_drained);
        for (int i = 0; i < HAMMERS; i++) {
            cr_assert(zero(int, pthread_join(threads[i], NULL)));
            cr_assert(zero(int, hammers[i].n_broken), "after %d served: %s", hammers[i].n_served,
                      strerror(hammers[i].last_errno));
        }
        world_close(&w);
    }
}
