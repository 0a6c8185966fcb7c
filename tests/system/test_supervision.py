"""What the agent does about instances that misbehave, and what /v1/workers shows of it."""
import os
import re
import signal
import subprocess

from fake_instance import FakeInstance
from harness import Cluster, check, check_equal, free_port, holds, program, until
from registry import test


TRIES = 5 # where the job's record has them

CUDA = "CUDA error: an illegal memory access was encountered"


def attached(c, name, modes, *flags, **options):
    instance = FakeInstance(modes, **options)
    c.closers.append(instance.close)
    c.worker(name, *flags, attach=[instance.url])
    return instance


def tests_of(instance):
    return [order for order in instance.order if order["id"].startswith("selftest.")]


def jobs_of(instance):
    return [order for order in instance.order if not order["id"].startswith("selftest.")]


def reason(c, worker):
    return (c.instance(worker) or {}).get("reason", "")


def until_reason(c, worker, start, limit_s=20):
    return until(lambda: reason(c, worker).startswith(start) and reason(c, worker), limit_s,
                 f"the reason of {worker}'s instance begins with {start!r}")


def end_one_by_one(c, n, status="succeeded", first=0):
    """One job after the other: the first ones of an instance are then the first ones of the list."""
    return [c.http.wait(c.http.submit(steps=1, seed=first + i), status, 40) for i in range(n)]


@test(short=True, limit_s=90)
def a_started_instance_that_draws_one_colour_is_tested_started_anew_and_tested_before_its_next_job():
    with Cluster() as c:
        # Black from its third job on: the third and the fourth are drawn twice, then comes the fifth.
        agent = c.worker("mia", sim="--step-ms 5 --black-jobs 3-")
        jobs = end_one_by_one(c, 5)
        check_equal([(job["attempt"], job["warnings"]) for job in jobs],
                    [(1, []), (1, []), (2, ["uniform_image"]), (2, ["uniform_image"]), (2, [])], "attempts, warnings")
        until(lambda: c.instance("mia")["restarts"] == 1, 5, "the restart is told")
        check_equal(c.instance("mia")["last_exit"], "self-test: one colour", "why its process ended")
        check_equal(reason(c, "mia"), "", "reason of one that is ready")
        log = agent.log()
        check_equal(log.count("instance-selftest "), 2, "self-tests: one before and one after the restart")
        check_equal(log.count("instance-selftest-passed"), 1, "good ones")
        check("reason=\"self-test: its pictures of 3 jobs" in log, "its state while it is tested has a reason")


@test(short=True, limit_s=90)
def an_attached_instance_that_draws_one_colour_is_out_until_a_self_test_is_good():
    with Cluster() as c:
        instance = attached(c, "mia", ["black"])
        end_one_by_one(c, 2)
        third = c.http.submit(steps=1, seed=3)
        until_reason(c, "mia", "self-test: one colour")
        check_equal(c.instance("mia")["state"], "down", "state")
        shown = subprocess.run([program("drawbar"), "workers", "--server", f"http://{c.http.address}"], capture_output=True,
                               text=True, timeout=20, check=True).stdout
        name = c.instance("mia")["name"]
        check(re.search(rf"^mia {re.escape(name)} is (down|busy) for \d+ s: self-test: ", shown, re.M), f"workers: {shown!r}")
        check_equal(len(jobs_of(instance)), 5, "drawings of jobs: two of them twice, the third once")
        until(lambda: len(tests_of(instance)) >= 3, 20, "it is tested again and again")
        check_equal(len(jobs_of(instance)), 5, "and no job is given to it")
        # It may have been granted before the broker heard that the place is gone: then it is handed back, undrawn.
        until(lambda: c.http.job(third)["status"] == "queued", 10, "the job waits for an instance")
        instance.modes = ["good"]
        job = c.http.wait(third, "succeeded", 45)
        check(job["attempt"] in (2, 3), f"attempt {job['attempt']}")
        check_equal((c.redis.record(third)[TRIES], job["warnings"]), (2, []), "tries and warnings")
        tested = tests_of(instance)[0]
        check_equal((tested["width"], tested["height"], tested["steps"], tested["n"]), (512, 512, 8, 1), "what was asked")
        check_equal(len({order["id"] for order in tests_of(instance)}), len(tests_of(instance)), "each with an id of its own")
        check_equal(c.redis.live(), 0, "a self-test is no job")
        until(lambda: reason(c, "mia") == "", 10, "the reason is gone")


@test(limit_s=90)
def a_restart_in_between_does_not_end_a_row_of_one_coloured_pictures():
    with Cluster() as c:
        # The first two jobs of each process are black: a job and its second attempt.
        agent = c.worker("mia", sim="--step-ms 5 --black-jobs 1-2")
        for seed in (1, 2):
            job = end_one_by_one(c, 1, first=seed)[0]
            check_equal(job["warnings"], ["uniform_image"], "warnings")
            pid = until(lambda: (c.instance("mia") or {}).get("pid"), 5, "the pid is told")
            os.killpg(os.getpgid(pid), signal.SIGKILL)
            until(lambda was=pid: c.instance("mia")["pid"] not in (0, was) and c.instance("mia")["state"] == "ready", 15,
                  "the next process is ready")
        check("instance-selftest" not in agent.log(), "two jobs are no row")
        c.http.submit(steps=1, seed=3)
        until(lambda: "instance-selftest-due" in agent.log(), 10, "the third job makes it one")


@test(limit_s=90)
def an_instance_whose_self_test_is_good_goes_on():
    with Cluster() as c:
        # Three prompts for one colour, say: the third is drawn once, then the test, then again.
        agent = c.worker("mia", sim="--step-ms 5 --black-jobs 1-5")
        jobs = end_one_by_one(c, 4)
        check_equal([(job["attempt"], job["warnings"]) for job in jobs],
                    [(2, ["uniform_image"]), (2, ["uniform_image"]), (2, []), (1, [])], "attempts, warnings")
        check_equal(agent.log().count("instance-selftest-passed"), 1, "self-tests")
        check_equal(c.instance("mia")["restarts"], 0, "restarts")


@test(limit_s=90)
def while_one_instance_is_tested_the_other_draws():
    with Cluster() as c:
        black = attached(c, "mia", ["black"])
        end_one_by_one(c, 2)
        good = FakeInstance(["good"])
        c.closers.append(good.close)
        third = c.http.submit(steps=1, seed=3)
        until_reason(c, "mia", "self-test: one colour")
        c.worker("zoe", attach=[good.url])
        c.http.wait(third, "succeeded")
        jobs = end_one_by_one(c, 10, first=10)
        check_equal({(job["worker"], job["attempt"]) for job in jobs}, {("zoe", 1)}, "who drew, and which attempt")
        check_equal(len(jobs_of(black)), 5, "jobs of the one that is out")


@test(short=True, limit_s=90)
def a_started_instance_that_lost_its_device_is_started_anew_at_once():
    with Cluster() as c:
        agent = c.worker("mia", sim=f"--step-ms 5 --fail-jobs 2 --fail-message \"{CUDA}\"")
        jobs = end_one_by_one(c, 3)
        # Of each process the second job fails: it is drawn again as the first of the next one.
        check_equal([job["attempt"] for job in jobs], [1, 2, 2], "attempts")
        until(lambda: c.instance("mia")["restarts"] == 2, 5, "the restarts are told")
        check(c.instance("mia")["last_exit"].startswith("lost its device: "), f"why: {c.instance('mia')}")
        check_equal(agent.log().count("instance-taken-out"), 0, "three failures were not waited for")


@test(limit_s=90)
def too_little_memory_starts_nothing_anew():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 5 --fail-jobs 2-3 --fail-message \"CUDA error: out of memory\"")
        jobs = end_one_by_one(c, 3)
        check_equal([job["attempt"] for job in jobs], [1, 3, 1], "attempts")
        check_equal(c.instance("mia")["restarts"], 0, "restarts")


@test(limit_s=90)
def an_attached_instance_that_lost_its_device_is_left_alone_for_longer_each_time_and_says_why():
    with Cluster() as c:
        instance = FakeInstance(["fail"], error=CUDA)
        c.closers.append(instance.close)
        agent = c.worker("mia", attach=[instance.url])
        job = c.http.wait_end(c.http.submit(steps=1), 40)
        check_equal((job["status"], len(job["error"]["attempts"])), ("failed", 3), "how it ended")
        check_equal(len(instance.order), 3, "drawings")
        downs = [line for line in agent.log().splitlines() if "from=busy to=down" in line]
        check(len(downs) == 3 and all(f"reason=\"lost its device: cuda: {CUDA}\"" in line for line in downs[:2]),
              f"it was left alone after each failure: {downs}")
        until_reason(c, "mia", f"taken out: 3 failures in a row, last: cuda: {CUDA}")
        waiting = c.http.submit(steps=1)
        instance.modes = ["good"]
        c.http.wait(waiting, "succeeded", 45)


def fail_fast(c, start_bad, attempts_on_bad):
    """50 jobs for a good instance and one that fails at once; how often that one tried."""
    c.worker("zoe", sim="--step-ms 20")
    start_bad()
    ids = [c.http.submit(steps=2, seed=i) for i in range(50)]
    jobs = [c.http.wait(job_id, "succeeded", 60) for job_id in ids]
    check_equal({job["worker"] for job in jobs}, {"zoe"}, "who drew")
    attempts = attempts_on_bad(jobs)
    check(1 <= attempts <= 10, f"attempts on the bad one: {attempts}")
    return attempts


@test(short=True, limit_s=120)
def an_attached_instance_that_fails_at_once_does_not_swallow_the_queue():
    with Cluster() as c:
        bad = FakeInstance(["fail"], step_s=0.001)
        c.closers.append(bad.close)
        fail_fast(c, lambda: c.worker("mia", attach=[bad.url]), lambda jobs: len(bad.order))


@test(limit_s=120)
def a_started_instance_that_fails_at_once_does_not_swallow_the_queue():
    with Cluster() as c:
        tried = fail_fast(c, lambda: c.worker("mia", sim="--step-ms 0 --fail-jobs 1-"),
                          lambda jobs: sum(job["attempt"] - 1 for job in jobs))
        until(lambda: tried <= 3 + c.instance("mia")["restarts"], 10,
              f"after three failures each further process may fail one job; attempts: {tried}")


@test(limit_s=120)
def a_started_instance_that_loses_its_device_each_time_does_not_swallow_the_queue():
    with Cluster() as c:
        fail_fast(c, lambda: c.worker("mia", sim=f"--step-ms 0 --fail-jobs 1- --fail-message \"{CUDA}\""),
                  lambda jobs: sum(job["attempt"] - 1 for job in jobs))


@test(limit_s=120)
def an_instance_that_draws_only_garbage_does_not_swallow_the_queue():
    with Cluster() as c:
        bad = FakeInstance(["garbage"], step_s=0.001)
        c.closers.append(bad.close)
        fail_fast(c, lambda: c.worker("mia", attach=[bad.url]), lambda jobs: len(bad.order))


@test(limit_s=90)
def jobs_of_the_only_instance_that_always_fails_end_with_their_reasons_and_it_is_taken_out_between():
    with Cluster() as c:
        agent = FakeInstance(["fail"], step_s=0.001, error="no luck")
        c.closers.append(agent.close)
        worker = c.worker("mia", attach=[agent.url])
        ids = [c.http.submit(steps=1, seed=i) for i in range(2)]
        until_reason(c, "mia", "taken out: ")
        jobs = [c.http.wait_end(job_id, 60) for job_id in ids]
        for job in jobs:
            check_equal((job["status"], job["error"]["code"]), ("failed", "too_many_attempts"), "how it ended")
            check_equal([a["message"] for a in job["error"]["attempts"]], ["cuda: no luck"] * 3, "reasons")
        check_equal(len(agent.order), 6, "drawings")
        until(lambda: worker.log().count("instance-taken-out") == 4, 5, "it is taken out after three and each further one")
        agent.modes = ["good"]
        c.http.wait(c.http.submit(steps=1), "succeeded", 45)
        until(lambda: reason(c, "mia") == "", 10, "the reason is gone")


@test(limit_s=90)
def a_crash_loop_is_shown_with_its_last_exit_and_its_log():
    with Cluster() as c:
        c.worker("mia", start="true {port}; exit 3", ready=False)
        until(lambda: (c.instance("mia") or {}).get("state") == "broken", 40, "the instance is given up")
        told = c.instance("mia")
        check(told["reason"].startswith("crash loop: 5 exits within 60 s, last: exit code 3, log /"), f"{told}")
        check_equal(told["last_exit"], "exit code 3", "last exit")
        check(told["state_ms"] >= 0, f"{told}")


@test(limit_s=90)
def why_an_attached_instance_is_down_is_shown_until_it_is_ready():
    with Cluster() as c:
        port = free_port()
        c.worker("mia", attach=[f"http://127.0.0.1:{port}"], ready=False)
        until_reason(c, "mia", "health checks fail: ")
        check_equal(c.instance("mia")["state"], "down", "state")
        c.start("instance", [program("drawbar-sim-instance"), "--port", port, "--startup-ms", 4000], wait_ready=False)
        until(lambda: c.instance("mia")["state"] == "starting", 15, "it answers")
        until(lambda: c.instance("mia")["state"] == "ready", 20, "it is ready")
        check_equal(reason(c, "mia"), "", "reason")
        held = c.instance("mia")["state_ms"]
        until(lambda: c.instance("mia")["state_ms"] > held, 10, "the time in its state grows")


@test(limit_s=90)
def a_started_instance_that_hangs_is_started_anew_and_its_job_succeeds():
    with Cluster() as c:
        # The second job of each process hangs; the first has the time of a start.
        agent = c.worker("mia", "--stuck-ms", "1000", sim="--step-ms 5 --hang-after 2")
        jobs = end_one_by_one(c, 2)
        check_equal([job["attempt"] for job in jobs], [1, 2], "attempts")
        until(lambda: c.instance("mia")["restarts"] == 1, 5, "the restart is told")
        check(c.instance("mia")["last_exit"].startswith("stuck: no step for "), f"why: {c.instance('mia')}")
        check("reason=\"stuck: no step for " in agent.log(), "and in the log")
        holds(lambda: c.instance("mia")["restarts"] == 1, 1, "and no more of them")
