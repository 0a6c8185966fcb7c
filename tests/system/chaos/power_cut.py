#!/usr/bin/env python3
"""power_cut.py --build DIR [--rounds 50] [--fsync always|everysec] [--leader] [--down-s S] [--standby]: cuts the
power of Redis's host.

Each round: clients submit without pause; Redis is killed with kill -9 and each of its files is cut back to the
size that it had when the last *completed* fsync of it began (fsync_log.c): the least that a disk may legally
hold. Redis starts again, and every job whose submit was answered 202 must be there. --leader: the power of the
leading broker goes in the same moment, so that no memory can restore anything. The last line counts.
"""
import argparse
import os
import shutil
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import harness
from promises import Ends, Submitters, check_agreement, check_none_lost, free_workers
from harness import Cluster, Failed, check


class PowerCut:
    """A redis-server whose power can be cut. `wrap` goes before its command."""

    def __init__(self, directory):
        library = os.path.join(harness.BUILD, "tests", "system", "chaos", "fsync_log.so")
        check(os.path.isfile(library), f"{library} was not built")
        self.log = os.path.join(directory, "fsync")
        self.wrap = ["env", f"LD_PRELOAD={library}", f"FSYNC_LOG={self.log}"]

    def cut(self, redis):
        """Kills Redis and cuts its files; returns how many bytes went."""
        redis.process.kill()
        synced, gone = {}, 0
        with open(self.log, encoding="ascii") as file:
            for line in file:
                inode, size = line.split()
                synced[int(inode)] = int(size)
        folder = os.path.join(redis.directory, "appendonlydir")
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            there = os.stat(path)
            keep = min(synced.get(there.st_ino, 0), there.st_size)
            gone += there.st_size - keep
            os.truncate(path, keep)
        check(synced, "the shim saw no fsync: Redis was started without it")
        return gone


class PowerCluster(Cluster):
    """A Drawbar whose Redis can lose its power."""

    def __init__(self, directory, **options):
        self.power = PowerCut(directory)
        super().__init__(redis_wrap=self.power.wrap, **options)


def one_round(c, number, with_leader=False, down_s=0.0):
    """Returns (acknowledged, bytes cut off)."""
    when = f"after power cut {number}"
    clients = Submitters(c.http.address)
    clients.take(60 + 37 * (number % 5))
    if with_leader:
        c.broker_process.kill()
    gone = c.power.cut(c.redis)
    promised = list(clients.acknowledged)
    time.sleep(down_s) # how long Redis is away is what is tested
    c.redis.start()
    if with_leader: # nobody who remembers is left: what Redis has is all there is
        check_none_lost(c.redis, promised, when)
        check_agreement(c.redis, when)
        c.broker(label=f"broker-{number}")
    clients.take(1)
    promised = clients.stop()
    check_none_lost(c.redis, promised, when)
    return promised, gone


class PowerCuts:
    """Rounds in one Drawbar; with standby=True a second broker waits all the time, and must go on waiting."""

    def __init__(self, fsync, standby=False):
        self.directory = tempfile.mkdtemp(prefix="drawbar-power.")
        try:
            self.c = PowerCluster(self.directory, redis={"fsync": fsync})
        except BaseException:
            shutil.rmtree(self.directory)
            raise
        self.leader = self.c.broker_process
        self.standby = self.c.broker(label="standby", wait_ready=False) if standby else None
        self.promised, self.gone = [], 0

    def __enter__(self):
        self.c.__enter__()
        free_workers(self.c)
        return self

    def __exit__(self, *error):
        self.c.__exit__(*error)
        shutil.rmtree(self.directory)

    def round(self, number, **options):
        more, gone = one_round(self.c, number, **options)
        if self.standby is not None:
            check("leader-elected" not in self.standby.log(), "the standby was elected and the leader's memory is void")
        self.promised, self.gone = self.promised + more, self.gone + gone
        return more, gone

    def all_succeeded(self):
        Ends(self.c.redis).all_succeeded(self.promised, 120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--fsync", default="always", choices=("always", "everysec"))
    parser.add_argument("--leader", action="store_true", help="the leading broker dies in the same moment")
    parser.add_argument("--down-s", type=float, default=0, help="Redis is away so long")
    parser.add_argument("--standby", action="store_true", help="a second broker, that must not be elected")
    wanted = parser.parse_args()
    harness.BUILD = os.path.realpath(wanted.build)
    began = time.monotonic()
    try:
        with PowerCuts(wanted.fsync, wanted.standby) as cuts:
            for number in range(wanted.rounds):
                more, gone = cuts.round(number, with_leader=wanted.leader, down_s=wanted.down_s)
                print(f"round {number + 1}: {len(more)} acknowledged, {gone} bytes cut off", flush=True)
            cuts.all_succeeded()
    except Failed as failed:
        print(failed, *harness.LOGS, sep="\n")
        return 1
    print(f"{wanted.rounds} power cuts (appendfsync {wanted.fsync}{', the leader too' if wanted.leader else ''}"
          f"{', two brokers' if wanted.standby else ''}, down {wanted.down_s:g} s): {len(cuts.promised)} acknowledged, "
          f"0 lost, {cuts.gone} bytes cut off, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
