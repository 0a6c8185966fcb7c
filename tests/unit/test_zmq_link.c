#include "common/clock.h"
#include "common/limits.h"
#include "common/scope.h"
#include "common/zmq_link.h"
#include <criterion/criterion.h>
#include <czmq.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

/* A ROUTER and a DEALER on one reactor; each test says what a message or a trouble does. */
struct world {
    struct reactor *reactor;
    struct zmq_link *router;
    struct zmq_link *dealer;
    struct timer *timer;
    struct timer *guard;
    struct zmq_peer peer;
    uint64_t n_router, n_dealer, n_turns, n_gone, n_lagging, n_ticks, expected;
    char last[64];
    size_t last_length;
    int64_t longest_gap_ms, last_tick_ms;
    bool echo, destroy_inside, flush_inside;
};

static void
on_guard(void *context)
{
    reactor_stop(((struct world *)context)->reactor, -ETIMEDOUT);
}

static void
remember(struct world *w, const void *bytes, size_t length)
{
    w->last_length = length;
    memcpy(w->last, bytes, length < sizeof w->last ? length : sizeof w->last);
}

static void
on_router(void *context, const struct zmq_peer *from, const void *bytes, size_t length)
{
    struct world *w = context;
    w->n_router++;
    w->peer = *from;
    remember(w, bytes, length);
    if (w->echo) {
        cr_assert_eq(zmq_link_send(w->router, from, bytes, length), 0);
    }
    if (w->flush_inside) {
        zmq_link_flush(w->router);
    }
    if (w->destroy_inside) {
        zmq_link_destroy(&w->router);
        cr_assert(w->router == NULL);
        reactor_stop(w->reactor, 0);
    } else if (w->expected > 0 && w->n_router == w->expected && !w->echo) {
        reactor_stop(w->reactor, 0);
    }
}

static void
on_dealer(void *context, const struct zmq_peer *from, const void *bytes, size_t length)
{
    struct world *w = context;
    cr_assert_eq(from->length, 0);
    w->n_dealer++;
    remember(w, bytes, length);
    if (w->n_dealer + w->n_lagging == w->expected) {
        reactor_stop(w->reactor, 0);
    }
}

static void
on_trouble(void *context, const struct zmq_peer *to, enum link_trouble trouble)
{
    struct world *w = context;
    cr_assert_gt(to->length, 0);
    w->n_gone += trouble == LINK_GONE;
    w->n_lagging += trouble == LINK_LAGGING;
    if (w->destroy_inside) {
        zmq_link_destroy(&w->router);
    }
    if (w->n_dealer + w->n_gone + w->n_lagging == w->expected) {
        reactor_stop(w->reactor, 0);
    }
}

static void
on_turn_end(void *context)
{
    ((struct world *)context)->n_turns++;
}

static void
on_tick(void *context)
{
    struct world *w = context;
    int64_t now_ms = clock_mono_ms();
    int64_t gap_ms = now_ms - w->last_tick_ms;
    w->longest_gap_ms = gap_ms > w->longest_gap_ms ? gap_ms : w->longest_gap_ms;
    w->last_tick_ms = now_ms;
    w->n_ticks++;
}

static const char *
address_of(uint16_t port)
{
    static _Thread_local char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    return address;
}

static int
connect_dealer(struct world *w, uint16_t port)
{
    struct zmq_link_events events = { .on_message = on_dealer, .context = w };
    return zmq_link_connect(&w->dealer, w->reactor, address_of(port), &events);
}

static int
bind_router(struct world *w, const char *host, uint16_t port)
{
    struct zmq_link_events events = {
        .on_message = on_router, .on_trouble = on_trouble, .on_turn_end = on_turn_end, .context = w
    };
    return zmq_link_bind(&w->router, w->reactor, host, port, &events);
}

static void
world_open(struct world *w)
{
    cr_assert_eq(reactor_new(&w->reactor, false), 0);
    cr_assert_eq(timer_new(&w->guard, w->reactor, on_guard, w), 0);
    cr_assert_eq(timer_new(&w->timer, w->reactor, on_tick, w), 0);
    timer_in_ms(w->guard, 10000);
    cr_assert_eq(bind_router(w, "127.0.0.1", 0), 0);
    cr_assert_gt(zmq_link_port(w->router), 0);
    cr_assert_eq(connect_dealer(w, zmq_link_port(w->router)), 0);
}

static void
world_close(struct world *w)
{
    zmq_link_destroy(&w->dealer);
    zmq_link_destroy(&w->router);
    timer_destroy(&w->guard);
    timer_destroy(&w->timer);
    reactor_destroy(&w->reactor);
}

#define WORLD(w) CLEANUP(world_close) struct world w = { .expected = 0 }

/* The dealer introduces itself, so that w->peer is known. */
static void
hello(struct world *w)
{
    w->expected = w->n_router + 1;
    cr_assert_eq(zmq_link_send(w->dealer, NULL, "hello", 5), 0);
    cr_assert_eq(reactor_run(w->reactor), 0);
    cr_assert_eq(w->peer.length, 5);
}

static void *
foreign_dealer(uint16_t port)
{
    char endpoint[64];
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_DEALER);
    snprintf(endpoint, sizeof endpoint, "tcp://%s", address_of(port));
    cr_assert_eq(zmq_connect(socket, endpoint), 0);
    return socket;
}

TestSuite(zmq_link, .init = process_setup);

Test(zmq_link, a_message_goes_there_and_back)
{
    WORLD(w);
    world_open(&w);
    w.echo = true;
    w.expected = 2;
    zmq_link_send(w.dealer, NULL, "", 0);
    zmq_link_send(w.dealer, NULL, "a\0b", 3);
    cr_assert_eq(reactor_run(w.reactor), 0);
    cr_assert_eq(w.last_length, 3);
    cr_assert_eq(memcmp(w.last, "a\0b", 3), 0);
    cr_assert_gt(w.n_turns, 0);
}

Test(zmq_link, a_flood_arrives_whole_and_starves_no_timer)
{
    enum { FLOOD = 100000 };
    WORLD(w);
    world_open(&w);
    hello(&w);
    w.echo = true;
    w.expected = FLOOD;
    w.n_router = 0;
    w.last_tick_ms = clock_mono_ms();
    timer_every_ms(w.timer, 5);
    char bytes[400] = "x";
    for (int i = 0; i < FLOOD; i++) {
        cr_assert_eq(zmq_link_send(w.dealer, NULL, bytes, sizeof bytes), 0);
    }
    w.last_tick_ms = clock_mono_ms();
    cr_assert_eq(reactor_run(w.reactor), 0);
    cr_assert_eq(w.n_router, FLOOD);
    cr_assert_eq(w.n_dealer + w.n_lagging, FLOOD, "each one came or was told of");
    cr_assert_gt(w.n_dealer, FLOOD / 2);
    cr_assert_geq(w.n_turns, FLOOD / LIMIT_LINK_BURST);
    cr_assert_lt(w.longest_gap_ms, 300, "%d ms without a tick", (int)w.longest_gap_ms);
}

Test(zmq_link, what_was_sent_before_anybody_listened_arrives)
{
    WORLD(w);
    world_open(&w);
    uint16_t port = zmq_link_port(w.router);
    zmq_link_destroy(&w.router);
    timer_in_ms(w.guard, 200); /* until the connection is gone: it would take the message with it */
    cr_assert_eq(reactor_run(w.reactor), -ETIMEDOUT);
    zmq_link_send(w.dealer, NULL, "early", 5);
    timer_in_ms(w.guard, 200);
    cr_assert_eq(reactor_run(w.reactor), -ETIMEDOUT);
    cr_assert_eq(bind_router(&w, "127.0.0.1", port), 0);
    w.expected = 1;
    timer_in_ms(w.guard, 5000);
    cr_assert_eq(reactor_run(w.reactor), 0);
    cr_assert_eq(memcmp(w.last, "early", 5), 0);
}

Test(zmq_link, a_peer_that_left_is_gone)
{
    WORLD(w);
    world_open(&w);
    hello(&w);
    zmq_link_destroy(&w.dealer);
    timer_in_ms(w.guard, 200);
    reactor_run(w.reactor);
    timer_in_ms(w.guard, 5000);
    w.expected = 1;
    zmq_link_send(w.router, &w.peer, "x", 1);
    cr_assert_eq(reactor_run(w.reactor), 0);
    cr_assert_eq(w.n_gone, 1);
    cr_assert_eq(w.n_lagging, 0);
}

Test(zmq_link, a_peer_that_does_not_read_is_lagging_and_others_are_served)
{
    WORLD(w);
    world_open(&w);
    void *deaf = foreign_dealer(zmq_link_port(w.router));
    int small = 10;
    zmq_setsockopt(deaf, ZMQ_RCVHWM, &small, sizeof small);
    zmq_send(deaf, "deaf", 4, 0);
    w.expected = 1;
    cr_assert_eq(reactor_run(w.reactor), 0);
    struct zmq_peer peer = w.peer;
    hello(&w);
    char bytes[2048] = "x";
    w.expected = 0;
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < LIMIT_HWM; i++) {
            cr_assert_eq(zmq_link_send(w.router, &peer, bytes, sizeof bytes), 0);
        }
        zmq_link_flush(w.router);
    }
    cr_assert_gt(w.n_lagging, 0);
    cr_assert_eq(w.n_gone, 0);
    w.n_lagging = 0;
    w.expected = 1;
    zmq_link_send(w.router, &w.peer, "still", 5);
    cr_assert_eq(reactor_run(w.reactor), 0);
    cr_assert_eq(memcmp(w.last, "still", 5), 0);
    zmq_close(deaf);
}

Test(zmq_link, messages_with_more_parts_are_dropped_and_counted)
{
    WORLD(w);
    world_open(&w);
    void *socket = foreign_dealer(zmq_link_port(w.router));
    zmq_send(socket, "", 0, ZMQ_SNDMORE);
    zmq_send(socket, "two", 3, ZMQ_SNDMORE);
    zmq_send(socket, "three", 5, 0);
    zmq_send(socket, "good", 4, 0);
    w.expected = 1;
    cr_assert_eq(reactor_run(w.reactor), 0);
    cr_assert_eq(w.n_router, 1);
    cr_assert_eq(memcmp(w.last, "good", 4), 0);
    cr_assert_eq(zmq_link_malformed(w.router), 1);
    zmq_close(socket);
}

Test(zmq_link, a_routing_id_over_the_limit_is_refused_and_one_at_it_is_served)
{
    WORLD(w);
    world_open(&w);
    char id[LIMIT_ROUTING_ID + 1] = "";
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "tcp://%s", address_of(zmq_link_port(w.router)));
    void *context = zmq_ctx_new();
    for (size_t length = sizeof id; length >= LIMIT_ROUTING_ID; length--) {
        void *socket = zmq_socket(context, ZMQ_DEALER);
        memset(id, 'i', sizeof id);
        zmq_setsockopt(socket, ZMQ_ROUTING_ID, id, length);
        zmq_connect(socket, endpoint);
        zmq_send(socket, "x", 1, 0);
        w.expected = 1;
        timer_in_ms(w.guard, length > LIMIT_ROUTING_ID ? 300 : 5000);
        cr_assert_eq(reactor_run(w.reactor), length > LIMIT_ROUTING_ID ? -ETIMEDOUT : 0);
        zmq_close(socket);
    }
    cr_assert_eq(w.peer.length, LIMIT_ROUTING_ID);
    cr_assert_eq(zmq_link_malformed(w.router), 1);
}

Test(zmq_link, a_frame_at_the_limit_passes_and_above_it_is_refused)
{
    static char bytes[LIMIT_FRAME_BYTES + 1];
    WORLD(w);
    world_open(&w);
    w.expected = 1;
    cr_assert_eq(zmq_link_send(w.dealer, NULL, bytes, LIMIT_FRAME_BYTES + 1), -EMSGSIZE);
    cr_assert_eq(zmq_link_send(w.dealer, NULL, bytes, LIMIT_FRAME_BYTES), 0);
    cr_assert_eq(reactor_run(w.reactor), 0);
    cr_assert_eq(w.last_length, LIMIT_FRAME_BYTES);
}

Test(zmq_link, unsent_messages_are_bounded)
{
    static char bytes[LIMIT_FRAME_BYTES];
    WORLD(w);
    world_open(&w);
    int n = 0;
    while (n < 1000 && zmq_link_send(w.dealer, NULL, bytes, sizeof bytes) == 0) {
        n++;
    }
    cr_assert_eq(n, LIMIT_LINK_UNSENT / LIMIT_FRAME_BYTES - 1);
    cr_assert_eq(zmq_link_send(w.dealer, NULL, bytes, sizeof bytes), -ENOBUFS);
    w.expected = (uint64_t)n;
    cr_assert_eq(reactor_run(w.reactor), 0, "%d of %d", (int)w.n_router, n);
}

Test(zmq_link, a_link_may_be_destroyed_inside_its_callbacks)
{
    WORLD(w);
    world_open(&w);
    w.destroy_inside = true;
    zmq_link_send(w.dealer, NULL, "a", 1);
    zmq_link_send(w.dealer, NULL, "b", 1);
    cr_assert_eq(reactor_run(w.reactor), 0);
    cr_assert_eq(w.n_router, 1);
    struct zmq_peer stranger = { .length = 5, .id = "abcd" };
    cr_assert_eq(bind_router(&w, "127.0.0.1", 0), 0);
    zmq_link_send(w.router, &stranger, "x", 1);
    zmq_link_send(w.router, &stranger, "y", 1);
    struct zmq_link *link = w.router;
    zmq_link_flush(link); /* on_trouble destroys it */
    cr_assert(w.router == NULL);
    cr_assert_eq(w.n_gone, 1);
}

Test(zmq_link, a_flush_inside_a_callback_does_no_harm)
{
    WORLD(w);
    world_open(&w);
    w.echo = true;
    w.flush_inside = true;
    w.expected = 1000;
    for (int i = 0; i < 1000; i++) {
        zmq_link_send(w.dealer, NULL, "x", 1);
    }
    zmq_link_flush(w.dealer);
    cr_assert_eq(reactor_run(w.reactor), 0);
}

Test(zmq_link, addresses_are_checked)
{
    static const char *const bad[] = { "",           "127.0.0.1",       ":5",
                                       "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:x",
                                       "::1:5000",   "a b:5",           "1.2.3.4;5.6.7.8:90" };
    WORLD(w);
    struct zmq_link_events events = { .on_message = on_dealer, .context = &w };
    world_open(&w);
    uint16_t port = zmq_link_port(w.router);
    zmq_link_destroy(&w.dealer);
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        int rc = zmq_link_connect(&w.dealer, w.reactor, bad[i], &events);
        cr_assert_eq(rc, -EINVAL, "\"%s\" gives %d", bad[i], rc);
        cr_assert(w.dealer == NULL);
    }
    struct zmq_link *first = w.router;
    w.router = NULL;
    cr_assert_eq(bind_router(&w, "127.0.0.1", port), -EADDRINUSE);
    cr_assert_eq(bind_router(&w, "", 0), -EINVAL);
    cr_assert_eq(bind_router(&w, "no.such.host", 0), -EINVAL);
    cr_assert_eq(bind_router(&w, "192.0.2.1", 0), -EADDRNOTAVAIL);
    w.router = first;
}

Test(zmq_link, ipv6_works)
{
    WORLD(w);
    char address[32];
    struct zmq_link_events events = { .on_message = on_dealer, .context = &w };
    world_open(&w);
    zmq_link_destroy(&w.dealer);
    zmq_link_destroy(&w.router);
    int rc = bind_router(&w, "::1", 0);
    if (rc == -EADDRNOTAVAIL || rc == -EAFNOSUPPORT) {
        cr_skip_test("no IPv6 here");
    }
    cr_assert_eq(rc, 0);
    snprintf(address, sizeof address, "[::1]:%u", (unsigned)zmq_link_port(w.router));
    cr_assert_eq(zmq_link_connect(&w.dealer, w.reactor, address, &events), 0);
    hello(&w);
}

static void *
one_thread(void *context)
{
    struct world w = { .echo = true, .expected = 1000 };
    world_open(&w);
    for (int i = 0; i < 1000; i++) {
        zmq_link_send(w.dealer, NULL, "x", 1);
    }
    *(int *)context = reactor_run(w.reactor);
    world_close(&w);
    return NULL;
}

Test(zmq_link, each_thread_may_have_its_own_links)
{
    pthread_t threads[4];
    int rc[ARRAY_LENGTH(threads)];
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, one_thread, &rc[i]), 0);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++) {
        pthread_join(threads[i], NULL);
        cr_assert_eq(rc[i], 0);
    }
}

static void
on_endless_kick(void *context)
{
    kick_now(*(struct kick **)context);
}

Test(reactor, a_kick_that_kicks_itself_starves_no_timer, .timeout = 5)
{
    WORLD(w);
    CLEANUP(kick_destroy) struct kick *kick = NULL;
    cr_assert_eq(reactor_new(&w.reactor, false), 0);
    cr_assert_eq(timer_new(&w.guard, w.reactor, on_guard, &w), 0);
    cr_assert_eq(kick_new(&kick, w.reactor, on_endless_kick, &kick), 0);
    kick_now(kick);
    timer_in_ms(w.guard, 20);
    cr_assert_eq(reactor_run(w.reactor), -ETIMEDOUT);
    kick_destroy(&kick); /* before its reactor */
}
