"""matrix — each kind of process, killed, paused and asked to stop in each phase of a job.

    run("leader", ["kill"])     one fleet; a job is brought into each phase, then the victim is struck

A phase is reached for real, not by luck: whoever would end it is held (SIGSTOP) or slow, and a condition shows that
it is there before the victim is struck:

    submit     Redis is held; the SUBMIT's bytes wait at its socket, nobody has answered
    queued     every worker draws another job; the record says QUEUED
    granted    every agent is held; the record says RUNNING, so the JOB is on its way
    drawing    its instance has drawn a step
    uploading  both gateways are held; the picture's bytes wait at the socket for uploads
    done       Redis is held; the picture is in the store, the commit of DONE waits at its socket
    ended      the record says SUCCEEDED, its client has heard so

Then the victim is struck, the others are let go, the victim comes back, and the job must succeed. What clients saw
is checked by the history at the end: nothing lost, nothing twice, drawn again only if its own worker was hurt.
"""
import glob
import os
import signal
import threading
import time
from contextlib import contextmanager

from audit import Auditor, Record
from faults import Breaker
from fleet import BROKERS, GATEWAYS, Fleet
from harness import check, check_equal, process_state, until
from history import History
from load import Load, Mix

PADDING = 1500 # bytes of metadata: no other command to Redis is that long
STEPS, STEP_MS = 20, 40
WORKERS = ("mia", "zoe", "eve") # three, so that no instance dies often enough to be called broken
ACTIONS = {"kill": 0, "pause-4": 4, "pause-8": 8, "term": 0}
PHASES = ("submit", "queued", "granted", "drawing", "uploading", "done", "ended")
VICTIMS = {
    "gateway": ("kill", "pause-4", "pause-8", "term"),
    "leader": ("kill", "pause-4", "pause-8", "term"),
    "standby": ("kill", "pause-4", "pause-8", "term"),
    "worker": ("kill", "pause-4", "pause-8", "term"),
    "instance": ("kill", "pause-4", "pause-8"),
    "redis": ("kill", "pause-4", "pause-8"),
}


def backlog(port):
    """Bytes that wait unread at the fullest connection to a listener of this machine."""
    most = 0
    with open("/proc/net/tcp", encoding="utf-8") as file:
        for line in file.readlines()[1:]:
            words = line.split()
            if int(words[1].rpartition(":")[2], 16) == port and words[3] != "0A": # 0A: it listens
                most = max(most, int(words[4].rpartition(":")[2], 16))
    return most


class Probe(threading.Thread):
    """One client with one job: submits under a key until it is answered for, and follows it to the end."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client, self.job = client, None
        self.start()

    def run(self):
        job = self.client.submit()
        if job is not None:
            self.job = job[0]
            self.client.follow(*job)
            self.client.history.left(self.job)


class Scene:
    """A fleet, and the jobs that are brought into a phase."""

    def __init__(self, fleet):
        self.fleet, self.history = fleet, History()
        self.auditor, self.breaker = Auditor(fleet, self.history), Breaker(fleet, self.history)
        mix = Mix(clients=1 + len(WORKERS), keyed=1, cancelled=0, streamed=0.3, several=0, classes=0, steps=(STEPS,),
                  long_jobs=0, pictures=1, padding=PADDING)
        self.load = Load(self.history, fleet.addresses, mix)
        self.probe, self.blockers = None, []
        self.known = None  # the probe's record, read before Redis was held
        self.struck = None # paused by strike(): stays so until mend()

    # ---- reaching a phase ----

    def submit(self, client=0):
        return Probe(self.load.clients[client])

    def record(self, probe):
        data = self.fleet.redis.record(probe.job) if probe.job else None
        return Record(data) if data else None

    def until_status(self, probe, status):
        def reached():
            record = self.record(probe)
            check(record is None or record.status in ("queued", "running", status), f"the job is {record and record.status}")
            return record is not None and record.status == status
        until(reached, 20, f"the job is {status}")

    @contextmanager
    def held(self, names):
        """Stops them, and lets go those that live and are not the victim's to resume."""
        for name in names:
            self.fleet.pause(name)
        try:
            yield
        finally:
            for name in names:
                if name != self.struck:
                    self.fleet.resume(name)

    @contextmanager
    def phase_submit(self):
        with self.held(["redis"]):
            self.probe = self.submit()
            until(lambda: backlog(self.fleet.redis.port) > PADDING, 5, "the SUBMIT's commit waits at Redis")
            yield

    @contextmanager
    def phase_queued(self):
        self.blockers = [self.submit(1 + i) for i in range(len(WORKERS))]
        for blocker in self.blockers:
            self.until_status(blocker, "running")
        self.probe = self.submit()
        self.until_status(self.probe, "queued")
        yield

    @contextmanager
    def phase_granted(self):
        with self.held(self.fleet.worker_names()):
            self.probe = self.submit()
            self.until_status(self.probe, "running")
            yield

    @contextmanager
    def phase_drawing(self, steps=1):
        self.probe = self.submit()
        self.until_status(self.probe, "running")
        until(lambda: self.fleet.http.job(self.probe.job)["progress"]["step"] >= steps, 10, f"step {steps} was drawn")
        yield

    @contextmanager
    def phase_uploading(self):
        with self.phase_drawing(steps=STEPS // 4):
            with self.held(GATEWAYS):
                until(lambda: max(backlog(port) for port in self.fleet.uploads.values()) > 1000, 10, "the upload waits")
                yield

    @contextmanager
    def phase_done(self):
        with self.phase_drawing(steps=STEPS // 4):
            self.known = self.record(self.probe)
            with self.held(["redis"]):
                pattern = os.path.join(self.fleet.directory, "artifacts", "*", f"{self.probe.job}.*")
                until(lambda: glob.glob(pattern) and backlog(self.fleet.redis.port) > PADDING, 10, "DONE waits at Redis")
                yield

    @contextmanager
    def phase_ended(self):
        self.probe = self.submit()
        self.until_status(self.probe, "succeeded")
        self.probe.join(10)
        yield

    # ---- the victim ----

    def find(self, victim, leader, worker):
        """The process that stands for the victim in this phase: the one that has to do with the job."""
        if victim == "gateway":
            return max(GATEWAYS, key=lambda name: backlog(self.fleet.uploads[name]))
        return {"leader": leader, "standby": next(name for name in BROKERS if name != leader), "redis": "redis",
                "worker": f"worker-{worker}", "instance": f"instance-{worker}"}[victim]

    def worker_of(self, record, names):
        """The worker that holds the job; the first one while nobody does."""
        return next((name for name, incarnation in names.items() if record and record.worker == incarnation), WORKERS[0])

    def strike(self, name, action):
        fault = self.history.fault_begins(action, [name])
        if action == "kill":
            check(self.fleet.kill(name), f"{name} lives when it is killed")
        elif action == "term":
            self.fleet.signal(name, signal.SIGTERM)
            self.fleet.resume(name)
        else:
            self.struck = name
            check(self.fleet.pause(name), f"{name} lives when it is paused")
        return fault

    def mend(self, name, action, fault):
        if action.startswith("pause"):
            time.sleep(ACTIONS[action])
            self.struck = None
            self.fleet.resume(name)
        elif not name.startswith("instance-"):
            if action == "term":
                until(lambda: not self.fleet.running[name].alive(), 45, f"{name} ends on SIGTERM")
                check_equal(self.fleet.running[name].child.returncode, 0, f"exit status of {name} on SIGTERM")
            self.fleet.begin(name)
        self.breaker.recovered(name)
        self.history.fault_ends(fault)

    # ---- one case ----

    def play(self, victim, action, phase):
        until(self.fleet.leader, 10, "a broker leads")
        leader, names = self.fleet.leader(), {n: self.breaker.incarnation(n) for n in WORKERS}
        self.probe, self.known, self.blockers = None, None, []
        with getattr(self, f"phase_{phase}")():
            # Redis may be held: what it says of the job was read before.
            stopped = process_state(self.fleet.redis.process.pid) == "T"
            record = self.known if stopped else self.record(self.probe)
            name = self.find(victim, leader, self.worker_of(record, names))
            fault = self.strike(name, action)
        self.mend(name, action, fault)
        for probe in [self.probe, *self.blockers]:
            probe.join(60)
            check(not probe.is_alive() and probe.job, f"the client is served ({victim}, {action}, {phase})")
            self.until_status(probe, "succeeded")
        check_equal(self.load.trouble, [], "what clients ran into")


def run(victim, actions, phases=PHASES, told=None):
    """Plays all cases in one fleet, then checks its history."""
    with Fleet({name: f"--step-ms {STEP_MS}" for name in WORKERS}) as fleet:
        scene = Scene(fleet)
        for action in actions:
            for phase in phases:
                begin = time.monotonic()
                try:
                    scene.play(victim, action, phase)
                except BaseException:
                    print(f"    in the case {victim}, {action}, {phase}")
                    raise
                if told:
                    told(victim, action, phase, time.monotonic() - begin)
        scene.auditor.finish()
        history = scene.history
        check(not history.complaints, "\n    ".join(["the history:", *history.complaints]))
        check_equal(history.figures.ends.keys() - {"succeeded"}, set(), "ends other than succeeded")
        check_equal(history.figures.settled, history.figures.accepted, "jobs settled")
        return history
