"""jobs — the table of jobs: who waits, who is at work, what is kept, and who wants to hear of it.

        add            next            finish
    ----------> queued ------> running --------> succeeded | failed
                  | remove        | remove, then `stopped`
                  v               v
               (forgotten)     cancelled

A job is running from its first step until its pictures are encoded. While one job's pictures are
encoded the next may be drawn: two are running then, and `drawing` is the one that has the GPU.

Everything happens under one lock; every change wakes the long polls. No torch, no HTTP, no clock but
time.monotonic(). Invariants: at most `queue_most` wait; at most KEEP_JOBS finished jobs and KEEP_BYTES
of their pictures are kept, the oldest go.
"""
import secrets
import threading
import time
from collections import OrderedDict, deque

KEEP_JOBS = 64
KEEP_BYTES = 256 * 1024 * 1024
OVER = ("succeeded", "failed", "cancelled")


class Job:
    """One order and what became of it. Fields change only under the table's lock."""

    def __init__(self, order):
        self.order = order
        self.state = "queued"
        self.step = 0
        self.wants_stop = False    # the GPU thread looks at it between steps
        self.images = [None] * order.n
        self.error = None
        self.made = self.began = self.drawn = self.encoded = None
        self.text = None           # the artist's: prompt, tokenised and later encoded

    @property
    def is_over(self):
        return self.state in OVER


class Table:
    """All jobs of this process."""

    def __init__(self, queue_most=2):
        self.epoch = secrets.token_hex(8)
        self.queue_most = queue_most
        self.changed = threading.Condition()
        self.jobs = OrderedDict()
        self.queue = deque()
        self.over = deque()
        self.drawing = None
        self.ready = False
        self.releasing = False
        self.last_step_ms = 0.0
        self.pictures = 0

    # -- the HTTP threads' side --

    def add(self, order):
        """(job, "new" | "known" | "full")."""
        with self.changed:
            known = self.jobs.get(order.id)
            if known is not None:
                return known, "known"
            if len(self.queue) >= self.queue_most + (self.drawing is None):
                return None, "full"
            job = Job(order)
            job.made = time.monotonic()
            self.jobs[order.id] = job
            self.queue.append(job)
            self.changed.notify_all()
            return job, "new"

    def find(self, name):
        with self.changed:
            return self.jobs.get(name)

    def wait(self, job, since, wait_s):
        """Returns when the job is over, has made more than `since` steps, or wait_s have passed."""
        end = time.monotonic() + wait_s
        with self.changed:
            while not (job.is_over or job.step > since or self.releasing):
                left = end - time.monotonic()
                if left <= 0:
                    return
                self.changed.wait(left)

    def remove(self, job, wait_s):
        """The state that the DELETE answers with. A running job is told to stop; wait_s bounds how long
        its end is waited for."""
        with self.changed:
            if job.state == "queued":
                self.queue.remove(job)
                job.state = "cancelled"
                self._forget(job)
                self.changed.notify_all()
                return "cancelled"
            if job.is_over:
                state = job.state
                self._forget(job)
                return state
            job.wants_stop = True
            self.changed.notify_all()
        self._await_end(job, wait_s)
        with self.changed:
            return job.state

    def _await_end(self, job, wait_s):
        end = time.monotonic() + wait_s
        with self.changed:
            while not (job.is_over or self.releasing) and time.monotonic() < end:
                self.changed.wait(end - time.monotonic())

    def document(self, job):
        """The job object of API.md."""
        with self.changed:
            o = job.order
            images = []
            if job.state == "succeeded":
                images = [{"index": i, "width": o.width, "height": o.height, "seed": o.seed_of(i),
                           "bytes": len(data)} for i, data in enumerate(job.images)]
            document = {"id": o.id, "state": job.state, "step": job.step, "steps": o.steps,
                        "queue_ms": _ms(job.made, job.began), "gpu_ms": _ms(job.began, job.drawn),
                        "encode_ms": _ms(job.drawn, job.encoded), "images": images, "epoch": self.epoch}
            if job.error is not None:
                document["error"] = {"code": job.error[0], "message": job.error[1]}
            return document

    def picture(self, job, index):
        """The bytes of a picture, or None."""
        with self.changed:
            known = job.state == "succeeded" and index < len(job.images)
            return job.images[index] if known else None

    def release(self):
        """Ends all long polls, for good: the process stops."""
        with self.changed:
            self.releasing = True
            self.changed.notify_all()

    # -- the GPU thread's side --

    def next(self, wait_s):
        """The next job, now running; None if none came within wait_s."""
        end = time.monotonic() + wait_s
        with self.changed:
            while not self.queue:
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self.changed.wait(left)
            job = self.queue.popleft()
            job.state = "running"
            job.began = time.monotonic()
            self.drawing = job
            self.changed.notify_all()
            return job

    def peek(self):
        """The job after the one at work, or None."""
        with self.changed:
            return self.queue[0] if self.queue else None

    def step(self, job, step):
        """The GPU has made that many steps of it."""
        with self.changed:
            if step > job.step and not job.is_over:
                job.step = step
                if step == job.order.steps:
                    job.drawn = time.monotonic()
                self.changed.notify_all()

    def let_go(self, job):
        """The GPU has nothing more to do for it."""
        with self.changed:
            if self.drawing is job:
                self.drawing = None
                self.changed.notify_all()

    # -- the ends --

    def add_picture(self, job, index, data):
        """One picture is encoded; with the last one the job has succeeded."""
        with self.changed:
            if job.is_over:
                return
            job.images[index] = data
            complete = all(image is not None for image in job.images)
            if complete and job.wants_stop:
                self._end(job, "cancelled")
            elif complete:
                job.encoded = time.monotonic()
                job.drawn = job.drawn or job.encoded
                self.pictures += len(job.images)
                self._end(job, "succeeded")

    def fail(self, job, code, message):
        with self.changed:
            if not job.is_over:
                job.error = (code, message[:500])
                self._end(job, "failed")

    def stopped(self, job):
        """A job that was told to stop has left the GPU."""
        with self.changed:
            if not job.is_over:
                self._end(job, "cancelled")

    def _end(self, job, state):
        job.state = state
        job.text = None
        if state != "succeeded":
            job.images = []
        if self.drawing is job: # the pool may be done before the GPU thread has turned around
            self.drawing = None
        self.over.append(job)
        kept = sum(len(image) for j in self.over for image in j.images)
        while len(self.over) > KEEP_JOBS or (kept > KEEP_BYTES and len(self.over) > 1):
            oldest = self.over[0]
            kept -= sum(len(image) for image in oldest.images)
            self._forget(oldest)
        self.changed.notify_all()

    def _forget(self, job):
        if self.jobs.get(job.order.id) is job:
            del self.jobs[job.order.id]
        if job in self.over:
            self.over.remove(job)


def _ms(begin, end):
    return 0 if begin is None or end is None else max(0, round((end - begin) * 1000))
