#!/usr/bin/env python3
"""bench — the reference instance on a GPU, next to the plain loop, in one run and one table.

    tests/gpu/bench.py [--budget 660] [--out FILE.json]          on a GPU, full size, random weights
    tests/gpu/bench.py --device cpu --tiny                       does it run? (numbers mean nothing)

(a) the plain serial pipeline loop with PNG; (b) the instance alone over HTTP under backlog; (c) cancel of a
running job; (d) the share of time without a kernel; (e) other flags, while time is left. Needs no network.
Every part is guarded and time-boxed: what there is of the table is printed whatever happens, and exit
status 0 means that (a) and (b) are in it. This process uses the standard library only.
"""
import argparse
import http.client
import json
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
BEGUN = time.monotonic()
IN_FLIGHT = 3 # one at work and two that wait: what an agent may keep there


def say(*words):
    print(f"[{time.monotonic() - BEGUN:6.1f}s]", *words, flush=True)


class Failed(Exception):
    """A part of the bench gave no number."""


class Served:
    """The process that holds the model."""

    def __init__(self, o, extra, baseline_s=0.0, sizes=()):
        self.flags = list(extra)
        command = [sys.executable, "-u", "-B", os.path.join(HERE, "served.py")]
        if baseline_s:
            command += ["--baseline", str(baseline_s), ",".join(map(str, sizes))]
        command += ["--tiny" if o.tiny else "--random", "--device", o.device, "--port", "0", *extra]
        self.results, self.tail = queue.Queue(), []
        self.port = None
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True, start_new_session=True)
        for pipe in (self.popen.stdout, self.popen.stderr): # one would mix their lines
            threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def _read(self, pipe):
        for line in pipe:
            if line.startswith("RESULT "):
                self.results.put(json.loads(line[7:]))
            elif line.startswith("ready role=instance"):
                self.port = int(line.rsplit(":", 1)[1])
            else:
                self.tail = [*self.tail[-30:], line.rstrip()]
                if " instance " in line:
                    say("   ", line.rstrip())

    def result(self, what, limit_s):
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            try:
                found = self.results.get(timeout=0.5)
                if found["what"] == what:
                    return found
            except queue.Empty:
                if self.popen.poll() is not None:
                    break
        raise Failed(f"no {what} (process {self.popen.poll()}): " + " | ".join(self.tail[-6:]))

    def wait_ready(self, limit_s):
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self.popen.poll() is None:
            try:
                if self.port and Client(self.port).ask("GET", "/healthz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise Failed(f"not ready (process {self.popen.poll()}): " + " | ".join(self.tail[-6:]))

    def profile(self, seconds, size):
        self.popen.stdin.write(f"profile {seconds} {size}\n")
        self.popen.stdin.flush()
        return self.result("idle", seconds + 60)

    def stop(self):
        for number, wait_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 20)):
            if self.popen.poll() is None:
                os.killpg(self.popen.pid, number)
                try:
                    self.popen.wait(wait_s)
                except subprocess.TimeoutExpired:
                    pass


class Client:
    """One kept-alive connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method, path, document=None):
        self.connection.request(method, path, None if document is None else json.dumps(document))
        response = self.connection.getresponse()
        return response.status, response.read()

    def draw(self, name, size, n, steps=8):
        """Draws, fetches and removes; the pictures' count. A full queue is asked again."""
        order = {"id": name, "prompt": f"a lighthouse on a cliff, {name}", "width": size, "height": size,
                 "steps": steps, "seed": abs(hash(name)) % 2**32, "n": n}
        while True:
            status, body = self.ask("POST", "/v1/jobs", order)
            if status in (200, 202):
                break
            if status != 429:
                raise Failed(f"submit: {status} {body[:200]}")
            time.sleep(0.005)
        job = {"state": "queued"}
        while job["state"] in ("queued", "running"):
            job = json.loads(self.ask("GET", f"/v1/jobs/{name}?wait=20")[1])
        if job["state"] != "succeeded":
            raise Failed(f"{name}: {job}")
        for index in range(n):
            status, data = self.ask("GET", f"/v1/jobs/{name}/images/{index}")
            if status != 200 or data[:4] != b"\x89PNG":
                raise Failed(f"picture {index} of {name}: {status}")
        self.ask("DELETE", f"/v1/jobs/{name}")
        return n


class Load:
    """Keeps the instance's queue full until stopped."""
    runs = 0

    def __init__(self, port, size, n):
        Load.runs += 1
        self.run, self.port, self.size, self.n = Load.runs, port, size, n
        self.stopping, self.done, self.trouble = threading.Event(), [], None
        self.threads = [threading.Thread(target=self._work, args=(k,), daemon=True) for k in range(IN_FLIGHT)]
        for thread in self.threads:
            thread.start()

    def _work(self, k):
        try:
            client, i = Client(self.port), 0
            while not self.stopping.is_set():
                made = client.draw(f"r{self.run}.{k}.{i}", self.size, self.n)
                self.done.append((time.monotonic(), made))
                i += 1
        except (Failed, OSError, ValueError, http.client.HTTPException) as trouble:
            self.trouble = trouble

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
        if self.trouble:
            raise Failed(repr(self.trouble)[:300])


def throughput(port, size, n, seconds):
    load = Load(port, size, n)
    time.sleep(min(4.0, seconds / 4)) # until it is back to back
    first, begun = len(load.done), time.monotonic()
    while time.monotonic() - begun < seconds and not load.trouble:
        time.sleep(0.2)
    load.stop()
    done = load.done[max(0, first - 1):]
    if len(done) < 3:
        raise Failed(f"{len(done)} jobs in {seconds} s")
    images = sum(made for _, made in done[1:])
    return {"img_s": images / (done[-1][0] - done[0][0]), "images": images}


def cancel(port, size, tries):
    """Steps from the DELETE until the instance says that the GPU is free."""
    client, found = Client(port), []
    for i in range(tries):
        name = f"cancel.{size}.{i}"
        client.ask("POST", "/v1/jobs", {"id": name, "prompt": "x", "width": size, "height": size, "steps": 50,
                                        "seed": 1})
        step, times = 0, []
        while step < 6:
            job = json.loads(client.ask("GET", f"/v1/jobs/{name}?wait=20&since={step}")[1])
            if job["state"] not in ("queued", "running"):
                raise Failed(f"over before its cancel: {job}")
            step = job["step"]
            times.append(time.monotonic())
        begun = time.monotonic()
        state = json.loads(client.ask("DELETE", f"/v1/jobs/{name}")[1])["state"]
        took = time.monotonic() - begun
        if state != "cancelled":
            raise Failed(f"DELETE answered {state} after {took:.1f} s")
        found.append((took, statistics.median(b - a for a, b in zip(times[1:], times[2:]))))
        client.ask("DELETE", f"/v1/jobs/{name}")
    return {"ms": 1000 * statistics.median(t for t, _ in found), "worst_ms": 1000 * max(t for t, _ in found),
            "step_ms": 1000 * statistics.median(s for _, s in found),
            "steps": statistics.median(t / s for t, s in found), "worst_steps": max(t / s for t, s in found)}


def utilisation(seconds):
    """NVML's own figure, by nvidia-smi; coarse: the share of sample periods in which any kernel ran."""
    if not shutil.which("nvidia-smi"):
        return None
    end, found = time.monotonic() + seconds, []
    while time.monotonic() < end:
        done = subprocess.run(["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"],
                              capture_output=True, text=True, timeout=20)
        if done.returncode == 0 and done.stdout.strip().isdigit():
            found.append(int(done.stdout))
        time.sleep(0.3)
    return statistics.mean(found) if found else None


class Bench:
    """The parts, in order of worth, and the table."""

    def __init__(self, o):
        self.o, self.rows, self.served = o, [], None
        self.small, self.large = (64, 128) if o.tiny else (512, 1024)
        self.baseline = {}
        self.enough = set()

    def left(self):
        return self.o.budget - (time.monotonic() - BEGUN)

    def part(self, name, need_s, function):
        """Runs one part if time is left for it; its trouble is a row."""
        if self.left() < need_s:
            self.rows.append((name, "no time left"))
            return None
        say(name)
        try:
            found = function()
        except Exception as trouble:
            self.rows.append((name, f"FAILED {trouble!r}"[:600]))
            say(name, "FAILED", repr(trouble)[:600])
            return None
        self.save()
        return found

    def start(self, name, extra, baseline_s=0.0):
        def begin():
            self.served = Served(self.o, extra, baseline_s, (self.small, self.large))
            built = self.served.result("built", 240)
            say(built)
            self.rows.append((f"{name}: model built",
                              f"{built['seconds']:.1f} s, {built['device']}, torch {built['torch']}"))
            for size in (self.small, self.large) if baseline_s else ():
                found = self.served.result("baseline", baseline_s * 3 + 60)
                if "img_s" in found:
                    self.baseline[size] = found["img_s"]
                    self.enough.add("a")
                    self.rows.append((f"(a) plain loop with PNG, {size}",
                                      f"{found['img_s']:.3f} images/s ({found['images']})"))
                else:
                    self.rows.append((f"(a) plain loop with PNG, {size}", f"FAILED {found}"))
            begun = time.monotonic()
            self.served.wait_ready(max(30, min(300, self.left() - 60)))
            self.rows.append((f"{name}: ready after", f"{time.monotonic() - begun:.0f} s of compiling and warming"))
            return True
        return self.part(f"start {name}", 60, begin)

    def measure(self, label, size, n, seconds):
        def run():
            found = throughput(self.served.port, size, n, seconds)
            base = self.baseline.get(size)
            times = f" = {found['img_s'] / base:.2f} x plain" if base else ""
            self.rows.append((f"{label}, {size}, n={n}",
                              f"{found['img_s']:.3f} images/s ({found['images']}){times}"))
            self.enough.add("b")
        self.part(f"{label} {size} n={n}", seconds + 20, run)

    def idle(self, size, seconds):
        def run():
            load = Load(self.served.port, size, 1)
            try:
                time.sleep(3)
                util = utilisation(seconds) if self.o.device.startswith("cuda") else None
                found = self.served.profile(seconds, size)
            finally:
                load.stop()
            if "error" in found:
                text = f"no trace: {found['error']}"
            else:
                text = (f"{100 * found['idle']:.2f} % of the time no kernel; of it between jobs "
                        f"{100 * found['between_jobs']:.2f} %; largest gap {found['largest_gap_ms']:.1f} ms; "
                        f"{found['kernels']} kernels, {found['pictures']} pictures in {found['seconds']:.1f} s")
            text += f"; NVML {util:.1f} % busy" if util is not None else ""
            self.rows.append((f"(d) GPU idle, {size}", text))
        self.part(f"(d) idle {size}", seconds * 2 + 30, run)

    def stop_of(self, size):
        def run():
            c = cancel(self.served.port, size, 6)
            self.rows.append((f"(c) cancel -> GPU free, {size}",
                              f"{c['ms']:.0f} ms = {c['steps']:.2f} steps of {c['step_ms']:.0f} ms (worst "
                              f"{c['worst_ms']:.0f} ms = {c['worst_steps']:.2f})"))
        self.part(f"(c) cancel {size}", 30, run)

    def run(self):
        o = self.o
        sizes = ["--warm-sizes", f"{self.large}x{self.large},{self.small}x{self.small}"]
        if not self.start("instance", [*sizes, *o.flag], o.seconds * 0.7):
            if self.served:
                self.served.stop()
            self.start("instance, not compiled", [*sizes, "--no-compile"], 0 if self.baseline else o.seconds * 0.5)
        if self.served and self.served.popen.poll() is None:
            self.measure("(b) instance under backlog", self.large, 1, o.seconds)
            self.measure("(b) instance under backlog", self.small, 1, o.seconds * 0.7)
            self.measure("(b) instance under backlog", self.small, 4, o.seconds * 0.7)
            self.stop_of(self.large)
            self.idle(self.large, 4 if not o.tiny else 1)
            self.idle(self.small, 3 if not o.tiny else 1)
            self.stop_of(self.small)
            self.measure("(b) instance under backlog", self.large, 4, o.seconds * 0.7)
            self.served.stop()
        for flags in o.variant:
            if self.left() < 150 and not o.tiny:
                break
            name = "(e) " + flags
            if self.start(name, [*sizes, *flags.split()]):
                self.measure(name, self.large, 1, o.seconds * 0.5)
                self.measure(name, self.small, 1, o.seconds * 0.5)
            if self.served:
                self.served.stop()

    def save(self):
        if self.o.out:
            with open(self.o.out, "w", encoding="utf-8") as file:
                json.dump({"rows": self.rows, "seconds": time.monotonic() - BEGUN}, file, indent=1)

    def table(self):
        kind = "toy size: the numbers mean nothing" if self.o.tiny else "random weights"
        print(f"\n===== reference instance, {kind} =====")
        for name, text in self.rows:
            print(f"{name:44} {text}")
        print("(plain loop measured earlier on one H100: 1.115 at 512, 0.584 at 1024; "
              f"{time.monotonic() - BEGUN:.0f} s in all)", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--budget", type=float, default=660, help="seconds for everything (%(default)s)")
    p.add_argument("--seconds", type=float, default=40, help="of the longest measurement (%(default)s)")
    p.add_argument("--device", default="cuda")
    p.add_argument("--tiny", action="store_true", help="toy size")
    p.add_argument("--flag", action="append", default=[], help="for the instance: --flag=--no-channels-last")
    p.add_argument("--variant", action="append", help="flags of one more instance to measure, in one word")
    p.add_argument("--out", default="", help="JSON file, also written between the parts")
    o = p.parse_args()
    if o.variant is None:
        o.variant = ["--rope complex", "--no-channels-last"] if not o.tiny else ["--rope real"]
    bench = Bench(o)

    def last_word():
        time.sleep(max(1, o.budget + 30 - (time.monotonic() - BEGUN)))
        bench.rows.append(("bench", "its time was over"))
        bench.table()
        if bench.served and bench.served.popen.poll() is None:
            os.killpg(bench.served.popen.pid, signal.SIGKILL)
        os._exit(3)
    threading.Thread(target=last_word, daemon=True).start()
    try:
        bench.run()
    finally:
        if bench.served:
            bench.served.stop()
        bench.table()
        bench.save()
    sys.exit(0 if bench.enough == {"a", "b"} else 1)


if __name__ == "__main__":
    main()
