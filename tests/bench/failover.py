#!/usr/bin/env python3
"""failover.py --build DIR [--rounds 20] [--queued 0] [--fsync everysec] [--only leader|stop|worker]: how long a death lasts.

    leader   kill -9 of the leading broker, a standby waits: until the next submit is answered 202
    stop     the same after SIGTERM: the leader hands over
    worker   kill -9 of a worker that draws: until its job is queued again, or given to another

All processes are real, on loopback, on this machine's cores. --queued N: with N jobs in the queue (fill.py).
Take a build of --buildtype=release.
"""
import argparse
import json
import os
import random
import re
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "system")]
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import harness
from fill import fill
from harness import Cluster, Failed, check, until

GRANT_AT, STATE_AT, RUNNING = 4, 2, 2
MAXMEMORY = "8gb"


def told(what, times_s):
    times = sorted(times_s)
    print(f"{what}: p50 {times[len(times) // 2]:.2f} s, p99 {times[min(len(times) - 1, int(len(times) * 0.99))]:.2f} s, "
          f"max {times[-1]:.2f} s ({len(times)} rounds)", flush=True)


def accepted(c, limit_s=60):
    """Submits until one is accepted; a 503 is asked again at once."""
    until(lambda: c.http.post_job(width=64, height=64, steps=1, expires_in_s=86400).status == 202, limit_s,
          "a submit is accepted", pause_s=0.005)


def standby(c, number):
    broker = c.broker(label=f"broker-{number}", wait_ready=False)
    until(lambda: "standby leader=" in broker.log(), 20, "a broker stands by")
    return broker


def leaders(c, options, end):
    """Round after round the leader goes; the one that stood by leads, and a new one stands by."""
    first, times, rebuilds = c.broker_process, [], []
    for number in range(options.rounds):
        second = standby(c, f"{end}-{number}")
        accepted(c)
        time.sleep(random.random() * 0.5) # the death meets every phase of the renewals
        began = time.monotonic()
        if end == "leader":
            first.kill()
        else:
            first.signal(15)
        accepted(c)
        times.append(time.monotonic() - began)
        rebuilds += map(int, re.findall(r"rebuild-complete .*ms=(\d+)", second.log()))
        first.stop()
        first = c.broker_process = second
        if options.verbose:
            print(f"  {times[-1]:.2f} s, of them {rebuilds[-1]} ms of rebuild", flush=True)
    what = "kill -9" if end == "leader" else "SIGTERM"
    told(f"{what} of the leader -> next submit accepted, {c.redis.live():,} queued", times)
    print(f"  rebuilds: {min(rebuilds)} to {max(rebuilds)} ms")


def bench_workers(c, label, n, draw_ms):
    path = os.path.join(harness.BUILD, "tests", "bench", "bench_workers")
    return c.start(label, [path, "--redis", c.redis.url, "--workers", n, "--name", label, "--places", 1,
                           "--draw-ms", draw_ms], wait_ready=False)


def workers(c, options):
    """Many workers in processes of their own, each with a job; they die one after the other."""
    doomed = [bench_workers(c, f"doomed-{i}", 1, 3600000) for i in range(options.rounds)]
    jobs = [c.http.submit(seed=i) for i in range(options.rounds)]
    until(lambda: all(c.redis.record(job)[STATE_AT] == RUNNING for job in jobs), 60, "every job runs")
    holder = {f"doomed-{i}-0": process for i, process in enumerate(doomed)}
    bench_workers(c, "heirs", 3 * options.rounds, 3600000) # never may more than half the fleet go in one sweep
    until(lambda: json.loads(c.http.get("/readyz").body)["queue"]["workers"] == 4 * options.rounds, 60, "all are there")
    died, times, left = {}, [], list(jobs)
    next_death = time.monotonic()
    while left:
        now = time.monotonic()
        check(now - next_death < 60, f"{len(left)} jobs are not taken back")
        dying = [job for job in jobs if job not in died]
        if dying and now >= next_death:
            holder[c.http.job(dying[0])["worker"]].kill()
            died[dying[0]] = time.monotonic()
            next_death = now + 0.3 + random.random() * 0.4
        for job in [job for job in left if job in died]:
            record = c.redis.record(job)
            if record[STATE_AT] != RUNNING or record[GRANT_AT] > 1:
                times.append(time.monotonic() - died[job])
                left.remove(job)
        time.sleep(0.01)
    told("kill -9 of a worker -> its job queued again", times)


def prepare(c, queued):
    """Fills the queue, and leaves a leader whose gateway has it."""
    if queued == 0:
        return
    c.redis.call("CONFIG", "SET", "maxmemory", MAXMEMORY)
    pattern = c.http.submit(expires_in_s=86400)
    c.broker_process.stop()
    began = time.monotonic()
    fill(c.redis, pattern, queued - 1)
    print(f"filled with {queued:,} jobs in {time.monotonic() - began:.0f} s", flush=True)
    c.broker(label="broker-filled", limit_s=60)
    accepted(c)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--queued", type=int, default=0)
    parser.add_argument("--fsync", default="everysec", help="appendfsync of Redis")
    parser.add_argument("--only", choices=("leader", "stop", "worker"))
    parser.add_argument("--verbose", action="store_true", help="each round")
    options = parser.parse_args()
    harness.BUILD = os.path.realpath(options.build)
    try:
        with Cluster(redis={"fsync": options.fsync}) as c:
            prepare(c, options.queued)
            for end in ("leader", "stop"):
                if options.only in (None, end):
                    leaders(c, options, end)
        if options.only in (None, "worker") and options.queued == 0:
            with Cluster(redis={"fsync": options.fsync}) as c:
                workers(c, options)
    except Failed as failed:
        print(failed, *harness.LOGS, sep="\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
