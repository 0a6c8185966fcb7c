#include "common/helper_thread.h"
#include "common/limits.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

struct world {
    struct reactor *reactor;
    struct helper_thread *thread;
    int n_worked, n_done, wanted;
    bool in_order, on_reactor;
    pthread_t home;
};

struct piece {
    struct world *world;
    int number;
    int sleep_ms;
};

static void
work(void *context)
{
    struct piece *piece = context;
    usleep((unsigned)piece->sleep_ms * 1000);
    piece->world->n_worked++;
}

static void
done(void *context)
{
    struct piece *piece = context;
    struct world *w = piece->world;
    w->in_order = w->in_order && piece->number == w->n_done;
    w->on_reactor = w->on_reactor && pthread_equal(pthread_self(), w->home);
    free(piece);
    if (++w->n_done == w->wanted) {
        reactor_stop(w->reactor, 0);
    }
}

static int
give(struct world *w, int number, int sleep_ms)
{
    struct piece *piece = malloc(sizeof *piece);
    *piece = (struct piece){ w, number, sleep_ms };
    int rc = helper_thread_run(w->thread, work, done, piece);
    if (rc != 0) {
        free(piece);
    }
    return rc;
}

static void
world_open(struct world *w)
{
    *w = (struct world){ .in_order = true, .on_reactor = true, .home = pthread_self() };
    cr_assert(zero(int, reactor_new(&w->reactor, false)));
    cr_assert(zero(int, helper_thread_new(&w->thread, w->reactor)));
}

static void
world_close(struct world *w)
{
    helper_thread_destroy(&w->thread);
    reactor_destroy(&w->reactor);
}

Test(helper_thread, work_is_done_in_order_and_told_on_the_reactor)
{
    struct world w;
    world_open(&w);
    w.wanted = 100;
    for (int i = 0; i < 100; i++) {
        cr_assert(zero(int, give(&w, i, i % 10 == 0)));
    }
    reactor_run(w.reactor);
    cr_assert(eq(int, w.n_worked, 100));
    cr_assert(w.in_order && w.on_reactor);
    world_close(&w);
}

Test(helper_thread, more_than_the_queue_holds_is_refused_until_something_is_done)
{
    struct world w;
    world_open(&w);
    w.wanted = LIMIT_HELPER_QUEUE;
    for (int i = 0; i < LIMIT_HELPER_QUEUE; i++) {
        cr_assert(zero(int, give(&w, i, 0)));
    }
    cr_assert(eq(int, give(&w, 0, 0), -EAGAIN));
    reactor_run(w.reactor);
    cr_assert(zero(int, give(&w, LIMIT_HELPER_QUEUE, 0)));
    world_close(&w);
    cr_assert(eq(int, w.n_done, LIMIT_HELPER_QUEUE + 1));
}

Test(helper_thread, destroy_drops_the_work_not_begun_and_tells)
{
    struct world w;
    world_open(&w);
    for (int i = 0; i < 10; i++) {
        cr_assert(zero(int, give(&w, i, 100)));
    }
    usleep(50 * 1000);
    world_close(&w);
    cr_assert(eq(int, w.n_worked, 1));
    cr_assert(eq(int, w.n_done, 10));
    cr_assert(w.in_order);
}
