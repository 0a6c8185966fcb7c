"""faults — what is broken in a siege, and when: a table of kinds, a schedule that a seed makes, and who carries it out.

The schedule (which kind, how long, which victim of the possible ones, and the pause before) follows from the seed
alone; a fault whose victims are being hurt already waits until they have recovered, so the same seed breaks the
same things in the same order, if not at the same microsecond.
"""
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass

from audit import Line, Record
from fleet import GATEWAYS
from harness import Failed, Http, RedisError

RECOVER_LIMIT_S = 90
KILLS = ("kill", "lose")


@dataclass
class Kind:
    """`who`: victims by role. how: kill (started again after `lasts`), pause (resumed after it) or term."""
    who: tuple
    how: str
    lasts: tuple = (0.0, 1.0) # seconds, from .. to
    weight: int = 2


KINDS = {
    "kill-leader": Kind(("leader",), "kill", (0, 3), 4),
    "kill-standby": Kind(("standby",), "kill"),
    "kill-both-brokers": Kind(("leader", "standby"), "kill", (0, 2), 1),
    "kill-gateway": Kind(("gateway",), "kill", (0, 2), 4),
    "kill-worker": Kind(("worker",), "kill", (0, 2), 4),
    "lose-worker": Kind(("worker",), "kill", (13, 15), 3),
    "kill-two-workers": Kind(("worker", "worker"), "kill", (0, 3), 1),
    "kill-instance": Kind(("instance",), "kill", (0, 0), 4),
    "kill-redis": Kind(("redis",), "kill", (0, 0.5), 3),
    "lose-redis": Kind(("redis",), "kill", (3, 6), 1),
    "kill-leader-and-worker": Kind(("leader", "worker"), "kill", (0, 2), 2),
    "kill-leader-and-redis": Kind(("leader", "redis"), "kill", (0, 1), 1),
    "pause-leader": Kind(("leader",), "pause", (1, 8), 3),
    "pause-standby": Kind(("standby",), "pause", (2, 5), 1),
    "pause-gateway": Kind(("gateway",), "pause", (2, 8), 2),
    "pause-worker": Kind(("worker",), "pause", (2, 5), 2),
    "pause-worker-long": Kind(("worker",), "pause", (13, 15), 2),
    "pause-instance": Kind(("instance",), "pause", (2, 8), 1),
    "pause-redis": Kind(("redis",), "pause", (0.5, 8), 1),
    "term-leader": Kind(("leader",), "term", (0, 1), 1),
    "term-gateway": Kind(("gateway",), "term", (0, 1), 1),
    "term-worker": Kind(("worker",), "term", (0, 1), 1),
}


def schedule(seed, every_s):
    """Yields (pause before, kind's name, seconds it lasts, dice for the victims) for ever."""
    dice, names = random.Random(seed), list(KINDS)
    while True:
        name = dice.choices(names, [KINDS[n].weight for n in names])[0]
        yield dice.uniform(0.2, 2 * every_s - 0.2), name, dice.uniform(*KINDS[name].lasts), dice.random()


class Breaker:
    """Carries faults out on a fleet and measures what follows. Thread-safe."""

    def __init__(self, fleet, history):
        self.fleet, self.history = fleet, history
        self.lock, self.hurt = threading.Lock(), set()       # names being hurt or recovering
        self.done, self.kills = Counter(), 0                 # faults by kind; processes killed
        self.failovers = {"alone": [], "with other faults": []} # seconds
        self.requeues = {"alone": [], "with other faults": []}
        self.trouble, self.threads = [], []

    # ---- victims ----

    def choose(self, kind, dice):
        """Names of free victims, taken; None: not now."""
        try:
            leader = self.fleet.leader()
        except (OSError, RedisError):
            leader = None
        with self.lock:
            chosen = self._chosen(kind, dice, leader)
            if chosen is not None:
                self.hurt |= set(chosen)
            return chosen

    def _chosen(self, kind, dice, leader):
        chosen, brokers_hurt = [], any(name.startswith("broker") for name in self.hurt)
        free = [name for name in self.fleet.worker_names() if name not in self.hurt]
        workers_hurt = len(self.fleet.sims) - len(free)
        for role in kind.who:
            if role in ("leader", "standby"):
                if leader is None or brokers_hurt:
                    return None
                chosen.append(leader if role == "leader" else next(n for n in ("broker-a", "broker-b") if n != leader))
            elif role == "redis":
                if "redis" in self.hurt:
                    return None
                chosen.append("redis")
            elif role == "gateway":
                if any(name in self.hurt for name in GATEWAYS):
                    return None
                chosen.append(GATEWAYS[int(dice * 2)])
            else: # always half of the workers are well
                if 2 * (workers_hurt + 1) > len(self.fleet.sims):
                    return None
                chosen.append(free.pop(int(dice * len(free))))
                workers_hurt += 1
        return chosen

    # ---- faults ----

    def begin(self, name, lasts_s, dice, stop, patience_s=60):
        """Breaks it in a thread of its own, as soon as its victims are free. False: `stop` was set, or never."""
        kind, end = KINDS[name], time.monotonic() + patience_s
        while (victims := self.choose(kind, dice)) is None:
            if time.monotonic() > end or stop.wait(0.1):
                return False
        thread = threading.Thread(target=self._carry_out, args=(name, kind, victims, lasts_s), daemon=True)
        self.threads = [t for t in self.threads if t.is_alive()] + [thread]
        thread.start()
        return True

    def break_now(self, name, victims, lasts_s, how=None):
        """The same, for victims that the caller chose; returns when they have recovered."""
        with self.lock:
            self.hurt |= set(victims)
        self._carry_out(name, Kind((), how or name.split("-")[0]), victims, lasts_s)

    def _carry_out(self, name, kind, victims, lasts_s):
        targets = [victim.replace("worker-", "instance-") if kind.who == ("instance",) else victim for victim in victims]
        fault = self.history.fault_begins(name, targets)
        try:
            self.done[name] += 1
            self._hurt(fault, kind, targets, lasts_s)
            for victim in targets:
                self.recovered(victim)
        except Exception as trouble: # pylint: disable=broad-except
            self.trouble.append(f"{name} of {victims} at {self.history.now():.3f} s: {trouble!r}")
        finally:
            self.history.fault_ends(fault)
            with self.lock:
                self.hurt -= set(victims)

    def _hurt(self, fault, kind, targets, lasts_s):
        workers = [(target, self.incarnation(target)) for target in targets if target.startswith("worker-")]
        began_s, began_ms, name = self.history.now(), time.time() * 1000, fault.kind
        for target in targets:
            if kind.how == "term":
                self.fleet.term(target)
            elif kind.how == "pause":
                self.fleet.pause(target)
            else:
                self.kills += self.fleet.kill(target)
        if name == "kill-leader":
            with self.history.lock:
                self.history.ack_watches.append((self.history.now(), lambda at: self._measure(self.failovers, fault, at - began_s)))
        for target, incarnation in workers:
            threading.Thread(target=self._watch_requeue, args=(target, incarnation, began_ms, fault), daemon=True).start()
        time.sleep(lasts_s)
        for target in targets:
            if kind.how == "pause":
                self.fleet.resume(target)
            elif not target.startswith("instance-"):
                self.fleet.begin(target)

    def recovered(self, name):
        """Waits until the process serves again (a standby: until it lives)."""
        end = time.monotonic() + RECOVER_LIMIT_S
        while time.monotonic() < end:
            try:
                if self.fleet.pid(name) and self._serves(name):
                    return
            except (OSError, RedisError, Failed):
                pass
            time.sleep(0.1)
        raise Failed(f"{name} does not serve again within {RECOVER_LIMIT_S} s")

    def _serves(self, name):
        if name in GATEWAYS:
            return Http(self.fleet.addresses[name]).get("/readyz", limit_s=5).status == 200
        if name.startswith("worker-"):
            return self.incarnation(name) is not None and self.is_alive(name.removeprefix("worker-"))
        if name.startswith("broker-"):
            return self.fleet.leader() is not None
        return name != "redis" or self.fleet.redis.call("PING") == "PONG"

    def is_alive(self, worker):
        """Whether one of the gateways tells so."""
        for name in GATEWAYS:
            try:
                answer = Http(self.fleet.addresses[name]).get("/v1/workers", limit_s=3)
                if answer.status == 200: # 503: Redis is away
                    return any(w["name"] == worker and w["state"] == "alive" for w in answer.json["workers"])
            except (OSError, Failed):
                pass
        return False

    def incarnation(self, name):
        """The worker's, as a number; None: it is not listed, or Redis is away."""
        try:
            told = self.fleet.redis.call("HGET", "{drawbar}:w", name.removeprefix("worker-"))
            return int(told.split()[0], 16) if told else None
        except (OSError, RedisError):
            return None

    # ---- what follows ----

    def _measure(self, into, fault, seconds):
        """Notes how long it took, and whether brokers or Redis were hurt by another fault meanwhile."""
        to_s = fault.begin_s + seconds
        others = [other for other in list(self.history.faults) if other is not fault and other.begin_s <= to_s
                  and other.end_s >= fault.begin_s and any(v == "redis" or v.startswith("broker") for v in other.victims)]
        into["with other faults" if others else "alone"].append(seconds)

    def in_hands(self, line, incarnation):
        """{id: record} of the running jobs of this incarnation."""
        ids = [job_id.decode() for job_id in line.call(["ZRANGE", "{drawbar}:live", 0, 2000])[0]]
        if not ids:
            return {}
        found = line.call(["MGET", *(f"{{drawbar}}:j:{job_id}" for job_id in ids)])[0]
        records = {job_id: Record(data) for job_id, data in zip(ids, found) if data}
        return {job_id: r for job_id, r in records.items() if r.status == "running" and r.worker == incarnation}

    def _watch_requeue(self, name, incarnation, began_ms, fault, limit_s=180):
        """Until all jobs in the hands of a hurt worker are queued again or have ended; tells the history. The limit is
        far above an eviction: each takeover gives workers 8 s to claim what they hold, and another may follow."""
        line, end = Line(self.fleet.redis), time.monotonic() + limit_s
        held, taken_ms = None, 0
        while incarnation is not None and time.monotonic() < end:
            try:
                if held is None:
                    held = self.in_hands(line, incarnation)
                if not held:
                    break
                ids = list(held)
                for job_id, data in zip(ids, line.call(["MGET", *(f"{{drawbar}}:j:{i}" for i in ids)])[0]):
                    record = Record(data) if data else None
                    if record is None or record.status == "running" and record.grant == held[job_id].grant:
                        continue
                    if record.status == "queued":
                        self.history.requeue_seen(job_id, time.time() * 1000, record.grant, record.worker)
                    taken_ms = max(taken_ms, record.start_ms if record.status == "running" else record.change_ms)
                    del held[job_id]
            except (OSError, RedisError):
                pass
            time.sleep(0.02)
        line.close()
        if fault.kind == "lose-worker" and taken_ms:
            self._measure(self.requeues, fault, (taken_ms - began_ms) / 1000)
        if held:
            self.trouble.append(f"{name} was hurt at {self.history.seconds(began_ms):.3f} s, and {limit_s} s later these are "
                                f"still its jobs: {list(held)[:5]}")

    def join(self):
        for thread in self.threads:
            thread.join(RECOVER_LIMIT_S + 30)
