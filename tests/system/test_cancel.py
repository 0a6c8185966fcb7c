"""Cancelling."""
import time

from fake_instance import FakeInstance
from harness import Cluster, check, check_equal, until
from registry import test


@test(short=True)
def a_queued_job_is_cancelled_at_once_and_never_drawn():
    with Cluster() as c:
        job_id = c.http.submit()
        answer = c.http.cancel(job_id)
        check_equal((answer.status, answer.json["status"]), (200, "cancelled"), "the answer")
        check_equal(c.http.job(job_id)["status"], "cancelled", "status")
        instance = FakeInstance()
        c.closers.append(instance.close)
        c.worker("mia", attach=[instance.url])
        other = c.http.submit()
        c.http.wait(other, "succeeded")
        check_equal(len(instance.order), 1, "jobs that the instance saw")


@test(short=True)
def a_running_job_is_cancelled_and_its_instance_takes_the_next_one_soon():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 500")
        slow = c.http.submit(steps=50)
        c.http.wait_step(slow)
        begin = time.monotonic()
        check_equal(c.http.cancel(slow).json["status"], "cancelled", "status in the answer")
        following = c.http.submit(steps=1)
        c.http.wait(following, "succeeded")
        check(time.monotonic() - begin < 5, "the instance went on drawing the cancelled job")
        check_equal(c.http.job(slow)["status"], "cancelled", "status at the end")
        check_equal(c.http.image(slow).status, 409, "status of its picture")


@test()
def cancelling_twice_and_cancelling_an_ended_job_answer_with_its_state():
    with Cluster() as c:
        queued = c.http.submit()
        for _ in range(2):
            answer = c.http.cancel(queued)
            check_equal((answer.status, answer.json["status"]), (200, "cancelled"), "cancelled again")
        c.worker("mia")
        done = c.http.submit()
        c.http.wait(done, "succeeded")
        answer = c.http.cancel(done)
        check_equal((answer.status, answer.json["status"]), (200, "succeeded"), "cancel of an ended job")
        check_equal(c.http.image(done).status, 200, "its picture is still there")


@test()
def the_instance_is_told_to_stop_a_cancelled_job():
    with Cluster() as c:
        instance = FakeInstance(step_s=1.0)
        c.closers.append(instance.close)
        c.worker("mia", attach=[instance.url])
        job_id = c.http.submit(steps=50)
        c.http.wait_step(job_id)
        c.http.cancel(job_id)
        until(lambda: instance.deleted, 5, "the instance hears DELETE")


@test()
def a_job_that_waited_too_long_expires_and_a_running_one_does_not():
    with Cluster() as c:
        waiting = c.http.submit(expires_in_s=10)
        c.worker("mia", sim="--step-ms 400", ready=False)
        running = c.http.wait_end(waiting, 30) # drawn at once, before it expires
        check_equal(running["status"], "succeeded", "status of the first")
        slow = c.http.submit(steps=35, expires_in_s=10)
        late = c.http.submit(expires_in_s=10)
        check_equal(c.http.wait_end(late, 20)["status"], "expired", "status of the one that waited")
        check_equal(c.http.wait_end(slow, 20)["status"], "succeeded", "status of the one that ran 14 s")
