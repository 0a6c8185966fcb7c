"""A rolling restart of everything, under load: no request fails and no job is lost.

The clients do what nginx or any HTTP client with two addresses does: a connection that is refused goes to the
other gateway; a kept connection that was closed before a byte of the answer came is replaced by a fresh one. Any
other trouble (a reset, a time-out, a status that is not a success) is a failed request.
"""
import collections
import http.client
import itertools
import json
import socket
import threading
import time
import uuid

from harness import Cluster, check, check_equal, free_port, until
from pictures import png_size
from registry import test

CLIENTS, ROUNDS, PATIENCE_S = 6, 3, 10


class Trouble(Exception):
    """A request that failed as a client counts it."""


class Client(threading.Thread):
    """Submits, polls, takes the picture; again and again until it is told to stop."""

    def __init__(self, ports, keeps, first):
        super().__init__(daemon=True)
        self.ports, self.keeps = ports, keeps
        self.turns = itertools.count(first)
        self.kept = {}
        self.ends = threading.Event()
        self.counts = collections.Counter()
        self.longest = collections.defaultdict(float)
        self.failed, self.jobs = [], []

    def connect(self):
        """A connection to the gateway whose turn it is, else to the other: (port, connection, was it kept?)."""
        turn = next(self.turns)
        for i in range(2):
            port = self.ports[(turn + i) % 2]
            if port in self.kept:
                return port, self.kept.pop(port), True
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            try:
                connection.connect()
                return port, connection, False
            except ConnectionRefusedError:
                self.counts["refused connects"] += 1
        raise Trouble("both gateways refuse")

    def once(self, method, path, body, headers):
        port, connection, kept = self.connect()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as closed:
            connection.close()
            if not kept:
                raise Trouble(f"closed without an answer: {closed!r}") from closed
            self.counts["kept connections that were closed"] += 1
            return None
        data = answer.read()
        if answer.headers.get("Connection") == "close":
            self.counts["answers that closed"] += 1
        if self.keeps and not answer.will_close:
            self.kept[port] = connection
        else:
            connection.close()
        return answer, data

    def request(self, kind, method, path, body=None):
        headers = {"Connection": "keep-alive" if self.keeps else "close"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        begin = time.monotonic()
        try:
            # Both kept connections may be dead: the third one is fresh.
            done = next(filter(None, (self.once(method, path, body, headers) for _ in range(3))), None)
            took = time.monotonic() - begin
            check(done is not None, "two kept connections were closed, and the fresh one as well")
            answer, data = done
            if not 200 <= answer.status < 300:
                raise Trouble(f"{answer.status} {data[:200]!r}")
        except (OSError, http.client.HTTPException, Trouble) as trouble:
            raise Trouble(f"{kind} after {time.monotonic() - begin:.2f} s: {trouble!r}") from trouble
        finally:
            self.counts["requests"] += 1
        self.longest[kind] = max(self.longest[kind], took)
        return data

    def one_job(self, number):
        wish = {"prompt": "a red fox", "width": 64, "height": 64, "steps": 3, "seed": number}
        job_id = json.loads(self.request("submit", "POST", "/v1/jobs", json.dumps(wish)))["id"]
        self.jobs.append(job_id)
        while True:
            job = json.loads(self.request("poll", "GET", f"/v1/jobs/{job_id}?wait=5"))
            if job["status"] not in ("queued", "running"):
                break
        if job["status"] != "succeeded":
            raise Trouble(f"job {job_id} ended {job['status']}: {job}")
        picture = self.request("picture", "GET", f"/v1/jobs/{job_id}/images/0")
        check_equal(png_size(picture), (64, 64), "size of the picture")

    def run(self):
        for number in itertools.count():
            if self.ends.is_set():
                return
            try:
                self.one_job(number)
            except Exception as trouble:  # pylint: disable=broad-except
                self.failed.append(str(trouble))
            self.ends.wait(0.02)


def broker_stands(process):
    """It reached Redis, in this life."""
    return "redis-up" in process.log().rpartition("\n$ ")[2]


def leader_of(c, brokers):
    doors = c.redis.leader()
    return next((b for b in brokers if doors and f"workers={doors[3]}" in b.log().rpartition("\n$ ")[2]), None)


class Fleet:
    """What is restarted, each by a function that does it in order."""

    def __init__(self, c):
        self.c = c
        self.ports = [free_port(), free_port()]
        self.processes = {}
        for name in ("broker1", "broker2"):
            self.start_broker(name)
        for i in (0, 1):
            self.start_gateway(f"gateway{i + 1}", self.ports[i])
        for name in ("mia", "zoe", "ida"):
            self.start_worker(name)

    def start_broker(self, name):
        self.processes[name] = self.c.broker(label=name, wait_ready=False)
        until(lambda: broker_stands(self.processes[name]), 10, f"{name} stands by or leads")

    def start_gateway(self, name, port):
        self.c.gateway(label=name, listen=f"127.0.0.1:{port}")
        self.processes[name] = self.c.processes[-1]

    def start_worker(self, name):
        self.processes[name] = self.c.worker(name, sim="--step-ms 10")

    def brokers(self):
        return [self.processes[name] for name in ("broker1", "broker2") if self.processes[name].alive()]

    def stop(self, name):
        check_equal(self.processes[name].stop(limit_s=40), 0, f"exit status of {name}")

    def restart_all(self):
        """Everything once; the standby first, so that the leader is stopped with one there."""
        leader = until(lambda: leader_of(self.c, self.brokers()), 10, "there is a leader").label
        for name in sorted(("broker1", "broker2"), key=lambda name: name == leader):
            self.stop(name)
            until(lambda: leader_of(self.c, self.brokers()), 5, f"a broker leads without {name}") # pylint: disable=cell-var-from-loop
            self.start_broker(name)
        for i, name in enumerate(("gateway1", "gateway2")):
            self.stop(name)
            self.start_gateway(name, self.ports[i])
        for name in ("mia", "zoe", "ida"):
            self.stop(name)
            self.start_worker(name)


def reasons_of(c, job_id):
    """The job's attempts that failed."""
    return [json.loads(told) for told in c.redis.call("LRANGE", f"{{drawbar}}:a:{job_id}", 0, -1)]


@test(limit_s=120, alone=True)
def a_rolling_restart_of_every_process_under_load_fails_no_request_and_loses_no_job():
    with Cluster(broker=False, gateway=False) as c:
        fleet = Fleet(c)
        clients = [Client(fleet.ports, i % 2 == 0, i) for i in range(CLIENTS)]
        begin = time.monotonic()
        for client in clients:
            client.start()
        until(lambda: all(len(client.jobs) > 3 for client in clients), 20, "the load is there")
        for _ in range(ROUNDS):
            fleet.restart_all()
        for client in clients:
            client.ends.set()
        for client in clients:
            client.join(30)
            check(not client.is_alive(), "a client's last job has ended")
        took = time.monotonic() - begin
        counts = sum((client.counts for client in clients), collections.Counter())
        failed = [text for client in clients for text in client.failed]
        ids = [job_id for client in clients for job_id in client.jobs]
        longest = {kind: max(client.longest[kind] for client in clients) for kind in ("submit", "poll", "picture")}
        jobs = {job_id: c.http.job(job_id) for job_id in ids}
        again = {job_id: job for job_id, job in jobs.items() if job["attempt"] != 1}
        print(f"    {took:.0f} s, {counts['requests']} requests, {len(failed)} failed, {len(ids)} jobs, "
              f"{len(again)} handed back; longest "
              + ", ".join(f"{kind} {seconds * 1000:.0f} ms" for kind, seconds in longest.items()))
        print("    " + ", ".join(f"{counts[word]} {word}" for word in (
            "refused connects", "answers that closed", "kept connections that were closed")), flush=True)
        check_equal(failed[:10], [], f"the first of {len(failed)} failed requests")
        check_equal({job["status"] for job in jobs.values()}, {"succeeded"}, "statuses")
        for job_id, job in again.items():
            why = reasons_of(c, job_id)
            # None at all: its worker had left before the job was on its way there.
            check({reason["code"] for reason in why} <= {"worker_leaving"}, f"why {job} had another attempt: {why}")
        check_equal(c.redis.live(), 0, "jobs left alive")
        check(counts["requests"] > 200, "there was a load")
