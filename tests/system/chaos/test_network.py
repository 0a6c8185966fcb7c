"""Links between the hosts are cut, in one direction or both, and slowed: nothing is lost, nothing ends twice."""
import contextlib
import time

from promises import Ends, RUNNING, STATE_AT, Submitters, check_agreement
from harness import SLOWNESS, check, check_equal, holds, until
from network import FarCluster, Network
from peer import FakeGateway, id_text, new_id, packed_request, store_id
from registry import test

@contextlib.contextmanager
def far(load=True, workers=True, step_ms=100):
    """A Drawbar on hosts of its own under a light load, all of which must have succeeded once at the end."""
    with Network() as network, FarCluster(network) as c:
        if workers:
            c.far_worker("gpu", "mia", step_ms)
        c.ends, clients = Ends(c.redis), None
        if load:
            clients = Submitters(c.http.address, threads=1, pause_s=0.3)
        yield network, c
        if load:
            clients.take(1)
            c.ends.all_succeeded(clients.stop(), 60)
            check_agreement(c.redis, "at the end")


def running(c):
    """A job that mia has begun to draw, 50 steps long."""
    job = c.http.submit(steps=50)
    c.http.wait_step(job)
    return job


@test(limit_s=90)
def a_broker_and_a_worker_cut_off_from_each_other_for_4_s_notice_and_do_nothing():
    with far() as (network, c):
        job = running(c)
        network.cut("gpu", "one", "two")
        holds(lambda: c.evictions() == 0, 4, "nobody is evicted")
        network.heal()
        done = c.http.wait(job, "succeeded", 30)
        check_equal((done["attempt"], done["worker"]), (1, "mia"), "attempt and worker of the job")
        check_equal(c.evictions(), 0, "evictions")


@test(limit_s=120)
def a_worker_cut_off_from_its_broker_for_15_s_loses_its_job_to_another_and_its_late_result_is_refused():
    with far() as (network, c):
        job = running(c)
        network.cut("gpu", "one", "two")
        cut = time.monotonic()
        zoe = c.far_worker("gpu2", "zoe", step_ms=20)
        # Its beats still reach Redis: only after 12 s without a STATE is it given up.
        until(lambda: c.evictions() == 1, 20, "the worker is evicted")
        check(time.monotonic() - cut > 11, "it was evicted too early")
        c.http.wait(job, "succeeded", 20)
        record = c.redis.record(job)
        until(lambda: time.monotonic() - cut > 15, 20, "the cut lasted 15 s")
        network.heal()
        until(lambda: c.worker_is_ready("mia"), 20, "the worker is back")
        zoe.stop(40)
        until(lambda: draws_again(c), 20, "it draws again")
        done = c.http.job(job)
        check_equal((done["attempt"], done["worker"]), (2, "zoe"), "attempt and worker of the job")
        check_equal(c.redis.record(job), record, "the record, after the late result of the other came")


def draws_again(c):
    job = c.http.submit(steps=1)
    return c.http.wait(job, "succeeded", 20)["worker"] == "mia"


@test(limit_s=120)
def a_leader_cut_off_from_redis_promises_nothing_while_another_leads_and_stands_by_when_it_is_back():
    with far(step_ms=200) as (network, c):
        job = running(c)
        peer = FakeGateway(c)
        peer.hello(store_id(c))
        network.cut("one", "redis")
        told = new_id()
        peer.submit(told, packed_request())
        until(lambda: "leader-elected" in c.two.log(), 10, "the other broker leads")
        peer.submit(late := new_id(), packed_request())
        peer.expect_none("ACCEPTED", 3)
        before = c.http.submit()
        network.heal()
        until(lambda: c.one.log().count("standby leader=") or "leader-lost" in c.one.log(), 10, "the old leader stands by")
        peer.expect_none("ACCEPTED", 1)
        for other in (told, late):
            check(c.redis.record(id_text(other)) is None, "what was never promised is written")
        check_equal(c.redis.leader()[2].split(":")[0], "10.77.2.2", "who leads at the end")
        check_equal(c.http.wait(job, "succeeded", 30)["attempt"], 1, "attempt of the job that ran all the time")
        c.http.wait(before, "succeeded", 20)


@test(limit_s=120)
def a_gateway_cut_off_from_the_brokers_holds_a_submit_for_5_s_then_says_503_and_withdraws_it():
    with far(load=False, workers=False) as (network, c):
        network.cut("edge", "one", "two")
        short = Submitters(c.http.address, threads=1, pause_s=60)
        holds(lambda: not short.acknowledged and not short.refused, 2, "a submit is held")
        network.heal()
        until(lambda: short.acknowledged, 5, "a submit held through a short cut is accepted")
        check_equal(c.redis.live(), 1, "live jobs")
        short.going = False
        until(lambda: c.http.get("/readyz").status == 200, 10, "the gateway has its broker")
        network.cut("edge", "one", "two")
        began = time.monotonic()
        answer = c.http.post_job(width=64, height=64, steps=1)
        took = time.monotonic() - began
        told = answer.problem(503)
        check(4.5 < took < 8 * SLOWNESS, f"it was held {took:.1f} s")
        check(int(answer.headers["Retry-After"]) > 0, "Retry-After")
        check("not taken" in told["detail"], f"the answer says that the job was not taken: {told['detail']!r}")
        # Everything else is answered from Redis meanwhile.
        check_equal(c.http.job(short.acknowledged[0])["status"], "queued", "a job's status while the brokers are away")
        network.heal()
        until(lambda: c.http.get("/readyz").status == 200, 15, "the gateway has its broker again")
        holds(lambda: c.redis.live() <= 2, 1, "no more than the two jobs")
        until(lambda: c.redis.live() == 1, 10, "the job that was answered 503 is withdrawn, or never came")
        holds(lambda: c.redis.live() == 1, 2, "it stays away")


@test(limit_s=90)
def a_worker_that_cannot_reach_the_gateway_holds_its_pictures_and_delivers_them_when_it_can():
    with far(load=False) as (network, c):
        jobs = [c.http.submit(steps=5, seed=i) for i in range(4)]
        c.http.wait_step(jobs[0])
        network.cut("gpu", "edge")
        # Drawn by now, twice over; but whose picture is nowhere to be had is not done.
        holds(lambda: all(c.redis.record(job)[STATE_AT] <= RUNNING for job in jobs[:2]), 4, "no end without a picture")
        network.heal()
        for job in jobs:
            check_equal(c.http.wait(job, "succeeded", 40)["attempt"], 1, f"attempt of {job}")
            check_equal(c.http.image(job).status, 200, "its picture")
        check_equal(c.evictions(), 0, "evictions")
        c.ends.look(jobs)


@test(limit_s=150)
def a_link_that_is_dead_in_one_direction_is_the_same_as_a_dead_link():
    with far(step_ms=200) as (network, c):
        job = running(c)
        for source, sink in (("one", "gpu"), ("gpu", "one")):
            network.cut_one_way(source, sink)
            holds(lambda: c.evictions() == 0, 3.5, "nobody is evicted")
            network.heal()
        done = c.http.wait(job, "succeeded", 30)
        check_equal((done["attempt"], done["worker"]), (1, "mia"), "attempt and worker of the job")
        # Redis hears the leader, the leader does not hear Redis: what it writes, it cannot know of.
        network.cut_one_way("redis", "one")
        until(lambda: "leader-elected" in c.two.log(), 15, "the other broker leads")
        c.http.submit()
        network.heal()
        until(lambda: "leader-lost" in c.one.log() or "standby leader=" in c.one.log(), 10, "the old leader stands by")
        check_equal(c.evictions(), 0, "evictions")


@test(limit_s=120)
def links_that_take_200_ms_each_way_slow_everything_and_break_nothing():
    with Network() as network, FarCluster(network) as c:
        for host, others in (("gpu", ("redis", "one", "two", "edge")), ("edge", ("redis", "one", "two"))):
            for other in others:
                network.delay(host, other, 0.2)
        began = time.monotonic()
        c.far_worker("gpu", "mia", step_ms=20)
        jobs = [c.http.submit(steps=3, seed=i) for i in range(10)]
        for job in jobs:
            check_equal(c.http.wait(job, "succeeded", 40)["attempt"], 1, f"attempt of {job}")
        check(time.monotonic() - began > 1.5, "nothing was slow: nothing was tested")
        holds(lambda: c.evictions() == 0 and c.worker_is_ready("mia"), 5, "the worker stays")
        Ends(c.redis).all_succeeded(jobs, 10)
        check("leader-elected" not in c.two.log(), "nobody else led")
