"""engine — the GPU thread: warms up, takes the next job, draws it, and ends the process when the GPU is lost.

The picture of a job is encoded in the pool while the next job is drawn. What ends the process (exit status
not 0, so that a supervisor starts it anew): no step for 10 times the usual and at least watchdog_s, or a
CUDA error, after which nothing on that device works any more.
"""
import faulthandler
import os
import queue
import threading
import time

import torch

from zimage.artist import Stopped
from zimage.encode import encode
from zimage.jobs import Job
from zimage.order import Order

IDLE_S = 0.5          # how long an idle GPU thread waits for a job before it may compile
PICTURES_IN_FLIGHT = 8 # drawn and not yet encoded; the GPU thread waits then
EXIT_POISONED = 3
WARM_UP = "a lighthouse on a cliff at dusk, waves, a small boat, warm light in the windows, photograph"


def is_poisoned(trouble):
    """A CUDA error that no later call survives (out of memory is none)."""
    kind = getattr(torch, "AcceleratorError", None)
    return (kind is not None and isinstance(trouble, kind)) or "CUDA error" in str(trouble) or \
        "CUBLAS_STATUS" in str(trouble) or "cudnn" in type(trouble).__name__.lower()


class Watchdog:
    """Ends the process by a thread of C code, which no lock of the interpreter can hold up."""

    def __init__(self, least_s):
        self.least_s = least_s
        self.usual_s = {}

    def arm(self, key=None):
        # A shape's own usual time; of one never drawn nothing is known but that it is no hang yet.
        faulthandler.dump_traceback_later(max(self.least_s, 10 * self.usual_s.get(key, 0)), exit=True)

    def disarm(self):
        faulthandler.cancel_dump_traceback_later()

    def learn(self, key, seconds):
        before = self.usual_s.get(key)
        self.usual_s[key] = seconds if before is None else 0.8 * before + 0.2 * seconds


class Engine:
    """Draws what the table holds. run() is the GPU thread."""

    def __init__(self, table, artist, options, log):
        self.table, self.artist, self.options, self.log = table, artist, options, log
        self.watchdog = Watchdog(options.watchdog_s)
        self.room = threading.Semaphore(PICTURES_IN_FLIGHT)
        self.tasks = queue.Queue()
        self.broken = None
        for i in range(max(1, options.encoders)):
            threading.Thread(target=self._encode_forever, name=f"encode-{i}", daemon=True).start()

    # -- the GPU thread --

    def run(self, pipe=None):
        try:
            self._start(pipe)
            while True:
                self._turn()
        except BaseException as trouble: # whatever it is: without this thread there is no instance
            self._die("gpu-thread-failed", trouble)

    def _start(self, pipe):
        begun = time.monotonic()
        self.artist.load(pipe)
        self.log("loaded", seconds=round(time.monotonic() - begun, 1), **self.artist.facts)
        for width, height in self.options.warm_sizes:
            self._warm_up(width, height)
        self.artist.measure()
        with self.table.changed:
            self.table.ready = True
            self.table.last_step_ms = 0.0
            self.table.pictures = 0
        self.log("ready", seconds=round(time.monotonic() - begun, 1), device=self.artist.device_name())

    def _warm_up(self, width, height):
        """Draws eagerly (which tells what is wanted), compiles that, and draws again. With several images a
        batch where batches are drawn, since that is another shape."""
        compiled = self.artist.compiled
        counts = [1]
        if width * height <= 512 * 512 and self.options.max_batch > 1 and compiled.enabled:
            counts.append(self.options.max_batch)
        for n in counts:
            self._rehearse(width, height, n)
            worked = False
            while compiled.has_work(idle=True):
                compiled.slice()
                worked = True
            if worked:
                self._rehearse(width, height, n)

    def _rehearse(self, width, height, n):
        begun = time.monotonic()
        job = Job(Order("warm-up", WARM_UP, "", width, height, self.options.warm_steps, 0.0, 1, min(n, 8), "png"))
        pictures = []
        self.artist.draw(job, lambda done: None, pictures.append, lambda: None)
        for picture in pictures:
            pixels = picture.pixels()
        encode(pixels, "png")
        self.log("warmed", width=width, height=height, n=n, seconds=round(time.monotonic() - begun, 2))

    def _turn(self):
        compiled = self.artist.compiled
        if compiled.has_work(idle=False):
            compiled.slice()
        # A job that comes while a slice is compiled waits for it: seconds, never a minute.
        job = self.table.next(IDLE_S if compiled.slices else 3600)
        if job is not None:
            self._work(job)
        elif compiled.has_work(idle=True):
            compiled.slice()

    def _work(self, job):
        o, table = job.order, self.table
        key = (o.width, o.height, o.n)
        self.watchdog.arm(key)
        last = [time.monotonic(), 0]

        def on_steps(done):
            now = time.monotonic()
            if done > last[1] and job.step > 0:
                seconds = (now - last[0]) / max(1, (done - last[1]) / o.n)
                self.watchdog.learn(key, seconds)
                table.last_step_ms = seconds * 1000
            last[0], last[1] = now, done
            table.step(job, done // o.n)
            self.watchdog.arm(key)

        def on_picture(picture):
            while not self.room.acquire(timeout=1):
                self.watchdog.arm(key) # slow encoding is no hang of the GPU
            self.tasks.put((job, picture))

        try:
            self.artist.draw(job, on_steps, on_picture, table.peek)
        except Stopped:
            # The step that was queued last is still at work: the pool waits for it before it says so.
            self.tasks.put((job, None, self.artist.behind))
        except torch.OutOfMemoryError as trouble:
            table.fail(job, "out_of_memory", str(trouble).split("\n", maxsplit=1)[0])
            torch.cuda.empty_cache()
        except Exception as trouble:
            table.fail(job, "generation_failed", f"{type(trouble).__name__}: {trouble}")
            self.log("job-failed", id=o.id, error=repr(trouble)[:300])
            if is_poisoned(trouble):
                raise
        finally:
            self.watchdog.disarm()
            table.let_go(job)
        if table.peek() is None:
            self.artist.measure()

    # -- the encode pool --

    def _encode_forever(self):
        torch.set_grad_enabled(False)
        while True:
            job, picture, *event = self.tasks.get()
            try:
                if picture is None:
                    if event[0] is not None:
                        event[0].synchronize()
                    self.table.stopped(job)
                    continue
                self._encode_one(job, picture)
            except Exception as trouble:
                if is_poisoned(trouble):
                    self._die("gpu-lost", trouble)
                self.table.fail(job, "encode_failed", f"{type(trouble).__name__}: {trouble}")
                self.log("encode-failed", id=job.order.id, error=repr(trouble)[:300])
            finally:
                if picture is not None:
                    self.room.release()

    def _encode_one(self, job, picture):
        picture.wait_drawn()
        if picture.index == job.order.n - 1:
            self.table.step(job, job.order.steps)
        pixels = picture.pixels()
        # A job that is to stop needs no file; with its last picture it has left the GPU.
        data = b"" if job.wants_stop else encode(pixels, job.order.format)
        self.table.add_picture(job, picture.index, data)

    # -- the end --

    def _die(self, event, trouble):
        if isinstance(trouble, SystemExit):
            os._exit(0)
        self.log(event, error=repr(trouble)[:500])
        import traceback
        traceback.print_exception(trouble)
        os._exit(EXIT_POISONED)
