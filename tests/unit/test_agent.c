/* The rules of worker/agent.h about leases, pictures and places, as sentences. Time is an argument:
 * nothing here sleeps. */
#include "tests/unit/agent_world.h"

/* -- pull -- */

Test(agent, pulls_for_ready_instances_without_a_lease)
{
    WORLD(w, 3);
    cr_assert(eq(u8, agent_pull(w.agent), 3));
    instance(&w, 2, false);
    cr_assert(eq(u8, agent_pull(w.agent), 2));
    job(&w, 1, A);
    cr_assert(eq(u8, agent_pull(w.agent), 1));
    instance(&w, 0, true);
    cr_assert(eq(u8, agent_pull(w.agent), 1), "a lease is on it, whatever it says of itself");
}

Test(agent, pulls_the_next_job_when_the_gpu_is_free_not_when_the_picture_is_stored)
{
    WORLD(w, 1);
    job(&w, 1, A);
    instance(&w, 0, false);
    cr_assert(zero(u8, agent_pull(w.agent)));
    drawn(&w, 0);
    instance(&w, 0, true);
    cr_assert(eq(u8, agent_pull(w.agent), 1));
    cr_assert(eq(int, held(&w, A)->state, HELD_CHECKING));
}

Test(agent, stops_pulling_at_its_limit_of_held_results_and_drops_none)
{
    WORLD(w, 1);
    for (uint32_t i = 0; i < LIMIT_HELD_RESULTS; i++) {
        cr_assert(eq(u8, agent_pull(w.agent), 1), "%u results", i);
        upload_of(&w, lease_of((uint8_t)(10 + i), 1));
    }
    cr_assert(zero(u8, agent_pull(w.agent)));
    cr_assert(eq(u32, agent_held_results(w.agent), LIMIT_HELD_RESULTS));
    about(&w, FRAME_STALE, lease_of(10, 1));
    cr_assert(eq(u8, agent_pull(w.agent), 1));
}

/* -- leases -- */

Test(agent, a_job_sent_again_is_not_run_twice)
{
    WORLD(w, 2);
    job(&w, 1, A);
    cr_assert(did(&w, AGENT_DO_DRAW) && did(&w, AGENT_DO_KEEP));
    cr_assert(eq(int, job(&w, 1, A), AGENT_OK));
    cr_assert(zero(u32, w.effects.count));
}

Test(agent, a_newer_grant_replaces_the_older_and_an_older_changes_nothing)
{
    WORLD(w, 2);
    job(&w, 1, lease_of(1, 2));
    cr_assert(eq(int, job(&w, 2, lease_of(1, 1)), AGENT_STALE));
    cr_assert(zero(u32, w.effects.count));
    job(&w, 3, lease_of(1, 3));
    cr_assert(did(&w, AGENT_DO_INTERRUPT) && did(&w, AGENT_DO_FORGET) && did(&w, AGENT_DO_DRAW));
    cr_assert(held(&w, lease_of(1, 2)) == NULL);
    cr_assert(eq(int, held(&w, lease_of(1, 3))->state, HELD_DRAWING));
}

Test(agent, a_job_without_a_free_place_waits_and_is_handed_back_uncounted_after_five_seconds)
{
    WORLD(w, 1);
    job(&w, 1, A);
    job(&w, 2, B);
    cr_assert(eq(int, held(&w, B)->state, HELD_WAITING));
    broker_state(&w, NULL, false);
    pass(&w, LIMIT_PLACE_WAIT_MS / 2);
    broker_state(&w, NULL, false);
    pass(&w, LIMIT_PLACE_WAIT_MS / 2 - 1);
    cr_assert(eq(int, held(&w, B)->state, HELD_WAITING));
    broker_state(&w, NULL, false);
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_FAIL));
    cr_assert(eq(int, held(&w, B)->code, FAIL_WORKER_LEAVING));
    cr_assert(not(held(&w, B)->counted));
}

Test(agent, a_waiting_job_is_drawn_as_soon_as_a_place_is_free)
{
    WORLD(w, 1);
    job(&w, 1, A);
    job(&w, 2, B);
    drawn(&w, 0);
    cr_assert(not(did(&w, AGENT_DO_DRAW)), "the instance has not said that it is ready");
    instance(&w, 0, true);
    cr_assert(did(&w, AGENT_DO_DRAW));
    cr_assert(eq(int, held(&w, B)->state, HELD_DRAWING));
}

Test(agent, a_job_that_met_a_busy_instance_waits_again_and_is_no_try)
{
    WORLD(w, 1);
    job(&w, 1, A);
    on_instance(&w, AGENT_ON_NOT_DRAWN, 0);
    cr_assert(eq(int, held(&w, A)->state, HELD_WAITING));
    cr_assert(not(held(&w, A)->taken));
    instance(&w, 0, true);
    cr_assert(did(&w, AGENT_DO_DRAW));
}

Test(agent, a_lease_beyond_the_last_slot_is_not_taken)
{
    WORLD(w, 1);
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        cr_assert(eq(int, job(&w, i + 1, lease_of((uint8_t)(i + 1), 1)), AGENT_OK));
    }
    cr_assert(eq(int, job(&w, 65, lease_of(65, 1)), AGENT_FULL));
    cr_assert(eq(u32, agent_last_job(w.agent), 65),
              "told as received, not as held: it is taken back");
}

Test(agent, a_request_that_cannot_be_read_fails_for_good)
{
    WORLD(w, 1);
    struct frame f = job_frame(1, A);
    struct agent_event event = { .kind = AGENT_ON_FRAME };
    f.session = agent_session(w.agent);
    f.epoch = w.epoch;
    event.frame.frame = &f;
    give(&w, &event);
    cr_assert(did(&w, AGENT_DO_FAIL) && !did(&w, AGENT_DO_DRAW));
    cr_assert(held(&w, A)->final_ && !held(&w, A)->counted);
}

Test(agent, a_job_goes_only_to_an_instance_that_can_draw_it)
{
    WORLD(w, 2);
    struct frame f = job_frame(1, A);
    struct agent_event event = { .kind = AGENT_ON_FRAME };
    f.session = agent_session(w.agent);
    f.epoch = w.epoch;
    event.frame.frame = &f;
    event.frame.n_pictures = 1;
    event.frame.fits = 2;
    give(&w, &event);
    cr_assert(eq(u8, find(&w, AGENT_DO_DRAW)->instance, 1));
    f.job = job_frame(2, B).job;
    event.frame.fits = 0;
    give(&w, &event);
    cr_assert(eq(int, held(&w, B)->code, FAIL_WORKER_LEAVING), "none can: handed back at once");
}

Test(agent, the_next_attempt_avoids_the_instance_that_failed_it_while_another_can)
{
    WORLD(w, 2);
    job(&w, 1, A);
    failed(&w, 0, true);
    instance(&w, 0, true);
    about(&w, FRAME_ACK, A);
    job(&w, 2, lease_of(1, 2));
    cr_assert(eq(u8, find(&w, AGENT_DO_DRAW)->instance, 1));
    failed(&w, 1, true);
    about(&w, FRAME_ACK, lease_of(1, 2));
    job(&w, 3, lease_of(1, 3));
    cr_assert(eq(u8, find(&w, AGENT_DO_DRAW)->instance, 0), "the same is better than none");
}

Test(agent, stop_and_stale_interrupt_and_forget)
{
    static const enum frame_kind kinds[] = { FRAME_STOP, FRAME_STALE };
    for (uint32_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        WORLD(w, 1);
        job(&w, 1, A);
        cr_assert(eq(int, about(&w, kinds[i], B), AGENT_STALE), "another lease");
        about(&w, kinds[i], A);
        cr_assert(did(&w, AGENT_DO_INTERRUPT) && did(&w, AGENT_DO_FORGET));
        cr_assert(zero(u8, agent_pull(w.agent)), "busy until it says that it is free");
        instance(&w, 0, true);
        cr_assert(eq(u8, agent_pull(w.agent), 1));
    }
}

Test(agent, a_lease_that_a_complete_state_denies_is_interrupted_and_a_finished_one_is_not)
{
    WORLD(w, 2);
    job(&w, 1, A);
    job(&w, 2, B);
    failed(&w, 1, true);
    struct lease b = B;
    broker_state(&w, &b, false);
    cr_assert(held(&w, A) != NULL, "while the broker rebuilds, absence means nothing");
    broker_state(&w, NULL, true);
    cr_assert(did(&w, AGENT_DO_INTERRUPT));
    cr_assert(held(&w, A) == NULL);
    cr_assert(held(&w, B) != NULL, "a result is answered, never dropped");
}

Test(agent, a_lease_that_the_state_counts_goes_on)
{
    WORLD(w, 1);
    struct lease a = A;
    job(&w, 1, A);
    broker_state(&w, &a, true);
    cr_assert(eq(int, held(&w, A)->state, HELD_DRAWING));
}

Test(agent, running_leases_survive_the_loss_of_the_broker)
{
    WORLD(w, 1);
    job(&w, 1, A);
    on_instance(&w, AGENT_ON_TAKEN, 0);
    pass(&w, LIMIT_SUSPECT_MS);
    cr_assert(did(&w, AGENT_DO_DISCONNECT) && !did(&w, AGENT_DO_INTERRUPT));
    drawn(&w, 0);
    cr_assert(did(&w, AGENT_DO_CHECK));
    struct agent_effect check = *find(&w, AGENT_DO_CHECK);
    checked(&w, &check, CHECK_GOOD);
    uploaded(&w, &check, UPLOAD_STORED);
    cr_assert(eq(int, held(&w, A)->state, HELD_DONE));
    cr_assert(not(did(&w, AGENT_DO_DONE)), "nobody to tell");
    w.epoch++;
    leader(&w, w.epoch, "b:2");
    say(&w, FRAME_WORKER_WELCOME);
    pass(&w, 0);
    cr_assert(did(&w, AGENT_DO_DONE));
}

/* -- progress -- */

Test(agent, progress_tells_the_start_at_most_four_steps_a_second_and_the_last)
{
    WORLD(w, 1);
    job(&w, 1, A);
    on_instance(&w, AGENT_ON_TAKEN, 0);
    cr_assert(zero(u8, find(&w, AGENT_DO_PROGRESS)->step));
    w.now_ms += LIMIT_PROGRESS_MS - 1;
    step(&w, 0, 1);
    cr_assert(not(did(&w, AGENT_DO_PROGRESS)));
    w.now_ms += 1;
    step(&w, 0, 2);
    cr_assert(eq(u8, find(&w, AGENT_DO_PROGRESS)->step, 2));
    step(&w, 0, 3);
    cr_assert(not(did(&w, AGENT_DO_PROGRESS)));
    step(&w, 0, STEPS);
    cr_assert(eq(u8, find(&w, AGENT_DO_PROGRESS)->step, STEPS));
}

Test(agent, the_first_step_says_that_the_job_is_taken)
{
    WORLD(w, 1);
    job(&w, 1, A);
    cr_assert(not(held(&w, A)->taken));
    step(&w, 0, 1);
    cr_assert(held(&w, A)->taken);
    cr_assert(did(&w, AGENT_DO_PROGRESS));
}

Test(agent, what_an_instance_says_about_a_forgotten_job_is_ignored)
{
    WORLD(w, 1);
    job(&w, 1, A);
    uint32_t serial = serial_on(&w, 0);
    about(&w, FRAME_STOP, A);
    struct agent_event event = { .kind = AGENT_ON_DRAWN };
    event.drawn.serial = serial;
    event.drawn.n_pictures = 1;
    cr_assert(eq(int, give(&w, &event), AGENT_STALE));
}

/* -- ends -- */

Test(agent, done_is_said_each_second_until_it_is_answered)
{
    WORLD(w, 1);
    struct agent_effect upload = upload_of(&w, A);
    uploaded(&w, &upload, UPLOAD_STORED);
    cr_assert(did(&w, AGENT_DO_DONE));
    pass(&w, LIMIT_REPEAT_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_DONE)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_DONE));
    about(&w, FRAME_ACK, A);
    cr_assert(did(&w, AGENT_DO_FORGET));
    pass(&w, LIMIT_REPEAT_MS);
    cr_assert(not(did(&w, AGENT_DO_DONE)));
}

Test(agent, a_failure_counts_only_if_the_instance_took_the_job)
{
    WORLD(w, 2);
    job(&w, 1, A);
    job(&w, 2, B);
    failed(&w, 0, false);
    cr_assert(not(held(&w, A)->counted));
    failed(&w, 1, true);
    cr_assert(held(&w, B)->counted);
    cr_assert(eq(int, held(&w, B)->code, FAIL_INSTANCE_ERROR));
}

Test(agent, a_bad_picture_is_a_counted_failure)
{
    WORLD(w, 1);
    job(&w, 1, A);
    drawn(&w, 0);
    struct agent_effect check = *find(&w, AGENT_DO_CHECK);
    checked(&w, &check, CHECK_BAD);
    cr_assert(did(&w, AGENT_DO_DROP) && did(&w, AGENT_DO_FAIL));
    cr_assert(eq(int, held(&w, A)->code, FAIL_BAD_PICTURE));
    cr_assert(held(&w, A)->counted);
}

Test(agent, a_wrong_number_of_pictures_is_a_bad_picture)
{
    WORLD(w, 1);
    job(&w, 1, A);
    struct agent_event event = { .kind = AGENT_ON_DRAWN };
    event.drawn.n_pictures = 2;
    event.drawn.serial = serial_on(&w, 0);
    give(&w, &event);
    cr_assert(eq(int, held(&w, A)->code, FAIL_BAD_PICTURE));
}

Test(agent, one_colour_fails_the_first_time_and_is_delivered_with_a_warning_the_second)
{
    WORLD(w, 1);
    job(&w, 1, A);
    drawn(&w, 0);
    struct agent_effect check = *find(&w, AGENT_DO_CHECK);
    checked(&w, &check, CHECK_UNIFORM);
    cr_assert(eq(int, held(&w, A)->code, FAIL_UNIFORM_IMAGE));
    cr_assert(held(&w, A)->counted && held(&w, A)->picture[0] == 1);
    about(&w, FRAME_ACK, A);
    instance(&w, 0, true);
    struct frame f = job_frame(2, lease_of(1, 2));
    f.job.flags = JOB_FLAG_UNIFORM;
    frame(&w, &f);
    drawn(&w, 0);
    check = *find(&w, AGENT_DO_CHECK);
    checked(&w, &check, CHECK_UNIFORM);
    cr_assert(did(&w, AGENT_DO_UPLOAD));
    cr_assert(eq(u32, held(&w, lease_of(1, 2))->warnings, WARNING_UNIFORM_IMAGE));
}

Test(agent, an_answer_about_the_slots_earlier_lease_is_ignored)
{
    WORLD(w, 1);
    struct agent_effect upload = upload_of(&w, A);
    about(&w, FRAME_STOP, A);
    struct agent_effect other = upload_of(&w, B);
    cr_assert(eq(u8, upload.slot, other.slot));
    cr_assert(eq(int, uploaded(&w, &upload, UPLOAD_STORED), AGENT_STALE));
    cr_assert(eq(int, uploaded(&w, &other, UPLOAD_STORED), AGENT_OK));
}

/* -- uploads -- */

Test(agent, all_pictures_are_stored_before_done)
{
    WORLD(w, 1);
    struct frame f = job_frame(1, A);
    struct agent_event event = { .kind = AGENT_ON_FRAME };
    f.session = agent_session(w.agent);
    f.epoch = w.epoch;
    event.frame.frame = &f;
    event.frame.fits = 1;
    event.frame.n_pictures = 2;
    give(&w, &event);
    event = (struct agent_event){ .kind = AGENT_ON_DRAWN };
    event.drawn.n_pictures = 2;
    event.drawn.serial = serial_on(&w, 0);
    give(&w, &event);
    struct agent_effect check = *find(&w, AGENT_DO_CHECK);
    checked(&w, &check, CHECK_GOOD);
    cr_assert(zero(u8, find(&w, AGENT_DO_UPLOAD)->picture));
    uploaded(&w, &check, UPLOAD_STORED);
    cr_assert(not(did(&w, AGENT_DO_DONE)));
    cr_assert(eq(u8, find(&w, AGENT_DO_UPLOAD)->picture, 1));
    uploaded(&w, &check, UPLOAD_STORED);
    cr_assert(did(&w, AGENT_DO_DONE));
}

Test(agent, an_unreachable_base_is_followed_by_the_next_and_all_by_a_pause_and_a_regrant)
{
    WORLD(w, 1);
    struct agent_effect upload = upload_of(&w, A);
    cr_assert(zero(u8, upload.base));
    uploaded(&w, &upload, UPLOAD_UNREACHABLE);
    cr_assert(eq(u8, find(&w, AGENT_DO_UPLOAD)->base, 1), "at once");
    uploaded(&w, &upload, UPLOAD_UNREACHABLE);
    cr_assert(not(did(&w, AGENT_DO_UPLOAD)));
    pass(&w, 0);
    cr_assert(did(&w, AGENT_DO_REGRANT));
    pass(&w, LIMIT_UPLOAD_RETRY_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_UPLOAD)));
    pass(&w, 1);
    cr_assert(eq(u8, find(&w, AGENT_DO_UPLOAD)->base, 0));
    uploaded(&w, &upload, UPLOAD_UNREACHABLE);
    uploaded(&w, &upload, UPLOAD_UNREACHABLE);
    pass(&w, 2 * LIMIT_UPLOAD_RETRY_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_UPLOAD)), "the pause doubles");
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_UPLOAD));
}

Test(agent, an_expired_grant_is_asked_again_each_second_and_nothing_is_put_without_it)
{
    WORLD(w, 1);
    struct agent_effect upload = upload_of(&w, A);
    uploaded(&w, &upload, UPLOAD_EXPIRED);
    pass(&w, 0);
    cr_assert(did(&w, AGENT_DO_REGRANT));
    pass(&w, LIMIT_REPEAT_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_REGRANT)));
    cr_assert(not(did(&w, AGENT_DO_UPLOAD)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_REGRANT));
    struct frame f = { .kind = FRAME_GRANT };
    struct upload_base base = { 0 };
    f.grant.lease = A;
    f.grant.bases = (struct list){ .items = &base, .count = 1 };
    frame(&w, &f);
    cr_assert(did(&w, AGENT_DO_NEW_GRANT));
    pass(&w, 0);
    cr_assert(did(&w, AGENT_DO_UPLOAD) && !did(&w, AGENT_DO_REGRANT));
}

Test(agent, a_grant_for_a_lease_that_is_finished_or_unknown_is_ignored)
{
    WORLD(w, 1);
    struct agent_effect upload = upload_of(&w, A);
    struct frame f = { .kind = FRAME_GRANT };
    f.grant.lease = A;
    uploaded(&w, &upload, UPLOAD_STORED);
    cr_assert(eq(int, frame(&w, &f), AGENT_STALE));
    f.grant.lease = B;
    cr_assert(eq(int, frame(&w, &f), AGENT_STALE));
    cr_assert(zero(u32, w.effects.count));
}

Test(agent, a_store_that_refuses_the_picture_ends_the_attempt_uncounted)
{
    WORLD(w, 1);
    struct agent_effect upload = upload_of(&w, A);
    uploaded(&w, &upload, UPLOAD_REFUSED);
    cr_assert(eq(int, held(&w, A)->code, FAIL_STORAGE));
    cr_assert(not(held(&w, A)->counted));
}

Test(agent, a_picture_that_nobody_takes_is_held_ten_minutes)
{
    WORLD(w, 1);
    struct lease a = A;
    upload_of(&w, A);
    int64_t end_ms = w.now_ms + LIMIT_HELD_RESULT_MS;
    while (w.now_ms + LIMIT_STATE_MS < end_ms) {
        broker_state(&w, &a, true);
        pass(&w, LIMIT_STATE_MS);
    }
    broker_state(&w, &a, true);
    pass(&w, end_ms - 1 - w.now_ms);
    cr_assert(eq(int, held(&w, A)->state, HELD_UPLOADING));
    pass(&w, 1);
    cr_assert(eq(int, held(&w, A)->code, FAIL_STORAGE));
    cr_assert(not(held(&w, A)->counted));
}

/* -- storm: random events keep the invariants, and nothing is lost between them -- */

static uint32_t
roll(uint64_t *dice, uint32_t n)
{
    *dice = *dice * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(*dice >> 33) % n;
}

static void
storm_event(struct world *w, uint64_t *dice)
{
    uint8_t index = (uint8_t)roll(dice, 3);
    struct lease lease = lease_of((uint8_t)(1 + roll(dice, 20)), (uint8_t)(1 + roll(dice, 3)));
    uint8_t slot = (uint8_t)roll(dice, LIMIT_WORKER_LEASES);
    struct agent_effect about_slot = { .slot = slot, .serial = agent_held(w->agent, slot)->serial };
    static const enum frame_kind kinds[] = { FRAME_STOP, FRAME_STALE, FRAME_ACK };
    switch (roll(dice, 16)) {
    case 0:
    case 1:
    case 2:
        job(w, agent_last_job(w->agent) + 1, lease);
        break;
    case 3:
        about(w, kinds[roll(dice, 3)], lease);
        break;
    case 4:
        broker_state(w, &lease, roll(dice, 8) == 0);
        break;
    case 5:
        (roll(dice, 2) == 0 ? instance : queueing)(w, index, roll(dice, 4) != 0);
        break;
    case 6:
        drawn(w, index);
        break;
    case 7:
        failed(w, index, roll(dice, 2) == 0);
        break;
    case 8:
    case 9:
        checked(w, &about_slot, (enum check_outcome)roll(dice, CHECK_OUTCOME_COUNT));
        break;
    case 10:
    case 11:
        uploaded(w, &about_slot, (enum upload_outcome)roll(dice, UPLOAD_OUTCOME_COUNT));
        break;
    case 12:
        step_of(w, index, about_slot.serial, (uint8_t)roll(dice, STEPS + 1));
        step(w, index, (uint8_t)roll(dice, STEPS + 1));
        break;
    case 13:
        w->epoch += roll(dice, 2);
        leader(w, w->epoch, roll(dice, 2) == 0 ? "a:1" : "b:2");
        say(w, FRAME_WORKER_WELCOME);
        break;
    case 14:
        on_serial(w, roll(dice, 2) == 0 ? AGENT_ON_TAKEN : AGENT_ON_NOT_DRAWN, index,
                  about_slot.serial);
        break;
    default:
        pass(w, roll(dice, 2000));
        break;
    }
}

/* What the loop keeps for each slot must follow the effects: kept once, forgotten once. */
static void
storm_slots(struct world *w, bool kept[LIMIT_WORKER_LEASES])
{
    for (uint32_t i = 0; i < w->effects.count; i++) {
        const struct agent_effect *effect = &w->effects.items[i];
        if (effect->kind == AGENT_DO_KEEP) {
            cr_assert(not(kept[effect->slot]));
            kept[effect->slot] = true;
        } else if (effect->kind == AGENT_DO_FORGET) {
            cr_assert(kept[effect->slot]);
            kept[effect->slot] = false;
        } else if (effect->slot < LIMIT_WORKER_LEASES) {
            cr_assert(kept[effect->slot], "effect %d of a slot without a lease", effect->kind);
        }
    }
}

Test(agent, a_storm_of_random_events_keeps_the_invariants)
{
    for (uint64_t seed = 1; seed <= 200; seed++) {
        WORLD(w, 3);
        uint64_t dice = seed;
        bool kept[LIMIT_WORKER_LEASES] = { false };
        for (uint32_t i = 0; i < 500; i++) {
            /* A case may take several steps; slots are followed where it takes one. */
            storm_event(&w, &dice);
            storm_slots(&w, kept);
            for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
                bool holds = agent_held(w.agent, slot)->state != HELD_NONE;
                cr_assert(eq(int, holds, kept[slot]), "seed %lu, event %u", (unsigned long)seed, i);
            }
        }
    }
}
