#!/usr/bin/env python3
"""unit.py BUILD-DIR: runs every test that Meson knows there and counts the cases inside.

Quiet about what passes. A program that crashes, hangs, leaks or makes UBSan speak has failed, even if
its exit status is 0: a leak alone does not change the status of a Criterion test.
"""
import concurrent.futures
import json
import os
import re
import subprocess
import sys

TROUBLE = re.compile(r"LeakSanitizer|AddressSanitizer|runtime error:|UndefinedBehaviorSanitizer")
CASE = re.compile(r"^(not ok|ok)\b(.*)$", re.M)
SKIPPED = re.compile(r"#\s*SKIP", re.I)


def run(test):
    environment = dict(os.environ, **test["env"])
    limit = test["timeout"] * (4 if "ASAN_OPTIONS" in os.environ else 1)
    try:
        done = subprocess.run(test["cmd"], cwd=test["workdir"], env=environment, timeout=limit,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        text, status = done.stdout.decode(errors="replace"), done.returncode
    except subprocess.TimeoutExpired as hung:
        text = (hung.stdout or b"").decode(errors="replace") + f"\nno end within {limit} s\n"
        status = -1
    passed = failed = skipped = 0
    for verdict, rest in CASE.findall(text):
        if SKIPPED.search(rest):
            skipped += 1
        elif verdict == "ok":
            passed += 1
        else:
            failed += 1
    if passed + failed + skipped == 0 and test["protocol"] != "tap" and status == 0:
        passed = 1
    wrong = TROUBLE.search(text) is not None or status != 0 or passed + failed + skipped == 0
    if wrong and failed == 0:
        failed = 1
    return test["name"], passed, failed, skipped, text


def main():
    directory = sys.argv[1]
    with open(os.path.join(directory, "meson-info", "intro-tests.json"), encoding="utf-8") as file:
        tests = json.load(file)
    totals = [0, 0, 0]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, passed, failed, skipped, text in pool.map(run, tests):
            totals = [totals[0] + passed, totals[1] + failed, totals[2] + skipped]
            if failed:
                print(f"--- {name}: {failed} failed")
                lines = text.splitlines()
                print("\n".join(lines if len(lines) < 120 else lines[:40] + ["..."] + lines[-80:]))
    if not tests:
        print("no unit test was built: is Criterion installed?")
        totals[1] += 1
    skipped = f", {totals[2]} skipped" if totals[2] else ""
    print(f"{totals[0]} passed, {totals[1]} failed{skipped}")
    return 1 if totals[1] else 0


sys.exit(main())
