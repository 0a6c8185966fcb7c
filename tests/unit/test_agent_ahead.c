/* The rules of worker/agent.h about the job ahead: when it is asked for, whose try it is, and what
 * becomes of it when the one before it ends in one way or another. */
#include "tests/unit/agent_world.h"

enum { STEP_MS = 100, END_MS = STEPS * STEP_MS };

static uint32_t
serial_of(const struct world *w, struct lease lease)
{
    return held(w, lease)->serial;
}

/* One queueing instance that has begun A and made `n` of its steps, STEP_MS each. */
static void
draw_a(struct world *w, uint8_t n)
{
    queueing(w, 0, true);
    job(w, 1, A);
    on_instance(w, AGENT_ON_TAKEN, 0);
    for (uint8_t i = 1; i <= n; i++) {
        w->now_ms += STEP_MS;
        step_of(w, 0, serial_of(w, A), i);
    }
}

/* And B ahead of its turn. */
static void
draw_a_with_b_ahead(struct world *w)
{
    draw_a(w, STEPS - 1);
    job(w, 2, B);
    cr_assert(did(w, AGENT_DO_DRAW));
    cr_assert(eq(int, held(w, B)->state, HELD_AHEAD));
}

static void
make_a(struct world *w)
{
    w->now_ms += STEP_MS;
    step_of(w, 0, serial_of(w, A), STEPS);
}

Test(agent_ahead, the_next_job_is_asked_for_shortly_before_the_end_of_the_drawing_and_not_sooner)
{
    WORLD(w, 1);
    draw_a(&w, 4);
    cr_assert(zero(u8, agent_pull(w.agent)));
    int64_t left_ms = END_MS - 4 * STEP_MS;
    int64_t due_ms = w.now_ms + left_ms - LIMIT_AHEAD_MS;
    cr_assert(ge(i64, due_ms, agent_deadline_ms(w.agent)));
    struct lease a = A;
    broker_state(&w, &a, true);
    pass(&w, due_ms - 1 - w.now_ms);
    cr_assert(zero(u8, agent_pull(w.agent)));
    cr_assert(eq(i64, agent_deadline_ms(w.agent), due_ms), "time alone makes room");
    pass(&w, 1);
    cr_assert(eq(u8, agent_pull(w.agent), 1));
    cr_assert(did(&w, AGENT_DO_STATE), "and the broker is told at once");
}

Test(agent_ahead, a_slower_step_moves_the_time_to_ask)
{
    WORLD(w, 1);
    draw_a(&w, 4);
    w.now_ms += INT64_C(10) * STEP_MS;
    step_of(&w, 0, serial_of(&w, A), 5);
    cr_assert(zero(u8, agent_pull(w.agent)), "its end was near, by the earlier steps");
}

Test(agent_ahead, nothing_is_asked_for_while_nothing_is_known_of_the_drawing)
{
    WORLD(w, 1);
    draw_a(&w, 0);
    struct lease a = A;
    for (int i = 0; i < 10; i++) {
        broker_state(&w, &a, true);
        pass(&w, LIMIT_STATE_MS);
        cr_assert(zero(u8, agent_pull(w.agent)));
    }
}

Test(agent_ahead, an_instance_that_does_not_queue_is_given_one_job)
{
    WORLD(w, 1);
    job(&w, 1, A);
    for (int i = 1; i <= STEPS; i++) {
        w.now_ms += STEP_MS;
        step(&w, 0, (uint8_t)i);
        cr_assert(zero(u8, agent_pull(w.agent)));
    }
}

Test(agent_ahead, the_job_ahead_is_no_try_until_the_instance_begins_it)
{
    WORLD(w, 1);
    draw_a_with_b_ahead(&w);
    cr_assert(not(held(&w, B)->taken));
    cr_assert(zero(u8, agent_pull(w.agent)), "one ahead, not two");
    make_a(&w);
    on_serial(&w, AGENT_ON_TAKEN, 0, serial_of(&w, B));
    cr_assert(eq(int, held(&w, B)->state, HELD_DRAWING));
    cr_assert(held(&w, B)->taken && did(&w, AGENT_DO_PROGRESS));
}

Test(agent_ahead, while_pictures_are_fetched_the_next_is_drawn_and_another_may_come)
{
    WORLD(w, 1);
    draw_a(&w, STEPS);
    cr_assert(eq(u8, agent_pull(w.agent), 1), "the GPU is free, though nothing is fetched yet");
    job(&w, 2, B);
    cr_assert(eq(int, held(&w, B)->state, HELD_DRAWING));
    on_serial(&w, AGENT_ON_TAKEN, 0, serial_of(&w, B));
    for (int i = 1; i < STEPS; i++) {
        w.now_ms += STEP_MS;
        step_of(&w, 0, serial_of(&w, B), (uint8_t)i);
    }
    cr_assert(eq(u8, agent_pull(w.agent), 1));
    job(&w, 3, C);
    cr_assert(eq(int, held(&w, C)->state, HELD_AHEAD));
    w.now_ms += STEP_MS;
    step_of(&w, 0, serial_of(&w, B), STEPS);
    on_serial(&w, AGENT_ON_TAKEN, 0, serial_of(&w, C));
    step_of(&w, 0, serial_of(&w, C), STEPS);
    cr_assert(zero(u8, agent_pull(w.agent)), "no more than LIMIT_PLACE_JOBS at one instance");
    drawn(&w, 0);
    cr_assert(eq(int, held(&w, A)->state, HELD_CHECKING));
    cr_assert(eq(u8, agent_pull(w.agent), 1));
}

Test(agent_ahead, an_instance_that_dies_charges_the_job_it_had_begun_alone)
{
    WORLD(w, 1);
    draw_a_with_b_ahead(&w);
    failed(&w, 0, true);
    failed(&w, 0, false);
    cr_assert(held(&w, A)->counted && !held(&w, B)->counted);
    cr_assert(eq(int, held(&w, B)->state, HELD_FAILED));
}

Test(agent_ahead, a_failure_of_the_drawn_job_leaves_the_one_ahead)
{
    WORLD(w, 1);
    draw_a_with_b_ahead(&w);
    failed(&w, 0, true);
    cr_assert(not(did(&w, AGENT_DO_INTERRUPT)));
    on_serial(&w, AGENT_ON_TAKEN, 0, serial_of(&w, B));
    cr_assert(eq(int, held(&w, B)->state, HELD_DRAWING));
}

Test(agent_ahead, a_cancel_interrupts_the_one_it_names)
{
    WORLD(w, 1);
    draw_a_with_b_ahead(&w);
    uint32_t b = serial_of(&w, B);
    uint32_t a = serial_of(&w, A);
    about(&w, FRAME_STOP, B);
    cr_assert(eq(u32, find(&w, AGENT_DO_INTERRUPT)->serial, b));
    cr_assert(eq(int, held(&w, A)->state, HELD_DRAWING));
    job(&w, 3, C);
    about(&w, FRAME_STOP, A);
    cr_assert(eq(u32, find(&w, AGENT_DO_INTERRUPT)->serial, a));
    cr_assert(eq(int, held(&w, C)->state, HELD_AHEAD));
    cr_assert(zero(u8, agent_pull(w.agent)), "the GPU is not free yet, and one is ahead");
}

Test(agent_ahead, one_that_the_instance_would_not_queue_waits_until_something_ends_there)
{
    WORLD(w, 1);
    draw_a_with_b_ahead(&w);
    on_serial(&w, AGENT_ON_NOT_DRAWN, 0, serial_of(&w, B));
    cr_assert(eq(int, held(&w, B)->state, HELD_WAITING));
    cr_assert(not(did(&w, AGENT_DO_DRAW)), "not asked again at once");
    make_a(&w);
    cr_assert(not(did(&w, AGENT_DO_DRAW)));
    drawn(&w, 0);
    queueing(&w, 0, true);
    cr_assert(did(&w, AGENT_DO_DRAW));
    cr_assert(eq(int, held(&w, B)->state, HELD_DRAWING));
}

Test(agent_ahead, an_idle_instance_is_taken_before_a_place_ahead)
{
    WORLD(w, 2);
    instance(&w, 1, false);
    draw_a(&w, STEPS - 1);
    queueing(&w, 1, true);
    cr_assert(eq(u8, agent_pull(w.agent), 2));
    job(&w, 2, B);
    cr_assert(eq(u8, find(&w, AGENT_DO_DRAW)->instance, 1));
    job(&w, 3, C);
    cr_assert(zero(u8, find(&w, AGENT_DO_DRAW)->instance));
    cr_assert(eq(int, held(&w, C)->state, HELD_AHEAD));
}

Test(agent_ahead,
     the_next_attempt_does_not_stand_behind_where_it_failed_while_another_is_near_its_end)
{
    WORLD(w, 2);
    queueing(&w, 0, true);
    queueing(&w, 1, false);
    job(&w, 1, B);
    failed(&w, 0, true);
    about(&w, FRAME_ACK, B);
    draw_a(&w, STEPS - 1);
    queueing(&w, 1, true);
    job(&w, 2, C);
    for (int i = 1; i < STEPS; i++) {
        step_of(&w, 1, serial_of(&w, C), (uint8_t)i);
    }
    job(&w, 3, lease_of(2, 2));
    cr_assert(eq(u8, find(&w, AGENT_DO_DRAW)->instance, 1));
}

Test(agent_ahead, a_drain_hands_back_what_is_not_begun_and_finishes_what_is)
{
    WORLD(w, 1);
    draw_a_with_b_ahead(&w);
    uint32_t b = serial_of(&w, B);
    give(&w, &(struct agent_event){ .kind = AGENT_ON_DRAIN });
    cr_assert(eq(u32, find(&w, AGENT_DO_INTERRUPT)->serial, b));
    cr_assert(eq(int, held(&w, B)->code, FAIL_WORKER_LEAVING));
    cr_assert(not(held(&w, B)->counted));
    cr_assert(eq(int, held(&w, A)->state, HELD_DRAWING));
    cr_assert(zero(u8, agent_pull(w.agent)));
}

Test(agent_ahead, at_the_limit_of_held_results_none_is_asked_ahead)
{
    WORLD(w, 1);
    for (uint32_t i = 0; i < LIMIT_HELD_RESULTS; i++) {
        upload_of(&w, lease_of((uint8_t)(10 + i), 1));
    }
    about(&w, FRAME_STALE, lease_of(10, 1));
    draw_a(&w, STEPS - 1);
    cr_assert(eq(u8, agent_pull(w.agent), 1));
    make_a(&w);
    drawn(&w, 0);
    queueing(&w, 0, true);
    cr_assert(zero(u8, agent_pull(w.agent)));
}

Test(agent_ahead, a_lease_ahead_that_a_complete_state_denies_is_interrupted)
{
    WORLD(w, 1);
    struct lease a = A;
    draw_a_with_b_ahead(&w);
    uint32_t b = serial_of(&w, B);
    broker_state(&w, &a, true);
    cr_assert(eq(u32, find(&w, AGENT_DO_INTERRUPT)->serial, b));
    cr_assert(held(&w, B) == NULL && held(&w, A) != NULL);
}
