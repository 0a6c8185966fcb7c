/* A job's life: submit, queue, cancel, expiry, failure, rebuild; and that nothing leaves before its
 * commit. */
#include "tests/unit/dispatch_world.h"

TestSuite(dispatch_jobs, .init = open_broker, .fini = close_broker);

/* -- write before promise -- */

Test(dispatch_jobs, accepted_leaves_after_the_commit)
{
    w.auto_commit = false;
    cr_assert_eq(submit(1), VERDICT_OK);
    cr_assert_eq(count_sent(FRAME_ACCEPTED), 0);
    cr_assert_eq(last_commit()->kind, OP_SUBMIT);
    cr_assert_eq(last_commit()->header.state, JOB_QUEUED);
    commit();
    const struct accepted *accepted = &seen(FRAME_ACCEPTED)->accepted;
    cr_assert_eq(accepted->revision, 1);
    cr_assert_eq(accepted->position, 1);
    cr_assert_eq(accepted->submit_ms, REDIS_MS);
    cr_assert_eq(accepted->deadline_ms, REDIS_MS + 3600 * 1000);
    cr_assert_eq(accepted->reason, WAIT_NO_WORKER);
}

Test(dispatch_jobs, the_deadline_told_is_the_one_that_is_stored_however_late_it_is_told)
{
    w.auto_commit = false;
    submit(1);
    later(700);
    commit();
    cr_assert_eq(seen(FRAME_ACCEPTED)->accepted.deadline_ms, REDIS_MS + 3600 * 1000);
    later(60000);
    submit(1);
    cr_assert_eq(seen(FRAME_ACCEPTED)->accepted.deadline_ms, REDIS_MS + 3600 * 1000);
}

Test(dispatch_jobs, a_job_leaves_after_its_grant_is_committed)
{
    worker_in(0, 100);
    submit(1);
    w.auto_commit = false;
    worker_state(0, 1);
    cr_assert_eq(count_sent(FRAME_JOB), 0);
    cr_assert_eq(last_commit()->kind, OP_TOUCH);
    cr_assert_eq(last_commit()->header.state, JOB_RUNNING);
    cr_assert_eq(last_commit()->header.worker, 100);
    cr_assert_eq(state_of(1), JOB_QUEUED, "until then it is told as queued");
    commit();
    const struct job_frame *job = &seen(FRAME_JOB)->job;
    cr_assert_eq(job->number, 1);
    cr_assert_eq(job->lease.grant, 1);
    cr_assert_eq(job->lease.epoch, EPOCH_HASH);
    cr_assert_eq(job->bases.count, 1, "where to upload");
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

Test(dispatch_jobs, ack_and_the_terminal_event_leave_after_the_commit)
{
    worker_in(0, 100);
    worker_state(0, 1);
    struct envelope envelope = envelope_plain();
    submit_from(0, 1, &envelope, true);
    w.auto_commit = false;
    worker_done(0, lease_of(1));
    cr_assert_eq(w.n_sent, 0);
    cr_assert_eq(last_commit()->kind, OP_FINISH);
    commit();
    cr_assert_eq(count_sent(FRAME_ACK), 1);
    cr_assert_eq(count_sent(FRAME_JOBS), 1);
}

Test(dispatch_jobs, the_answer_to_a_cancel_leaves_after_the_commit)
{
    submit(1);
    w.auto_commit = false;
    cr_assert_eq(cancel(1), VERDICT_OK);
    cr_assert_eq(w.n_sent, 0);
    commit();
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_CANCELLED);
}

/* -- submit -- */

Test(dispatch_jobs, a_submit_repeated_while_it_is_committed_is_answered_once_by_the_commit)
{
    w.auto_commit = false;
    submit(1);
    cr_assert_eq(submit(1), VERDICT_FROZEN);
    cr_assert_eq(commits_waiting(), 1);
    commit();
    cr_assert_eq(count_sent(FRAME_ACCEPTED), 1);
}

Test(dispatch_jobs, a_submit_repeated_later_is_accepted_again_and_made_once)
{
    submit(1);
    cr_assert_eq(submit(1), VERDICT_OK);
    cr_assert_eq(count_sent(FRAME_ACCEPTED), 1);
    cr_assert_eq(w.n_commits, 1);
    cr_assert_eq(w.d->queue.queued, 1);
}

Test(dispatch_jobs, a_submit_repeated_on_a_new_session_is_answered_there)
{
    w.auto_commit = false;
    submit(1);
    gateway_hello(0);
    submit(1);
    commit();
    cr_assert_eq(seen(FRAME_ACCEPTED)->session, w.gateways[0]);
    cr_assert_eq(count_sent(FRAME_ACCEPTED), 1);
}

Test(dispatch_jobs, a_commit_of_a_session_that_left_is_told_to_nobody)
{
    w.auto_commit = false;
    submit(1);
    gateway_hello(0);
    w.n_sent = 0;
    commit();
    cr_assert_eq(w.n_sent, 0);
    cr_assert_eq(state_of(1), JOB_QUEUED);
}

Test(dispatch_jobs, a_submit_repeated_while_the_job_moves_tells_the_committed_revision)
{
    worker_in(0, 100);
    submit(1);
    w.auto_commit = false;
    worker_state(0, 1);
    submit(1);
    cr_assert_eq(seen(FRAME_ACCEPTED)->accepted.revision, 1, "the grant is not committed yet");
    cr_assert_eq(seen(FRAME_ACCEPTED)->accepted.position, 1);
    commit();
    submit(1);
    cr_assert_eq(seen(FRAME_ACCEPTED)->accepted.revision, 2);
    cr_assert_eq(seen(FRAME_ACCEPTED)->accepted.position, 0, "it runs");
}

Test(dispatch_jobs, a_known_idempotency_key_is_answered_with_the_first_job)
{
    w.auto_commit = false;
    submit(2);
    commit_as(COMMIT_KNOWN, 1);
    const struct known *known = &seen(FRAME_KNOWN)->known;
    struct job_id first = job_named(1);
    cr_assert(job_id_equal(&known->first, &first));
    cr_assert_eq(known->body_hash.length, 32);
    cr_assert_eq(memcmp(known->body_hash.bytes, "the body of the first", 21), 0);
    cr_assert_eq(count_sent(FRAME_ACCEPTED), 0);
    cr_assert_null(job_in(2));
}

Test(dispatch_jobs, a_submit_of_an_ended_job_is_accepted_and_its_watcher_sent_to_redis)
{
    w.auto_commit = false;
    struct envelope envelope = envelope_plain();
    submit_from(0, 1, &envelope, true);
    commit_as(COMMIT_EXISTS, 0);
    cr_assert_eq(count_sent(FRAME_ACCEPTED), 1);
    cr_assert_eq(seen_entry()->header.state, JOB_NONE);
    cr_assert_null(job_in(1));
}

Test(dispatch_jobs, when_redis_has_no_room_the_submit_is_refused_storage_full)
{
    w.auto_commit = false;
    submit(1);
    commit_as(COMMIT_NO_ROOM, 0);
    cr_assert_eq(seen(FRAME_REFUSED)->refused.reason, REFUSAL_STORAGE_FULL);
    cr_assert_null(job_in(1));
    w.auto_commit = true;
    cr_assert_eq(submit(1), VERDICT_OK, "and may come again");
}

Test(dispatch_jobs, a_request_that_nobody_could_read_is_refused)
{
    struct frame frame = { .kind = FRAME_SUBMIT, .session = w.gateways[0], .epoch = EPOCH };
    frame.submit = (struct submit){ job_named(1), slice_of("rubbish"), false };
    cr_assert_eq(say_frame(peer_of(DOOR_GATEWAYS, 0), &frame, NULL), VERDICT_REFUSED);
    cr_assert_eq(seen(FRAME_REFUSED)->refused.reason, REFUSAL_BAD_REQUEST);
}

Test(dispatch_jobs, the_last_place_is_given_and_one_more_is_queue_full)
{
    close_broker();
    open_empty(3, 1ULL << 31);
    loaded();
    gateway_hello(0);
    for (uint32_t i = 1; i <= 3; i++) {
        cr_assert_eq(submit(i), VERDICT_OK);
    }
    cr_assert_eq(submit(4), VERDICT_REFUSED);
    cr_assert_eq(seen(FRAME_REFUSED)->refused.reason, REFUSAL_QUEUE_FULL);
    cr_assert_geq(seen(FRAME_REFUSED)->refused.retry_after_s, 1);
    cr_assert_eq(submit(3), VERDICT_OK, "a repeated one is no new job");
    cancel(1);
    cr_assert_eq(submit(4), VERDICT_OK, "an ended job gives its place back at once");
}

Test(dispatch_jobs, bytes_are_bounded_too)
{
    struct envelope envelope = envelope_plain();
    CLEANUP(buffer_destroy) struct buffer request = { 0 };
    request_pack(&request, &envelope);
    uint64_t one = request.length + sizeof(struct job) + 20;
    close_broker();
    open_empty(100, 2 * one);
    loaded();
    gateway_hello(0);
    cr_assert_eq(submit(1), VERDICT_OK);
    cr_assert_eq(submit(2), VERDICT_OK, "exactly full");
    cr_assert_eq(submit(3), VERDICT_REFUSED);
    cr_assert_eq(seen(FRAME_REFUSED)->refused.reason, REFUSAL_QUEUE_FULL);
}

Test(dispatch_jobs, one_tenant_of_several_holds_at_most_its_share)
{
    close_broker();
    open_empty(10, 1ULL << 31);
    loaded();
    gateway_hello(0);
    submit_as(1, "other", CLASS_NORMAL);
    for (uint32_t i = 2; i <= 6; i++) {
        cr_assert_eq(submit_as(i, "acme", CLASS_NORMAL), VERDICT_OK);
    }
    cr_assert_eq(submit_as(7, "acme", CLASS_NORMAL), VERDICT_REFUSED, "5 of 10 is half");
    cr_assert_eq(seen(FRAME_REFUSED)->refused.reason, REFUSAL_TENANT_FULL);
    cr_assert_eq(submit_as(7, "third", CLASS_NORMAL), VERDICT_OK);
}

Test(dispatch_jobs, a_tenant_alone_may_use_the_whole_queue)
{
    close_broker();
    open_empty(4, 1ULL << 31);
    loaded();
    gateway_hello(0);
    for (uint32_t i = 1; i <= 4; i++) {
        cr_assert_eq(submit(i), VERDICT_OK);
    }
}

/* -- cancel and withdraw -- */

Test(dispatch_jobs, a_cancel_is_repeatable)
{
    submit(1);
    cancel(1);
    uint32_t commits = w.n_commits;
    cr_assert_eq(cancel(1), VERDICT_OK);
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_CANCELLED);
    cr_assert_eq(w.n_commits, commits);
}

Test(dispatch_jobs, a_cancel_of_an_ended_job_is_answered_with_its_state)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    worker_done(0, lease_of(1));
    cancel(1);
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_SUCCEEDED);
}

Test(dispatch_jobs, a_cancel_of_a_running_job_stops_the_worker_after_the_commit)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    w.auto_commit = false;
    cancel(1);
    cr_assert_eq(count_sent(FRAME_STOP), 0);
    commit();
    cr_assert_eq(count_sent(FRAME_STOP), 1);
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_CANCELLED);
}

Test(dispatch_jobs, a_lease_whose_cancel_is_not_committed_is_not_denied_to_its_worker)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    w.auto_commit = false;
    cancel(1);
    later(LIMIT_STATE_MS);
    worker_state(0, 0);
    cr_assert_eq(seen(FRAME_BROKER_STATE)->broker_state.leases.count, 1);
    commit();
    later(LIMIT_STATE_MS);
    worker_state(0, 1);
    cr_assert_eq(seen(FRAME_BROKER_STATE)->broker_state.leases.count, 0);
}

Test(dispatch_jobs, a_cancel_of_a_frozen_job_waits)
{
    w.auto_commit = false;
    submit(1);
    cr_assert_eq(cancel(1), VERDICT_FROZEN);
    cr_assert_eq(commits_waiting(), 1);
    commit();
    cr_assert_eq(count_sent(FRAME_ANSWER), 0);
    cr_assert_eq(commits_waiting(), 1, "now the cancel is committed");
    commit();
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_CANCELLED);
}

Test(dispatch_jobs, a_cancel_during_the_grant_lets_no_job_out)
{
    worker_in(0, 100);
    submit(1);
    w.auto_commit = false;
    worker_state(0, 1);
    cancel(1);
    commit();
    cr_assert_eq(count_sent(FRAME_JOB), 0);
    commit();
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_CANCELLED);
}

Test(dispatch_jobs, the_first_terminal_transition_wins)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    w.auto_commit = false;
    worker_done(0, lease_of(1));
    cr_assert_eq(cancel(1), VERDICT_FROZEN);
    commit();
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_SUCCEEDED, "the result came first");
    submit(2);
    commit();
    worker_state(0, 1);
    commit();
    cancel(2);
    cr_assert_eq(worker_done(0, lease_of(2)), VERDICT_FROZEN);
    cr_assert_eq(w.n_sent, 0, "a DONE of a frozen job is dropped, not answered");
    commit();
    cr_assert_eq(state_of(2), JOB_CANCELLED);
}

Test(dispatch_jobs, a_cancel_of_an_unknown_job_reads_the_record_first)
{
    cr_assert_eq(cancel(9), VERDICT_OK);
    cr_assert_eq(w.n_sent, 0);
    cr_assert_eq(w.n_reads, 1);
    struct inquiry inquiry = w.reads[0];
    struct job_header header = { .state = JOB_FAILED };
    record_says(inquiry, &header, "acme");
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_FAILED);
    record_says(inquiry, NULL, "");
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_NONE);
}

Test(dispatch_jobs, another_tenants_cancel_is_answered_as_an_unknown_job)
{
    submit(1);
    cr_assert_eq(cancel_as(1, "evil"), VERDICT_REFUSED);
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_NONE);
    cr_assert_eq(state_of(1), JOB_QUEUED);
    cancel_as(9, "evil");
    struct job_header header = { .state = JOB_SUCCEEDED };
    record_says(w.reads[0], &header, "acme");
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_NONE, "also from the record");
}

Test(dispatch_jobs, a_withdraw_cancels_what_is_queued_and_only_that)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    submit(2);
    withdraw(1);
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_RUNNING);
    withdraw(2);
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_CANCELLED);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

Test(dispatch_jobs, a_withdraw_during_the_submit_cancels_it_after_the_commit)
{
    w.auto_commit = false;
    submit(1);
    cr_assert_eq(withdraw(1), VERDICT_FROZEN);
    commit();
    commit();
    cr_assert_eq(state_of(1), JOB_CANCELLED);
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_CANCELLED);
}

Test(dispatch_jobs, a_withdraw_during_the_grant_is_answered_running)
{
    worker_in(0, 100);
    submit(1);
    w.auto_commit = false;
    worker_state(0, 1);
    withdraw(1);
    commit();
    cr_assert_eq(seen(FRAME_ANSWER)->answer.state, JOB_RUNNING);
    cr_assert_eq(count_sent(FRAME_JOB), 1);
}

/* -- tries, grants, failure -- */

/* Lets worker 0 have the job and fail it. */
static void
fail_once(uint32_t n, enum fail_code code, bool counted)
{
    worker_state(0, 1);
    cr_assert_eq(state_of(n), JOB_RUNNING);
    worker_fail(0, lease_of(n), code, counted);
}

Test(dispatch_jobs, a_job_fails_at_the_last_of_its_tries_and_not_before)
{
    worker_in(0, 100);
    submit(1);
    for (uint32_t i = 1; i < LIMIT_TRIES; i++) {
        fail_once(1, FAIL_INSTANCE_ERROR, true);
        cr_assert_eq(state_of(1), JOB_QUEUED);
        cr_assert_eq(last_commit()->reason, FAIL_INSTANCE_ERROR);
        cr_assert_eq(last_commit()->attempt, i);
        cr_assert_eq(job_in(1)->header.tries, i);
    }
    fail_once(1, FAIL_INSTANCE_DIED, true);
    cr_assert_eq(state_of(1), JOB_FAILED);
    cr_assert_eq(last_commit()->code, FAIL_TOO_MANY_ATTEMPTS);
    cr_assert_eq(last_commit()->reason, FAIL_INSTANCE_DIED, "the last reason is kept too");
}

Test(dispatch_jobs, storage_and_leaving_never_count_whatever_the_worker_says)
{
    worker_in(0, 100);
    submit(1);
    for (uint32_t i = 0; i < 2 * LIMIT_TRIES; i++) {
        fail_once(1, i % 2 == 0 ? FAIL_STORAGE : FAIL_WORKER_LEAVING, true);
        cr_assert_eq(state_of(1), JOB_QUEUED);
    }
    cr_assert_eq(job_in(1)->header.tries, 0);
    cr_assert_eq(job_in(1)->header.grant, 2 * LIMIT_TRIES);
}

Test(dispatch_jobs, a_lease_that_the_instance_never_took_is_no_try)
{
    worker_in(0, 100);
    submit(1);
    fail_once(1, FAIL_INSTANCE_REFUSED, false);
    cr_assert_eq(job_in(1)->header.tries, 0);
    cr_assert_eq(state_of(1), JOB_QUEUED);
}

Test(dispatch_jobs, grants_are_bounded_too)
{
    worker_in(0, 100);
    submit(1);
    for (uint32_t i = 1; i < LIMIT_GRANTS; i++) {
        fail_once(1, FAIL_STORAGE, false);
        cr_assert_eq(state_of(1), JOB_QUEUED, "grant %u", i);
    }
    fail_once(1, FAIL_STORAGE, false);
    cr_assert_eq(state_of(1), JOB_FAILED);
    cr_assert_eq(last_commit()->code, FAIL_TOO_MANY_ATTEMPTS);
    cr_assert_eq(last_commit()->header.grant, LIMIT_GRANTS);
}

Test(dispatch_jobs, a_final_failure_is_the_last)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    struct frame frame = { .kind = FRAME_FAIL };
    frame.fail = (struct fail){ .lease = lease_of(1),
                                .code = FAIL_INSTANCE_REFUSED,
                                .counted = true,
                                .final_ = true,
                                .message = slice_of("the prompt is refused") };
    worker_says(0, frame);
    cr_assert_eq(state_of(1), JOB_FAILED);
    cr_assert_eq(last_commit()->code, FAIL_INSTANCE_REFUSED);
    cr_assert_eq(count_sent(FRAME_ACK), 1);
}

Test(dispatch_jobs, the_longest_message_arrives_whole)
{
    char message[LIMIT_REASON_BYTES + 1] = { 0 };
    for (uint32_t i = 0; i < LIMIT_REASON_BYTES; i += 2) {
        memcpy(message + i, "\xc3\xa9", 2);
    }
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    struct frame frame = { .kind = FRAME_FAIL };
    frame.fail = (struct fail){ .lease = lease_of(1),
                                .code = FAIL_INSTANCE_ERROR,
                                .final_ = true,
                                .message = slice_of(message) };
    worker_says(0, frame);
    ask(FRAME_STATUS, 0, 1, true);
    cr_assert(slice_is(seen_entry()->message, message), "not cut inside a character");
    cr_assert_eq(seen_entry()->code, FAIL_INSTANCE_ERROR);
}

Test(dispatch_jobs, one_colour_marks_the_job_so_that_the_next_attempt_is_delivered)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    cr_assert_eq(job_in(1)->header.flags, 0);
    worker_fail(0, lease_of(1), FAIL_UNIFORM_IMAGE, true);
    cr_assert_eq(last_commit()->header.flags, JOB_FLAG_UNIFORM, "it is durable");
    worker_state(0, 1);
    cr_assert_eq(seen(FRAME_JOB)->job.flags, JOB_FLAG_UNIFORM);
    cr_assert_eq(seen(FRAME_JOB)->job.tries, 1);
}

/* -- order and expiry -- */

Test(dispatch_jobs, a_requeued_job_takes_its_old_place)
{
    worker_in(0, 100);
    worker_state(0, 1);
    for (uint32_t i = 1; i <= 3; i++) {
        submit(i);
    }
    uint64_t key = job_in(1)->key;
    worker_fail(0, lease_of(1), FAIL_STORAGE, false);
    cr_assert_eq(job_in(1)->key, key);
    worker_state(0, 1);
    struct job_id first = job_named(1);
    cr_assert(job_id_equal(&seen(FRAME_JOB)->job.lease.job, &first));
}

Test(dispatch_jobs, a_queued_job_expires_at_its_deadline)
{
    struct envelope envelope = envelope_plain();
    envelope.expires_in_s = 10;
    submit_from(0, 1, &envelope, true);
    at(9999);
    tick();
    cr_assert_eq(state_of(1), JOB_QUEUED);
    at(10000);
    tick();
    cr_assert_eq(state_of(1), JOB_EXPIRED);
    cr_assert_eq(seen_entry()->header.state, JOB_EXPIRED);
}

Test(dispatch_jobs, a_running_job_never_expires_but_one_that_is_queued_again_does)
{
    worker_in(0, 100);
    worker_state(0, 1);
    struct envelope envelope = envelope_plain();
    envelope.expires_in_s = 10;
    submit_from(0, 1, &envelope, false);
    at(60000);
    tick();
    cr_assert_eq(state_of(1), JOB_RUNNING);
    worker_fail(0, lease_of(1), FAIL_STORAGE, false);
    cr_assert_eq(state_of(1), JOB_QUEUED);
    tick();
    cr_assert_eq(state_of(1), JOB_EXPIRED);
}

Test(dispatch_jobs, at_most_256_expire_in_one_step)
{
    struct envelope envelope = envelope_plain();
    envelope.expires_in_s = 10;
    for (uint32_t i = 1; i <= LIMIT_EXPIRIES_PER_STEP + 1; i++) {
        submit_from(0, i, &envelope, false);
    }
    at(20000);
    tick();
    cr_assert_eq(w.d->queue.queued, 1);
    tick();
    cr_assert_eq(w.d->queue.queued, 0);
}

/* -- what commits may answer -- */

Test(dispatch_jobs, the_broker_believes_redis_about_a_job_that_is_gone)
{
    worker_in(0, 100);
    struct envelope envelope = envelope_plain();
    submit_from(0, 1, &envelope, true);
    w.auto_commit = false;
    worker_state(0, 1);
    cancel(1);
    commit_as(COMMIT_ABSENT, 0);
    cr_assert_null(job_in(1));
    cr_assert_eq(count_sent(FRAME_JOB), 0);
    cr_assert_eq(seen_entry()->header.state, JOB_NONE, "its watcher asks Redis");
    cr_assert_eq(w.n_reads, 1, "and so do we before the cancel is answered");
    cr_assert_eq(count_sent(FRAME_ANSWER), 0);
    w.auto_commit = true;
    submit(2);
    cr_assert_eq(count_sent(FRAME_JOB), 1, "the place is free again");
}

Test(dispatch_jobs, after_a_restart_of_redis_live_and_recent_jobs_are_written_again)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    submit(2);
    worker_done(0, lease_of(1));
    struct dispatch_event event = { .kind = EVENT_RESTORE };
    uint32_t before = w.n_commits;
    say(&event);
    cr_assert_eq(w.n_commits - before, 2);
    sweep_for(LIMIT_RECENT_MS);
    tick();
    before = w.n_commits;
    say(&event);
    cr_assert_eq(w.n_commits - before, 1, "an end is kept for LIMIT_RECENT_MS");
}

/* Found by the storm: Redis was away longer than LIMIT_RECENT_MS and came back without the end. */
Test(dispatch_jobs, an_end_is_kept_while_redis_is_away_and_until_it_is_steady_again)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    sweep(NULL, 0);
    worker_done(0, lease_of(1));
    later(2 * LIMIT_RECENT_MS);
    tick();
    cr_assert_not_null(job_in(1), "no sweep was answered meanwhile");
    sweep(NULL, 0);
    tick();
    cr_assert_not_null(job_in(1), "the first answer comes before the restore");
    sweep_for(LIMIT_RECENT_MS);
    tick();
    cr_assert_null(job_in(1));
}

/* Found by the storm, seed 8757: Redis went before the first sweep of the term. */
Test(dispatch_jobs, an_end_is_kept_while_no_sweep_was_ever_answered)
{
    worker_in(0, 100);
    worker_state(0, 1);
    submit(1);
    worker_done(0, lease_of(1));
    later(2 * LIMIT_RECENT_MS);
    tick();
    cr_assert_not_null(job_in(1));
}

Test(dispatch_jobs, a_job_that_moved_while_redis_lost_it_is_restored_and_not_dropped)
{
    worker_in(0, 100);
    submit(1);
    w.auto_commit = false;
    worker_state(0, 1);
    struct dispatch_event event = { .kind = EVENT_RESTORE };
    say(&event);
    cr_assert_eq(last_commit()->kind, OP_RESTORE);
    cr_assert_eq(last_commit()->header.state, JOB_QUEUED, "as it was told");
    cr_assert_eq(last_commit()->header.revision, 1);
    cr_assert_eq(last_commit()->header.grant, 0, "the grant is not yet given");
    commit_as(COMMIT_ABSENT, 0); /* the grant met no record */
    cr_assert_eq(last_commit()->kind, OP_TOUCH, "it goes again, behind the restore");
    cr_assert_eq(count_sent(FRAME_JOB), 0);
    commit();
    cr_assert_eq(count_sent(FRAME_JOB), 1);
    cr_assert_eq(state_of(1), JOB_RUNNING);
}

/* -- a restore in parts -- */

/* The next part of at most `most` jobs; returns how many were committed again. */
static uint32_t
restore_part(enum dispatch_event_kind kind, uint32_t most)
{
    struct dispatch_event event = { .kind = kind, .most = most };
    uint32_t before = w.n_commits;
    say(&event);
    for (uint32_t i = before; i < w.n_commits; i++) {
        cr_assert_eq(w.commits[i % LOG].kind, OP_RESTORE);
    }
    return w.n_commits - before;
}

/* Which of the jobs 1 .. n the commits from `from` on restore, as bits. */
static uint32_t
restored_since(uint32_t from, uint32_t n)
{
    uint32_t bits = 0;
    for (uint32_t i = from; i < w.n_commits; i++) {
        for (uint32_t job = 1; job <= n; job++) {
            struct job_id id = job_named(job);
            bits |= (uint32_t)job_id_equal(&w.commits[i % LOG].id, &id) << job;
        }
    }
    return bits;
}

Test(dispatch_jobs, a_restore_goes_part_by_part_and_no_part_is_larger_than_asked)
{
    for (uint32_t i = 1; i <= 7; i++) {
        submit(i);
    }
    uint32_t from = w.n_commits;
    cr_assert_eq(restore_part(EVENT_RESTORE, 3), 3);
    cr_assert(dispatch_is_restoring(w.d));
    cr_assert_eq(restore_part(EVENT_RESTORE_MORE, 3), 3);
    cr_assert(dispatch_is_restoring(w.d));
    cr_assert_eq(restore_part(EVENT_RESTORE_MORE, 3), 1);
    cr_assert_not(dispatch_is_restoring(w.d));
    cr_assert_eq(restored_since(from, 7), 0xfe, "each of them once");
    cr_assert_eq(restore_part(EVENT_RESTORE_MORE, 3), 0, "it is over");
}

Test(dispatch_jobs, a_part_of_a_restore_is_never_larger_than_its_limit)
{
    for (uint32_t i = 1; i <= LIMIT_RESTORE_CHUNK + 1; i++) {
        submit(i);
    }
    cr_assert_eq(restore_part(EVENT_RESTORE, 0), LIMIT_RESTORE_CHUNK);
    cr_assert(dispatch_is_restoring(w.d));
    cr_assert_eq(restore_part(EVENT_RESTORE_MORE, UINT32_MAX), 1);
    cr_assert_not(dispatch_is_restoring(w.d));
}

Test(dispatch_jobs, a_broker_without_jobs_restores_nothing_and_is_done)
{
    cr_assert_eq(restore_part(EVENT_RESTORE, 0), 0);
    cr_assert_not(dispatch_is_restoring(w.d));
}

Test(dispatch_jobs, a_power_cut_in_the_middle_of_a_restore_begins_it_anew)
{
    for (uint32_t i = 1; i <= 4; i++) {
        submit(i);
    }
    restore_part(EVENT_RESTORE, 3);
    uint32_t from = w.n_commits;
    restore_part(EVENT_RESTORE, 3); /* what the first part wrote may be gone as well */
    cr_assert(dispatch_is_restoring(w.d));
    restore_part(EVENT_RESTORE_MORE, 3);
    cr_assert_not(dispatch_is_restoring(w.d));
    cr_assert_eq(restored_since(from, 4), 0x1e);
}

Test(dispatch_jobs, a_job_that_moves_in_the_middle_of_a_restore_is_restored_as_it_was_told)
{
    worker_in(0, 100);
    submit(1);
    submit(2);
    w.auto_commit = false; /* from here on the store keeps everything back but restores */
    restore_part(EVENT_RESTORE, 1);
    uint32_t from = w.n_commits;
    worker_state(0, 2); /* grants both: one restored before, one not yet */
    cr_assert_eq(w.n_commits - from, 2);
    cr_assert_eq(restore_part(EVENT_RESTORE_MORE, 1), 1);
    cr_assert_eq(last_commit()->header.state, JOB_QUEUED);
    cr_assert_eq(last_commit()->header.revision, 1);
    cr_assert_eq(last_commit()->header.grant, 0);
    cr_assert_eq(count_sent(FRAME_JOB), 0);
    w.auto_commit = true;
    tick(); /* the two grants follow the restore */
    cr_assert_eq(state_of(1), JOB_RUNNING);
    cr_assert_eq(state_of(2), JOB_RUNNING);
}

Test(dispatch_jobs, a_job_submitted_in_the_middle_of_a_restore_is_not_restored_but_submitted)
{
    submit(1);
    submit(2);
    w.auto_commit = false;
    restore_part(EVENT_RESTORE, 1);
    submit(3);
    cr_assert_eq(last_commit()->kind, OP_SUBMIT);
    cr_assert_eq(restore_part(EVENT_RESTORE_MORE, 9), 1, "job 2 alone");
    cr_assert_eq(count_sent(FRAME_ACCEPTED), 0);
    w.auto_commit = true;
    tick();
    cr_assert_eq(state_of(3), JOB_QUEUED);
}

Test(dispatch_jobs, an_end_is_not_forgotten_before_its_part_of_the_restore)
{
    worker_in(0, 100);
    worker_state(0, 2);
    submit(1);
    submit(2);
    worker_done(0, lease_of(2));
    cr_assert_eq(restore_part(EVENT_RESTORE, 1), 1);
    sweep_for(LIMIT_RECENT_MS);
    tick();
    cr_assert_eq(restore_part(EVENT_RESTORE_MORE, 9), 1);
    cr_assert_eq(last_commit()->header.state, JOB_SUCCEEDED);
    tick();
    cr_assert_null(job_in(2), "now it is");
}

Test(dispatch_jobs, a_fence_in_the_middle_of_a_restore_ends_it_with_the_term)
{
    for (uint32_t i = 1; i <= 4; i++) {
        submit(i);
    }
    restore_part(EVENT_RESTORE, 2);
    dispatch_destroy(&w.d);
    w.epoch++;
    dispatch_open(LIMIT_JOBS, 1ULL << 31);
    loaded();
    cr_assert_not(dispatch_is_restoring(w.d));
    cr_assert_eq(restore_part(EVENT_RESTORE_MORE, 9), 0);
}

/* -- rebuild -- */

Test(dispatch_jobs, a_loaded_job_keeps_its_place_and_its_deadline)
{
    close_broker();
    open_empty(LIMIT_JOBS, 1ULL << 31);
    struct envelope envelope = envelope_plain();
    envelope.deadline_ms = REDIS_MS + 5000;
    struct job_header header = { .state = JOB_QUEUED, .class_ = CLASS_NORMAL, .revision = 1 };
    for (uint32_t i = 1; i <= 3; i++) {
        envelope.key = 1000 - i; /* the last is first */
        header.sequence = i;
        cr_assert_eq(load(i, &header, &envelope), VERDICT_OK);
    }
    cr_assert_eq(load(3, &header, &envelope), VERDICT_BAD_RECORD, "twice");
    loaded();
    gateway_hello(0);
    submit(9);
    cr_assert_eq(job_in(9)->header.sequence, 4, "sequences go on");
    worker_in(0, 100);
    worker_state(0, 3);
    for (uint32_t i = 0; i < 3; i++) {
        struct job_id id = job_named(3 - i);
        cr_assert(job_id_equal(&seen_nth(FRAME_JOB, i)->job.lease.job, &id));
    }
    worker_fail(0, lease_of(1), FAIL_STORAGE, false);
    at(5000);
    tick();
    cr_assert_eq(state_of(1), JOB_EXPIRED);
}

Test(dispatch_jobs, records_that_contradict_themselves_are_not_loaded)
{
    struct envelope envelope = envelope_plain();
    struct job_header header = { .state = JOB_SUCCEEDED };
    cr_assert_eq(load(1, &header, &envelope), VERDICT_BAD_RECORD, "an ended job is not live");
    header = (struct job_header){ .state = JOB_QUEUED, .grant = LIMIT_GRANTS + 1 };
    cr_assert_eq(load(1, &header, &envelope), VERDICT_BAD_RECORD);
    header.grant = LIMIT_GRANTS;
    cr_assert_eq(load(1, &header, &envelope), VERDICT_OK);
}

Test(dispatch_jobs, nothing_is_dispatched_before_the_rebuild_is_complete)
{
    close_broker();
    open_empty(LIMIT_JOBS, 1ULL << 31);
    gateway_hello(0);
    worker_in(0, 100);
    worker_state(0, 1);
    cr_assert_eq(submit(1), VERDICT_OK, "but it is taken");
    cr_assert_eq(count_sent(FRAME_JOB), 0);
    loaded();
    cr_assert_eq(count_sent(FRAME_JOB), 1);
}

Test(dispatch_jobs, what_a_queued_job_costs_in_memory)
{
    struct envelope envelope = envelope_plain();
    uint8_t request[300] = { 0 };
    struct frame frame = { .kind = FRAME_SUBMIT, .session = w.gateways[0], .epoch = EPOCH };
    for (uint32_t i = 0; i < 8000; i++) {
        frame.submit = (struct submit){ job_named(i), { request, sizeof request }, false };
        say_frame(peer_of(DOOR_GATEWAYS, 0), &frame, &envelope);
        if (i == 200) {
            struct dispatch_stats stats;
            dispatch_stats(w.d, &stats);
            cr_assert_leq(stats.bytes, 201 * (300 + 240));
            break; /* dispatch_check() makes more of them slow */
        }
    }
    cr_assert_leq(sizeof(struct job), 216);
}
