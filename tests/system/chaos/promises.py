"""promises — what the tests of Redis and network faults share: clients that submit without pause and keep
what was promised to them, workers that draw nothing, and the check of that promise against Redis.
"""
import http.client
import json
import os
import threading
import time

import harness
from harness import Failed, check, check_equal, until

QUEUED, RUNNING, SUCCEEDED = 1, 2, 3
STATE_AT = 2 # the byte of a record that holds the state; PROTOCOL.md, "Job record"


def is_final(record):
    return record[STATE_AT] >= SUCCEEDED


class Submitters:
    """Clients in threads that submit small jobs without pause. `acknowledged`: the ids of all 202, in the order
    of their answers; `refused`: (status, problem) of the other answers; `unanswered`: connections that broke."""

    def __init__(self, *addresses, threads=3, pause_s=0.0):
        self.acknowledged, self.refused, self.unanswered = [], [], 0
        self.pause_s, self.going = pause_s, True
        self.threads = [threading.Thread(target=self._run, args=(addresses[i % len(addresses)], i), daemon=True)
                        for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self, address, number):
        connection, n = http.client.HTTPConnection(address, timeout=20), 0
        while self.going:
            n += 1
            body = json.dumps({"prompt": f"{number} {n}", "width": 64, "height": 64, "steps": 1})
            try:
                connection.request("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                told = json.loads(answer.read())
                if answer.status == 202:
                    self.acknowledged.append(told["id"])
                else:
                    self.refused.append((answer.status, answer.headers, told))
                    time.sleep(0.05)
            except (OSError, http.client.HTTPException):
                self.unanswered += 1
                connection.close()
                time.sleep(0.05)
            time.sleep(self.pause_s)
        connection.close()

    def take(self, n, limit_s=30):
        """Waits for n more promises."""
        wanted = len(self.acknowledged) + n
        until(lambda: len(self.acknowledged) >= wanted, limit_s, f"{n} more submits are accepted")

    def stop(self):
        self.going = False
        for thread in self.threads:
            thread.join(30)
            check(not thread.is_alive(), "a client hangs")
        return self.acknowledged


def records(redis, ids):
    """The records of the ids, None for each that is missing."""
    found = []
    for at in range(0, len(ids), 500):
        found += redis.call("MGET", *(f"{{drawbar}}:j:{job}" for job in ids[at:at + 500]))
    return found


def check_none_lost(redis, ids, when):
    check(ids, f"nothing was acknowledged: there is nothing to lose {when}")
    lost = [job for job, record in zip(ids, records(redis, ids)) if record is None]
    check(not lost, f"{len(lost)} of {len(ids)} acknowledged jobs are lost {when}, the first is {lost[:1]}")


def check_agreement(redis, when):
    """Every job of the index has a live record, and every live record is in the index."""
    index = [member.decode() for member in redis.call("ZRANGE", "{drawbar}:live", 0, -1)]
    for job, record in zip(index, records(redis, index)):
        check(record is not None and not is_final(record), f"{job} is in the index, its record is not live {when}")
    known, cursor = set(index), b"0"
    while True:
        cursor, keys = redis.call("SCAN", cursor, "MATCH", "{drawbar}:j:*", "COUNT", 1000)
        ids = [key.decode().rpartition(":")[2] for key in keys]
        for job, record in zip(ids, records(redis, ids) if ids else []):
            check(record is None or is_final(record) or job in known, f"{job} is live and not in the index {when}")
        if cursor == b"0":
            return len(index)


class Ends:
    """Ended jobs seen so far: an end that changes was written twice."""

    def __init__(self, redis):
        self.redis, self.seen = redis, {}

    def look(self, ids):
        for job, record in zip(ids, records(self.redis, ids)):
            if record is None:
                continue
            first = self.seen.get(job)
            check(first is None or record == first, f"the end of {job} was written twice")
            if is_final(record):
                self.seen[job] = record

    def all_succeeded(self, ids, limit_s):
        """Waits until every job has succeeded; none may be lost, none may end twice."""
        def ended():
            self.look(ids)
            return len(self.seen) >= len(ids) and all(job in self.seen for job in ids)
        try:
            until(ended, limit_s, f"all {len(ids)} jobs have ended", pause_s=0.2)
        except Failed as late:
            missing = [job for job in ids if job not in self.seen]
            check_none_lost(self.redis, ids, "at the end")
            raise Failed(f"{late}; {len(missing)} have not, the first is {missing[0]}") from late
        states = {self.seen[job][STATE_AT] for job in ids}
        check_equal(states, {SUCCEEDED}, "states at the end")


def free_workers(c, n=2, draw_ms=0, places=8, label="free"):
    """Workers that draw nothing, so that a queue of thousands empties in seconds."""
    path = os.path.join(harness.BUILD, "tests", "bench", "bench_workers")
    return c.start(label, [path, "--redis", c.redis.url, "--workers", n, "--name", label, "--places", places,
                           "--draw-ms", draw_ms], wait_ready=False)
