"""What the processes owe each other, shown by peers that speak the protocol by hand and break it."""
import os
import time

import msgpack

from harness import Cluster, Proxy, check, check_equal, holds, until
from peer import FakeGateway, FakeWorker, KINDS, id_bytes, id_text, new_id, packed_request, png, store_id
from registry import test


@test(short=True)
def garbage_frames_are_counted_and_refused_and_cannot_stop_the_broker():
    with Cluster() as c:
        worker = FakeWorker(c, "rude")
        lease = [new_id(), 1, 1]
        messages = [
            b"", b"\0", b"\xc1", b"\x90", os.urandom(1000), b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
            b"\x93" * 5000, b"\x93\x01\x02", msgpack.packb([999, 1, 1]), msgpack.packb([0, 1, 1, 0]),
            msgpack.packb([-1, 1, 1, 0]), msgpack.packb({"kind": 1}), msgpack.packb([KINDS["DONE"]]),
            msgpack.packb([KINDS["DONE"], worker.session, 1, lease, "not bytes"]),
            msgpack.packb([KINDS["WORKER_STATE"], worker.session, 1, 300, 0, []]),
            msgpack.packb([KINDS["WORKER_STATE"], worker.session, 1, 1, 0, [[lease, True, True]] * 300]),
            msgpack.packb([KINDS["WORKER_HELLO"], 7, 0, 1, "x" * 70000, 1, [["m"]], 1, 1, 0, []]),
            msgpack.packb([KINDS["WORKER_HELLO"], 7, 0, 1, b"\xff\xfe", 1, [["m"]], 1, 1, 0, []]),
            msgpack.packb([KINDS["JOB"], worker.session, 1, 1, lease, 0, 0, b"", [], ""]),
            msgpack.packb([KINDS["SUBMIT"], worker.session, 1, new_id(), b"", False]), # a gateway's, at the worker door
            bytes(1024 * 1024),
        ]
        for message in messages:
            worker.send_bytes(message)
        worker.send("WORKER_STATE", 1, 0, [])
        worker.expect("NO_SESSION", 5)
        check(c.broker_process.alive(), "the broker lives")
        worker.hello()
        c.worker("mia")
        c.http.wait(c.http.submit(), "succeeded")
        until(lambda: "frame" in c.broker_process.log() or "malformed" in c.broker_process.log(), 3,
              "the broker logged it")


@test()
def garbage_at_the_gateways_door_is_refused_too():
    with Cluster() as c:
        gateway = FakeGateway(c)
        for message in (b"", b"\xc1", os.urandom(500), b"\xdd\xff\xff\xff\xff", msgpack.packb([KINDS["DONE"], 1, 1, [], b""]),
                        msgpack.packb([KINDS["SUBMIT"], gateway.session, 1, new_id(), b"x" * 1000, False])):
            gateway.send_bytes(message)
        gateway.hello(store_id(c))
        gateway.submit(new_id(), b"this is no envelope")
        refused = gateway.expect("REFUSED")
        check_equal(refused.fields[1], 5, "reason: bad_request")
        check_equal(c.redis.live(), 0, "jobs in Redis")
        c.http.submit()


@test(short=True)
def a_worker_by_hand_pulls_draws_uploads_and_is_acknowledged():
    with Cluster() as c:
        worker = FakeWorker(c, "hand")
        worker.hello()
        job_id = c.http.submit(prompt="by hand")
        worker.expect_none("JOB", 1)
        worker.state(pull=1)
        frame = worker.job()
        check_equal(frame.fields[0], 1, "number of the first JOB")
        worker.take(frame)
        until(lambda: c.http.job(job_id)["status"] == "running", 3, "the job runs")
        worker.done(frame)
        job = c.http.wait(job_id, "succeeded")
        check_equal(job["worker"], "hand", "worker")
        # The same DONE again (its ACK was lost): ACK again, nothing changes.
        data = png(64, 64)
        worker.send("DONE", frame.fields[1], worker.result(data, 64, 64))
        worker.expect("ACK", 5)


@test()
def a_lost_job_frame_is_sent_again_and_then_taken_back():
    with Cluster() as c:
        worker = FakeWorker(c, "lossy")
        worker.hello()
        job_id = c.http.submit()
        worker.state(pull=1)
        first = worker.job()
        # The frame "was lost": STATE goes on telling last_job 0.
        again = worker.job(5)
        check_equal(again.fields[:2], first.fields[:2], "number and lease of the repeated JOB")
        until(lambda: worker.state() or (worker.receive(0.3) and None) or c.http.job(job_id)["attempt"] != 1
              or c.http.job(job_id)["status"] == "queued", 8, "the job is taken back")
        other = FakeWorker(c, "whole")
        other.hello()
        other.state(pull=1)
        worker.close()
        frame = other.job(15)
        other.take(frame)
        check_equal(frame.fields[2], 0, "tries: no instance took it")
        other.done(frame)
        c.http.wait(job_id, "succeeded")


@test(short=True)
def a_lease_that_a_worker_had_and_no_longer_lists_is_given_to_another_at_once_and_uncounted():
    with Cluster() as c:
        worker = FakeWorker(c, "forgetful")
        worker.hello()
        job_id = c.http.submit()
        worker.state(pull=1)
        frame = worker.job()
        worker.last_job = frame.fields[0] # received, and forgotten
        worker.state(pull=0)
        other = FakeWorker(c, "other")
        other.hello()
        other.state(pull=1)
        begin = time.monotonic()
        second = other.job(3)
        check(time.monotonic() - begin < 2, "it was not given at once")
        check_equal((second.fields[1][2], second.fields[2]), (2, 0), "grant and tries")
        other.take(second)
        other.done(second)
        check_equal(c.http.wait(job_id, "succeeded")["worker"], "other", "worker")


@test()
def a_pull_is_a_number_of_places_and_not_a_sum():
    with Cluster() as c:
        worker = FakeWorker(c, "hand")
        worker.hello(instances=2)
        for i in range(4):
            c.http.submit(seed=i)
        for _ in range(5):
            worker.state(pull=1) # the same place, told five times
        worker.job()
        worker.expect_none("JOB", 1)


@test()
def a_lost_pull_is_healed_by_the_next_state():
    with Cluster() as c:
        worker = FakeWorker(c, "hand")
        worker.hello()
        job_id = c.http.submit()
        # The STATE with the pull never arrives; that of the next second does.
        worker.state(pull=0)
        worker.expect_none("JOB", 0.5)
        worker.state(pull=1)
        frame = worker.job(2)
        worker.take(frame)
        worker.done(frame)
        c.http.wait(job_id, "succeeded")


@test(short=True)
def the_result_of_an_older_lease_is_stale_and_deletes_nothing():
    with Cluster() as c:
        worker = FakeWorker(c, "slow")
        worker.hello()
        job_id = c.http.submit()
        worker.state(pull=1)
        first = worker.job()
        worker.take(first)
        worker.send("FAIL", first.fields[1], 2, True, False, "i", "first try fails", b"")
        worker.expect("ACK")
        worker.drop(first.fields[1])
        worker.state(pull=1)
        second = worker.job()
        check_equal(second.fields[1][2], 2, "grant")
        worker.take(second)
        worker.done(second)
        c.http.wait(job_id, "succeeded")
        picture = c.http.image(job_id).body
        # Late: the first lease has a result all the same, with another picture of the same job.
        data = png(64, 80)
        worker.upload(first, data)
        worker.send("DONE", first.fields[1], worker.result(data, 64, 80))
        worker.expect("STALE", 5)
        job = c.http.job(job_id)
        check_equal((job["status"], job["attempt"]), ("succeeded", 2), "status and attempt")
        check(c.http.image(job_id).body == picture, "the accepted picture stands")


@test()
def a_result_or_progress_for_a_job_that_nobody_knows_is_stale():
    with Cluster() as c:
        worker = FakeWorker(c, "liar")
        worker.hello()
        lease = [new_id(), 1234, 1]
        worker.send("DONE", lease, worker.result(png(64, 64), 64, 64))
        worker.expect("STALE")
        worker.send("REGRANT", lease)
        worker.expect("STALE")
        worker.send("FAIL", lease, 2, True, False, "i", "m", b"")
        worker.expect("STALE")
        check(c.broker_process.alive(), "the broker lives")


@test()
def a_worker_cannot_end_the_job_of_another():
    with Cluster() as c:
        owner, thief = FakeWorker(c, "owner"), FakeWorker(c, "thief")
        owner.hello()
        thief.hello()
        job_id = c.http.submit()
        owner.state(pull=1)
        frame = owner.job()
        owner.take(frame)
        thief.send("DONE", frame.fields[1], thief.result(png(64, 64), 64, 64))
        thief.expect("STALE")
        thief.send("FAIL", frame.fields[1], 2, True, True, "i", "m", b"")
        thief.expect("STALE")
        check_equal(c.http.job(job_id)["status"], "running", "status")
        owner.done(frame)
        check_equal(c.http.wait(job_id, "succeeded")["worker"], "owner", "worker")


@test(short=True, limit_s=90)
def a_broker_that_restarts_on_its_old_ports_asks_for_hello_and_adopts_what_is_held():
    with Cluster(broker=False, gateway=False) as c:
        import harness # pylint: disable=import-outside-toplevel
        ports = {"gateway_port": harness.free_port(), "worker_port": harness.free_port()}
        c.broker(**ports)
        c.gateway()
        worker = FakeWorker(c, "hand")
        worker.hello()
        job_id = c.http.submit()
        worker.state(pull=1)
        frame = worker.job()
        worker.take(frame)
        until(lambda: c.http.job(job_id)["status"] == "running", 3, "the job runs")
        c.broker_process.kill()
        c.broker(**ports)
        # Its DEALER reconnected without a word: only the broker can tell it that its session is gone.
        end = time.monotonic() + 10
        told = None
        while told is None and time.monotonic() < end:
            worker.state()
            frame_in = worker.receive(0.3)
            told = frame_in if frame_in is not None and frame_in.kind == "NO_SESSION" else None
        check(told, f"no NO_SESSION; came {worker.seen[-5:]}")
        held = list(worker.leases)
        worker.hello(leases=held)
        worker.done(frame)
        job = c.http.wait(job_id, "succeeded")
        check_equal((job["attempt"], job["worker"]), (1, "hand"), "attempt and worker")


@test(limit_s=90)
def a_lease_that_nobody_claims_after_a_takeover_is_given_to_another():
    with Cluster() as c:
        worker = FakeWorker(c, "vanished")
        worker.hello()
        job_id = c.http.submit()
        worker.state(pull=1)
        worker.take(worker.job())
        until(lambda: c.http.job(job_id)["status"] == "running", 3, "the job runs")
        c.broker_process.kill()
        worker.close()
        c.broker()
        c.worker("mia", ready=False)
        job = c.http.wait(job_id, "succeeded", 25)
        check_equal((job["worker"], job["attempt"]), ("mia", 2), "worker and attempt")


@test()
def a_hello_that_does_not_list_a_lease_gives_it_back_at_once():
    with Cluster() as c:
        worker = FakeWorker(c, "hand")
        worker.hello()
        job_id = c.http.submit()
        worker.state(pull=1)
        worker.take(worker.job())
        until(lambda: c.http.job(job_id)["status"] == "running", 3, "the job runs")
        worker.hello(leases=[])
        until(lambda: c.http.job(job_id)["status"] == "queued", 2, "the job is queued again")


@test()
def an_older_process_of_the_same_name_is_refused_and_told_to_give_up():
    with Cluster() as c:
        old = FakeWorker(c, "mia")
        old.hello()
        new = FakeWorker(c, "mia")
        check(new.incarnation > old.incarnation, "incarnations rise")
        new.hello()
        old.send("WORKER_HELLO", 1, "mia", old.incarnation, [["z-image-turbo"]], 1, 1, 0, [], epoch=0)
        refused = old.expect("HELLO_REFUSED")
        check_equal(refused.fields[1], True, "newer")
        new.state(pull=1)
        c.http.submit()
        new.job()


@test()
def a_worker_of_another_protocol_version_is_refused_with_the_reason():
    with Cluster() as c:
        worker = FakeWorker(c, "future")
        worker.send("WORKER_HELLO", 99, "future", worker.incarnation, [["z-image-turbo"]], 1, 1, 0, [], epoch=0)
        refused = worker.expect("HELLO_REFUSED")
        check("version" in refused.fields[0], f"why: {refused.fields[0]!r}")


@test()
def a_worker_that_says_nothing_for_3_s_gets_no_new_job():
    with Cluster() as c:
        worker = FakeWorker(c, "quiet")
        worker.hello()
        worker.state(pull=1)
        time.sleep(4.5) # 3 s, and the second between two looks
        job_id = c.http.submit()
        worker.expect_none("JOB", 1)
        worker.state(pull=1)
        worker.job(3)
        check_equal(c.http.job(job_id)["status"], "running", "status")


@test(limit_s=90)
def a_worker_that_speaks_but_does_not_beat_gets_no_jobs_and_one_that_beats_but_does_not_speak_is_evicted():
    with Cluster() as c:
        mute = FakeWorker(c, "mute")
        mute.hello()
        job_id = c.http.submit()
        mute.state(pull=1)
        mute.take(mute.job())
        until(lambda: c.http.job(job_id)["status"] == "running", 3, "the job runs")
        begin = time.monotonic()
        incarnation = f"{mute.incarnation:016x}"
        while time.monotonic() - begin < 9:
            mute.beat(incarnation)
            time.sleep(1)
        check_equal(c.http.job(job_id)["status"], "running", "status after 9 s of beats without STATE")
        while c.http.job(job_id)["status"] == "running":
            mute.beat(incarnation)
            time.sleep(0.3)
            check(time.monotonic() - begin < 16, "not evicted 16 s after its last STATE")
        check(time.monotonic() - begin > 10, "evicted too early")


@test(short=True, limit_s=60)
def a_batch_whose_reply_is_lost_is_applied_once():
    with Cluster(broker=False, gateway=False) as c:
        proxy = Proxy(c.redis.port)
        c.closers.append(proxy.close)
        c.broker(redis_url=f"redis://127.0.0.1:{proxy.port}")
        c.gateway()
        c.worker("mia", sim="--step-ms 50")
        c.http.wait(c.http.submit(), "succeeded")
        for i in range(5):
            lost = proxy.lost
            proxy.lose_reply_to = b"drawbar1_commit"
            job_id = c.http.submit(seed=i, steps=2)
            until(lambda n=lost: proxy.lost > n, 5, "a reply was lost")
            job = c.http.wait(job_id, "succeeded", 15)
            check_equal(job["attempt"], 1, "attempt")
        until(lambda: c.redis.live() == 0, 5, "nothing is left")
        check_equal(len(c.http.get("/v1/jobs?limit=100").json["jobs"]), 6, "jobs in all")


@test(limit_s=60)
def a_connection_to_redis_that_is_cut_again_and_again_loses_nothing():
    with Cluster(broker=False, gateway=False) as c:
        proxy = Proxy(c.redis.port)
        c.closers.append(proxy.close)
        c.broker(redis_url=f"redis://127.0.0.1:{proxy.port}")
        c.gateway()
        c.worker("mia", sim="--step-ms 5", instances=2)
        ids = []
        for i in range(30):
            ids.append(c.http.submit(seed=i))
            if i % 6 == 5:
                proxy.cut()
        for job_id in ids:
            check_equal(c.http.wait(job_id, "succeeded", 20)["attempt"], 1, "attempt")


@test()
def an_upload_needs_the_grant_of_its_very_lease():
    with Cluster() as c:
        worker = FakeWorker(c, "hand")
        worker.hello()
        job_id = c.http.submit()
        worker.state(pull=1)
        frame = worker.job()
        worker.take(frame)
        granted = frame.fields[6]
        data = png(64, 64)
        parts = granted.split(".")
        forged = ".".join([parts[0], parts[1], "0" * 64])
        longer = ".".join([str(int(parts[0]) + 1000), parts[1], parts[2]])
        for token in (forged, longer, "", "nonsense", granted[:-1]):
            status, body = worker.upload(frame, data, token=token or "x")
            check(status in (400, 401, 403), f"status {status} for token {token!r} ({body[:100]!r})")
        status, _ = worker.upload(frame, data, index=1)
        check(status in (400, 403, 404), f"status {status} for a second picture of one")
        check_equal(worker.upload(frame, data)[0], 201, "status of the upload")
        check_equal(worker.upload(frame, data)[0], 200, "status of the same bytes again")
        check_equal(c.http.image(job_id).status, 409, "status of the picture before the job has ended")
        worker.done(frame)
        c.http.wait(job_id, "succeeded")
        check_equal(c.http.image(job_id).body, data, "the picture")


@test()
def another_process_may_not_read_or_delete_with_a_grant():
    import http.client # pylint: disable=import-outside-toplevel
    with Cluster() as c:
        worker = FakeWorker(c, "hand")
        worker.hello()
        c.http.submit()
        worker.state(pull=1)
        frame = worker.job()
        worker.take(frame)
        worker.upload(frame, png(64, 64))
        job, epoch, grant = frame.fields[1]
        for method in ("GET", "DELETE", "POST"):
            connection = http.client.HTTPConnection(frame.fields[5][0][0].removeprefix("http://"), timeout=5)
            connection.request(method, f"/upload/{id_text(job)}/{grant}/0?epoch={epoch:08x}",
                               headers={"Authorization": f"Grant {frame.fields[6]}"})
            check(connection.getresponse().status in (404, 405), f"{method} of an upload")
            connection.close()


@test()
def a_submit_with_the_same_id_again_makes_one_job():
    with Cluster() as c:
        gateway = FakeGateway(c)
        gateway.hello(store_id(c))
        job, request = new_id(), packed_request()
        for _ in range(3):
            # Two at once: while the first is on its way to Redis the second needs no answer of its own.
            gateway.submit(job, request)
            gateway.submit(job, request)
            check_equal(gateway.expect("ACCEPTED").fields[0], job, "id")
        check_equal(c.redis.live(), 1, "jobs in Redis")
        check_equal(c.http.job(id_text(job))["status"], "queued", "status at the other gateway")


@test()
def a_withdrawn_submit_is_cancelled_while_it_is_queued():
    with Cluster() as c:
        gateway = FakeGateway(c)
        gateway.hello(store_id(c))
        job = new_id()
        gateway.submit(job, packed_request())
        gateway.expect("ACCEPTED")
        gateway.send("WITHDRAW", job)
        check_equal(gateway.expect("ANSWER").fields, [job, 5], "ANSWER: cancelled")
        gateway.send("WITHDRAW", new_id())
        check_equal(gateway.expect("ANSWER").fields[1], 0, "ANSWER: unknown")


@test()
def another_tenants_job_answers_like_an_unknown_one():
    with Cluster() as c:
        job_id = c.http.submit()
        gateway = FakeGateway(c)
        gateway.hello(store_id(c))
        gateway.send("CANCEL", id_bytes(job_id), "somebody-else")
        check_equal(gateway.expect("ANSWER").fields[1], 0, "ANSWER: unknown")
        check_equal(c.http.job(job_id)["status"], "queued", "status")


@test()
def a_frame_of_a_past_term_is_ignored():
    with Cluster() as c:
        worker = FakeWorker(c, "hand")
        worker.hello()
        job_id = c.http.submit()
        worker.send("WORKER_STATE", 1, 0, [], epoch=max(0, worker.epoch - 1))
        worker.expect_none("JOB", 1)
        worker.state(pull=1)
        worker.job()
        check_equal(c.http.job(job_id)["status"], "running", "status")


@test()
def a_drained_or_leaving_worker_gets_nothing_more():
    with Cluster() as c:
        worker = FakeWorker(c, "leaver")
        worker.hello()
        worker.state(pull=1)
        worker.send("BYE", 0)
        c.http.submit()
        worker.expect_none("JOB", 1)
        until(lambda: c.redis.call("ZSCORE", "{drawbar}:hb", "leaver") is None, 3, "it is forgotten in Redis")


@test(limit_s=60)
def a_watched_job_of_a_gateway_that_speaks_by_hand_is_told_from_snapshot_to_end():
    with Cluster() as c:
        gateway = FakeGateway(c)
        gateway.hello(store_id(c))
        job_id = c.http.submit(steps=3)
        gateway.send("WATCH", [[id_bytes(job_id)]], True)
        snapshot = gateway.expect("JOBS")
        check_equal(snapshot.fields[0][0][0], id_bytes(job_id), "id in the snapshot")
        check_equal(snapshot.fields[0][0][1][0], 1, "state in the snapshot: queued")
        c.worker("mia")
        end = time.monotonic() + 20
        states, revisions = [], []
        while (not states or states[-1] != 3) and time.monotonic() < end:
            gateway.send("PING", False)
            frame = gateway.receive(1)
            if frame is not None and frame.kind == "JOBS":
                for entry in frame.fields[0]:
                    states.append(entry[1][0])
                    revisions.append(entry[1][11])
        check_equal(states[-1], 3, f"last state of {states}")
        check_equal(revisions, sorted(revisions), "revisions")
        holds(lambda: c.broker_process.alive(), 0.5, "the broker lives")
