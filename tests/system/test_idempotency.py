"""Idempotency-Key."""
import collections
import json
import selectors
import socket

from harness import Cluster, check, check_equal, until
from registry import test


def post_bytes(body, key):
    data = json.dumps(body).encode()
    return (f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"Idempotency-Key: {key}\r\nContent-Length: {len(data)}\r\n\r\n").encode() + data


def send_all_at_once(address, requests, limit_s=60):
    """One connection a request, all open before the first byte is sent; returns the raw answers."""
    sockets = [socket.create_connection(address, 10) for _ in requests]
    for s, data in zip(sockets, requests):
        s.sendall(data)
    answers = {s: b"" for s in sockets}
    with selectors.DefaultSelector() as selector:
        for s in sockets:
            s.setblocking(False)
            selector.register(s, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(limit_s)
            check(ready, "the gateway stopped answering")
            for key, _ in ready:
                chunk = key.fileobj.recv(65536)
                answers[key.fileobj] += chunk
                if not chunk:
                    selector.unregister(key.fileobj)
    for s in sockets:
        s.close()
    return list(answers.values())


@test(alone=True, limit_s=90)
def a_thousand_concurrent_duplicates_make_one_job():
    with Cluster() as c:
        request = post_bytes({"prompt": "one", "width": 64, "height": 64, "steps": 1}, "only-once")
        answers = send_all_at_once((c.http.host, c.http.port), [request] * 1000)
        statuses = collections.Counter(a.split(b" ", 2)[1] for a in answers)
        check(set(statuses) <= {b"200", b"202"}, f"statuses {statuses}")
        ids = {json.loads(a.partition(b"\r\n\r\n")[2])["id"] for a in answers}
        check_equal(len(ids), 1, "different ids")
        check_equal(c.redis.live(), 1, "jobs in Redis")


@test(short=True)
def a_duplicate_is_the_same_job_while_it_waits_and_when_it_has_ended():
    with Cluster() as c:
        body = {"prompt": "a", "width": 64, "height": 64, "steps": 1}
        first = c.http.post_job({"Idempotency-Key": "k1"}, **body).json
        again = c.http.post_job({"Idempotency-Key": "k1"}, **body)
        check(again.status in (200, 202), f"status {again.status}")
        check_equal(again.json["id"], first["id"], "id of the duplicate")
        check_equal(again.json["seed"], first["seed"], "seed of the duplicate")
        c.worker("mia")
        c.http.wait(first["id"], "succeeded")
        ended = c.http.post_job({"Idempotency-Key": "k1"}, **body)
        check_equal(ended.json["id"], first["id"], "id after the end")
        check_equal(ended.json["status"], "succeeded", "status after the end")


@test()
def the_same_key_with_another_body_is_409_also_when_both_come_at_once():
    with Cluster() as c:
        c.http.submit({"Idempotency-Key": "k"}, prompt="a")
        c.http.post_job({"Idempotency-Key": "k"}, prompt="b", width=64, height=64, steps=2).problem(409)
        requests = [post_bytes({"prompt": f"p{i % 2}"}, "together") for i in range(40)]
        answers = send_all_at_once((c.http.host, c.http.port), requests)
        statuses = collections.Counter(a.split(b" ", 2)[1] for a in answers)
        check_equal(statuses[b"409"], 20, f"conflicts of {statuses}")
        check_equal(c.redis.live(), 2, "jobs in Redis")


@test()
def a_key_survives_a_restart_of_broker_and_gateway():
    with Cluster() as c:
        body = {"prompt": "a", "width": 64, "height": 64, "steps": 1}
        first = c.http.post_job({"Idempotency-Key": "k1"}, **body).json["id"]
        c.broker_process.kill()
        c.broker()
        other = c.gateway(label="gateway2")
        check_equal(other.post_job({"Idempotency-Key": "k1"}, **body).json["id"], first, "id after restarts")


@test()
def a_key_that_is_too_long_or_empty_is_refused():
    with Cluster() as c:
        for key in ("", "x" * 256):
            answer = c.http.post_job({"Idempotency-Key": key})
            check(answer.status in (400, 422), f"status {answer.status} for a key of {len(key)}")
        check_equal(c.http.post_job({"Idempotency-Key": "x" * 255}).status, 202, "status of a key of 255")


@test(limit_s=60)
def a_submit_answered_503_and_sent_again_with_its_key_makes_one_job_that_nobody_cancels():
    with Cluster() as c:
        body = {"prompt": "a", "width": 64, "height": 64, "steps": 1}
        c.http.submit() # the session is open
        c.redis.process.pause()
        late = c.http.post_job({"Idempotency-Key": "again"}, **body)
        late.problem(503, "same Idempotency-Key")
        plain = c.http.post_job(**body)
        plain.problem(503, "not taken")
        c.redis.process.resume()

        def taken():
            answer = c.http.post_job({"Idempotency-Key": "again"}, **body)
            return answer.json if answer.status in (200, 202) else None
        job = until(taken, 15, "the repeated submit is taken")
        # The one without a key is withdrawn: its client cannot ask for it.
        until(lambda: c.http.get("/v1/jobs?limit=10").json["jobs"], 5, "the list answers")
        until(lambda: [j["status"] for j in c.http.get("/v1/jobs?limit=10").json["jobs"]].count("cancelled") == 1, 10,
              "one job was withdrawn")
        c.worker("mia")
        c.http.wait(job["id"], "succeeded")
        check_equal(c.redis.live(), 0, "jobs still live")
