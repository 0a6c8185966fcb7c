#!/usr/bin/env python3
"""run.py [--build DIR] [--chaos] [-k WORD] [--jobs N] [--short] [--list]: the system tests.

A test is a function under @test in a test_*.py here, or with --chaos in chaos/; its name is the sentence
that it shows. Each runs in a process of its own, so that one that hangs is ended with all it started. One
line a test; the last line is `N passed, N failed[, N skipped]`.
"""
import argparse
import concurrent.futures
import ctypes
import glob
import importlib
import os
import resource
import signal
import subprocess
import sys
import time
import traceback

HERE = os.path.dirname(os.path.realpath(__file__))
CHAOS = os.path.join(HERE, "chaos")
sys.path[:0] = [HERE, CHAOS]
sys.dont_write_bytecode = True
STATUS_SKIPPED = 77


def discover(directory):
    import registry  # pylint: disable=import-outside-toplevel
    for path in sorted(glob.glob(os.path.join(directory, "test_*.py"))):
        importlib.import_module(os.path.basename(path)[:-3])
    return registry.TESTS


def children_left():
    """Pids of processes that this one (or, because it adopts orphans, its test) still has."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="utf-8") as file:
        return [int(pid) for pid in file.read().split()]


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass


def end_children():
    """Ends what a test left behind; returns the command lines. Who is dying already has a moment."""
    left, end = [], time.monotonic() + 2
    while children_left() and time.monotonic() < end:
        reap()
        time.sleep(0.05)
    for _ in range(50):
        pids = children_left()
        if not pids:
            break
        for pid in pids:
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    line = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
                if line:
                    left.append(line[:200])
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass
    return left


def run_one(directory, name):
    """In the test's own process."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    import harness  # pylint: disable=import-outside-toplevel
    status = 0
    try:
        discover(directory)[name].function()
    except harness.Skip as why:
        print(f"    {why}")
        status = STATUS_SKIPPED
    except harness.Failed as failed:
        where = traceback.extract_tb(failed.__traceback__)
        lines = [f"{os.path.basename(f.filename)}:{f.lineno}" for f in where if f.filename.startswith(HERE)]
        print(f"    {failed}\n    at {' < '.join(reversed(lines))}")
        status = 1
    except BaseException:  # pylint: disable=broad-except
        traceback.print_exc(file=sys.stdout)
        status = 1
    for line in harness.LOGS:
        print("    " + line)
    left = end_children()
    if left and status == 0:
        print("    processes were left behind:\n      " + "\n      ".join(left))
        status = 1
    sys.stdout.flush()
    os._exit(status)


def run_in_child(test, build, more):
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, os.path.realpath(__file__), *more, "--one", test.name],
                             env=dict(os.environ, DRAWBAR_TEST_BUILD=build, PYTHONDONTWRITEBYTECODE="1"),
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    limit_s = test.limit_s * (3 if "ASAN_OPTIONS" in os.environ else 1)
    try:
        text, _ = child.communicate(timeout=limit_s)
        status = child.returncode
    except subprocess.TimeoutExpired:
        # Its children first: they must not be left to init.
        end_tree(child.pid)
        text, _ = child.communicate()
        text += f"    no end within {limit_s} s\n".encode()
        status = 1
    return test, status, time.monotonic() - started, text.decode(errors="replace")


def end_tree(pid):
    try:
        os.kill(pid, signal.SIGSTOP)
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
            for child in file.read().split():
                end_tree(int(child))
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=os.environ.get("DRAWBAR_TEST_BUILD", ""))
    parser.add_argument("--chaos", action="store_true", help="the tests in chaos/ instead")
    parser.add_argument("-k", default="", metavar="WORD", help="only tests with the word in name or file")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--short", action="store_true", help="only the tests that suit the sanitizers")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    directory, more = (CHAOS, ["--chaos"]) if wanted.chaos else (HERE, [])
    if wanted.one:
        run_one(directory, wanted.one)
    os.environ["DRAWBAR_TEST_BUILD"] = build = os.path.realpath(wanted.build) if wanted.build else ""
    tests = [t for t in discover(directory).values()
             if wanted.k in f"{t.file}.{t.name}" and (t.short or not wanted.short)]
    if wanted.list:
        for test in tests:
            print(f"{test.file}: {test.name.replace('_', ' ')}")
        return 0
    if not os.path.isdir(build):
        print("run.py: --build DIR: name a build directory (tests/run.sh system makes one)")
        return 2
    tests.sort(key=lambda t: -t.limit_s) # the long ones first, so that none is waited for alone
    counts = {"ok": 0, "FAILED": 0, "skipped": 0}
    # Those that measure time or open a thousand connections run alone, after the others.
    for group, jobs in (([t for t in tests if not t.alone], wanted.jobs), ([t for t in tests if t.alone], 1)):
        with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
            for done in concurrent.futures.as_completed([pool.submit(run_in_child, t, build, more) for t in group]):
                test, status, seconds, text = done.result()
                word = {0: "ok", STATUS_SKIPPED: "skipped"}.get(status, "FAILED")
                counts[word] += 1
                print(f"{word:8}{seconds:6.1f} s  {test.file}: {test.name.replace('_', ' ')}")
                if text.strip(): # why it failed, or the figures of one that measures
                    print(text.rstrip())
                sys.stdout.flush()
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    print(f"{counts['ok']} passed, {counts['FAILED']} failed{skipped}")
    return 1 if counts["FAILED"] or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
