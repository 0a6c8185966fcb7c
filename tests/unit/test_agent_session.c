/* The rules of worker/agent.h about beats, the leader, sessions and leaving, as sentences. */
#include "tests/unit/agent_world.h"

/* -- Redis and the session -- */

Test(agent_session, says_hello_only_when_a_beat_gave_an_incarnation_and_a_model_is_known)
{
    struct agent_config config = { .n_instances = 1, .seed = 1 };
    struct world w = { .now_ms = START_MS, .epoch = 5 };
    CLEANUP(agent_destroy) struct agent *agent = NULL;
    cr_assert(zero(int, agent_new(&agent, &config)));
    w.agent = agent;
    pass(&w, 0);
    cr_assert(not(did(&w, AGENT_DO_READ_LEADER)), "no incarnation yet");
    beat(&w, 0, false);
    pass(&w, LIMIT_LEADER_POLL_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_BEAT)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_BEAT), "Redis was away: asked again soon");
    beat(&w, 99, false);
    pass(&w, 0);
    cr_assert(not(did(&w, AGENT_DO_READ_LEADER)), "no model yet");
    give(&w, &(struct agent_event){ .kind = AGENT_ON_CAPABILITY, .capability = 1 });
    pass(&w, 0);
    cr_assert(did(&w, AGENT_DO_READ_LEADER));
}

Test(agent_session, beats_every_two_seconds_and_never_two_at_a_time)
{
    struct world w;
    world_open(&w, 1);
    CLEANUP(agent_destroy) struct agent *agent = w.agent;
    pass(&w, LIMIT_BEAT_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_BEAT)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_BEAT));
    pass(&w, LIMIT_BEAT_MS);
    cr_assert(not(did(&w, AGENT_DO_BEAT)), "the last one is not answered");
    beat(&w, 0, false);
    pass(&w, 0);
    cr_assert(did(&w, AGENT_DO_BEAT), "Redis came back: at once");
    cr_assert(eq(u64, agent_incarnation(agent), 99), "a lost beat costs no incarnation");
}

Test(agent_session, gives_up_when_a_newer_process_of_its_name_beats)
{
    WORLD(w, 1);
    beat(&w, 0, true);
    cr_assert(did(&w, AGENT_DO_EXIT));
    cr_assert(eq(int, find(&w, AGENT_DO_EXIT)->rc, -1));
    pass(&w, LIMIT_BEAT_MS);
    cr_assert(zero(u32, w.effects.count), "and is silent from then on");
}

Test(agent_session, gives_up_when_its_hello_is_refused_as_outdated_but_not_for_another_reason)
{
    WORLD(w, 1);
    struct frame f = { .kind = FRAME_HELLO_REFUSED };
    frame(&w, &f);
    cr_assert(did(&w, AGENT_DO_DISCONNECT) && !did(&w, AGENT_DO_EXIT));
    pass(&w, LIMIT_LEADER_POLL_MAX_MS);
    leader(&w, w.epoch, "a:1");
    f.hello_refused.newer = true;
    frame(&w, &f);
    cr_assert(did(&w, AGENT_DO_EXIT));
}

Test(agent_session, reads_the_leader_each_100_ms_and_slower_the_longer_nobody_leads)
{
    struct world w;
    world_open(&w, 1);
    CLEANUP(agent_destroy) struct agent *agent = w.agent;
    pass(&w, 0);
    leader(&w, 0, "");
    cr_assert(eq(i64, agent_deadline_ms(agent), w.now_ms + LIMIT_LEADER_POLL_MS));
    pass(&w, LIMIT_LEADER_POLL_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_READ_LEADER)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_READ_LEADER));
    w.now_ms += 60000;
    leader(&w, 0, "");
    pass(&w, LIMIT_LEADER_POLL_MAX_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_READ_LEADER)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_READ_LEADER), "bounded");
}

Test(agent_session, leaves_a_leader_that_is_silent_for_three_seconds)
{
    WORLD(w, 1);
    pass(&w, LIMIT_SUSPECT_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_DISCONNECT)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_DISCONNECT));
    cr_assert(zero(u64, agent_session(w.agent)));
}

Test(agent_session, follows_a_successor_as_soon_as_a_quiet_leader_is_replaced)
{
    WORLD(w, 1);
    uint64_t session = agent_session(w.agent);
    pass(&w, LIMIT_QUIET_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_READ_LEADER)), "one STATE may be late");
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_READ_LEADER));
    leader(&w, w.epoch, "a:1");
    cr_assert(not(did(&w, AGENT_DO_CONNECT)), "the same still leads");
    pass(&w, LIMIT_LEADER_POLL_MS);
    leader(&w, w.epoch + 1, "b:2");
    cr_assert(did(&w, AGENT_DO_CONNECT) && did(&w, AGENT_DO_HELLO));
    cr_assert(ne(u64, agent_session(w.agent), session));
    cr_assert(eq(str, (char *)agent_door(w.agent), "b:2"));
}

Test(agent_session, ignores_frames_of_a_lower_epoch_or_another_session)
{
    WORLD(w, 1);
    struct frame f = job_frame(1, A);
    struct agent_event event = { .kind = AGENT_ON_FRAME };
    event.frame.frame = &f;
    event.frame.fits = 1;
    event.frame.n_pictures = 1;
    f.session = agent_session(w.agent);
    f.epoch = w.epoch - 1;
    cr_assert(eq(int, give(&w, &event), AGENT_STALE));
    f.epoch = w.epoch;
    f.session++;
    cr_assert(eq(int, give(&w, &event), AGENT_STALE));
    f.session--;
    cr_assert(eq(int, give(&w, &event), AGENT_OK));
    cr_assert(did(&w, AGENT_DO_DRAW));
}

Test(agent_session, believes_a_lower_epoch_in_the_key_only_when_it_stays)
{
    WORLD(w, 1);
    pass(&w, LIMIT_SUSPECT_MS);
    cr_assert(eq(int, leader(&w, w.epoch - 1, "b:2"), AGENT_STALE), "read before the election");
    w.now_ms += LIMIT_SUSPECT_MS - 1;
    cr_assert(eq(int, leader(&w, w.epoch - 1, "b:2"), AGENT_STALE));
    w.now_ms += 1;
    cr_assert(eq(int, leader(&w, w.epoch - 1, "b:2"), AGENT_OK), "Redis has lost its data");
    cr_assert(did(&w, AGENT_DO_HELLO));
}

Test(agent_session, says_hello_again_on_no_session_but_not_faster_than_ten_times_a_second)
{
    WORLD(w, 1);
    uint64_t session = agent_session(w.agent);
    w.now_ms += LIMIT_HELLO_MS - 1;
    say(&w, FRAME_NO_SESSION);
    pass(&w, 0);
    cr_assert(not(did(&w, AGENT_DO_HELLO)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_HELLO) && !did(&w, AGENT_DO_CONNECT), "same socket");
    cr_assert(ne(u64, agent_session(w.agent), session), "new session");
}

Test(agent_session, looks_for_the_next_leader_as_soon_as_one_ends_its_session)
{
    WORLD(w, 1);
    for (int i = 0; i < 60; i++) { /* a long session */
        pass(&w, LIMIT_STATE_MS);
        say(&w, FRAME_BROKER_STATE);
    }
    leader(&w, w.epoch, "a:1");
    say(&w, FRAME_NO_SESSION);
    pass(&w, 0);
    cr_assert(did(&w, AGENT_DO_READ_LEADER));
    leader(&w, 0, "");
    pass(&w, LIMIT_LEADER_POLL_MS);
    cr_assert(did(&w, AGENT_DO_READ_LEADER), "each 100 ms");
    leader(&w, w.epoch + 1, "b:2");
    cr_assert(did(&w, AGENT_DO_CONNECT) && did(&w, AGENT_DO_HELLO));
}

Test(agent_session, says_hello_again_when_its_models_change)
{
    WORLD(w, 1);
    pass(&w, LIMIT_HELLO_MS);
    give(&w, &(struct agent_event){ .kind = AGENT_ON_CAPABILITY, .capability = 1 });
    pass(&w, 0);
    cr_assert(not(did(&w, AGENT_DO_HELLO)), "nothing changed");
    give(&w, &(struct agent_event){ .kind = AGENT_ON_CAPABILITY, .capability = 2 });
    pass(&w, 0);
    cr_assert(did(&w, AGENT_DO_HELLO));
}

Test(agent_session, says_state_each_second_and_once_a_turn_for_all_that_changed)
{
    WORLD(w, 2);
    broker_state(&w, NULL, true);
    pass(&w, LIMIT_STATE_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_STATE)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_STATE));
    job(&w, 1, A);
    cr_assert(not(did(&w, AGENT_DO_STATE)));
    job(&w, 2, B);
    cr_assert(le(i64, agent_deadline_ms(w.agent), w.now_ms), "a tick is due in this turn");
    pass(&w, 0);
    cr_assert(did(&w, AGENT_DO_STATE));
    cr_assert(eq(u32, agent_last_job(w.agent), 2));
    pass(&w, 0);
    cr_assert(not(did(&w, AGENT_DO_STATE)));
}

/* -- leaving -- */

Test(agent_session, draining_pulls_nothing_finishes_says_bye_and_leaves)
{
    WORLD(w, 2);
    struct agent_effect upload = upload_of(&w, A);
    say(&w, FRAME_DRAIN);
    cr_assert(zero(u8, agent_pull(w.agent)));
    job(&w, 2, B);
    cr_assert(eq(int, held(&w, B)->code, FAIL_WORKER_LEAVING), "promised before: handed back");
    about(&w, FRAME_ACK, B);
    pass(&w, LIMIT_DRAIN_MS);
    cr_assert(eq(int, held(&w, A)->state, HELD_UPLOADING), "DRAIN has no bound");
    w.epoch++;
    leader(&w, w.epoch, "b:2");
    say(&w, FRAME_WORKER_WELCOME);
    uploaded(&w, &upload, UPLOAD_STORED);
    cr_assert(not(did(&w, AGENT_DO_BYE)));
    about(&w, FRAME_ACK, A);
    cr_assert(did(&w, AGENT_DO_BYE) && did(&w, AGENT_DO_STOP_INSTANCES));
    give(&w, &(struct agent_event){ .kind = AGENT_ON_STOPPED });
    pass(&w, LIMIT_BYE_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_EXIT)));
    pass(&w, 1);
    cr_assert(zero(int, find(&w, AGENT_DO_EXIT)->rc));
}

Test(agent_session, sigterm_fails_what_is_not_finished_in_time_and_waits_two_seconds_for_the_ack)
{
    WORLD(w, 1);
    job(&w, 1, A);
    job(&w, 2, B);
    give(&w, &(struct agent_event){ .kind = AGENT_ON_DRAIN });
    cr_assert(eq(int, held(&w, B)->code, FAIL_WORKER_LEAVING), "what waits is handed back at once");
    about(&w, FRAME_ACK, B);
    struct lease a = A;
    for (int64_t t = 0; t + LIMIT_STATE_MS < LIMIT_DRAIN_MS; t += LIMIT_STATE_MS) {
        pass(&w, LIMIT_STATE_MS);
        broker_state(&w, &a, true);
    }
    pass(&w, LIMIT_STATE_MS - 1);
    cr_assert(eq(int, held(&w, A)->state, HELD_DRAWING));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_INTERRUPT) && did(&w, AGENT_DO_FAIL));
    cr_assert(not(held(&w, A)->counted));
    broker_state(&w, NULL, true); /* the broker lives, but its ACK does not come */
    pass(&w, LIMIT_LEAVE_MS - 1);
    cr_assert(not(did(&w, AGENT_DO_BYE)));
    pass(&w, 1);
    cr_assert(did(&w, AGENT_DO_BYE) && did(&w, AGENT_DO_STOP_INSTANCES));
}

Test(agent_session, an_idle_worker_leaves_at_once_and_beats_no_more)
{
    WORLD(w, 1);
    give(&w, &(struct agent_event){ .kind = AGENT_ON_DRAIN });
    cr_assert(did(&w, AGENT_DO_BYE));
    pass(&w, LIMIT_BEAT_MS);
    cr_assert(not(did(&w, AGENT_DO_BEAT)), "a beat after BYE would bring the worker back");
    cr_assert(not(did(&w, AGENT_DO_EXIT)), "the instances are not stopped yet");
}

Test(agent_session, frames_that_no_worker_gets_are_ignored)
{
    WORLD(w, 1);
    cr_assert(eq(int, say(&w, FRAME_SUBMIT), AGENT_NO_FRAME));
    cr_assert(zero(u32, w.effects.count));
}
