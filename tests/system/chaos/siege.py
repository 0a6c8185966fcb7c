#!/usr/bin/env python3
"""siege.py --build DIR [--jobs N] [--kills K] [--seconds S] [--seed X]: whether the promises hold for a long time.

Two brokers, two gateways and several workers with simulated instances under a steady load; every few seconds
something is killed, paused or stopped (faults.py lists the kinds). All that clients saw and all that Redis and the
picture store hold is checked (history.py). It ends when N jobs were accepted and K processes killed. The last lines
are the summary; any violation makes the exit status 1 and keeps the directory with all logs.

    --no-faults    nothing is broken: counts the jobs drawn more than once
    --pauses N     instead of the schedule: N pauses of the leader and N of a worker, each beyond its lease
    --matrix       instead of the load: every victim struck in every way in every phase of a job (matrix.py)
    --list         the kinds of faults, with their weights
The same seed makes the same schedule. Power cuts, networks and full disks have tests of their own beside this.
"""
import argparse
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
sys.dont_write_bytecode = True

LEADER_PAUSE_S, WORKER_PAUSE_S = 4.0, 14.0
PROGRESS_S = 10.0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.environ.get("DRAWBAR_TEST_BUILD", ""), help="the build directory")
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs to be accepted at least")
    parser.add_argument("--kills", type=int, default=200, help="processes to be killed at least")
    parser.add_argument("--seconds", type=float, default=86400, help="stop then, whatever was reached")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule and of the clients' dice")
    parser.add_argument("--every", type=float, default=3.0, metavar="S", help="mean seconds between two faults")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--pauses", type=int, default=0, metavar="N")
    parser.add_argument("--matrix", action="store_true")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


def percentiles(values):
    """"p50 1.20 s, p99 1.90 s, max 2.00 s of 12"."""
    if not values:
        return "none measured"
    values = sorted(values)
    at = lambda share: values[min(len(values) - 1, int(share * len(values)))] # pylint: disable=unnecessary-lambda-assignment
    return f"p50 {at(0.5):.2f} s, p99 {at(0.99):.2f} s, max {values[-1]:.2f} s of {len(values)}"


def counted(counter):
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"


class Siege:
    """One run."""

    def __init__(self, wanted, fleet):
        from audit import Auditor # pylint: disable=import-outside-toplevel
        from faults import Breaker # pylint: disable=import-outside-toplevel
        from history import History # pylint: disable=import-outside-toplevel
        from load import Load, Mix # pylint: disable=import-outside-toplevel
        self.wanted, self.fleet, self.history = wanted, fleet, History()
        self.auditor = Auditor(fleet, self.history, prune=True)
        mix = Mix(clients=wanted.clients)
        if wanted.pauses: # long enough to be in a worker's hands when it is paused, and when it wakes
            mix = Mix(clients=max(24, wanted.clients), long_jobs=0.3, several=0, burst=3)
        self.load = Load(self.history, fleet.addresses, mix, wanted.seed)
        self.breaker = Breaker(fleet, self.history)
        self.violations, self.held_in_pauses, self.pauses = [], 0, {"leader": 0, "worker": 0}
        self.stop = threading.Event()

    def run(self):
        """Returns the number of violations."""
        self.auditor.start()
        self.load.start()
        begin = last = time.monotonic()
        breakers = self.start_breaking()
        while not self.reached(breakers) and not self.load.trouble and self.auditor.trouble is None:
            if time.monotonic() - begin > self.wanted.seconds:
                print("stopped by --seconds")
                break
            time.sleep(0.5)
            self.look_for_crashes()
            if time.monotonic() - last > PROGRESS_S:
                last = time.monotonic()
                self.progress(last - begin)
        self.stop.set()
        for thread in breakers:
            thread.join(180)
        self.breaker.join()
        self.violations += self.load.stop()
        self.look_for_crashes()
        try:
            self.auditor.stop()
            self.auditor.finish()
        except Exception: # pylint: disable=broad-except
            self.violations.append(f"the audit: {traceback.format_exc()}")
        self.violations += self.breaker.trouble
        return self.summary(time.monotonic() - begin)

    def start_breaking(self):
        wanted = self.wanted
        targets = [] if wanted.no_faults else [self.pause_all] if wanted.pauses else [self.besiege]
        threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in threads:
            thread.start()
        return threads

    def reached(self, breakers):
        if self.wanted.pauses:
            return not any(thread.is_alive() for thread in breakers)
        return self.history.figures.accepted >= self.wanted.jobs and (
            self.wanted.no_faults or self.breaker.kills >= self.wanted.kills)

    def besiege(self):
        from faults import schedule # pylint: disable=import-outside-toplevel
        for pause_s, name, lasts_s, dice in schedule(self.wanted.seed, self.wanted.every):
            if self.stop.wait(pause_s):
                return
            self.breaker.begin(name, lasts_s, dice, self.stop)

    # ---- pauses ----

    def pause_all(self):
        """One after the other: each takeover would give the paused workers 8 s more to claim what they hold."""
        self.pause_leaders()
        self.pause_workers()

    def pause_leaders(self):
        while self.pauses["leader"] < self.wanted.pauses and not self.stop.is_set():
            leader = self.fleet.leader()
            if leader is None:
                time.sleep(0.1)
                continue
            self.breaker.break_now("pause-leader", [leader], LEADER_PAUSE_S)
            self.pauses["leader"] += 1
            self.stop.wait(1) # jobs go on under the new leader

    def pause_workers(self):
        dice = random.Random(self.wanted.seed)
        names = self.fleet.worker_names()
        while self.pauses["worker"] < self.wanted.pauses and not self.stop.is_set():
            # Not more than half: else the broker waits one limit more.
            chosen = dice.sample(names, min(len(names) // 2, self.wanted.pauses - self.pauses["worker"]))
            threads = [threading.Thread(target=self.pause_worker, args=(name,), daemon=True) for name in chosen]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.pauses["worker"] += len(chosen)

    def pause_worker(self, name):
        """One pause; afterwards nothing that the woken worker says may change a record."""
        from audit import Line # pylint: disable=import-outside-toplevel
        line = Line(self.fleet.redis)
        incarnation = self.breaker.incarnation(name)
        thread = threading.Thread(target=self.breaker.break_now, args=("pause-worker-long", [name], WORKER_PAUSE_S))
        thread.start()
        time.sleep(1.5) # what it sent before the pause has been committed
        held = self.breaker.in_hands(line, incarnation)
        time.sleep(WORKER_PAUSE_S - 2.5)
        before = self.records(line, held)
        thread.join()
        time.sleep(2)
        after = self.records(line, held)
        self.held_in_pauses += len(held)
        for job_id, record in held.items():
            then, now = before.get(job_id), after.get(job_id)
            if then is None or now is None:
                self.violations.append(f"stale: job {job_id} of the paused {name} has no record")
            elif then.status == "running" and then.grant == record.grant:
                self.violations.append(f"not evicted: job {job_id} is still {name}'s {WORKER_PAUSE_S - 1} s into its pause")
            elif now.worker == incarnation and now.grant == record.grant or now.revision < then.revision or (
                    then.status not in ("queued", "running") and now.revision != then.revision):
                self.violations.append(f"stale write: job {job_id} of the woken {name} was {then.status} (grant {then.grant}"
                                       f", revision {then.revision}), is {now.status} ({now.grant}, {now.revision})")

    @staticmethod
    def records(line, ids):
        from audit import Record # pylint: disable=import-outside-toplevel
        if not ids:
            return {}
        found = line.call(["MGET", *(f"{{drawbar}}:j:{job_id}" for job_id in ids)])[0]
        return {job_id: Record(data) for job_id, data in zip(ids, found) if data}

    # ---- what is told ----

    def look_for_crashes(self):
        """A process that ended although nobody hurt it."""
        for name in self.fleet.crashed():
            with self.breaker.lock:
                told = any(name in text for text in self.violations)
                if name not in self.breaker.hurt and not told:
                    self.violations.append(f"{name} ended with {self.fleet.running[name].child.returncode} by itself")

    def progress(self, seconds):
        figures = self.history.figures
        print(f"{seconds:6.0f} s  accepted {figures.accepted}  settled {figures.settled}  open {len(self.history.jobs)}  "
              f"faults {sum(self.breaker.done.values())}  kills {self.breaker.kills}  "
              f"failed requests {sum(self.load.failures.values())}  complaints {sum(self.history.counts.values())}  "
              f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB", flush=True)

    def summary(self, seconds):
        history, figures, breaker = self.history, self.history.figures, self.breaker
        counts, wanted = history.counts, self.wanted
        again = sum(figures.again.values())
        print(f"\nseed {wanted.seed}, {seconds:.0f} s, {figures.accepted} jobs accepted "
              f"({figures.accepted / seconds:.0f}/s), {figures.settled} settled: {counted(figures.ends)}")
        print(f"lost: {counts['lost']}; duplicate completions: {counts['two_completions']}; order inversions: "
              f"{counts['out_of_order']}; stale or changed ends: {counts['changed_end']}")
        print(f"executions: {figures.executions}, beyond the first: {again} ({counted(figures.again)})")
        print(f"failed jobs: {counted(figures.codes)}; answered 503 and drawn all the same: {figures.refused_yet_drawn}")
        print(f"requests that failed, of {self.load.counts['submits']} submits: {counted(self.load.failures)}")
        print(f"faults: {sum(breaker.done.values())} of {len(breaker.done)} kinds, {breaker.kills} processes killed: "
              f"{counted(breaker.done)}")
        for what, measured in (("dead leader -> next submit accepted", breaker.failovers),
                               ("dead worker -> its jobs queued again", breaker.requeues)):
            print(f"{what}: {'; '.join(f'{how}: {percentiles(values)}' for how, values in measured.items())}")
        if wanted.pauses:
            stale = sum(text.startswith("stale") for text in self.violations)
            print(f"pauses: {self.pauses['leader']} of a leader, {self.pauses['worker']} of a worker with "
                  f"{self.held_in_pauses} jobs in their hands; stale writes accepted: {stale}")
        for text in self.violations + history.complaints:
            print(f"VIOLATION {text}")
        bad = len(self.violations) + sum(counts.values())
        short = not wanted.pauses and (figures.accepted < wanted.jobs or
                                       not wanted.no_faults and breaker.kills < wanted.kills)
        print("no violation" if bad == 0 else f"{bad} violations", "(but --jobs or --kills was not reached)" if short else "")
        return bad + short


def play_matrix():
    """Returns 0, or 1: a case failed."""
    import harness # pylint: disable=import-outside-toplevel
    import matrix # pylint: disable=import-outside-toplevel
    failed = []
    for victim, actions in matrix.VICTIMS.items():
        for action in actions:
            try:
                history = matrix.run(victim, [action])
                print(f"ok      {victim}, {action}: {history.figures.settled} jobs, beyond the first execution: "
                      f"{counted(history.figures.again)}", flush=True)
            except Exception as trouble: # pylint: disable=broad-except
                failed.append(f"{victim}, {action}")
                print(f"FAILED  {victim}, {action}: {trouble}", *harness.LOGS, sep="\n    ", flush=True)
                harness.LOGS.clear()
    print(f"every case held, in {len(matrix.PHASES)} phases" if not failed else f"failed: {'; '.join(failed)}")
    return 1 if failed else 0


def main():
    wanted = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)) # ends what it started, as Ctrl-C does
    if not wanted.list and not os.path.isdir(wanted.build):
        print("siege.py: --build DIR: name a build directory (tests/run.sh build-gcc makes one)")
        return 2
    os.environ["DRAWBAR_TEST_BUILD"] = os.path.realpath(wanted.build) if wanted.build else ""
    from faults import KINDS # pylint: disable=import-outside-toplevel
    if wanted.list:
        for name, kind in KINDS.items():
            print(f"{name:24} weight {kind.weight}  {' and '.join(kind.who)}, for {kind.lasts[0]:g} to {kind.lasts[1]:g} s")
        return 0
    if wanted.matrix:
        return play_matrix()
    from fleet import Fleet # pylint: disable=import-outside-toplevel
    wanted.seed = random.randrange(1_000_000) if wanted.seed is None else wanted.seed
    print(f"siege: seed {wanted.seed}", flush=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    fast = {"mia": "--step-ms 1", "zoe": "--step-ms 1", "eve": "--step-ms 2", "ida": "--step-ms 20"}
    slow = {name: "--step-ms 30" for name in ("mia", "zoe", "eve", "ida", "pia", "ute")}
    fleet = Fleet(slow if wanted.pauses else fast, retention_s=900)
    fleet.failed = fleet.keep = True
    try:
        print(f"siege: logs in {fleet.directory}", flush=True)
        bad = Siege(wanted, fleet).run()
        fleet.keep = fleet.failed = bad > 0
        return 1 if bad else 0
    finally:
        fleet.close()
        if fleet.keep:
            print(f"the logs are kept in {fleet.directory}")


if __name__ == "__main__":
    sys.exit(main())
