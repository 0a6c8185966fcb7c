#!/usr/bin/env python3
"""same — is a picture the same in each life of the instance?

    tests/gpu/same.py [--lives "cold:" "warm:" "cold:--no-fuse" "warm:--no-fuse"]

A requeued job is drawn again by another process, so the same seed must give the same bytes there. Each life is a
process of the reference instance with random weights; "cold" ones begin with an empty cache of the compiler, "warm"
ones with what the one before left; what stands behind the colon are flags of the instance, and words NAME=VALUE for
its environment. In each life the orders are drawn twice. Prints a hash of each picture, and how far it is from that
of the first life with these flags.
"""
import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from bench import Client, Failed, say

HERE = os.path.dirname(os.path.realpath(__file__))
SERVER = os.path.join(HERE, "..", "..", "worker", "instance", "zimage_server.py")


class Life:
    """One process, from its start until close()."""

    def __init__(self, o, words, cache):
        flags = [word for word in words if word.startswith("-")]
        variables = dict(word.split("=", 1) for word in words if not word.startswith("-"))
        self.folder = tempfile.mkdtemp(prefix="drawbar-same.")
        self.log = os.path.join(self.folder, "log")
        ready = os.path.join(self.folder, "ready")
        sizes = ",".join(f"{size}x{size}" for size in o.sizes)
        command = [sys.executable, "-u", "-B", SERVER, "--tiny" if o.tiny else "--random", "--device", o.device, "--port",
                   "0", "--ready-file", ready, "--warm-sizes", sizes, *flags]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, **variables})
        end = time.monotonic() + 240
        while not os.path.exists(ready) or not self._is_ready(ready):
            if self.process.poll() is not None or time.monotonic() > end:
                with open(self.log, encoding="utf-8", errors="replace") as file:
                    raise Failed("not ready: " + " | ".join(file.read().splitlines()[-4:]))
            time.sleep(0.2)

    def _is_ready(self, path):
        with open(path, encoding="utf-8") as file:
            self.client = Client(int(file.read().strip().rsplit(":", 1)[1]))
        return self.client.ask("GET", "/healthz")[0] == 200

    def picture(self, name, size, seed):
        order = {"id": name, "prompt": "a lighthouse that is hit by lightning", "width": size, "height": size, "steps": 8,
                 "seed": seed, "n": 1}
        status, body = self.client.ask("POST", "/v1/jobs", order)
        if status not in (200, 202):
            raise Failed(f"submit: {status} {body[:200]}")
        job = {"state": "queued"}
        while job["state"] in ("queued", "running"):
            job = json.loads(self.client.ask("GET", f"/v1/jobs/{name}?wait=20")[1])
        status, data = self.client.ask("GET", f"/v1/jobs/{name}/images/0")
        if status != 200:
            raise Failed(f"{name}: {job}")
        return data

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def distance(data, first):
    """Of two pictures: largest difference of a value, and share of values that differ."""
    import numpy
    from PIL import Image
    a, b = (numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (data, first))
    return f"largest {abs(a - b).max()}, {100 * (a != b).mean():.2f} % of the values"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lives", nargs="+", default=["cold:", "warm:"], metavar="CACHE:WORDS")
    p.add_argument("--sizes", type=lambda text: [int(s) for s in text.split(",")], default=[512, 1024])
    p.add_argument("--budget", type=float, default=500, help="seconds; no life is begun after that")
    p.add_argument("--device", default="cuda")
    p.add_argument("--tiny", action="store_true")
    o = p.parse_args()
    cache = tempfile.mkdtemp(prefix="drawbar-same-cache.")
    first, differ, begun = {}, 0, time.monotonic()
    for number, life in enumerate(o.lives):
        temperature, words = life.split(":", 1)
        if time.monotonic() - begun > o.budget:
            say(f"left out: {life}")
            continue
        if temperature == "cold":
            shutil.rmtree(cache, ignore_errors=True)
        since, process = time.monotonic(), None
        try:
            process = Life(o, words.split(), cache)
            say(f"life {number} ({life}) ready after {time.monotonic() - since:.0f} s")
            for turn in range(2):
                for size in o.sizes:
                    data = process.picture(f"s{number}.{turn}.{size}", size, 4711)
                    same = data == first.setdefault((words, size), data)
                    differ += not same
                    say(f"   {size} turn {turn}: {hashlib.sha256(data).hexdigest()[:16]}",
                        "the same" if same else "ANOTHER: " + distance(data, first[words, size]))
        except (Failed, OSError, ValueError) as trouble:
            differ += 1
            say(f"life {number} ({life}) FAILED {trouble!r}")
        finally:
            if process is not None:
                process.close()
    shutil.rmtree(cache, ignore_errors=True)
    print(f"{differ} pictures differ from the first life's", flush=True)
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
