#!/usr/bin/env python3
"""stack — the whole stack on a GPU machine next to the plain loop, in one run and one table.

    tests/gpu/stack.py [--budget 540] [--out FILE.json]             on a GPU, full size, random weights
    tests/gpu/stack.py --device cpu --tiny                          does it run? (numbers mean nothing)

Redis (appendfsync always), broker, gateway, worker, and the reference instance started by the worker; clients
keep a backlog and pictures are uploaded. First, in the instance's own process, the plain serial loop with PNG.
Then images/s through the stack, the time without a kernel, cancel -> GPU free, kill -9 of the instance in a job
until that job has succeeded, and whether the requeued job's picture is the same as an undisturbed one's. On a
machine with a second GPU, at last a second worker on that one, and images/s through both.

Environment: DRAWBAR_PROGRAMS   a folder with drawbar-broker, drawbar-gateway, drawbar-worker and redis-server
             DRAWBAR_LIBRARIES  LD_LIBRARY_PATH for these alone; Python never gets it
Standard library only. Each part is guarded: what there is of the table is printed whatever happens.
"""
import argparse
import hashlib
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from bench import Failed, say, throughput

HERE = os.path.dirname(os.path.realpath(__file__))
CLIENTS = 8
OVER = ("succeeded", "failed", "cancelled", "expired")


def until(condition, limit_s, what, pause_s=0.1):
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(pause_s)
    raise Failed(f"not within {limit_s:.0f} s: {what}")


class Api:
    """One kept-alive connection to a gateway or an instance."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(address, timeout=90)

    def ask(self, method, path, document=None):
        body = None if document is None else json.dumps(document)
        self.connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = self.connection.getresponse()
        return response.status, response.read()

    def get(self, path):
        status, body = self.ask("GET", path)
        if status != 200:
            raise Failed(f"GET {path}: {status} {body[:200]}")
        return json.loads(body)

    def submit(self, size, n=1, steps=8, seed=None, prompt="a lighthouse on a cliff"):
        order = {"prompt": prompt, "width": size, "height": size, "steps": steps, "n": n}
        if seed is not None:
            order["seed"] = seed
        status, body = self.ask("POST", "/v1/jobs", order)
        if status != 202:
            raise Failed(f"submit: {status} {body[:300]}")
        return json.loads(body)["id"]

    def wait(self, name, limit_s=120):
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            job = self.get(f"/v1/jobs/{name}?wait=20")
            if job["status"] in OVER:
                return job
        raise Failed(f"{name} does not end")

    def succeed(self, name, limit_s=120):
        job = self.wait(name, limit_s)
        if job["status"] != "succeeded":
            raise Failed(f"{name}: {job}")
        return job


class Backlog:
    """Clients, each with one job in the queue, at work or on its way, until stopped."""
    runs = 0

    def __init__(self, address, size, n, clients=CLIENTS):
        Backlog.runs += 1
        self.address, self.size, self.n = address, size, n
        self.stopping, self.done, self.trouble = threading.Event(), [], None
        self.threads = [threading.Thread(target=self._work, args=(k,), daemon=True) for k in range(clients)]
        for thread in self.threads:
            thread.start()

    def _work(self, k):
        try:
            api, i = Api(self.address), 0
            while not self.stopping.is_set():
                api.succeed(api.submit(self.size, self.n, prompt=f"a lighthouse on a cliff, {Backlog.runs} {k} {i}"))
                self.done.append((time.monotonic(), self.n))
                i += 1
        except (Failed, OSError, ValueError, http.client.HTTPException) as trouble:
            self.trouble = trouble

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(90)
        if self.trouble:
            raise Failed(repr(self.trouble)[:300])


class Stack:
    """The programs of one Drawbar, in a folder of its own."""

    def __init__(self, o):
        self.o, self.processes = o, []
        self.folder = tempfile.mkdtemp(prefix="drawbar-stack.")
        self.programs = os.environ.get("DRAWBAR_PROGRAMS", "")
        self.environment = dict(os.environ)
        if os.environ.get("DRAWBAR_LIBRARIES"):
            self.environment["LD_LIBRARY_PATH"] = os.environ["DRAWBAR_LIBRARIES"]
        self.results = os.path.join(self.folder, "results")

    def start(self, name, *flags, label=None, env=None):
        """Starts a program and gives the words of its ready line."""
        label = label or name
        path = shutil.which(name, path=self.programs + os.pathsep + os.environ.get("PATH", ""))
        if path is None:
            raise Failed(f"{name} is not in DRAWBAR_PROGRAMS")
        ready = os.path.join(self.folder, label + ".ready")
        words = [path, *map(str, flags)] + ([] if name == "redis-server" else ["--ready-file", ready])
        with open(os.path.join(self.folder, label + ".log"), "wb") as log:
            process = subprocess.Popen(words, env={**self.environment, **(env or {})}, stdout=log, stderr=log,
                                       stdin=subprocess.DEVNULL)
        self.processes.append(process)
        if name == "redis-server":
            return {}

        def is_ready():
            if process.poll() is not None:
                raise Failed(f"{label} ended {process.returncode}: {self.tail(label)}")
            return os.path.exists(ready)
        until(is_ready, 30, f"{label} is ready")
        with open(ready, encoding="utf-8") as file:
            return dict(word.split("=", 1) for word in file.read().split() if "=" in word)

    def tail(self, label):
        with open(os.path.join(self.folder, label + ".log"), encoding="utf-8", errors="replace") as file:
            return " | ".join(file.read().splitlines()[-5:])

    def open(self, instance):
        port = 20000 + os.getpid() % 20000
        self.redis = redis = f"redis://127.0.0.1:{port}"
        os.makedirs(os.path.join(self.folder, "redis"))
        self.start("redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", os.path.join(self.folder, "redis"),
                   "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory", "1gb",
                   "--maxmemory-policy", "noeviction")
        time.sleep(1)
        self.start("drawbar-broker", "--redis", redis, "--host", "127.0.0.1", "--gateway-port", 0, "--worker-port", 0)
        self.address = self.start("drawbar-gateway", "--redis", redis, "--listen", "127.0.0.1:0", "--uploads",
                                  "127.0.0.1:0", "--artifacts", os.path.join(self.folder, "artifacts"))["http"]
        self.worker("mia", 0, instance)

    def worker(self, name, device, instance):
        """A worker with one instance, on that GPU alone."""
        self.start("drawbar-worker", "--redis", self.redis, "--name", name, "--state-dir",
                   os.path.join(self.folder, "state"), "--start", instance, "--instances", 1, "--base-port", 0,
                   label=name, env={"CUDA_VISIBLE_DEVICES": str(device), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})

    def instance(self, worker="mia"):
        for other in Api(self.address).get("/v1/workers")["workers"]:
            for instance in other.get("instances", []):
                if other.get("name") == worker:
                    return instance
        return {}

    def wait_ready(self, limit_s, worker="mia"):
        until(lambda: self.instance(worker).get("state") in ("ready", "busy"), limit_s, f"{worker} is ready", 0.5)
        return self.instance(worker)["url"].split("//")[1].rstrip("/")

    def result(self, what, limit_s, size=None):
        def found():
            if not os.path.exists(self.results):
                return None
            with open(self.results, encoding="utf-8") as file:
                lines = [json.loads(line) for line in file if line.endswith("\n")]
            return next((r for r in lines if r["what"] == what and size in (None, r.get("size"))), None)
        return until(found, limit_s, f"{what} {size or ''}")

    def close(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(35)
                except subprocess.TimeoutExpired:
                    process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Bench:
    """The parts and the table."""

    def __init__(self, o):
        self.o, self.rows, self.begun = o, [], time.monotonic()
        self.small, self.large = (64, 128) if o.tiny else (512, 1024)
        self.plain, self.one_gpu, self.stack, self.instance = {}, {}, Stack(o), None

    def left(self):
        return self.o.budget - (time.monotonic() - self.begun)

    def row(self, name, text):
        self.rows.append((name, text))
        say(name, text)
        if self.o.out:
            with open(self.o.out, "w", encoding="utf-8") as file:
                json.dump(self.rows, file, indent=1)

    def part(self, name, need_s, function, *arguments):
        if self.left() < need_s:
            self.row(name, "no time left")
            return
        try:
            self.row(name, function(*arguments))
        except Exception as trouble:
            traceback.print_exc()
            self.row(name, f"FAILED {trouble!r}"[:500])

    def command(self, results, measured=False):
        """That starts an instance; the first life of one whose plain loop is not `measured` does that too."""
        o = self.o
        if measured:
            with open(results, "w", encoding="utf-8"):
                pass
        sizes = f"{self.large}x{self.large},{self.small}x{self.small}"
        return " ".join(["env", "-u", "LD_LIBRARY_PATH", f"DRAWBAR_RESULTS={results}", sys.executable, "-u", "-B",
                         os.path.join(HERE, "served.py"), "--baseline", str(o.seconds * 0.5),
                         f"{self.small},{self.large}", "--tiny" if o.tiny else "--random", "--device", o.device,
                         "--port", "{port}", "--warm-sizes", sizes, *o.flag])

    def begin(self):
        self.stack.open(self.command(self.stack.results))
        for size in (self.small, self.large):
            found = self.stack.result("baseline", 200, size)
            self.plain[size] = found["img_s"]
            self.row(f"plain loop with PNG, {size}", f"{found['img_s']:.3f} images/s ({found['images']})")
        begun = time.monotonic()
        self.instance = self.stack.wait_ready(300)
        return f"ready {time.monotonic() - begun:.0f} s after the plain loop; {self.stack.result('built', 5)}"

    def rate(self, size, n, seconds, clients=CLIENTS):
        """Images/s through the stack, and how many they were."""
        backlog = Backlog(self.stack.address, size, n, clients)
        time.sleep(min(4.0, seconds / 4)) # until it is back to back
        first, begun = len(backlog.done), time.monotonic()
        while time.monotonic() - begun < seconds and not backlog.trouble:
            time.sleep(0.2)
        done = list(backlog.done)[max(0, first - 1):]
        backlog.stop()
        if len(done) < 3:
            raise Failed(f"{len(done)} jobs in {seconds} s")
        images = sum(made for _, made in done[1:])
        return images / (done[-1][0] - done[0][0]), images

    def through(self, size, n, seconds):
        rate, images = self.rate(size, n, seconds)
        self.one_gpu[size, n] = rate
        return f"{rate:.3f} images/s ({images}) = {rate / self.plain[size]:.2f} x plain"

    def second_gpu(self):
        begun = time.monotonic()
        self.stack.worker("leo", 1, self.command(os.path.join(self.stack.folder, "results-leo"), measured=True))
        self.stack.wait_ready(200, "leo")
        return f"a second worker is ready after {time.monotonic() - begun:.0f} s"

    def both(self, size, seconds):
        rate, images = self.rate(size, 1, seconds, 2 * CLIENTS)
        return f"{rate:.3f} images/s ({images}) = {rate / self.one_gpu[size, 1]:.3f} x one GPU"

    def facts(self):
        """What /v1/workers tells of the GPUs, at work."""
        backlog = Backlog(self.stack.address, self.large, 1)
        try:
            time.sleep(4)
            workers = Api(self.stack.address).get("/v1/workers")["workers"]
        finally:
            backlog.stop()
        told = [{k: w.get(k) for k in ("name", "gpus")} | {"instances": [i.get("gpu") for i in w["instances"]]}
                for w in workers]
        return json.dumps(told)

    def alone(self, size, seconds):
        found = throughput(int(self.instance.rsplit(":", 1)[1]), size, 1, seconds)
        return f"{found['img_s']:.3f} images/s ({found['images']}) = {found['img_s'] / self.plain[size]:.2f} x plain"

    def idle(self, size, seconds):
        backlog = Backlog(self.stack.address, size, 1)
        try:
            time.sleep(3)
            with open(self.stack.results + ".ask", "w", encoding="utf-8") as file:
                file.write(f"profile {seconds} {size}\n")
            found = self.stack.result("idle", seconds + 90, size)
        finally:
            backlog.stop()
        if "error" in found:
            return f"no trace: {found['error']}"
        return (f"{100 * found['idle']:.2f} % of the time no kernel; of it between jobs "
                f"{100 * found['between_jobs']:.2f} %; largest gap {found['largest_gap_ms']:.1f} ms; "
                f"{found['kernels']} kernels, {found['pictures']} pictures in {found['seconds']:.1f} s")

    def cancel(self, size, tries):
        """From the client's DELETE until the instance has no job on its GPU, in steps of that job."""
        api, instance, found = Api(self.stack.address), Api(self.instance), []
        for i in range(tries):
            name = api.submit(size, steps=50, seed=i)
            job_id = until(lambda: instance.get("/healthz")["running"], 30, "the job is drawn", 0.01)
            step, times = 0, []
            while step < 6:
                step = instance.get(f"/v1/jobs/{job_id}?wait=20&since={step}")["step"]
                times.append(time.monotonic())
            begun = time.monotonic()
            status, body = api.ask("DELETE", f"/v1/jobs/{name}")
            if status != 200:
                raise Failed(f"cancel: {status} {body[:200]}")
            until(lambda: instance.get("/healthz")["running"] is None, 30, "the GPU is free", 0.002)
            found.append((time.monotonic() - begun, statistics.median(b - a for a, b in zip(times[1:], times[2:]))))
        took, steps = [1000 * t for t, _ in found], [t / s for t, s in found]
        return (f"median {statistics.median(took):.0f} ms = {statistics.median(steps):.2f} steps, worst {max(took):.0f} "
                f"ms = {max(steps):.2f} steps")

    def picture(self, api, name):
        status, body = api.ask("GET", f"/v1/jobs/{name}/images/0")
        if status != 200 or body[:4] != b"\x89PNG":
            raise Failed(f"picture of {name}: {status}")
        return hashlib.sha256(body).hexdigest()

    def kill(self, size):
        api, order = Api(self.stack.address), {"seed": 4711, "prompt": "a lighthouse that is hit by lightning"}
        before = api.submit(size, **order)
        api.succeed(before)
        name = api.submit(size, **order)
        until(lambda: (api.get(f"/v1/jobs/{name}").get("progress") or {}).get("step"), 30, "the job is drawn", 0.01)
        instance = self.stack.instance()
        os.killpg(os.getpgid(instance["pid"]), signal.SIGKILL)
        begun = time.monotonic()
        job = api.succeed(name, self.left())
        took = time.monotonic() - begun
        same = self.picture(api, before) == self.picture(api, name)
        self.instance = self.stack.wait_ready(60)
        return (f"job succeeded {took:.1f} s after the kill, attempt {job['attempt']}; the picture is "
                f"{'the same, byte for byte' if same else 'ANOTHER'} as the undisturbed one's")

    def gpus(self):
        if self.o.gpus is not None:
            return self.o.gpus
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError):
            return 0
        return listed.count("GPU ")

    def run(self):
        s = self.o.seconds
        try:
            self.part("start", 60, self.begin)
            if self.instance is None:
                say(self.stack.tail("mia"))
                return
            self.part(f"whole stack, {self.large}, n=1", s + 30, self.through, self.large, 1, s)
            self.part(f"whole stack, {self.small}, n=1", s + 30, self.through, self.small, 1, s)
            self.part(f"GPU idle under backlog, {self.large}", 60, self.idle, self.large, 6)
            self.part(f"cancel -> GPU free, {self.large}", 40, self.cancel, self.large, 5)
            self.part(f"kill -9 of the instance in a job, {self.large}", 100, self.kill, self.large)
            self.part(f"whole stack, {self.small}, n=4", s + 30, self.through, self.small, 4, s * 0.7)
            self.part("what /v1/workers tells", 20, self.facts)
            if self.o.short:
                return
            self.part(f"instance alone, {self.small}", s + 20, self.alone, self.small, s * 0.5)
            self.part(f"instance alone, {self.large}", s + 20, self.alone, self.large, s * 0.5)
            self.part(f"GPU idle under backlog, {self.small}", 60, self.idle, self.small, 4)
            self.part(f"cancel -> GPU free, {self.small}", 40, self.cancel, self.small, 5)
            if self.gpus() > 1:
                self.part("second GPU", s + 60, self.second_gpu)
                self.part(f"whole stack on 2 GPUs, {self.large}, n=1", s + 20, self.both, self.large, s)
                self.part(f"whole stack on 2 GPUs, {self.small}, n=1", s + 20, self.both, self.small, s)
        finally:
            self.stack.close()
            print("\n===== whole stack, " + ("toy size: the numbers mean nothing" if self.o.tiny else "random weights")
                  + " =====")
            for name, text in self.rows:
                print(f"{name:44} {text}")
            print(f"{time.monotonic() - self.begun:.0f} s in all", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--budget", type=float, default=540, help="seconds for everything (%(default)s)")
    p.add_argument("--seconds", type=float, default=25, help="of a measurement of images/s (%(default)s)")
    p.add_argument("--device", default="cuda")
    p.add_argument("--tiny", action="store_true", help="toy size")
    p.add_argument("--gpus", type=int, help="how many there are (default: what nvidia-smi lists)")
    p.add_argument("--short", action="store_true", help="leave out the instance alone and what is known of 512")
    p.add_argument("--flag", action="append", default=[], help="for the instance: --flag=--no-graphs")
    p.add_argument("--out", default="", help="JSON file, written between the parts")
    bench = Bench(p.parse_args())
    bench.run()
    failed = any(text.startswith("FAILED") for _, text in bench.rows)
    sys.exit(1 if failed or bench.instance is None else 0)


if __name__ == "__main__":
    main()
