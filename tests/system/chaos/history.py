"""history — what clients did and saw, and whether the promises were kept.

Clients tell what they do and see, while they do it: invoked(), acknowledged(), refused(), unknown(),
saw(), picture(), cancel_asked(), cancel_answered(), left(). The auditor (audit.py) tells what the logs of
the workers, Redis and the picture store say: drawn(), found(), settle(). Who breaks something tells it:
fault_begins(), fault_ends(). Whatever contradicts a promise becomes a complaint that names the rule, the
job and the times (seconds since the history began). A test is good when `complaints` is empty.

A *token* is the number of one logical submit and stands in the prompt ("s17"), so that every record can be
traced to the client that asked for it, acknowledged or not. A repeat under the same Idempotency-Key is the
same token; a submit without a key is sent once. So one token never makes two jobs, whoever dies.

A *view* is what one client learns of one job in one way at one gateway. In a view nothing goes backwards.
Between two gateways a live state may be up to STALE_VIEW_S old (one that was paused tells what it knew); a
state that has ended never changes, wherever it is seen.

Memory is bounded: a settled job leaves eight bytes for its token, a hash of its id, and five numbers for
the check of the order. A million jobs need about 200 MB.
"""
import threading
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field

from order import Order

ENDS = ("succeeded", "failed", "cancelled", "expired")
STALE_VIEW_S = 15.0    # the longest pause of a gateway, and the silence after which it looks for a new leader
WITHDRAW_S = 20.0      # a submit answered 503 is withdrawn by then, unless its gateway was hurt meanwhile
AFTERMATH_S = 3.0      # a fault has ended when its victim serves again; what it touched shows by then
COMPLAINTS_KEPT = 200

RULES = {
    "lost": "an acknowledged job is in Redis, in one state that has ended",
    "not_listed": "an acknowledged job is in its tenant's list",
    "changed_end": "an end that a client saw never changes, and the record says the same",
    "two_completions": "one result is accepted; nobody is ever told of another",
    "wrong_picture": "a succeeded job's pictures are those of its record",
    "two_jobs": "one submit makes one job, however often its key is sent",
    "shared_id": "two submits never share a job",
    "backwards": "in one view of a job, revision and attempt never fall",
    "uncancelled": "a cancel that was answered stays",
    "cancelled_unasked": "no job is cancelled but by its client, or withdrawn after a 503 without ever being acknowledged",
    "refused_but_kept": "a submit refused with 4xx makes no job; one without a key that was answered 503 is withdrawn",
    "two_hands": "one lease is drawn once, by one worker",
    "drawn_again": "a job is drawn again only when a fault hurt the worker that drew it",
    "failed_unhurt": "a job fails only through faults",
    "out_of_order": "who waited with a smaller key is granted first",
}


class Job:
    """What is known of one job until it is settled."""
    __slots__ = ("id", "token", "acked_s", "end", "end_s", "views", "pictures", "cancel_s", "cancelled_s",
                 "drawn", "followers", "waits")

    def __init__(self, job_id):
        self.id, self.token, self.acked_s = job_id, None, None
        self.end, self.end_s = None, None      # (status, attempt, worker) first seen, and when
        self.views, self.pictures = {}, {}     # (client, where) -> (revision, attempt, ended); index -> SHA-256
        self.cancel_s = self.cancelled_s = None
        self.drawn = []                        # (wall ms, grant, worker)
        self.waits = []                        # (seen queued at wall ms, grant, worker that had it)
        self.followers = 0


class Submit:
    """One token: what became of it in its client's eyes."""
    __slots__ = ("token", "has_key", "begun_s", "job", "refused", "unknown", "open")

    def __init__(self, token, has_key, begun_s):
        self.token, self.has_key, self.begun_s = token, has_key, begun_s
        self.job, self.refused, self.unknown, self.open = None, [], 0, 0


@dataclass
class Fault:
    """Something was broken from begin_s to end_s; `victims` are the names of processes."""
    kind: str
    victims: tuple
    begin_s: float
    end_s: float = float("inf")


@dataclass
class Figures:
    """What a run counts besides complaints."""
    accepted: int = 0
    settled: int = 0
    ends: Counter = field(default_factory=Counter)
    codes: Counter = field(default_factory=Counter)
    executions: int = 0
    again: Counter = field(default_factory=Counter) # executions beyond the first, by explanation
    refused_yet_drawn: int = 0
    pictures: int = 0
    sights: int = 0


class History:
    """Thread-safe. Times are monotonic seconds since the history began."""

    def __init__(self):
        self.lock = threading.RLock()
        self.begin, self.begin_wall_ms = time.monotonic(), time.time() * 1000
        self.jobs, self.submits, self.faults = {}, {}, []
        self.job_of_token = array("Q")  # hash of the job's id; 0: none so far
        self.settled = set()
        self.order = Order()
        self.counts, self.complaints, self.figures = Counter(), [], Figures()
        self.ack_watches = []           # (since_s, function): told of the first acknowledged submit begun later

    def now(self):
        return time.monotonic() - self.begin

    def wall_ms(self, at_s):
        return self.begin_wall_ms + at_s * 1000

    def seconds(self, wall_ms):
        return (wall_ms - self.begin_wall_ms) / 1000

    def complain(self, rule, job_id, text):
        assert rule in RULES
        with self.lock:
            self.counts[rule] += 1
            if len(self.complaints) < COMPLAINTS_KEPT:
                self.complaints.append(f"{rule}: job {job_id}: {text}")

    def job(self, job_id):
        """The job's entry, made at first sight; None once it was settled."""
        entry = self.jobs.get(job_id)
        if entry is None and id_hash(job_id) not in self.settled:
            entry = self.jobs[job_id] = Job(job_id)
        return entry

    # ---- submits ----

    def new_token(self, has_key):
        with self.lock:
            token = len(self.job_of_token)
            self.job_of_token.append(0)
            self.submits[token] = Submit(token, has_key, self.now())
            return token

    def invoked(self, token):
        """An attempt is about to be sent. Returns its time."""
        with self.lock:
            self.submits[token].open += 1
            return self.now()

    def acknowledged(self, token, job_id, begun_s):
        """202 or 200. The client follows the job until left()."""
        with self.lock:
            submit, now = self.submits[token], self.now()
            submit.open -= 1
            job = self._joined(token, job_id, "acknowledged")
            if job is not None:
                job.followers += 1
                if job.acked_s is None:
                    job.acked_s = now
                    self.figures.accepted += 1
            due = [watch for watch in self.ack_watches if watch[0] <= begun_s]
            self.ack_watches = [watch for watch in self.ack_watches if watch[0] > begun_s]
        for _since, told in due:
            told(now)

    def refused(self, token, status):
        with self.lock:
            submit = self.submits[token]
            submit.open -= 1
            submit.refused.append((self.now(), status))

    def unknown(self, token, sent=True):
        """No answer; not `sent`: the connection could not even be opened."""
        with self.lock:
            self.submits[token].open -= 1
            self.submits[token].unknown += sent

    def _joined(self, token, job_id, how):
        """Joins token and job, or complains."""
        submit, now = self.submits.get(token), self.now()
        known = self.job_of_token[token]
        if known not in (0, id_hash(job_id)):
            self.complain("two_jobs", job_id, f"{how} at {now:.3f} s for submit s{token}, which made "
                          f"{submit.job if submit and submit.job else 'another job'} before")
        elif known == 0:
            self.job_of_token[token] = id_hash(job_id)
        job = self.job(job_id)
        if job is not None:
            if job.token not in (None, token):
                self.complain("shared_id", job_id, f"{how} at {now:.3f} s for submit s{token}, but it is s{job.token}'s")
            job.token = token if job.token is None else job.token
        if submit is not None and submit.job is None:
            submit.job = job_id
        return job

    # ---- sights ----

    def saw(self, client, where, job_id, sight, asked_s):
        """`sight`: a dictionary with status and perhaps attempt, revision, worker. asked_s: when the
        request began, or for an event when it came."""
        with self.lock:
            self.figures.sights += 1
            job, now = self.job(job_id), self.now()
            if job is None:
                return
            status, attempt = sight["status"], sight.get("attempt", 0)
            ended = status in ENDS
            self._view(job, (client, where), (sight.get("revision", 0), attempt, ended), now)
            if job.cancelled_s is not None and asked_s > job.cancelled_s and status != "cancelled" and (
                    ended or asked_s > job.cancelled_s + STALE_VIEW_S):
                self.complain("uncancelled", job_id, f"cancelled was answered at {job.cancelled_s:.3f} s, "
                              f"{status} seen at {now:.3f} s by {client} at {where}")
            if ended:
                self._ended(job, (status, attempt, sight.get("worker")), f"by {client} at {where}", now)
            elif job.end is not None and asked_s > job.end_s + STALE_VIEW_S:
                self.complain("changed_end", job_id, f"{job.end[0]} seen at {job.end_s:.3f} s, {status} asked for at "
                              f"{asked_s:.3f} s by {client} at {where}")

    def _view(self, job, view, told, now):
        before = job.views.get(view, (0, 0, False))
        # 0: this way of looking does not tell it.
        if (told[0] and told[0] < before[0]) or (told[1] and told[1] < before[1]) or (before[2] and not told[2]):
            self.complain("backwards", job.id, f"{view[0]} at {view[1]} saw revision {told[0]}, attempt {told[1]}, "
                          f"ended {told[2]} at {now:.3f} s after revision {before[0]}, attempt {before[1]}, "
                          f"ended {before[2]}")
        job.views[view] = (max(told[0], before[0]), max(told[1], before[1]), told[2] or before[2])

    def _ended(self, job, end, who, now):
        if job.end is None:
            job.end, job.end_s = end, now
        elif job.end[0] != end[0]:
            self.complain("changed_end", job.id, f"{job.end[0]} seen at {job.end_s:.3f} s, {end[0]} at {now:.3f} s {who}")
        elif end[0] == "succeeded" and (differs(end[1], job.end[1]) or differs(end[2], job.end[2])):
            self.complain("two_completions", job.id, f"attempt {job.end[1]} of {job.end[2]} seen at {job.end_s:.3f} s, "
                          f"attempt {end[1]} of {end[2]} at {now:.3f} s {who}")

    def picture(self, job_id, index, sha256):
        with self.lock:
            job = self.job(job_id)
            if job is None:
                return
            self.figures.pictures += 1
            before = job.pictures.setdefault(index, sha256)
            if before != sha256:
                self.complain("wrong_picture", job_id, f"picture {index} was {before[:12]} and is {sha256[:12]} "
                              f"at {self.now():.3f} s")

    def cancel_asked(self, job_id):
        with self.lock:
            job = self.job(job_id)
            if job is not None and job.cancel_s is None:
                job.cancel_s = self.now()

    def cancel_answered(self, job_id, status):
        with self.lock:
            job, now = self.job(job_id), self.now()
            if job is not None and status == "cancelled" and job.cancelled_s is None:
                job.cancelled_s = now

    def left(self, job_id):
        """The client that was acknowledged looks no more."""
        with self.lock:
            job = self.jobs.get(job_id)
            if job is not None:
                job.followers -= 1

    # ---- faults ----

    def fault_begins(self, kind, victims):
        """An instance's fault is its worker's: a worker answers for its instances."""
        names = (name.removeprefix("worker-").removeprefix("instance-") for name in victims)
        with self.lock:
            fault = Fault(kind, tuple(names), self.now())
            self.faults.append(fault)
            return fault

    def fault_ends(self, fault):
        fault.end_s = self.now()

    def hurt(self, victim, from_s, to_s):
        """A fault that touches the time between; of the victim, or of anybody when it is None."""
        for fault in self.faults:
            if fault.begin_s <= to_s and fault.end_s + AFTERMATH_S >= from_s and (
                    victim is None or victim in fault.victims):
                return fault
        return None

    # ---- what the world says ----

    def drawn(self, job_id, grant, worker, wall_ms):
        """A worker's log says that its instance began to draw."""
        with self.lock:
            job = self.job(job_id)
            self.figures.executions += 1
            if job is None:
                self.complain("drawn_again", job_id, f"drawn by {worker} at {self.seconds(wall_ms):.3f} s "
                              "although it had ended long before")
                return
            for at_ms, other_grant, other in job.drawn:
                if other_grant == grant:
                    self.complain("two_hands", job_id, f"grant {grant} drawn by {other} at {self.seconds(at_ms):.3f} s "
                                  f"and by {worker} at {self.seconds(wall_ms):.3f} s")
            job.drawn.append((wall_ms, grant, worker))

    def requeue_seen(self, job_id, wall_ms, grant, worker):
        """The record said QUEUED at wall_ms, with `grant` leases behind it, the last one `worker`'s."""
        with self.lock:
            job = self.job(job_id)
            if job is not None:
                job.waits.append((wall_ms, grant, worker))

    def found(self, job_id, token):
        """Redis has a record of this job, with this token in its prompt."""
        with self.lock:
            if id_hash(job_id) not in self.settled:
                self._joined(token, job_id, "found in Redis")

    def settle(self, job_id, record, stored, listed=True):
        """The last word on a job that nobody looks at any more: its record (None: Redis has none), the
        SHA-256 of its pictures in the store, and whether its tenant's list has it. Forgets the job."""
        with self.lock:
            job = self.jobs.pop(job_id, None)
            if job is None:
                return
            self.settled.add(id_hash(job_id))
            submit = self.submits.pop(job.token, None) if job.token is not None else None
            self.figures.settled += 1
            if record is None or record.status not in ENDS:
                if job.acked_s is not None:
                    self.complain("lost", job_id, f"acknowledged at {job.acked_s:.3f} s, "
                                  f"{'no record' if record is None else record.status} at {self.now():.3f} s")
                return
            self.figures.ends[record.status] += 1
            if job.acked_s is not None and not listed:
                self.complain("not_listed", job_id, f"acknowledged at {job.acked_s:.3f} s")
            self._settle_end(job, record)
            self._settle_pictures(job, record, stored)
            self._settle_refusals(job, submit, record)
            self._settle_executions(job, record)
            if record.status == "succeeded":
                self.order.add(self, job, record)

    def _settle_end(self, job, record):
        at_s = self.seconds(record.change_ms)
        if job.end is not None and job.end[0] != record.status:
            self.complain("changed_end", job.id, f"{job.end[0]} seen at {job.end_s:.3f} s, the record says "
                          f"{record.status} since {at_s:.3f} s")
        elif job.end is not None and record.status == "succeeded" and (
                differs(job.end[1], record.grant) or differs(job.end[2], record.worker_name)):
            self.complain("two_completions", job.id, f"attempt {job.end[1]} of {job.end[2]} seen at {job.end_s:.3f} s, "
                          f"the record has attempt {record.grant} of {record.worker_name} since {at_s:.3f} s")
        if job.cancelled_s is not None and record.status != "cancelled":
            self.complain("uncancelled", job.id, f"cancelled was answered at {job.cancelled_s:.3f} s, the record says "
                          f"{record.status} since {at_s:.3f} s")
        if record.status in ("failed", "expired"):
            self.figures.codes[record.code or record.status] += 1
            if self.hurt(None, self.seconds(record.submit_ms), at_s) is None:
                self.complain("failed_unhurt", job.id, f"{record.status} ({record.code}) at {at_s:.3f} s with no fault")

    def _settle_pictures(self, job, record, stored):
        told = dict(enumerate(record.sha256))
        for index, sha256 in list(job.pictures.items()) + list(enumerate(stored)):
            if told.get(index) != sha256:
                self.complain("wrong_picture", job.id, f"picture {index} is {(sha256 or 'missing')[:12]}, the record "
                              f"says {(told.get(index) or 'none')[:12]} since {self.seconds(record.change_ms):.3f} s")
        if record.status == "succeeded" and (len(told) != record.n or len(stored) != record.n):
            self.complain("wrong_picture", job.id, f"{record.n} asked for, {len(told)} in the record, {len(stored)} "
                          f"in the store, since {self.seconds(record.change_ms):.3f} s")

    def _settle_refusals(self, job, submit, record):
        refused = submit.refused if submit is not None else []
        withdrawn = submit is not None and job.acked_s is None and not submit.has_key and (
            submit.unknown or any(status == 503 for _at, status in refused))
        if record.status == "cancelled" and job.cancel_s is None and not withdrawn:
            self.complain("cancelled_unasked", job.id, f"cancelled since {self.seconds(record.change_ms):.3f} s")
        if job.acked_s is not None or submit is None:
            return
        hard = [(at, status) for at, status in refused if status != 503]
        if hard and not submit.unknown and len(hard) == len(refused):
            self.complain("refused_but_kept", job.id, f"submit s{submit.token} was answered {hard[0][1]} at "
                          f"{hard[0][0]:.3f} s, the record says {record.status}")
        elif refused and not submit.has_key and not submit.unknown and record.status != "cancelled":
            self.figures.refused_yet_drawn += 1
            last, granted = refused[-1][0], self.seconds(record.start_ms)
            if granted > last + WITHDRAW_S and self.hurt(None, last - 5, granted) is None:
                self.complain("refused_but_kept", job.id, f"submit s{submit.token} was answered 503 at {last:.3f} s, "
                              f"granted at {granted:.3f} s with no fault between")

    def _settle_executions(self, job, record):
        # By grant, the order of the leases: a worker that slept says what its instance began when it wakes.
        job.drawn.sort(key=lambda drawing: drawing[1])
        for before, after in zip(job.drawn, job.drawn[1:]):
            from_s, to_s = sorted((self.seconds(before[0]), self.seconds(after[0])))
            own = self.hurt(before[2], from_s, to_s)
            if own is not None:
                self.figures.again[own.kind] += 1
                continue
            other = self.hurt(None, from_s, to_s)
            self.figures.again["no fault" if other is None else f"fault elsewhere ({other.kind})"] += 1
            self.complain("drawn_again", job.id, f"drawn by {before[2]} at {self.seconds(before[0]):.3f} s (grant "
                          f"{before[1]}) and by {after[2]} at {self.seconds(after[0]):.3f} s (grant {after[1]}), and "
                          f"nothing had hurt {before[2]}")
        if record.status == "succeeded" and job.drawn and record.grant not in [grant for _at, grant, _who in job.drawn]:
            self.complain("two_completions", job.id, f"the record's grant {record.grant}, ended at "
                          f"{self.seconds(record.change_ms):.3f} s, was never drawn; these were: "
                          f"{[(grant, who) for _at, grant, who in job.drawn]}")

    def finish(self):
        """Everything was settled: the last checks. Returns the number of complaints."""
        with self.lock:
            for job in self.jobs.values():
                self.complain("lost", job.id, f"acknowledged at {job.acked_s} s and never settled")
            for passed, text in self.order.inversions(self):
                self.complain("out_of_order", passed, text)
            return sum(self.counts.values())


def differs(a, b):
    """Two tellings of one thing; one that says nothing differs from none."""
    return bool(a) and bool(b) and a != b


def id_hash(job_id):
    """64 bits of an id that are random in every job: the last 13 of its 26 digits. Never 0."""
    value = 0
    for digit in job_id[-13:]:
        value = (value * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(digit)) & (2**64 - 1)
    return value or 1
