/* What is usual for a job, and how long silence is borne: both sides of each edge. */
#include "worker/usual.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

enum { SMALL = 512 * 512, LARGE = 2048 * 2048 };

static int64_t
limit_ms(const struct usual *usual, uint32_t pixels)
{
    struct silence silence = { .pixels = pixels, .steps = 1, .least_ms = LIMIT_STUCK_MS };
    return usual_limit_ms(usual, &silence);
}

Test(usual, nothing_known_is_the_least)
{
    struct usual usual = { 0 };
    cr_assert(eq(i64, usual_step_ms(&usual, LARGE), 0));
    cr_assert(eq(i64, limit_ms(&usual, LARGE), LIMIT_STUCK_MS));
}

Test(usual, a_large_picture_is_borne_16_times_as_long_as_a_small_one)
{
    struct usual usual = { 0 };
    usual_learn(&usual, SMALL, 1, 1000, false);
    cr_assert(eq(i64, usual_step_ms(&usual, SMALL), 1000));
    cr_assert(eq(i64, usual_step_ms(&usual, LARGE), 16000));
    cr_assert(eq(i64, limit_ms(&usual, SMALL), LIMIT_STUCK_MS), "10 s are below the least");
    cr_assert(eq(i64, limit_ms(&usual, LARGE), 160000));
}

Test(usual, what_a_large_one_taught_is_not_usual_for_a_small_one)
{
    struct usual usual = { 0 };
    usual_learn(&usual, LARGE, 1, 160000, false);
    cr_assert(eq(i64, usual_step_ms(&usual, SMALL), 10000));
    cr_assert(eq(i64, limit_ms(&usual, SMALL), 100000));
    cr_assert(eq(i64, limit_ms(&usual, LARGE), 1600000));
}

Test(usual, ten_times_the_usual_counts_from_where_it_is_more_than_the_least)
{
    struct usual usual = { 0 };
    usual_learn(&usual, SMALL, 1, LIMIT_STUCK_MS / LIMIT_STUCK_STEPS, false);
    cr_assert(eq(i64, limit_ms(&usual, SMALL), LIMIT_STUCK_MS));
    usual = (struct usual){ 0 };
    usual_learn(&usual, SMALL, 1, LIMIT_STUCK_MS / LIMIT_STUCK_STEPS + 1, false);
    cr_assert(eq(i64, limit_ms(&usual, SMALL), LIMIT_STUCK_MS + LIMIT_STUCK_STEPS));
}

Test(usual, pictures_of_a_batch_are_pixels)
{
    struct usual usual = { 0 };
    usual_learn(&usual, 4 * SMALL, 1, 4000, false);
    cr_assert(eq(i64, usual_step_ms(&usual, SMALL), 1000));
}

Test(usual, several_steps_told_at_once_are_as_many)
{
    struct usual usual = { 0 };
    usual_learn(&usual, SMALL, 4, 4000, false);
    cr_assert(eq(i64, usual_step_ms(&usual, SMALL), 1000));
    usual_learn(&usual, SMALL, 0, 4000, false);
    usual_learn(&usual, SMALL, 1, 0, false);
    cr_assert(eq(i64, usual_step_ms(&usual, SMALL), 1000), "no step and no time tell nothing");
}

Test(usual, a_warm_up_is_replaced_by_the_first_sound_step_and_never_counted_again)
{
    struct usual usual = { 0 };
    usual_learn(&usual, SMALL, 1, 110000, true);
    cr_assert(eq(i64, usual_step_ms(&usual, SMALL), 110000), "better than nothing");
    usual_learn(&usual, SMALL, 1, 100, false);
    cr_assert(eq(i64, usual_step_ms(&usual, SMALL), 100));
    usual_learn(&usual, SMALL, 1, 110000, true); /* started anew */
    cr_assert(eq(i64, usual_step_ms(&usual, SMALL), 100));
    usual_learn(&usual, SMALL, 1, 900, false);
    cr_assert(eq(i64, usual_step_ms(&usual, SMALL), 200), "an eighth of what is new");
}

Test(usual, one_that_tells_no_steps_has_ten_times_its_whole_job_and_ten_minutes_at_least)
{
    struct usual usual = { 0 };
    struct silence silence = { .pixels = SMALL, .steps = 8, .least_ms = LIMIT_OPAQUE_MS };
    usual_learn(&usual, SMALL, 8, 8 * 7500, false); /* a job of a minute */
    cr_assert(eq(i64, usual_limit_ms(&usual, &silence), LIMIT_OPAQUE_MS));
    silence.steps = 9;
    cr_assert(eq(i64, usual_limit_ms(&usual, &silence), LIMIT_OPAQUE_MS + 10 * 7500));
    silence.steps = 8;
    silence.pixels = LARGE;
    cr_assert(eq(i64, usual_limit_ms(&usual, &silence), 16 * LIMIT_OPAQUE_MS));
}

Test(usual, while_it_warms_up_it_has_the_time_of_a_start)
{
    struct usual usual = { 0 };
    struct silence silence = {
        .pixels = SMALL, .steps = 1, .least_ms = 60000, .warm_ms = LIMIT_STARTUP_MS
    };
    cr_assert(eq(i64, usual_limit_ms(&usual, &silence), LIMIT_STARTUP_MS));
    usual_learn(&usual, SMALL, 1, LIMIT_STARTUP_MS, true);
    cr_assert(eq(i64, usual_limit_ms(&usual, &silence), 10 * (int64_t)LIMIT_STARTUP_MS));
}
