"""Server-sent events."""
import http.client
import threading
import time

from harness import Cluster, check, check_equal, until
from registry import test


@test(short=True)
def events_tell_every_state_until_the_end_and_then_the_stream_ends():
    with Cluster() as c:
        job_id = c.http.submit(steps=6)
        events = []
        reader = threading.Thread(target=lambda: events.extend(c.http.events(job_id)))
        reader.start()
        c.worker("mia", sim="--step-ms 150")
        reader.join(40)
        check(not reader.is_alive(), "the stream did not end")
        statuses = [data["status"] for _, _, data in events]
        check_equal((statuses[0], statuses[-1]), ("queued", "succeeded"), "first and last status")
        check("running" in statuses, f"statuses {statuses}")
        check_equal(events[-1][0], "done", "name of the last event")
        check({name for name, _, _ in events} <= {"state", "progress", "done"}, f"names of {events}")
        steps = [data["progress"]["step"] for name, _, data in events if name == "progress"]
        check(steps and steps == sorted(steps), f"steps {steps}")
        for _, event_id, data in events:
            check(event_id and event_id.count(".") == 1, f"id {event_id}")
            check({"status", "position", "eta_s", "progress"} <= set(data), f"the state in {data}")
        order = [tuple(map(int, event_id.split("."))) for _, event_id, _ in events]
        check_equal(order, sorted(order), "order of the ids")
        check(events[-1][2]["images"], "the last event has the pictures")


@test()
def events_of_an_ended_job_are_one_snapshot():
    with Cluster() as c:
        c.worker("mia")
        job_id = c.http.submit()
        c.http.wait(job_id, "succeeded")
        events = list(c.http.events(job_id))
        check_equal([(name, data["status"]) for name, _, data in events], [("done", "succeeded")], "events")


@test()
def last_event_id_is_answered_by_one_snapshot_if_there_is_news_and_by_nothing_else():
    with Cluster() as c:
        c.worker("mia")
        job_id = c.http.submit()
        c.http.wait(job_id, "succeeded")
        last = list(c.http.events(job_id))[-1][1]
        older = list(c.http.events(job_id, last_event_id="1.0"))
        check_equal(len(older), 1, "snapshots for an old id")
        check_equal(older[0][1], last, "id of the snapshot")
        check_equal(list(c.http.events(job_id, last_event_id=last)), [], "events for the newest id")
        strange = list(c.http.events(job_id, last_event_id="not an id \U0001F98A".encode().decode("latin-1")))
        check_equal(len(strange), 1, "snapshots for an id that makes no sense")


@test()
def a_job_cancelled_while_watched_ends_the_stream_with_cancelled():
    with Cluster() as c:
        job_id = c.http.submit()
        events = []
        reader = threading.Thread(target=lambda: events.extend(c.http.events(job_id)))
        reader.start()
        until(lambda: events, 5, "the first event")
        c.http.cancel(job_id)
        reader.join(10)
        check(not reader.is_alive(), "the stream did not end")
        check_equal(events[-1][2]["status"], "cancelled", "last status")


@test(limit_s=90)
def events_go_on_through_a_restart_of_the_broker():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 400")
        job_id = c.http.submit(steps=20)
        events = []
        reader = threading.Thread(target=lambda: events.extend(c.http.events(job_id, limit_s=60)))
        reader.start()
        until(lambda: any(name == "progress" for name, _, _ in events), 10, "a first step is told")
        c.broker_process.kill()
        c.broker()
        reader.join(60)
        check(not reader.is_alive(), "the stream did not end")
        check_equal(events[-1][2]["status"], "succeeded", "last status")
        check_equal(events[-1][2]["attempt"], 1, "attempt")


@test()
def a_comment_keeps_a_quiet_stream_alive():
    with Cluster() as c:
        job_id = c.http.submit()
        connection = http.client.HTTPConnection(c.http.host, c.http.port, timeout=25)
        connection.request("GET", f"/v1/jobs/{job_id}/events")
        answer = connection.getresponse()
        end = time.monotonic() + 25
        line = b""
        while not line.startswith(b":") and time.monotonic() < end:
            line = answer.readline()
        check(line.startswith(b":"), "no comment in 25 s")
        connection.close()
        check_equal(c.http.get("/healthz").status, 200, "status after the client left")


@test()
def events_of_an_unknown_job_are_404():
    with Cluster() as c:
        c.http.get("/v1/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/events").problem(404)
