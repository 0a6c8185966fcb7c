/* Gateways: sessions, events, snapshots, positions, reasons, estimates. */
#include "tests/unit/dispatch_world.h"

TestSuite(dispatch_watch, .init = open_broker, .fini = close_broker);

static void
submit_watched(uint32_t n)
{
    struct envelope envelope = envelope_plain();
    submit_from(0, n, &envelope, true);
}

/* -- sessions -- */

Test(dispatch_watch, a_hello_is_welcomed_with_session_epoch_and_key)
{
    gateway_hello(1);
    const struct frame *frame = seen(FRAME_GATEWAY_WELCOME);
    cr_assert_eq(frame->session, w.gateways[1]);
    cr_assert_eq(frame->epoch, EPOCH);
    cr_assert_eq(frame->gateway_welcome.keys.count, 1);
    cr_assert_eq(frame->gateway_welcome.redis_ms, REDIS_MS);
    cr_assert_eq(frame->gateway_welcome.retention_s, 86400);
}

Test(dispatch_watch, a_frame_of_an_unknown_session_is_answered_no_session)
{
    w.gateways[0] = 999;
    cr_assert_eq(submit(1), VERDICT_NO_SESSION);
    cr_assert_eq(count_sent(FRAME_NO_SESSION), 1);
    cr_assert_null(job_in(1));
}

Test(dispatch_watch, a_right_session_from_another_peer_is_no_session)
{
    w.gateways[1] = w.gateways[0];
    cr_assert_eq(gateway_says(1, (struct frame){ .kind = FRAME_PING }), VERDICT_NO_SESSION);
}

Test(dispatch_watch, an_earlier_epoch_is_answered_no_session)
{
    w.epoch = EPOCH - 1;
    cr_assert_eq(submit(1), VERDICT_OLD_EPOCH);
    cr_assert_eq(count_sent(FRAME_NO_SESSION), 1);
    cr_assert_null(job_in(1));
}

Test(dispatch_watch, a_workers_frame_from_a_gateway_is_misplaced)
{
    for (int kind = FRAME_NONE + 1; kind < FRAME_KIND_COUNT; kind++) {
        if (kind < FRAME_GATEWAY_HELLO || kind > FRAME_ADMIN) {
            cr_assert_eq(gateway_says(0, (struct frame){ .kind = (enum frame_kind)kind }),
                         VERDICT_MISPLACED, "%s", frame_kind_name((enum frame_kind)kind));
        }
    }
}

Test(dispatch_watch, a_gateway_too_many_is_refused)
{
    struct upload_base base = { slice_of("http://a") };
    struct frame frame = { .kind = FRAME_GATEWAY_HELLO };
    frame.gateway_hello =
        (struct gateway_hello){ .version = PROTOCOL_VERSION, .bases = { &base, 1 } };
    for (uint32_t i = 1; i <= LIMIT_GATEWAYS; i++) {
        frame.session = 5000 + i;
        enum verdict verdict = say_frame(peer_of(DOOR_GATEWAYS, i), &frame, NULL);
        cr_assert_eq(verdict, i < LIMIT_GATEWAYS ? VERDICT_OK : VERDICT_REFUSED, "%u", i);
    }
    cr_assert_eq(count_sent(FRAME_HELLO_REFUSED), 1);
}

Test(dispatch_watch, a_ping_is_answered_with_counts)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    submit(2);
    gateway_says(0, (struct frame){ .kind = FRAME_PING });
    const struct pong *pong = &seen(FRAME_PONG)->pong;
    cr_assert_eq(pong->queued, 1);
    cr_assert_eq(pong->running, 1);
    cr_assert_eq(pong->workers, 1);
}

Test(dispatch_watch, a_gateway_silent_for_ten_seconds_is_forgotten)
{
    at(9999);
    tick();
    cr_assert_eq(submit(1), VERDICT_OK);
    at(20000);
    tick();
    cr_assert_eq(submit(2), VERDICT_NO_SESSION);
}

Test(dispatch_watch, upload_addresses_are_those_of_gateways_with_room)
{
    gateway_hello(1);
    gateway_says(1, (struct frame){ .kind = FRAME_PING, .ping = { true } });
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    const struct job_frame *job = &seen(FRAME_JOB)->job;
    const struct upload_base *bases = job->bases.items;
    cr_assert_eq(job->bases.count, 1);
    cr_assert(slice_is(bases[0].url, "http://10.0.0.0:8081"));
}

/* -- watching -- */

Test(dispatch_watch, a_watcher_sees_each_change_with_a_rising_revision)
{
    worker_in(0, 100);
    submit_watched(1);
    cr_assert_eq(count_sent(FRAME_JOBS), 0, "ACCEPTED says it all");
    worker_state(0, 1);
    cr_assert_eq(seen_entry()->header.state, JOB_RUNNING);
    cr_assert_eq(seen_entry()->header.revision, 2);
    cr_assert(slice_is(seen_entry()->worker, "mia"));
    worker_fail(0, lease_of(1), FAIL_STORAGE, false);
    cr_assert_eq(seen_entry()->header.state, JOB_QUEUED);
    cr_assert_eq(seen_entry()->header.revision, 3);
}

Test(dispatch_watch, the_terminal_event_carries_request_and_result_and_is_the_last)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit_watched(1);
    worker_done(0, lease_of(1));
    const struct job_entry *entry = seen_entry();
    cr_assert_eq(entry->header.state, JOB_SUCCEEDED);
    cr_assert_gt(entry->request.length, 0);
    cr_assert(slice_is(entry->result, "the result"));
    cr_assert_eq(job_in(1)->watchers, 0);
}

Test(dispatch_watch, a_watch_is_answered_by_a_snapshot_and_ends_with_unwatch)
{
    submit(1);
    ask(FRAME_WATCH, 0, 1, false);
    cr_assert_eq(seen_entry()->header.state, JOB_QUEUED);
    cr_assert_eq(seen_entry()->request.length, 0);
    ask(FRAME_UNWATCH, 0, 1, false);
    cr_assert_eq(count_sent(FRAME_JOBS), 0);
    cancel(1);
    cr_assert_eq(count_sent(FRAME_JOBS), 0);
}

Test(dispatch_watch, a_job_that_is_not_here_is_answered_state_none)
{
    ask(FRAME_WATCH, 0, 1, true);
    cr_assert_eq(seen_entry()->header.state, JOB_NONE);
}

Test(dispatch_watch, a_snapshot_tells_only_what_is_committed)
{
    worker_in(0, 100);
    submit(1);
    w.auto_commit = false;
    worker_state(0, 1);
    ask(FRAME_STATUS, 0, 1, false);
    cr_assert_eq(seen_entry()->header.state, JOB_QUEUED);
    cr_assert_eq(seen_entry()->header.revision, 1);
    commit();
    worker_done(0, lease_of(1));
    ask(FRAME_STATUS, 0, 1, true);
    cr_assert_eq(seen_entry()->header.state, JOB_RUNNING);
    cr_assert_eq(seen_entry()->result.length, 0, "the result is not promised yet");
}

Test(dispatch_watch, a_submit_repeated_after_its_end_tells_its_watcher_the_end)
{
    submit(1);
    cancel(1);
    submit_watched(1);
    cr_assert_eq(count_sent(FRAME_ACCEPTED), 1);
    cr_assert_eq(seen_entry()->header.state, JOB_CANCELLED);
}

Test(dispatch_watch, a_submit_repeated_while_its_end_is_committed_sees_the_end)
{
    submit(1);
    w.auto_commit = false;
    cancel(1);
    submit_watched(1);
    commit();
    cr_assert_eq(seen_entry()->header.state, JOB_CANCELLED);
}

Test(dispatch_watch, progress_is_told_four_times_a_second_and_the_last_step_always)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit_watched(1);
    struct lease lease = lease_of(1);
    worker_progress(0, lease, 1);
    cr_assert_eq(seen_entry()->step, 1);
    later(LIMIT_PROGRESS_MS - 1);
    worker_progress(0, lease, 2);
    cr_assert_eq(count_sent(FRAME_JOBS), 0);
    later(1);
    worker_progress(0, lease, 3);
    cr_assert_eq(count_sent(FRAME_JOBS), 1);
    worker_progress(0, lease, 8);
    cr_assert_eq(count_sent(FRAME_JOBS), 1);
}

/* -- lagging -- */

static void
lag(void)
{
    struct dispatch_event event = { .kind = EVENT_LAGGING, .peer = peer_of(DOOR_GATEWAYS, 0) };
    say(&event);
}

Test(dispatch_watch, a_gateway_that_lags_gets_nothing_until_a_snapshot_of_all_it_watches)
{
    worker_in(0, 100);
    submit_watched(1);
    submit_watched(2);
    lag();
    worker_state(0, 1);
    cr_assert_eq(count_sent(FRAME_JOBS), 0);
    later(1000);
    tick();
    cr_assert_eq(seen(FRAME_JOBS)->jobs.entries.count, 2, "running and queued");
    worker_done(0, lease_of(1));
    cr_assert_eq(count_sent(FRAME_JOBS), 1, "and events again");
}

Test(dispatch_watch, a_job_that_ended_while_its_gateway_lagged_is_in_the_snapshot)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit_watched(1);
    lag();
    worker_done(0, lease_of(1));
    cr_assert_eq(count_sent(FRAME_JOBS), 0);
    later(1000);
    tick();
    cr_assert_eq(seen_entry()->header.state, JOB_SUCCEEDED);
    cr_assert(slice_is(seen_entry()->result, "the result"));
    later(1000);
    tick();
    cr_assert_eq(count_sent(FRAME_JOBS), 0, "once");
}

/* -- positions, reasons, estimates -- */

Test(dispatch_watch, positions_of_watched_queued_jobs_come_once_a_second)
{
    for (uint32_t i = 1; i <= 3; i++) {
        submit_watched(i);
    }
    at(1000);
    tick();
    at(1999);
    tick();
    cr_assert_eq(count_sent(FRAME_JOBS), 0);
    at(2000);
    tick();
    cr_assert_eq(count_sent(FRAME_JOBS), 1);
    const struct frame *frame = seen(FRAME_JOBS);
    const struct job_entry *entries = frame->jobs.entries.items;
    cr_assert_eq(frame->jobs.entries.count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert_eq(entries[i].position, 1 + entries[i].id.bytes[15] - 1);
    }
}

Test(dispatch_watch, more_positions_than_a_frame_holds_come_round_robin)
{
    for (uint32_t i = 1; i <= LIMIT_LIST + 10; i++) {
        submit_watched(i);
    }
    at(1000);
    tick();
    cr_assert_eq(seen(FRAME_JOBS)->jobs.entries.count, LIMIT_LIST);
    const struct job_entry *first = seen(FRAME_JOBS)->jobs.entries.items;
    uint32_t began = first->id.bytes[15] | (uint32_t)first->id.bytes[14] << 8;
    at(2000);
    tick();
    const struct job_entry *next = seen(FRAME_JOBS)->jobs.entries.items;
    uint32_t goes_on = next->id.bytes[15] | (uint32_t)next->id.bytes[14] << 8;
    cr_assert_eq((goes_on - 1), (began - 1 + LIMIT_LIST) % (LIMIT_LIST + 10));
}

Test(dispatch_watch, a_status_of_many_large_jobs_is_split_into_frames)
{
    struct named_job ids[40];
    uint8_t big[LIMIT_JOB_BODY_BYTES];
    memset(big, 'x', sizeof big);
    struct envelope envelope = envelope_plain();
    for (uint32_t i = 0; i < 40; i++) {
        ids[i].id = job_named(i);
        struct frame frame = { .kind = FRAME_SUBMIT, .session = w.gateways[0], .epoch = EPOCH };
        frame.submit = (struct submit){ ids[i].id, { big, sizeof big }, false };
        say_frame(peer_of(DOOR_GATEWAYS, 0), &frame, &envelope);
    }
    gateway_says(0, (struct frame){ .kind = FRAME_STATUS, .named_jobs = { { ids, 40 }, true } });
    uint32_t n = 0;
    uint32_t frames = count_sent(FRAME_JOBS);
    for (uint32_t i = 0; i < frames; i++) {
        n += seen_nth(FRAME_JOBS, i)->jobs.entries.count;
    }
    cr_assert_gt(frames, 1);
    cr_assert_eq(n, 40, "every id is answered; perform() saw that each frame decodes");
}

static uint8_t
reason_of(uint32_t n)
{
    ask(FRAME_STATUS, 0, n, false);
    return seen_entry()->reason;
}

Test(dispatch_watch, a_queued_job_says_why_it_waits)
{
    submit(1);
    cr_assert_eq(reason_of(1), WAIT_NO_WORKER);
    w.workers[0].model = "other";
    worker_in(0, 100);
    cr_assert_eq(reason_of(1), WAIT_NO_MODEL);
    w.workers[1] = (struct paper_worker){ .incarnation = 200, .max_pixels = 1024 * 1024 - 1 };
    worker_hello(1);
    cr_assert_eq(reason_of(1), WAIT_TOO_LARGE);
    w.workers[1].max_pixels = 1024 * 1024;
    worker_hello(1);
    cr_assert_eq(reason_of(1), WAIT_NONE);
}

Test(dispatch_watch, without_an_able_worker_there_is_no_estimate)
{
    submit(1);
    cr_assert_eq(seen(FRAME_ACCEPTED)->accepted.eta_s, ETA_UNKNOWN);
    worker_in(0, 100);
    submit(2);
    cr_assert_neq(seen(FRAME_ACCEPTED)->accepted.eta_s, ETA_UNKNOWN);
    cr_assert_eq(seen(FRAME_ACCEPTED)->accepted.position, 2);
}

Test(dispatch_watch, the_estimate_follows_the_speed_that_was_seen)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1); /* cost 8192 */
    later(5000);
    worker_state(0, 0);
    worker_done(0, lease_of(1));
    tick(); /* speeds are summed up once a second */
    for (uint32_t i = 2; i <= 4; i++) {
        submit(i);
    }
    cr_assert_eq(seen(FRAME_ACCEPTED)->accepted.position, 3);
    uint32_t eta_s = seen(FRAME_ACCEPTED)->accepted.eta_s;
    cr_assert(eta_s >= 14 && eta_s <= 16, "two of 5 s ahead, and its own: %u", eta_s);
}
