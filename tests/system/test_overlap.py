"""The GPU does not wait for pictures: what is encoded, fetched and uploaded, and what stands ahead of its turn."""
import os
import signal
import time

from harness import Cluster, check, check_equal, holds, until
from registry import test

STEPS = 8
TRIES = 5 # where the job's record has them


def leased(c, job_id):
    return c.http.job(job_id)["status"] == "running"


def taken(c, *ids):
    """A worker of one instance that draws the first job and has the second one ahead."""
    until(lambda: all(leased(c, job_id) for job_id in ids), 10, "the second job is ahead")


@test(limit_s=60)
def a_backlog_takes_the_time_of_its_drawing_not_of_its_encoding():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 30 --encode-ms 240") # 240 ms to draw, as much to encode
        alone_s = []
        for _ in range(2):
            begun = time.monotonic()
            c.http.wait(c.http.submit(steps=STEPS), "succeeded")
            alone_s.append(time.monotonic() - begun)
        n, begun = 12, time.monotonic()
        ids = [c.http.submit(steps=STEPS, seed=i) for i in range(n)]
        jobs = [c.http.wait(job_id, "succeeded", 40) for job_id in ids]
        backlog_s = time.monotonic() - begun
        ratio = backlog_s / (n * min(alone_s))
        # One after the other it would be 1, with nothing but the drawing 0.5 and the last one's encoding.
        check(ratio < 0.75, f"{n} jobs took {backlog_s:.2f} s, one alone {min(alone_s):.2f} s: {ratio:.2f} of the sum")
        check_equal([job["attempt"] for job in jobs], [1] * n, "attempts")


@test(short=True)
def a_job_is_asked_for_near_the_end_of_the_drawing_and_another_gpu_has_it_before():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 200")
        first = c.http.submit(steps=20)
        c.http.wait_step(first)
        second = c.http.submit(steps=1)
        holds(lambda: not leased(c, second), 0.5, "seconds before the end the second job is still in the queue")
        c.worker("zoe")
        check_equal(c.http.wait(second, "succeeded")["worker"], "zoe", "who drew the second")


@test(short=True)
def a_cancel_of_the_job_ahead_leaves_the_drawing_and_the_other_way_round():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 100 --encode-ms 300")
        for cancelled in (1, 0):
            ids = [c.http.submit(steps=STEPS, seed=i) for i in range(3)]
            taken(c, *ids[:2])
            check_equal(c.http.cancel(ids[cancelled]).status, 200, "status of the cancel")
            del ids[cancelled]
            for job_id in ids:
                check_equal(c.http.wait(job_id, "succeeded")["attempt"], 1, "attempt of the others")


@test(short=True)
def an_instance_killed_with_a_job_ahead_charges_the_one_it_drew():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 100")
        drawn, ahead = (c.http.submit(steps=STEPS, seed=i) for i in range(2))
        pid = until(lambda: (c.instance("mia") or {}).get("pid"), 10, "the pid is told")
        taken(c, drawn, ahead)
        os.killpg(os.getpgid(pid), signal.SIGKILL)
        for job_id in (drawn, ahead):
            check_equal(c.http.wait(job_id, "succeeded", 30)["attempt"], 2, "leases")
        tries = [c.redis.record(job_id)[TRIES] for job_id in (drawn, ahead)]
        check_equal(tries, [2, 1], "tries")
