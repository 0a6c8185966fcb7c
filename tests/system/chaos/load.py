"""load — clients that submit, follow, cancel and download without end, as sane clients do, and tell a History.

    load = Load(history, gateways, Mix(clients=8), seed=1); load.start() ... load.stop()

`gateways` is {name: "host:port"}. A client has a favourite gateway and goes to another when that one does not
answer. A submit with an Idempotency-Key is sent again (to the other gateway) until it is answered for; one
without is sent once, again only if the connection could not even be opened. A refused one waits as
Retry-After says, at most RETRY_S. Every job that was acknowledged is followed to its end: by polling, by
?wait, or by its event stream, and its pictures are downloaded.
"""
import http.client
import json
import random
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass

from hashlib import sha256

from history import ENDS

RETRY_S = 0.3
SUBMIT_LIMIT_S = 12   # a gateway holds a submit for 5 s
FOLLOW_LIMIT_S = 300
GIVE_UP_S = 90        # a keyed submit that nobody answers


@dataclass
class Mix:
    """What the clients do. Probabilities are of each submit."""
    clients: int = 8
    burst: int = 6            # a client submits 1 to so many jobs, then follows all
    keyed: float = 0.5
    cancelled: float = 0.04
    streamed: float = 0.1
    waited: float = 0.4       # ?wait=; the others poll
    several: float = 0.1      # n of 2 or 3
    classes: float = 0.1      # priority high or low
    steps: tuple = (1, 2)
    long_jobs: float = 0.05   # with long_steps
    long_steps: int = 50
    pictures: float = 0.5     # downloads
    pause_s: float = 0.0      # between two bursts
    padding: int = 0          # bytes of metadata, so that a request is told from other traffic by its length


class NotSent(OSError):
    """The connection could not be opened: nobody heard the request."""


class Door:
    """One client's connection to one gateway."""

    def __init__(self, name, address):
        self.name, (self.host, port) = name, address.rsplit(":", 1)
        self.port, self.connection = int(port), None

    def call(self, method, path, body=None, headers=None, limit_s=12.0):
        """(status, headers, body). OSError or HTTPException: no answer; NotSent: not even a question."""
        try:
            self.open(limit_s)
            self.connection.request(method, path, body, headers or {})
            answer = self.connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def open(self, limit_s):
        if self.connection is None or self.connection.sock is None: # the server has said that it closes
            connection = http.client.HTTPConnection(self.host, self.port, timeout=limit_s)
            try:
                connection.connect()
            except OSError as trouble:
                connection.close()
                raise NotSent(str(trouble)) from trouble
            self.connection = connection
        self.connection.sock.settimeout(limit_s)

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Client(threading.Thread):
    """One of them."""

    def __init__(self, load, index):
        super().__init__(daemon=True)
        self.load, self.history, self.mix, self.index = load, load.history, load.mix, f"client-{index}"
        self.random = random.Random(f"{load.seed} {index}")
        self.doors = [Door(name, address) for name, address in load.gateways.items()]
        self.at = index % len(self.doors)

    def run(self):
        try:
            while not self.load.stopping.is_set():
                self.burst()
                if self.mix.pause_s:
                    self.load.stopping.wait(self.random.random() * 2 * self.mix.pause_s)
        except Exception: # pylint: disable=broad-except
            self.load.trouble.append(f"{self.index}: {traceback.format_exc()}")
            self.load.stopping.set()
        for door in self.doors:
            door.close()

    def burst(self):
        jobs = []
        try:
            for _ in range(self.random.randint(1, self.mix.burst)):
                job = self.submit()
                if job is not None:
                    jobs.append(job)
            while jobs:
                self.follow(*jobs[0])
                self.history.left(jobs.pop(0)[0])
        finally:
            for job_id, _status in jobs:
                self.history.left(job_id)

    @property
    def door(self):
        return self.doors[self.at]

    def other_door(self, trouble, what):
        """After a failure: counts it, and turns to the next gateway."""
        kind = "not connected" if isinstance(trouble, NotSent) else \
            "no answer in time" if isinstance(trouble, TimeoutError) else "connection lost"
        self.load.fail(f"{what}: {kind}")
        self.at = (self.at + 1) % len(self.doors)

    # ---- submit ----

    def request(self, token):
        mix, dice = self.mix, self.random
        request = {"prompt": f"s{token}", "width": 64, "height": 64, "steps": dice.choice(mix.steps)}
        if dice.random() < mix.long_jobs:
            request["steps"] = mix.long_steps
        if dice.random() < mix.several:
            request["n"] = dice.randint(2, 3)
        if dice.random() < mix.classes:
            request["priority"] = dice.choice(["high", "low"])
        if mix.padding:
            request["metadata"] = {"padding": "x" * mix.padding}
        return json.dumps(request)

    def submit(self):
        """Returns (job, already told) once the submit was acknowledged; None if it was given up."""
        has_key = self.random.random() < self.mix.keyed
        token = self.history.new_token(has_key)
        headers = {"Content-Type": "application/json"}
        if has_key:
            headers["Idempotency-Key"] = f"key-{self.load.seed}-{token}"
        body, end = self.request(token), time.monotonic() + GIVE_UP_S
        while time.monotonic() < end:
            begun_s = self.history.invoked(token)
            self.load.count("submits")
            try:
                status, told, data = self.door.call("POST", "/v1/jobs", body, headers, SUBMIT_LIMIT_S)
            except (OSError, http.client.HTTPException) as trouble:
                sent = not isinstance(trouble, NotSent)
                self.history.unknown(token, sent)
                self.other_door(trouble, "submit")
                if sent and not has_key:
                    return None
                time.sleep(0.05)
                continue
            if status in (200, 202):
                job = json.loads(data)
                self.history.acknowledged(token, job["id"], begun_s)
                self.history.saw(self.index, f"{self.door.name} submit", job["id"], job, begun_s)
                return job["id"], job["status"]
            self.history.refused(token, status)
            self.load.fail(f"submit: {status} {title(data)}")
            if status not in (429, 503):
                self.load.trouble.append(f"a submit was answered {status} {data[:300]!r}")
            if not has_key:
                return None
            self.at = (self.at + 1) % len(self.doors)
            time.sleep(min(RETRY_S, float(told.get("Retry-After", RETRY_S))))
        self.load.fail("submit: given up")
        return None

    # ---- follow ----

    def follow(self, job_id, status):
        if status not in ENDS and self.random.random() < self.mix.cancelled:
            self.cancel(job_id)
        end, way = time.monotonic() + FOLLOW_LIMIT_S, self.random.random()
        while time.monotonic() < end:
            try:
                if way < self.mix.streamed:
                    job = self.stream(job_id)
                else:
                    job = self.look(job_id, "?wait=3" if way < self.mix.streamed + self.mix.waited else "")
            except (OSError, http.client.HTTPException) as trouble:
                self.other_door(trouble, "follow")
                time.sleep(0.05)
                continue
            if job is None:
                time.sleep(0.1) # refused for now: counted
            elif job["status"] not in ENDS:
                time.sleep(0.02)
            else:
                if job["status"] == "succeeded" and self.random.random() < self.mix.pictures:
                    self.download(job)
                return
        self.load.fail(f"follow: not ended within {FOLLOW_LIMIT_S} s")

    def look(self, job_id, query):
        """The job as its gateway tells it; None: refused."""
        asked_s = self.history.now()
        status, _headers, data = self.door.call("GET", f"/v1/jobs/{job_id}{query}")
        if status != 200:
            self.refused(job_id, "follow", status, data)
            return None
        job = json.loads(data)
        # A snapshot that waited for news is as old as its answer.
        self.history.saw(self.index, self.door.name, job_id, job, asked_s)
        return job

    def refused(self, job_id, what, status, data):
        self.load.fail(f"{what}: {status} {title(data)}")
        if status == 404:
            self.history.complain("lost", job_id, f"{what} was answered 404 at {self.history.now():.3f} s by "
                                  f"{self.door.name}")
            self.load.stopping.wait(0.5)

    def stream(self, job_id):
        """Listens until the end, or until the stream breaks (OSError)."""
        door, job = Door(self.door.name, f"{self.door.host}:{self.door.port}"), None
        try:
            door.open(20)
            door.connection.request("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
            answer = door.connection.getresponse()
            if answer.status != 200:
                self.refused(job_id, "events", answer.status, answer.read())
                return None
            place = ""
            for line in answer:
                if line.startswith(b"id: "):
                    place = line[4:].decode().strip()
                elif line.startswith(b"data: "):
                    job = json.loads(line[6:])
                    job["revision"] = int(place.partition(".")[0])
                    self.history.saw(self.index, f"{door.name} events", job_id, job, self.history.now())
            if job is None or job["status"] not in ENDS:
                raise ConnectionError("the stream ended before the job")
            return job
        finally:
            door.close()

    def cancel(self, job_id):
        self.history.cancel_asked(job_id)
        for _ in range(60):
            asked_s = self.history.now()
            try:
                status, _headers, data = self.door.call("DELETE", f"/v1/jobs/{job_id}")
            except (OSError, http.client.HTTPException) as trouble:
                self.other_door(trouble, "cancel")
                time.sleep(0.1)
                continue
            if status == 200:
                job = json.loads(data)
                self.history.cancel_answered(job_id, job["status"])
                self.history.saw(self.index, f"{self.door.name} cancel", job_id, job, asked_s)
                return
            self.refused(job_id, "cancel", status, data)
            time.sleep(RETRY_S)

    def download(self, job):
        for index, image in enumerate(job["images"]):
            for _ in range(60):
                try:
                    status, _headers, data = self.door.call("GET", image["url"])
                except (OSError, http.client.HTTPException) as trouble:
                    self.other_door(trouble, "picture")
                    time.sleep(0.1)
                    continue
                if status == 200:
                    self.history.picture(job["id"], index, sha256(data).hexdigest())
                    break
                self.load.fail(f"picture: {status} {title(data)}")
                if status == 404:
                    self.history.complain("wrong_picture", job["id"], f"picture {index} was answered 404 at "
                                          f"{self.history.now():.3f} s by {self.door.name}")
                time.sleep(RETRY_S)


def title(data):
    try:
        told = json.loads(data)
        return told.get("type", "").rpartition(":")[2] or told.get("title", "")
    except (ValueError, AttributeError):
        return ""


class Load:
    """All clients together."""

    def __init__(self, history, gateways, mix=None, seed=0):
        self.history, self.gateways, self.mix, self.seed = history, dict(gateways), mix or Mix(), seed
        self.stopping, self.trouble = threading.Event(), []
        self.lock, self.counts, self.failures = threading.Lock(), Counter(), Counter()
        self.clients = [Client(self, i) for i in range(self.mix.clients)]

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def fail(self, what):
        with self.lock:
            self.failures[what] += 1

    def start(self):
        for client in self.clients:
            client.start()

    def stop(self):
        """Every client finishes what it follows. Returns what went wrong in the clients themselves."""
        self.stopping.set()
        for client in self.clients:
            client.join(FOLLOW_LIMIT_S + 60)
        return self.trouble
