"""What SIGTERM does to each process, as its clients see it."""
import http.client
import signal
import threading
import time

from harness import SANITIZED, Cluster, Http, check, check_equal, until
from registry import test

LINGER_MS = 1500


def keep_alive(address):
    host, port = address.rsplit(":", 1)
    return http.client.HTTPConnection(host, int(port), timeout=30)


def ask(connection, path):
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer, answer.read()


def stop_shows(threads):
    """One gateway of two stops; its clients see nothing but an orderly end."""
    with Cluster(gateway_flags=("--linger-ms", LINGER_MS, "--threads", threads)) as c:
        other = c.gateway(label="gateway2")
        c.worker("mia", sim="--step-ms 200")
        job_id = c.http.submit(steps=40)
        c.http.wait_step(job_id)
        idle, busy = keep_alive(c.http.address), keep_alive(c.http.address)
        check_equal([ask(k, "/healthz")[0].will_close for k in (idle, busy)], [False, False], "connections stay open")
        held, events = [], []
        waiter = threading.Thread(target=lambda: held.append(c.http.get(f"/v1/jobs/{job_id}?wait=60")))
        listener = threading.Thread(target=lambda: events.extend(c.http.events(job_id)))
        waiter.start()
        listener.start()
        until(lambda: events, 5, "the event stream has begun")
        c.gateway_process.signal(signal.SIGTERM)
        begin = time.monotonic()
        ready = until(lambda: (lambda a: a.status == 503 and a)(c.http.get("/readyz")), 1, "readyz says 503").json
        check_equal((ready["ready"], ready["checks"]["serving"]), (False, "failed"), f"readyz {ready}")
        check("this gateway is stopping" in ready["reasons"], f"the reason in {ready}")
        check_equal(ready["checks"]["broker"], "ok", "the broker is still there")
        served = c.http.post_job(width=64, height=64, steps=1, prompt="late")
        check_equal((served.status, served.headers["Connection"]), (202, "close"), "a submit while it lingers")
        answer, body = ask(busy, "/healthz")
        check_equal((answer.status, answer.will_close), (200, True), f"a request on an open connection ({body!r})")
        check(waiter.is_alive() and listener.is_alive(), "who waits goes on waiting while it lingers")
        waiter.join(10)
        check_equal([(a.status, a.json["status"]) for a in held], [(200, "running")], "the held answer")
        check(time.monotonic() - begin >= LINGER_MS / 1000 - 0.1, "it was held until the door closed")
        listener.join(10) # to its orderly end: http.client would have raised IncompleteRead
        check_equal(idle.sock.recv(1), b"", "the end of the idle connection")
        check_equal(c.gateway_process.child.wait(10), 0, "exit status of the gateway")
        took = time.monotonic() - begin
        check(SANITIZED or took < LINGER_MS / 1000 + 2.5, f"it took {took:.1f} s to stop")
        last = events[-1][1]
        check_equal(events[-1][2]["status"], "running", "the last state that was told")
        rest = list(other.events(job_id, last))
        check(rest and rest[-1][0] == "done" and rest[-1][2]["status"] == "succeeded", f"the rest elsewhere: {rest}")
        check(all(more[1] != last for more in rest), "nothing is told twice")
        check_equal(other.wait(served.json["id"], "succeeded")["attempt"], 1, "attempt of the late one")


@test(short=True, limit_s=60)
def a_gateway_that_stops_says_so_serves_on_for_a_while_and_ends_in_order():
    stop_shows(1)


@test(limit_s=60)
def a_gateway_of_three_reactors_stops_as_one_does():
    stop_shows(3)


@test(limit_s=60)
def a_leader_that_stops_hands_over_at_once_and_no_submit_notices():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 5")
        c.broker(label="standby", wait_ready=False)
        leader = c.processes[0]
        until(lambda: "redis-up" in c.broker_process.log(), 10, "the standby stands by")
        before = c.redis.leader()
        leader.signal(signal.SIGTERM)
        begin = time.monotonic()
        until(lambda: c.redis.leader() not in (None, before) and c.redis.leader()[2] != "-", 5, "the standby leads",
              pause_s=0.005)
        led = time.monotonic() - begin
        answers = [c.http.post_job(width=64, height=64, steps=1, seed=i) for i in range(5)]
        served = time.monotonic() - begin
        check_equal({a.status for a in answers}, {202}, "statuses of submits")
        check_equal(leader.child.wait(5), 0, "exit status of the leader")
        print(f"    the standby led after {led * 1000:.0f} ms, a submit was taken after {served * 1000:.0f} ms")
        check(SANITIZED or led < 0.5, f"the standby led after {led:.2f} s")
        check(SANITIZED or served < 3, f"submits were taken after {served:.2f} s")
        for answer in answers:
            check_equal(c.http.wait(answer.json["id"], "succeeded")["attempt"], 1, "attempt")
        second = Http(c.http.address).get("/readyz")
        check_equal(second.status, 200, "readyz")
