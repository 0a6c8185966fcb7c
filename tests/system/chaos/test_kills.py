"""The kill matrix, the part of it that runs each time: every victim killed in every phase of a job, and pauses
beyond a lease where it hurts. All cases: siege.py --matrix. How a phase is reached: matrix.py."""
import matrix
from harness import check, check_equal
from registry import test


@test(limit_s=150)
def a_gateway_killed_in_any_phase_of_a_job_loses_none_and_nothing_is_drawn_twice():
    history = matrix.run("gateway", ["kill"])
    check_equal(dict(history.figures.again), {}, "executions beyond the first")


@test(limit_s=150)
def a_leader_killed_in_any_phase_of_a_job_is_followed_by_the_standby_and_nothing_is_drawn_twice():
    history = matrix.run("leader", ["kill"])
    check_equal(dict(history.figures.again), {}, "executions beyond the first")


@test(limit_s=150)
def a_standby_killed_in_any_phase_of_a_job_is_not_missed():
    history = matrix.run("standby", ["kill"])
    check_equal(dict(history.figures.again), {}, "executions beyond the first")


@test(limit_s=150)
def a_worker_killed_in_any_phase_of_a_job_gives_it_back_and_one_result_is_accepted():
    history = matrix.run("worker", ["kill"])
    check(history.figures.again.keys() <= {"kill"}, f"executions beyond the first: {history.figures.again}")
    check(history.figures.again["kill"] >= 1, "the job that a killed worker drew was drawn again")


@test(limit_s=150)
def an_instance_killed_in_any_phase_of_a_job_costs_at_most_another_drawing():
    history = matrix.run("instance", ["kill"])
    check(history.figures.again.keys() <= {"kill"}, f"executions beyond the first: {history.figures.again}")


@test(limit_s=150)
def redis_killed_in_any_phase_of_a_job_loses_none_and_nothing_is_drawn_twice():
    history = matrix.run("redis", ["kill"])
    check_equal(dict(history.figures.again), {}, "executions beyond the first")


@test(limit_s=150)
def a_leader_paused_beyond_its_term_in_any_phase_of_a_job_changes_nothing_when_it_wakes():
    history = matrix.run("leader", ["pause-4"], phases=("submit", "queued", "granted", "drawing", "done"))
    check_equal(dict(history.figures.again), {}, "executions beyond the first")


@test(limit_s=150)
def a_worker_paused_until_it_is_evicted_wakes_to_find_its_result_refused():
    history = matrix.run("worker", ["pause-8"], phases=("granted", "drawing", "uploading"))
    check_equal(history.figures.again["pause-8"], history.figures.executions - history.figures.settled,
                "executions beyond the first")


@test(limit_s=150)
def redis_paused_for_8_s_evicts_nobody_and_loses_nothing():
    history = matrix.run("redis", ["pause-8"], phases=("submit", "drawing", "done"))
    check_equal(dict(history.figures.again), {}, "executions beyond the first")


@test(limit_s=150)
def every_process_asked_to_stop_while_a_job_is_drawn_ends_in_order_and_the_job_succeeds():
    for victim in ("gateway", "leader", "standby", "worker"):
        matrix.run(victim, ["term"], phases=("queued", "drawing"))
