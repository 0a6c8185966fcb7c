#include "common/clock.h"
#include "gateway/drains.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

/* The session, as far as drains sees it. */
static struct {
    bool open;
    int n_sent;
    char worker[LIMIT_WORKER_NAME + 1]; /* of the last ADMIN */
} session;

bool
broker_link_send(struct broker_link *self, struct frame *frame)
{
    (void)self;
    cr_assert(eq(int, (int)frame->kind, FRAME_ADMIN));
    cr_assert(eq(int, frame->admin.op, ADMIN_DRAIN));
    if (session.open) {
        session.n_sent++;
        memcpy(session.worker, frame->admin.worker.bytes, frame->admin.worker.length);
        session.worker[frame->admin.worker.length] = '\0';
    }
    return session.open;
}

struct world {
    struct reactor *reactor;
    struct timer *pause;
    struct drains *drains;
    int n_told[DRAIN_VERDICT_COUNT];
    bool asks_again;
};

static void
on_verdict(void *context, enum drain_verdict verdict)
{
    struct world *w = context;
    w->n_told[verdict]++;
    if (w->asks_again) {
        w->asks_again = false;
        cr_assert(ne(ptr, drains_add(w->drains, "mia", on_verdict, w), NULL));
    }
}

static void
on_pause(void *context)
{
    reactor_stop(((struct world *)context)->reactor, 0);
}

static void
turn_ms(struct world *w, int64_t ms)
{
    timer_in_ms(w->pause, ms);
    reactor_run(w->reactor);
}

static void
world_open(struct world *w)
{
    process_setup();
    *w = (struct world){ 0 };
    memset(&session, 0, sizeof session);
    session.open = true;
    cr_assert(zero(int, reactor_new(&w->reactor, false)));
    cr_assert(zero(int, timer_new(&w->pause, w->reactor, on_pause, w)));
    cr_assert(zero(int, drains_new(&w->drains, w->reactor, NULL)));
}

static void
world_close(struct world *w)
{
    drains_destroy(&w->drains);
    timer_destroy(&w->pause);
    reactor_destroy(&w->reactor);
}

static struct held_drain *
ask(struct world *w, const char *worker)
{
    struct held_drain *held = drains_add(w->drains, worker, on_verdict, w);
    cr_assert(ne(ptr, held, NULL));
    return held;
}

static void
answer(struct world *w, const char *worker, bool found)
{
    const struct admin_answer answer = { ADMIN_DRAIN, slice_of(worker), found };
    drains_on_answer(w->drains, &answer);
}

Test(drains, an_answer_reaches_all_who_asked_for_that_worker_and_nobody_else)
{
    struct world w;
    world_open(&w);
    ask(&w, "mia");
    ask(&w, "mia");
    ask(&w, "mi");
    cr_assert(eq(int, session.n_sent, 3));
    cr_assert(eq(str, session.worker, "mi"));
    answer(&w, "mia", true);
    cr_assert(eq(int, w.n_told[DRAIN_TOLD], 2));
    cr_assert(zero(int, w.n_told[DRAIN_ABSENT]));
    answer(&w, "mi", false);
    cr_assert(eq(int, w.n_told[DRAIN_ABSENT], 1));
    answer(&w, "mia", true);
    cr_assert(eq(int, w.n_told[DRAIN_TOLD], 2), "told once");
    world_close(&w);
}

Test(drains, a_question_goes_out_again_each_second_and_in_a_new_session)
{
    struct world w;
    world_open(&w);
    session.open = false;
    ask(&w, "mia");
    cr_assert(zero(int, session.n_sent));
    session.open = true;
    drains_on_open(w.drains);
    cr_assert(eq(int, session.n_sent, 1));
    turn_ms(&w, LIMIT_REPEAT_MS + LIMIT_REPEAT_MS / 2);
    cr_assert(eq(int, session.n_sent, 2));
    answer(&w, "mia", true);
    drains_on_open(w.drains);
    cr_assert(eq(int, session.n_sent, 2), "what was answered is not asked again");
    world_close(&w);
}

Test(drains, nobody_answers_and_the_caller_hears_so_in_time)
{
    struct world w;
    world_open(&w);
    session.open = false;
    int64_t begin_ms = clock_mono_ms();
    ask(&w, "mia");
    turn_ms(&w, LIMIT_SUBMIT_MS - LIMIT_REPEAT_MS);
    cr_assert(zero(int, w.n_told[DRAIN_LATE]));
    while (w.n_told[DRAIN_LATE] == 0 && clock_mono_ms() - begin_ms < 2 * LIMIT_SUBMIT_MS) {
        turn_ms(&w, 10);
    }
    cr_assert(eq(int, w.n_told[DRAIN_LATE], 1));
    world_close(&w);
}

Test(drains, a_caller_that_left_is_not_told_and_its_question_goes_on)
{
    struct world w;
    world_open(&w);
    struct held_drain *held = ask(&w, "mia");
    drains_drop(&held);
    cr_assert(zero(ptr, held));
    drains_drop(&held);
    drains_on_open(w.drains);
    cr_assert(eq(int, session.n_sent, 2));
    answer(&w, "mia", true);
    cr_assert(zero(int, w.n_told[DRAIN_TOLD]));
    world_close(&w);
}

Test(drains, a_caller_may_ask_again_when_it_is_told)
{
    struct world w;
    world_open(&w);
    w.asks_again = true;
    ask(&w, "mia");
    answer(&w, "mia", false);
    cr_assert(eq(int, session.n_sent, 2));
    answer(&w, "mia", true);
    cr_assert(eq(int, w.n_told[DRAIN_TOLD], 1));
    world_close(&w);
}

Test(drains, at_its_limit_nothing_more_is_taken)
{
    struct world w;
    world_open(&w);
    for (int i = 0; i < LIMIT_DRAINS_HELD; i++) {
        ask(&w, "mia");
    }
    cr_assert(zero(ptr, drains_add(w.drains, "mia", on_verdict, &w)));
    answer(&w, "mia", true);
    cr_assert(eq(int, w.n_told[DRAIN_TOLD], LIMIT_DRAINS_HELD));
    ask(&w, "mia");
    world_close(&w);
}
