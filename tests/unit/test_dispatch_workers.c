/* Sessions of workers: leases, lost frames, adoption, late results, silence and its brakes. */
#include "tests/unit/dispatch_world.h"

TestSuite(dispatch_workers, .init = open_broker, .fini = close_broker);

/* Worker 0 runs job 1. */
static void
start_one(void)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

/* -- sessions -- */

Test(dispatch_workers, a_frame_of_an_unknown_session_is_answered_no_session)
{
    w.workers[0].session = 4242;
    cr_assert_eq(worker_state(0, 1), VERDICT_NO_SESSION);
    cr_assert_eq(seen(FRAME_NO_SESSION)->session, 4242);
}

Test(dispatch_workers, a_right_session_from_another_peer_is_no_session)
{
    start_one();
    w.workers[1] = w.workers[0];
    cr_assert_eq(worker_done(1, lease_of(1)), VERDICT_NO_SESSION);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

Test(dispatch_workers, a_frame_of_an_earlier_leaders_session_is_old)
{
    start_one();
    struct frame frame = { .kind = FRAME_WORKER_STATE, .session = w.workers[0].session };
    frame.epoch = EPOCH - 1;
    cr_assert_eq(say_frame(peer_of(DOOR_WORKERS, 0), &frame, NULL), VERDICT_OLD_EPOCH);
    cr_assert_eq(count_sent(FRAME_NO_SESSION), 1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

Test(dispatch_workers, a_hello_that_names_a_later_epoch_is_not_for_us)
{
    struct model_name model = { slice_of("m") };
    struct frame frame = { .kind = FRAME_WORKER_HELLO, .session = 5, .epoch = EPOCH + 1 };
    frame.worker_hello = (struct worker_hello){ .version = PROTOCOL_VERSION,
                                                .name = slice_of("mia"),
                                                .incarnation = 1,
                                                .models = { &model, 1 } };
    cr_assert_eq(say_frame(peer_of(DOOR_WORKERS, 0), &frame, NULL), VERDICT_MISPLACED);
    frame.epoch = EPOCH;
    cr_assert_eq(say_frame(peer_of(DOOR_WORKERS, 0), &frame, NULL), VERDICT_OK);
    frame.worker_hello.version = PROTOCOL_VERSION + 1;
    cr_assert_eq(say_frame(peer_of(DOOR_WORKERS, 0), &frame, NULL), VERDICT_REFUSED);
    cr_assert_not(seen(FRAME_HELLO_REFUSED)->hello_refused.newer);
}

Test(dispatch_workers, a_gateways_frame_from_a_worker_is_misplaced_and_changes_nothing)
{
    start_one();
    for (int kind = FRAME_NONE + 1; kind < FRAME_KIND_COUNT; kind++) {
        bool of_worker = kind >= FRAME_WORKER_HELLO && kind <= FRAME_BYE;
        if (!of_worker) {
            cr_assert_eq(worker_says(0, (struct frame){ .kind = (enum frame_kind)kind }),
                         VERDICT_MISPLACED, "%s", frame_kind_name((enum frame_kind)kind));
            cr_assert_eq(w.effects.count, 0);
        }
    }
}

Test(dispatch_workers, a_lower_incarnation_is_refused_and_told_that_a_newer_is_at_work)
{
    worker_in(0, 100);
    worker_in(0, 99);
    cr_assert_eq(w.verdict, VERDICT_REFUSED);
    cr_assert(seen(FRAME_HELLO_REFUSED)->hello_refused.newer);
    worker_in(0, 100);
    cr_assert_eq(w.verdict, VERDICT_OK, "the same comes again");
}

Test(dispatch_workers, a_higher_incarnation_releases_the_old_leases_at_once_and_uncounted)
{
    start_one();
    struct lease old = lease_of(1);
    worker_progress(0, old, 3);
    worker_in(0, 101);
    cr_assert_eq(w.verdict, VERDICT_OK);
    cr_assert_eq(state_of(1), JOB_QUEUED);
    cr_assert_eq(job_in(1)->header.tries, 0);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
    cr_assert_eq(job_in(1)->header.grant, 2);
    cr_assert_eq(worker_done(0, old), VERDICT_STALE, "the old process's result is not taken");
}

Test(dispatch_workers, a_bye_releases_the_leases_and_forgets_the_worker)
{
    start_one();
    worker_says(0, (struct frame){ .kind = FRAME_BYE });
    cr_assert_eq(state_of(1), JOB_QUEUED);
    cr_assert_eq(w.d->roster.alive, 0);
    cr_assert_eq(last_commit()->kind, OP_WORKER_LEFT);
    cr_assert_eq(w.commits[(w.n_commits - 2) % LOG].reason, FAIL_WORKER_LEAVING,
                 "not a lost lease");
    cr_assert_eq(worker_state(0, 1), VERDICT_NO_SESSION);
}

Test(dispatch_workers, a_worker_that_left_and_came_back_during_a_grant_loses_no_place)
{
    worker_in(0, 100);
    w.auto_commit = false;
    submit(1);
    commit();
    worker_state(0, 1);
    worker_says(0, (struct frame){ .kind = FRAME_BYE });
    worker_in(0, 100);
    commit();
    cr_assert_eq(w.d->roster.workers[0].granting, 0);
}

/* -- pulls are absolute -- */

Test(dispatch_workers, credits_are_set_and_never_added)
{
    worker_in(0, 100);
    worker_state(0, 2);
    worker_state(0, 2);
    worker_state(0, 2);
    for (uint32_t i = 1; i <= 5; i++) {
        submit(i);
    }
    cr_assert_eq(w.d->running, 2);
    worker_state(0, 0);
    cr_assert_eq(w.d->running, 2);
    worker_state(0, 1);
    cr_assert_eq(w.d->running, 3);
}

Test(dispatch_workers, a_state_that_crossed_a_job_gives_no_place_twice)
{
    worker_in(0, 100);
    worker_state(0, 1);
    w.deaf = true; /* the JOB is still on its way when the next STATE leaves */
    submit(1);
    submit(2);
    worker_state(0, 1);
    cr_assert_eq(w.d->running, 1);
}

Test(dispatch_workers, a_lost_state_costs_nothing)
{
    worker_in(0, 100);
    submit(1); /* a STATE with pull 1 was lost: the next one says the same */
    cr_assert_eq(state_of(1), JOB_QUEUED);
    later(LIMIT_STATE_MS);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

Test(dispatch_workers, a_result_gives_no_place_that_was_not_pulled)
{
    start_one();
    submit(2);
    worker_done(0, lease_of(1));
    cr_assert_eq(state_of(2), JOB_QUEUED);
    worker_state(0, 1);
    cr_assert_eq(state_of(2), JOB_RUNNING);
}

Test(dispatch_workers, a_silent_worker_gets_no_new_job_until_it_speaks)
{
    worker_in(0, 100);
    worker_state(0, 1);
    later(LIMIT_SUSPECT_MS - 1);
    tick();
    cr_assert_eq(worker_credit(&w.d->roster.workers[0]), 1, "one millisecond early");
    at(LIMIT_SUSPECT_MS + 1000);
    tick();
    submit(1);
    cr_assert_eq(state_of(1), JOB_QUEUED);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

/* -- a lost JOB -- */

Test(dispatch_workers, a_lease_whose_job_was_received_and_is_not_held_is_requeued_at_once)
{
    start_one();
    w.workers[0].n_held = 0;
    worker_state(0, 0);
    cr_assert_eq(state_of(1), JOB_QUEUED);
    cr_assert_eq(job_in(1)->header.tries, 0, "uncounted");
    cr_assert_eq(last_commit()->reason, FAIL_LEASE_LOST);
}

Test(dispatch_workers, a_job_not_received_is_sent_again_after_two_seconds_and_then_taken_back)
{
    worker_in(0, 100);
    worker_state(0, 1);
    w.deaf = true;
    submit(1);
    struct lease lease = lease_of(1);
    later(LIMIT_RESEND_MS - 1);
    worker_state(0, 1);
    cr_assert_eq(count_sent(FRAME_JOB), 0);
    later(1);
    worker_state(0, 1);
    const struct job_frame *again = &seen(FRAME_JOB)->job;
    cr_assert_eq(again->number, 1, "the same number");
    cr_assert(lease_equal(&again->lease, &lease), "the same lease");
    later(LIMIT_RESEND_MS - 1);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
    later(1);
    worker_state(0, 1);
    cr_assert_eq(job_in(1)->header.grant, 2, "taken back, and granted anew");
    cr_assert_eq(job_in(1)->header.tries, 0);
}

Test(dispatch_workers, a_job_that_arrives_the_second_time_runs)
{
    worker_in(0, 100);
    worker_state(0, 1);
    w.deaf = true;
    submit(1);
    w.deaf = false;
    later(LIMIT_RESEND_MS);
    worker_state(0, 1);
    cr_assert_eq(w.workers[0].n_held, 1);
    worker_done(0, lease_of(1));
    cr_assert_eq(state_of(1), JOB_SUCCEEDED);
}

Test(dispatch_workers, a_lost_job_does_not_take_a_place_for_ever)
{
    worker_in(0, 100);
    worker_state(0, 1);
    w.deaf = true;
    submit(1);
    cancel(1); /* both the JOB and the STOP are lost */
    w.deaf = false;
    later(LIMIT_RESEND_MS);
    worker_state(0, 1);
    submit(2);
    cr_assert_eq(state_of(2), JOB_RUNNING);
}

/* -- HELLO and adoption -- */

static void
load_running(uint32_t n, uint64_t incarnation)
{
    struct envelope envelope = envelope_plain();
    envelope.deadline_ms = REDIS_MS + 3600000;
    struct job_header header = { .state = JOB_RUNNING,
                                 .class_ = CLASS_NORMAL,
                                 .grant = 2,
                                 .tries = 1,
                                 .epoch = 0xbefa,
                                 .worker = incarnation,
                                 .sequence = n,
                                 .start_ms = REDIS_MS,
                                 .revision = 4 };
    cr_assert_eq(load(n, &header, &envelope), VERDICT_OK);
}

static void
takeover(void)
{
    close_broker();
    open_empty(LIMIT_JOBS, 1ULL << 31);
    load_running(1, 100);
    load_running(2, 100);
    load_running(3, 200);
    loaded();
    gateway_hello(0);
    w.workers[0] = (struct paper_worker){ .incarnation = 100, .max_pixels = 2048 * 2048 };
    w.workers[0].held[0].lease = lease_of(1);
    w.workers[0].n_held = 1;
}

Test(dispatch_workers, after_a_takeover_a_listed_lease_goes_on_and_an_unlisted_one_is_requeued)
{
    takeover();
    worker_hello(0);
    cr_assert_eq(state_of(1), JOB_RUNNING);
    cr_assert_eq(job_in(1)->header.grant, 2, "not run twice");
    cr_assert_eq(state_of(2), JOB_QUEUED, "at once");
    cr_assert_eq(job_in(2)->header.tries, 1, "uncounted");
    cr_assert_eq(state_of(3), JOB_RUNNING, "another worker's");
    worker_state(0, 0);
    worker_done(0, lease_of(1));
    cr_assert_eq(state_of(1), JOB_SUCCEEDED, "under the old epoch's lease");
}

Test(dispatch_workers, an_adopted_lease_that_is_not_held_later_is_requeued_at_once)
{
    takeover();
    worker_hello(0);
    w.workers[0].n_held = 0;
    worker_state(0, 0);
    cr_assert_eq(state_of(1), JOB_QUEUED);
}

Test(dispatch_workers, unclaimed_leases_wait_for_the_grace_period)
{
    takeover();
    at(LIMIT_ADOPT_GRACE_MS - 1);
    tick();
    cr_assert_eq(state_of(3), JOB_RUNNING);
    at(LIMIT_ADOPT_GRACE_MS + 1000);
    tick();
    cr_assert_eq(state_of(3), JOB_QUEUED);
    cr_assert_eq(w.d->orphans.count, 0);
}

Test(dispatch_workers, a_worker_that_said_hello_during_the_rebuild_is_adopted_by_its_state)
{
    close_broker();
    open_empty(LIMIT_JOBS, 1ULL << 31);
    w.workers[0] = (struct paper_worker){ .incarnation = 100, .max_pixels = 2048 * 2048 };
    w.workers[0].held[0].lease = (struct lease){ job_named(1), 0xbefa, 2 };
    w.workers[0].n_held = 1;
    worker_hello(0);
    load_running(1, 100);
    worker_state(0, 0);
    cr_assert_not(seen(FRAME_BROKER_STATE)->broker_state.complete, "absence means nothing yet");
    loaded();
    worker_state(0, 0);
    at(LIMIT_ADOPT_GRACE_MS + 1000);
    tick();
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

Test(dispatch_workers, a_new_session_of_the_same_process_keeps_its_leases)
{
    start_one();
    worker_hello(0);
    cr_assert_eq(state_of(1), JOB_RUNNING);
    worker_state(0, 0);
    cr_assert_eq(state_of(1), JOB_RUNNING);
    w.workers[0].n_held = 0;
    worker_hello(0);
    cr_assert_eq(state_of(1), JOB_QUEUED, "unless the HELLO does not list them");
}

Test(dispatch_workers, a_held_lease_that_matches_nothing_is_stale_after_the_record_was_read)
{
    w.workers[0] = (struct paper_worker){ .incarnation = 100, .max_pixels = 2048 * 2048 };
    w.workers[0].held[0].lease = (struct lease){ job_named(77), EPOCH_HASH, 1 };
    w.workers[0].n_held = 1;
    worker_hello(0);
    cr_assert_eq(count_sent(FRAME_STALE), 0);
    cr_assert_eq(w.n_reads, 1);
    record_says(w.reads[0], NULL, "");
    cr_assert_eq(count_sent(FRAME_STALE), 1);
}

/* -- results -- */

Test(dispatch_workers, a_late_result_of_an_evicted_worker_is_read_about_and_then_stale)
{
    start_one();
    struct lease lease = lease_of(1);
    for (int64_t ms = 0; ms <= 12000; ms += 250) {
        at(ms);
        sweep(NULL, 0);
    }
    cr_assert_eq(state_of(1), JOB_QUEUED);
    worker_hello(0);
    cr_assert_eq(worker_done(0, lease), VERDICT_STALE);
    cr_assert_eq(count_sent(FRAME_STALE), 0, "never before the read");
    cr_assert_eq(w.n_reads, 1);
    struct job_header header = job_in(1)->header;
    record_says(w.reads[0], &header, "acme");
    cr_assert_eq(count_sent(FRAME_STALE), 1);
}

/* Found by the storm: the ACK of the requeue made the worker forget a result that nobody had. */
Test(dispatch_workers, a_lease_taken_back_is_not_acknowledged_to_its_worker)
{
    start_one();
    struct lease lease = lease_of(1);
    w.auto_commit = false;
    w.workers[0].n_held = 0;
    worker_state(0, 0); /* it does not list it: released */
    worker_done(0, lease);
    commit();
    cr_assert_eq(count_sent(FRAME_ACK), 0);
}

Test(dispatch_workers, the_same_lease_on_a_succeeded_record_is_acknowledged)
{
    start_one();
    struct lease lease = lease_of(1);
    worker_done(0, lease);
    cr_assert_eq(worker_done(0, lease), VERDICT_OK, "repeated: the ACK was lost");
    cr_assert_eq(count_sent(FRAME_ACK), 1);
    struct job_header header = job_in(1)->header;
    sweep_for(LIMIT_RECENT_MS);
    tick();
    cr_assert_null(job_in(1));
    worker_done(0, lease);
    cr_assert_eq(w.n_sent, 0);
    record_says(w.reads[0], &header, "acme");
    cr_assert_eq(count_sent(FRAME_ACK), 1, "and from the record");
    struct inquiry inquiry = w.reads[0];
    header.worker = 99;
    record_says(inquiry, &header, "acme");
    cr_assert_eq(count_sent(FRAME_STALE), 1, "another process's result was taken");
}

Test(dispatch_workers, no_stale_leaves_while_a_transition_is_on_its_way)
{
    start_one();
    struct lease lease = lease_of(1);
    lease.grant = 0;
    worker_done(0, lease);
    struct inquiry inquiry = w.reads[0];
    struct job_header header = job_in(1)->header;
    w.auto_commit = false;
    cancel(1);
    cr_assert_eq(record_says(inquiry, &header, "acme"), VERDICT_FROZEN);
    cr_assert_eq(w.n_sent, 0);
}

Test(dispatch_workers, a_record_that_says_the_lease_is_current_makes_nothing_stale)
{
    start_one();
    struct inquiry inquiry = { .kind = INQUIRY_DONE,
                               .session = w.workers[0].session,
                               .lease = lease_of(1),
                               .id = job_named(1) };
    struct job_header header = job_in(1)->header;
    cr_assert_eq(record_says(inquiry, &header, "acme"), VERDICT_FROZEN);
    cr_assert_eq(w.n_sent, 0);
}

Test(dispatch_workers, another_workers_lease_is_not_taken)
{
    start_one();
    worker_in(1, 200);
    cr_assert_eq(worker_done(1, lease_of(1)), VERDICT_STALE);
    cr_assert_eq(worker_fail(1, lease_of(1), FAIL_INSTANCE_ERROR, true), VERDICT_STALE);
    cr_assert_eq(worker_progress(1, lease_of(1), 5), VERDICT_STALE);
    cr_assert_eq(state_of(1), JOB_RUNNING);
    cr_assert_eq(job_in(1)->step, 0);
}

Test(dispatch_workers, a_repeated_fail_is_answered_without_a_second_try)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    struct lease lease = lease_of(1);
    worker_fail(0, lease, FAIL_INSTANCE_ERROR, true);
    cr_assert_eq(count_sent(FRAME_ACK), 1);
    worker_fail(0, lease, FAIL_INSTANCE_ERROR, true);
    struct job_header header = job_in(1)->header;
    cr_assert_eq(header.tries, 1);
    record_says(w.reads[0], &header, "acme");
    cr_assert_eq(count_sent(FRAME_STALE), 1);
}

Test(dispatch_workers, a_regrant_is_answered_for_the_current_lease_only)
{
    start_one();
    struct frame frame = { .kind = FRAME_REGRANT, .leased = { lease_of(1) } };
    worker_says(0, frame);
    cr_assert_eq(seen(FRAME_GRANT)->grant.bases.count, 1);
    cr_assert_eq(w.sent[0].n_pictures, 1);
    frame.leased.lease.grant++;
    cr_assert_eq(worker_says(0, frame), VERDICT_STALE);
    cr_assert_eq(count_sent(FRAME_GRANT), 0);
}

Test(dispatch_workers, a_retry_goes_to_another_worker_while_an_able_one_lives)
{
    start_one();
    worker_in(1, 200);
    worker_fail(0, lease_of(1), FAIL_INSTANCE_ERROR, true);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_QUEUED, "it waits for the other");
    worker_state(1, 1);
    cr_assert_eq(job_in(1)->header.worker, 200);
    worker_fail(1, lease_of(1), FAIL_INSTANCE_ERROR, true);
    cr_assert_eq(job_in(1)->header.worker, 100, "both failed it: whoever is free");
}

Test(dispatch_workers, a_retry_takes_the_worker_that_failed_it_when_no_other_is_able)
{
    w.workers[1].model = "another-model";
    worker_in(1, 200);
    worker_state(1, 1);
    start_one();
    worker_fail(0, lease_of(1), FAIL_INSTANCE_ERROR, true);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

Test(dispatch_workers, a_retry_is_offered_again_when_the_preferred_worker_goes)
{
    start_one();
    worker_in(1, 200);
    worker_fail(0, lease_of(1), FAIL_INSTANCE_ERROR, true);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_QUEUED);
    struct dispatch_event gone = { .kind = EVENT_GONE, .peer = peer_of(DOOR_WORKERS, 1) };
    say(&gone);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

/* -- silence -- */

/* Sweeps each 250 ms over `ms`; worker 0's beats are as old as they are when `beats` is false; its
 * STATE comes each second when `states`. */
static void
pass(int64_t ms, bool beats, bool states)
{
    int64_t from = w.now.mono_ms;
    for (int64_t at_ms = 250; at_ms <= ms; at_ms += 250) {
        later(250);
        if (states && at_ms % 1000 == 0 && w.workers[0].session != 0) {
            worker_state(0, 0);
        }
        struct quiet_worker quiet = { slice_of("mia"), w.now.mono_ms - from };
        sweep(&quiet, !beats && quiet.quiet_ms >= 4000);
    }
}

static bool
is_there(void)
{
    return roster_by_name(&w.d->roster, slice_of("mia")) != ROSTER_NOBODY;
}

Test(dispatch_workers, silent_on_both_channels_a_worker_is_evicted_after_6_seconds)
{
    start_one();
    worker_progress(0, lease_of(1), 2);
    pass(LIMIT_SILENCE_BOTH_MS - 250, false, false);
    cr_assert(is_there());
    pass(250, false, false);
    later(0);
    struct quiet_worker quiet = { slice_of("mia"), LIMIT_SILENCE_BOTH_MS };
    sweep(&quiet, 1);
    cr_assert_not(is_there());
    cr_assert_eq(state_of(1), JOB_QUEUED);
    cr_assert_eq(job_in(1)->header.tries, 1, "its instance had taken it");
    cr_assert_eq(last_commit()->reason, FAIL_WORKER_LOST);
}

Test(dispatch_workers, one_millisecond_early_is_not_silent)
{
    worker_in(0, 100);
    struct quiet_worker quiet = { slice_of("mia"), LIMIT_SILENCE_BOTH_MS - 1 };
    pass(LIMIT_SILENCE_BOTH_MS - 250, true, false);
    later(249);
    sweep(&quiet, 1);
    cr_assert(is_there());
    later(1);
    quiet.quiet_ms++;
    sweep(&quiet, 1);
    cr_assert_not(is_there());
    cr_assert_eq(last_commit()->kind, OP_WORKER_EVICTED);
    cr_assert_str_eq(last_commit()->worker, "mia");
}

Test(dispatch_workers, silent_in_state_alone_a_worker_is_evicted_after_12_seconds)
{
    worker_in(0, 100);
    pass(LIMIT_SILENCE_STATE_MS - 250, true, false);
    cr_assert(is_there());
    pass(250, true, false);
    cr_assert_not(is_there());
}

Test(dispatch_workers, silent_in_beats_alone_a_worker_gets_no_job_after_6_and_goes_after_30_seconds)
{
    worker_in(0, 100);
    pass(LIMIT_SILENCE_BOTH_MS - 1000, false, true);
    submit(1);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
    struct quiet_worker quiet = { slice_of("mia"), 0 };
    for (int64_t ms = LIMIT_SILENCE_BOTH_MS - 1000; ms < LIMIT_SILENCE_BEAT_MS; ms += 250) {
        at(ms);
        quiet.quiet_ms = ms;
        worker_state(0, 0);
        sweep(&quiet, 1);
        cr_assert(is_there());
    }
    submit(2);
    worker_state(0, 1);
    cr_assert_eq(state_of(2), JOB_QUEUED, "no new job for a worker without beats");
    cr_assert_eq(state_of(1), JOB_RUNNING);
    at(LIMIT_SILENCE_BEAT_MS);
    quiet.quiet_ms = LIMIT_SILENCE_BEAT_MS;
    sweep(&quiet, 1);
    cr_assert_not(is_there());
}

Test(dispatch_workers, beats_that_come_again_make_a_worker_whole)
{
    worker_in(0, 100);
    pass(LIMIT_SILENCE_BOTH_MS + 1000, false, true);
    submit(1);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_QUEUED);
    later(250);
    sweep(NULL, 0);
    worker_state(0, 1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

Test(dispatch_workers, a_step_of_redis_time_evicts_nobody)
{
    worker_in(0, 100);
    pass(LIMIT_SILENCE_BOTH_MS - 1000, true, false);
    later(250);
    w.now.redis_ms += LIMIT_CLOCK_SLIP_MS + 1;
    struct quiet_worker quiet = { slice_of("mia"), 100000 };
    sweep(&quiet, 1);
    cr_assert(is_there());
    later(250);
    sweep(&quiet, 1);
    cr_assert(is_there(), "all limits start again");
    for (int64_t ms = 250; ms < LIMIT_SILENCE_BOTH_MS; ms += 250) {
        later(250);
        sweep(&quiet, 1);
    }
    cr_assert_not(is_there());
}

Test(dispatch_workers, a_slip_of_a_second_is_no_step)
{
    worker_in(0, 100);
    pass(LIMIT_SILENCE_BOTH_MS - 250, true, false);
    later(250);
    w.now.redis_ms += LIMIT_CLOCK_SLIP_MS;
    struct quiet_worker quiet = { slice_of("mia"), LIMIT_SILENCE_BOTH_MS };
    sweep(&quiet, 1);
    cr_assert_not(is_there());
}

Test(dispatch_workers, a_pause_between_two_sweeps_evicts_nobody)
{
    worker_in(0, 100);
    sweep(NULL, 0);
    later(60000);
    struct quiet_worker quiet = { slice_of("mia"), 60000 };
    sweep(&quiet, 1);
    cr_assert(is_there(), "we, or Redis, stood still");
}

static void
crowd(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        worker_in(i, 100 + i);
    }
}

/* Time passes; workers from `silent` on say STATE, all beat. */
static void
pass_crowd(int64_t ms, uint32_t silent, uint32_t n)
{
    for (int64_t at_ms = 250; at_ms <= ms; at_ms += 250) {
        later(250);
        for (uint32_t i = silent; i < n && at_ms % 1000 == 0; i++) {
            worker_state(i, 0);
        }
        sweep(NULL, 0);
    }
}

Test(dispatch_workers, half_of_four_are_evicted_at_once)
{
    crowd(4);
    pass_crowd(LIMIT_SILENCE_STATE_MS, 2, 4);
    cr_assert_eq(w.d->stats.evicted, 2);
}

Test(dispatch_workers, more_than_half_of_four_wait_one_limit_more_and_then_go)
{
    crowd(4);
    pass_crowd(LIMIT_SILENCE_STATE_MS + LIMIT_SILENCE_BOTH_MS - 250, 3, 4);
    cr_assert_eq(w.d->stats.evicted, 0);
    pass_crowd(250, 3, 4);
    cr_assert_eq(w.d->stats.evicted, 3);
}

Test(dispatch_workers, three_of_three_need_no_brake)
{
    crowd(3);
    pass_crowd(LIMIT_SILENCE_STATE_MS, 3, 3);
    cr_assert_eq(w.d->stats.evicted, 3);
}

Test(dispatch_workers, a_crowd_that_speaks_again_is_not_evicted)
{
    crowd(5);
    pass_crowd(LIMIT_SILENCE_STATE_MS + 3000, 5, 5);
    pass_crowd(20000, 0, 5);
    cr_assert_eq(w.d->stats.evicted, 0);
}

Test(dispatch_workers, a_name_that_nobody_knows_is_swept_once_we_have_led_long_enough)
{
    struct quiet_worker quiet = { slice_of("ghost"), 100000 };
    later(LIMIT_SILENCE_BOTH_MS - 1);
    sweep(&quiet, 1);
    cr_assert_eq(w.n_commits, 0);
    later(1);
    sweep(&quiet, 1);
    cr_assert_eq(last_commit()->kind, OP_WORKER_EVICTED);
    cr_assert_str_eq(last_commit()->worker, "ghost");
}

/* -- drain -- */

Test(dispatch_workers, a_drained_worker_finishes_and_gets_nothing_new)
{
    start_one();
    struct frame frame = { .kind = FRAME_ADMIN };
    frame.admin = (struct admin){ ADMIN_DRAIN, slice_of("mia") };
    gateway_says(0, frame);
    cr_assert(seen(FRAME_ADMIN_ANSWER)->admin_answer.found);
    cr_assert_eq(count_sent(FRAME_DRAIN), 1);
    submit(2);
    worker_state(0, 1);
    cr_assert_eq(state_of(2), JOB_QUEUED);
    worker_done(0, lease_of(1));
    cr_assert_eq(state_of(1), JOB_SUCCEEDED);
    worker_hello(0);
    cr_assert_eq(count_sent(FRAME_DRAIN), 1, "a new session is told again");
    worker_state(0, 1);
    cr_assert_eq(state_of(2), JOB_QUEUED);
    worker_in(0, 101);
    worker_state(0, 1);
    cr_assert_eq(state_of(2), JOB_RUNNING, "a new process is not drained");
}

static void
drain(const char *worker)
{
    struct frame frame = { .kind = FRAME_ADMIN };
    frame.admin = (struct admin){ ADMIN_DRAIN, slice_of(worker) };
    gateway_says(0, frame);
    cr_assert(seen(FRAME_ADMIN_ANSWER)->admin_answer.found);
}

/* Found by the storm, seed 10945: DRAIN met a full queue, and the worker idled for ever. */
Test(dispatch_workers, a_drained_worker_that_still_pulls_is_told_again)
{
    start_one();
    w.deaf = true;
    drain("mia");
    worker_state(0, 1);
    cr_assert_eq(count_sent(FRAME_DRAIN), 1);
    worker_state(0, 0);
    cr_assert_eq(count_sent(FRAME_DRAIN), 0, "it knows");
}

/* Found by the storm, seed 23544. */
Test(dispatch_workers, a_drain_outlives_the_eviction_of_its_worker)
{
    start_one();
    drain("mia");
    for (int ms = 0; ms < LIMIT_SILENCE_STATE_MS + 1000; ms += LIMIT_SWEEP_MS) {
        later(LIMIT_SWEEP_MS);
        sweep(NULL, 0);
    }
    cr_assert_eq(w.d->stats.evicted, 1);
    w.workers[0].n_held = 0;
    worker_in(1, 7); /* takes no slot that may be asked for again */
    worker_hello(0);
    cr_assert_eq(count_sent(FRAME_DRAIN), 1);
    worker_state(0, 1);
    submit(2);
    worker_state(0, 1);
    cr_assert_neq(w.d->roster.workers[roster_by_name(&w.d->roster, slice_of("mia"))].leases.count,
                  1);
    worker_in(0, 101);
    cr_assert_eq(count_sent(FRAME_DRAIN), 0, "a new process is not drained");
}

Test(dispatch_workers, a_drain_of_nobody_is_answered_not_found)
{
    struct frame frame = { .kind = FRAME_ADMIN };
    frame.admin = (struct admin){ ADMIN_DRAIN, slice_of("nobody") };
    gateway_says(0, frame);
    cr_assert_not(seen(FRAME_ADMIN_ANSWER)->admin_answer.found);
}

/* -- an orderly stop of the broker -- */

Test(dispatch_workers, a_broker_that_closes_lets_out_what_is_committed_and_grants_nothing_more)
{
    struct dispatch_event closing = { .kind = EVENT_CLOSING };
    worker_in(0, 100);
    worker_state(0, 2);
    w.auto_commit = false;
    submit(1);
    commit(); /* the submit; its grant is on its way */
    cr_assert_eq(commits_waiting(), 1);
    submit(2);
    say(&closing);
    while (commits_waiting() > 0) {
        commit();
    }
    cr_assert_eq(count_sent(FRAME_JOB), 1, "the granted job");
    cr_assert_eq(count_sent(FRAME_ACCEPTED), 1, "the other one is accepted");
    cr_assert_eq(state_of(1), JOB_RUNNING);
    cr_assert_eq(state_of(2), JOB_QUEUED, "the free place stays free");
}

Test(dispatch_workers, a_farewell_tells_every_session_that_it_is_over)
{
    struct dispatch_event farewell = { .kind = EVENT_FAREWELL };
    worker_in(0, 100);
    worker_in(1, 101);
    worker_says(1, (struct frame){ .kind = FRAME_BYE });
    gateway_hello(1);
    say(&farewell);
    cr_assert_eq(count_sent(FRAME_NO_SESSION), 3, "one worker that is there, two gateways");
    cr_assert_eq(seen(FRAME_NO_SESSION)->session, w.workers[0].session);
    cr_assert_eq(seen_nth(FRAME_NO_SESSION, 2)->session, w.gateways[1]);
}

/* -- STATE from the broker -- */

Test(dispatch_workers, a_lease_that_the_broker_does_not_count_is_denied_at_once)
{
    start_one();
    struct paper_worker *worker = &w.workers[0];
    worker_state(0, 0);
    worker->held[worker->n_held++].lease = (struct lease){ job_named(55), EPOCH_HASH, 1 };
    worker_state(0, 0);
    const struct broker_state *state = &seen(FRAME_BROKER_STATE)->broker_state;
    cr_assert(state->complete);
    cr_assert_eq(state->leases.count, 1);
}

Test(dispatch_workers, a_broker_state_answers_once_a_second)
{
    worker_in(0, 100);
    worker_state(0, 0);
    cr_assert_eq(count_sent(FRAME_BROKER_STATE), 1);
    later(LIMIT_STATE_MS - 1);
    worker_state(0, 0);
    cr_assert_eq(count_sent(FRAME_BROKER_STATE), 0);
    later(1);
    worker_state(0, 0);
    cr_assert_eq(count_sent(FRAME_BROKER_STATE), 1);
}
