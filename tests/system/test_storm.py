"""Random kills, a seed printed first: a found seed is the bug report (DRAWBAR_STORM_SEED=N repeats it)."""
import http.client
import os
import random
import threading
import time

from harness import Cluster, Failed, check, check_equal, until
from registry import test

STORM_S = 20


class Submitter(threading.Thread):
    """Submits a job every few milliseconds; remembers those that were acknowledged."""

    def __init__(self, client, dice):
        super().__init__(daemon=True)
        self.client, self.dice = client, dice
        self.acknowledged, self.refused, self.stopped = [], 0, False

    def run(self):
        while not self.stopped:
            try:
                answer = self.client.post_job(width=64, height=64, steps=self.dice.randint(1, 8),
                                              seed=self.dice.randint(0, 2**32 - 1))
                if answer.status == 202:
                    self.acknowledged.append(answer.json["id"])
                else:
                    self.refused += 1
                    if answer.status != 503:
                        raise Failed(f"a submit was answered {answer.status}: {answer.body[:200]!r}")
            except (OSError, http.client.HTTPException):
                self.refused += 1
            time.sleep(0.03)


@test(limit_s=150, alone=True, short=True)
def whoever_is_killed_at_random_no_acknowledged_job_is_lost():
    seed = int(os.environ.get("DRAWBAR_STORM_SEED", "0")) or random.SystemRandom().randint(1, 10**6)
    print(f"    seed {seed}", flush=True)
    dice = random.Random(seed)
    with Cluster() as c:
        workers = {}
        for name in ("mia", "zoe", "kim"):
            workers[name] = c.worker(name, sim="--step-ms 10 --fail-rate 0.02")
        submitter = Submitter(c.http, random.Random(seed + 1))
        submitter.start()
        end = time.monotonic() + STORM_S
        while time.monotonic() < end:
            time.sleep(dice.uniform(0.3, 1.5))
            victim = dice.choice(["broker", "redis", "mia", "zoe", "kim", "pause"])
            if victim == "broker":
                c.broker_process.kill()
                c.broker()
            elif victim == "redis":
                c.redis.process.kill()
                c.redis.start()
            elif victim == "pause":
                process = dice.choice([c.broker_process, c.redis.process, *workers.values()])
                process.pause()
                time.sleep(dice.uniform(0.1, 2.5))
                process.resume()
            else:
                workers[victim].kill()
                workers[victim] = c.worker(victim, sim="--step-ms 10 --fail-rate 0.02", ready=False)
        submitter.stopped = True
        submitter.join(10)
        check(len(submitter.acknowledged) > 20, f"only {len(submitter.acknowledged)} submits were acknowledged")
        until(lambda: c.redis.live() == 0, 60, "all jobs have ended")
        jobs = [c.http.job(job_id) for job_id in submitter.acknowledged]
        bad = [job for job in jobs if job["status"] != "succeeded"]
        # Three tries that the dice made fail are no loss; a job without an end is.
        check(all(job["status"] == "failed" and len(job["error"]["attempts"]) >= 3 for job in bad), f"{bad[:3]}")
        check(len(bad) < 5, f"{len(bad)} jobs failed")
        for job in jobs[:: max(1, len(jobs) // 20)]:
            if job["status"] == "succeeded":
                check_equal(c.http.image(job["id"]).status, 200, "status of a picture")
