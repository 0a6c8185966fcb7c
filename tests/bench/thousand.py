#!/usr/bin/env python3
"""thousand.py --build DIR [--simulated 950] [--agents 50] [--jobs 20000]: a smoke run with a thousand workers.

Simulated workers are sessions of bench_workers, one place each, that hold a job for half a second and draw
nothing; agents are real drawbar-worker processes, each with a simulated instance of its own. Clients submit;
with a third of the jobs done the leading broker is killed with kill -9, and a standby takes over. Every job
that was acknowledged must have succeeded, each once.
"""
import argparse
import json
import os
import shutil
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
SYSTEM = os.path.join(os.path.dirname(HERE), "system")
sys.path[:0] = [HERE, SYSTEM, os.path.join(SYSTEM, "chaos")]
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import harness
from promises import Ends, Submitters, check_agreement, free_workers, records
from harness import Cluster, Failed, check_equal, until

GRANT_AT = 4


def fleet(c, options):
    began = time.monotonic()
    free_workers(c, options.simulated, draw_ms=500, places=1, label="sim")
    for i in range(options.agents):
        c.worker(f"agent-{i}", sim="--step-ms 50", ready=False, limit_s=60)
    wanted = options.simulated + options.agents
    until(lambda: json.loads(c.http.get("/readyz").body)["queue"]["workers"] == wanted, 120, f"{wanted} workers are there")
    print(f"{options.simulated} simulated workers and {options.agents} agents in {time.monotonic() - began:.0f} s", flush=True)


def resident_mib(process):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) // 1024


def run(c, options):
    standby = c.broker(label="standby", wait_ready=False)
    leader = c.processes[0]
    fleet(c, options)
    began = time.monotonic()
    clients = Submitters(c.http.address, threads=4)
    clients.take(options.jobs // 3, limit_s=300)
    print(f"the leader ({resident_mib(leader)} MiB) is killed with {c.redis.live():,} live jobs", flush=True)
    leader.kill()
    killed = time.monotonic()
    clients.take(1)
    print(f"next submit accepted after {time.monotonic() - killed:.2f} s", flush=True)
    clients.take(max(1, options.jobs - len(clients.acknowledged)), limit_s=300)
    promised = clients.stop()
    Ends(c.redis).all_succeeded(promised, 300)
    took = time.monotonic() - began
    check_equal(check_agreement(c.redis, "at the end"), 0, "live jobs at the end")
    again = sum(record[GRANT_AT] > 1 for record in records(c.redis, promised))
    evicted = sum(broker.log().count("worker-evicted") for broker in (leader, standby))
    if options.logs:
        for broker in (leader, standby, c.processes[3]):
            shutil.copy(broker.log_path, options.logs)
    print(f"{len(promised):,} acknowledged, all succeeded once, {again} with more than one lease, {evicted} workers evicted, "
          f"{len(clients.refused)} submits refused, {took:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--simulated", type=int, default=950)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=20000)
    parser.add_argument("--logs", help="keep the brokers' logs in this directory")
    options = parser.parse_args()
    harness.BUILD = os.path.realpath(options.build)
    try:
        with Cluster() as c:
            run(c, options)
    except Failed as failed:
        print(failed, *harness.LOGS, sep="\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
