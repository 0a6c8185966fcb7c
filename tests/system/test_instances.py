"""Instances that hang, die, or draw something else than they were asked."""
import os

from fake_instance import FakeInstance
from harness import Cluster, check, check_equal, holds, processes_with, until
from registry import test


TRIES = 5 # where the job's record has them


def attached(c, name, modes, *flags, **options):
    instance = FakeInstance(modes, **options)
    c.closers.append(instance.close)
    c.worker(name, *flags, attach=[instance.url])
    return instance


def codes_of(job):
    return [attempt["code"] for attempt in job["error"]["attempts"]]


@test(short=True)
def an_instance_that_hangs_fails_the_attempt_and_the_job_succeeds_elsewhere():
    with Cluster() as c:
        hanging = attached(c, "mia", ["good", "hang"], "--stuck-ms", "1000")
        c.http.wait(c.http.submit(steps=4), "succeeded") # the first one may take its time: it warms up
        job_id = c.http.submit(steps=4)
        until(lambda: len(hanging.order) == 2, 10, "the instance has the job")
        c.worker("zoe")
        job = c.http.wait(job_id, "succeeded", 20)
        check_equal((job["worker"], job["attempt"]), ("zoe", 2), "worker and attempt")
        until(lambda: len(hanging.deleted) >= 2, 5, "the hanging instance is told to stop")


@test(limit_s=90)
def a_started_instance_that_dies_in_a_job_is_restarted_and_the_job_succeeds():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 20 --die-after 3")
        ids = [c.http.submit(steps=4, seed=i) for i in range(5)]
        jobs = [c.http.wait(job_id, "succeeded", 40) for job_id in ids]
        # It dies in the middle of its third job, which is the first one of the next process. The fourth was ahead of
        # its turn, if it was asked for already: then it is leased again, and that is no try.
        check_equal([job["attempt"] for job in jobs[:3]] + [jobs[4]["attempt"]], [1, 1, 2, 2], "attempts")
        check_equal([c.redis.record(job_id)[TRIES] for job_id in ids], [1, 1, 2, 1, 2], "tries")
        until(lambda: c.instance("mia")["restarts"] == 2, 5, "the restarts are told")


@test(short=True)
def an_instance_killed_in_a_job_costs_one_attempt_and_comes_back():
    import signal # pylint: disable=import-outside-toplevel
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 200")
        job_id = c.http.submit(steps=20)
        c.http.wait_step(job_id)
        pid = until(lambda: (c.instance("mia") or {}).get("pid"), 5, "the pid is told")
        os.killpg(os.getpgid(pid), signal.SIGKILL)
        job = c.http.wait(job_id, "succeeded", 30)
        check_equal(job["attempt"], 2, "attempt")
        until(lambda: c.instance("mia")["pid"] != pid, 5, "the instance is a new process")


@test(short=True)
def a_wrong_sized_or_undecodable_picture_is_a_failed_attempt_and_never_a_success():
    with Cluster() as c:
        attached(c, "mia", ["wrong_size", "garbage", "cut", "good"])
        job_id = c.http.submit(steps=1)
        job = c.http.wait_end(job_id)
        check_equal(job["status"], "failed", "status after three bad pictures")
        check_equal(codes_of(job), ["bad_picture"] * 3, "codes of the attempts")
        check_equal(job["error"]["code"], "too_many_attempts", "code of the job")
        check(all(a["message"] and a["worker"] == "mia" for a in job["error"]["attempts"]),
              f"attempts {job['error']['attempts']}")
        check_equal(job["images"], [], "images")
        check_equal(c.http.image(job_id).status, 409, "status of its picture")
        c.http.wait(c.http.submit(), "succeeded")


@test()
def an_empty_picture_is_a_failed_attempt():
    with Cluster() as c:
        attached(c, "mia", ["empty", "good"])
        job = c.http.wait(c.http.submit(steps=1), "succeeded")
        check_equal(job["attempt"], 2, "attempt")
        check_equal(job["warnings"], [], "warnings")


@test(short=True)
def a_black_picture_is_drawn_again_and_delivered_with_a_warning_if_it_stays_black():
    with Cluster() as c:
        attached(c, "mia", ["black", "black", "black", "good"])
        job = c.http.wait(c.http.submit(steps=1), "succeeded")
        check_equal((job["attempt"], job["warnings"]), (2, ["uniform_image"]), "attempt and warnings")
        following = c.http.wait(c.http.submit(steps=1), "succeeded")
        check_equal((following["attempt"], following["warnings"]), (2, []), "black once, then good")


@test()
def a_retry_goes_to_the_other_instance_while_there_is_one():
    with Cluster() as c:
        bad = attached(c, "mia", ["fail"])
        good = attached(c, "zoe", ["good"])
        ids = [c.http.submit(steps=1, seed=i) for i in range(6)]
        jobs = [c.http.wait(job_id, "succeeded") for job_id in ids]
        check(all(job["attempt"] <= 2 and job["worker"] == "zoe" for job in jobs),
              f"{[(j['attempt'], j['worker']) for j in jobs]}")
        check(len(good.order) == 6 and len(bad.order) <= 6, "who drew")


@test(short=True)
def an_instance_that_always_fails_makes_the_job_fail_after_three_tries_with_their_reasons():
    with Cluster() as c:
        instance = attached(c, "mia", ["fail"])
        job = c.http.wait_end(c.http.submit(steps=1))
        check_equal((job["status"], job["error"]["code"]), ("failed", "too_many_attempts"), "how it ended")
        check_equal(codes_of(job), ["instance_error"] * 3, "codes")
        check("out of memory" in str(job["error"]["attempts"]), f"the instance's words in {job['error']}")
        check_equal(len(instance.order), 3, "how often the instance drew")


@test()
def a_request_that_the_instance_refuses_fails_at_once():
    with Cluster() as c:
        attached(c, "mia", ["refuse", "good"])
        job = c.http.wait_end(c.http.submit(steps=1))
        check_equal(job["status"], "failed", "status")
        check_equal(codes_of(job)[-1:], ["instance_refused"], "code of the attempt")
        c.http.wait(c.http.submit(steps=1), "succeeded")


@test(limit_s=90)
def an_attached_instance_that_goes_away_and_comes_back_is_used_again():
    import harness # pylint: disable=import-outside-toplevel
    with Cluster() as c:
        port = harness.free_port()
        command = [harness.program("drawbar-sim-instance"), "--port", port, "--step-ms", "5"]
        instance = c.start("instance", command, wait_ready=False)
        c.worker("mia", attach=[f"http://127.0.0.1:{port}"])
        c.http.wait(c.http.submit(), "succeeded")
        instance.kill()
        job_id = c.http.submit()
        holds(lambda: c.http.job(job_id)["status"] != "failed", 2, "the job waits")
        c.start("instance2", command, wait_ready=False)
        c.http.wait(job_id, "succeeded", 40)


@test(limit_s=90)
def an_instance_in_a_crash_loop_is_given_up_and_swallows_no_jobs():
    with Cluster() as c:
        mark = f"drawbar-crash-{os.getpid()}"
        agent = c.worker("mia", start=f"true {mark} {{port}}; exit 3", ready=False)
        job_id = c.http.submit()
        def broken():
            return (c.instance("mia") or {}).get("state") == "broken"
        until(broken, 40, "the instance is given up")
        check_equal(c.http.job(job_id)["status"], "queued", "status of the job")
        check_equal(processes_with(mark), [agent.pid], "processes that know of it: the agent alone")
        c.worker("zoe")
        c.http.wait(job_id, "succeeded")


@test(limit_s=90)
def many_faults_by_chance_end_every_job_one_way_or_the_other():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 2 --fail-rate 0.2 --garbage-rate 0.1 --black-rate 0.1")
        c.worker("zoe", sim="--step-ms 2 --fail-rate 0.1", instances=2)
        ids = [c.http.submit(steps=2, seed=i) for i in range(60)]
        until(lambda: c.redis.live() == 0, 60, "all jobs have ended")
        jobs = [c.http.job(job_id) for job_id in ids]
        check({job["status"] for job in jobs} <= {"succeeded", "failed"}, "statuses")
        check(sum(job["status"] == "succeeded" for job in jobs) > 40, "most succeed")
        for job in jobs:
            check_equal(len(job["images"]), int(job["status"] == "succeeded"), f"images of {job}")
