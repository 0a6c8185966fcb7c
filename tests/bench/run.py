#!/usr/bin/env python3
"""Dispatch bench: what a job costs when drawing costs nothing.

    tests/bench/run.py [--build DIR] [--seconds 10] [--connections 64] [--threads 1] [--queued 200000]

Starts a real Redis (AOF everysec), broker, gateway and free workers on loopback, and prints in one run:
completed jobs/s over HTTP (each request waits for its job's end: Prefer: wait), the time from submit to
the worker having the job when nothing else happens, bytes of broker memory a queued job, and CPU
microseconds a job of each process. The load generator (wrk) shares the machine's cores with all of them.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT = ("A watercolour of a red fox asleep under a birch in the first snow, soft morning light, "
          "muted palette, wide composition, visible brush strokes, 35 mm, highly detailed fur")
BODY = {"prompt": PROMPT, "width": 1024, "height": 1024, "steps": 8, "seed": 7}
LUA = """
wrk.method = "POST"
wrk.body = [==[%s]==]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Prefer"] = "wait=30"
local other = 0
function response(status) if status ~= 200 then other = other + 1 end end
"""


class Stack:
    def __init__(self, options, directory):
        self.build, self.dir, self.threads, self.fsync = options.build, directory, options.threads, options.fsync
        self.processes = {}

    def start(self, name, *command):
        log = open(self.dir / f"{name}.log", "w", encoding="utf-8")
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.dir)
        return self.processes[name]

    def ready(self, name):
        path = self.dir / f"{name}.ready"
        limit = time.monotonic() + 20
        while not path.exists():
            if time.monotonic() > limit or self.processes[name].poll() is not None:
                sys.exit(f"{name} did not get ready:\n" + (self.dir / f"{name}.log").read_text())
            time.sleep(0.02)
        return dict(pair.split("=", 1) for pair in path.read_text().split()[1:])

    def redis(self):
        self.url = f"unix://{self.dir}/redis.sock"
        self.start("redis", "redis-server", "--port", "0", "--unixsocket", f"{self.dir}/redis.sock",
                   "--dir", str(self.dir), "--appendonly", "yes", "--appendfsync", self.fsync, "--save", "",
                   "--maxmemory-policy", "noeviction")
        while not (self.dir / "redis.sock").exists():
            time.sleep(0.02)

    def up(self):
        self.redis()
        self.start("broker", self.build / "broker/drawbar-broker", "--redis", self.url, "--gateway-port", "0",
                   "--worker-port", "0", "--ready-file", f"{self.dir}/broker.ready")
        self.ready("broker")
        self.start("gateway", self.build / "gateway/drawbar-gateway", "--redis", self.url, "--listen", "127.0.0.1:0",
                   "--uploads", "127.0.0.1:0", "--artifacts", f"{self.dir}/art", "--threads", str(self.threads),
                   "--ready-file", f"{self.dir}/gateway.ready")
        self.http = self.ready("gateway")["http"]
        limit = time.monotonic() + 10
        while self.get("/readyz")[0] != 200:
            if time.monotonic() > limit:
                sys.exit("the gateway did not get ready")
            time.sleep(0.05)

    def workers(self, n, *flags):
        self.start("workers", self.build / "tests/bench/bench_workers", "--redis", self.url, "--workers", str(n), *flags)
        self.wait_workers(n)

    def wait_workers(self, n):
        limit = time.monotonic() + 10
        while json.loads(self.get("/readyz")[1])["queue"]["workers"] != n:
            if time.monotonic() > limit:
                sys.exit(f"not {n} workers after 10 s")
            time.sleep(0.05)

    def get(self, path):
        connection = http.client.HTTPConnection(self.http, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()

    def cpu_us(self):
        tick = 1e6 / os.sysconf("SC_CLK_TCK")
        used = {}
        for name, process in self.processes.items():
            fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used[name] = (int(fields[11]) + int(fields[12])) * tick
        return used

    def rss(self, name):
        text = pathlib.Path(f"/proc/{self.processes[name].pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) * 1024

    def stop(self, name):
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        return (self.dir / f"{name}.log").read_text()

    def down(self):
        for name in ["workers", "gateway", "broker", "redis"]:
            if name in self.processes:
                self.stop(name)


def throughput(stack, options):
    script = stack.dir / "post.lua"
    script.write_text(LUA % json.dumps(BODY))
    stack.workers(4)
    before = stack.cpu_us()
    wrk = subprocess.run(["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s", "--latency", "-s", script,
                          f"http://{stack.http}/v1/jobs"], capture_output=True, text=True, check=True).stdout
    after = stack.cpu_us()
    acked = int(re.search(r"acked (\d+)", stack.stop("workers")).group(1))
    requests = int(re.search(r"(\d+) requests in", wrk).group(1))
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", wrk)
    if options.verbose:
        print(wrk)
    p50, p99 = (re.search(rf"^ +{p}%\s+(\S+)", wrk, re.M).group(1) for p in (50, 99))
    print(f"submit -> complete, {options.connections} connections, {options.threads} gateway thread(s): "
          f"{acked / options.seconds:,.0f} jobs/s ({requests:,} answers, p50 {p50}, p99 {p99}, "
          f"{wrong.group(1) if wrong else 0} refused)")
    cost = {name: (after[name] - before[name]) / acked for name in after}
    print("CPU us a job: " + ", ".join(f"{name} {value:.0f}" for name, value in cost.items())
          + f"; sum {sum(cost.values()):.0f} (wrk not counted)")


def latency(stack, _options, n=1000):
    times = stack.dir / "times"
    stack.workers(1, "--times", str(times))
    sent = {}
    connection = http.client.HTTPConnection(stack.http, timeout=10)
    for _ in range(n):
        begin = time.monotonic_ns() // 1000
        connection.request("POST", "/v1/jobs", json.dumps(BODY), {"Content-Type": "application/json"})
        sent[json.loads(connection.getresponse().read())["id"]] = begin
        time.sleep(0.002)
    stack.stop("workers")
    stack.wait_workers(0)
    got = {line.split()[0]: int(line.split()[1]) for line in times.read_text().splitlines()}
    taken = sorted((got[job] - begin) / 1000 for job, begin in sent.items())
    print(f"unloaded submit -> worker has it: p50 {statistics.median(taken):.2f} ms, "
          f"p99 {taken[int(len(taken) * 0.99)]:.2f} ms, max {taken[-1]:.2f} ms ({n} jobs)")


def memory(stack, options):
    before = stack.rss("broker")
    script = stack.dir / "queue.lua"
    script.write_text(LUA.replace('wrk.headers["Prefer"] = "wait=30"', "") % json.dumps(BODY))
    queued = 0
    while queued < options.queued:
        subprocess.run(["wrk", "-t1", "-c64", "-d5s", "-s", script, f"http://{stack.http}/v1/jobs"],
                       capture_output=True, check=True)
        last, queued = queued, json.loads(stack.get("/readyz")[1])["queue"]["queued"]
        if queued == last:
            sys.exit("submits are refused")
    used = stack.rss("broker") - before
    print(f"broker memory: {used / queued:.0f} bytes a queued job ({queued:,} queued, "
          f"request of {len(json.dumps(BODY))} bytes of JSON)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--queued", type=int, default=100000)
    parser.add_argument("--fsync", default="everysec", help="appendfsync of Redis")
    parser.add_argument("--verbose", action="store_true", help="print what wrk printed")
    options = parser.parse_args()
    options.build = options.build.resolve()
    for benches in ([latency, throughput], [memory]):  # memory is measured in a broker that is new
        directory = pathlib.Path(tempfile.mkdtemp(prefix="drawbar-bench-"))
        stack = Stack(options, directory)
        try:
            stack.up()
            for bench in benches:
                bench(stack, options)
        finally:
            stack.down()
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
