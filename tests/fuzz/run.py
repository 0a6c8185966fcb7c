#!/usr/bin/env python3
"""run.py DIRECTORY [--seconds N] [--jobs N] [TARGET...]: runs the fuzzers that were built in DIRECTORY.

Each starts from the seeds that fuzz_seeds writes and those of tests/fuzz/seeds/TARGET (inputs that once
failed), in a directory of its own that is removed. A finding is printed with the command that repeats it
and kept under the system's temporary directory.
"""
import argparse
import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))


def run(program, scratch, seconds):
    name = os.path.basename(program).removeprefix("fuzz_")
    found = os.path.join(scratch, "found", name) + os.sep
    grown = os.path.join(scratch, "grown", name)
    seeds = [os.path.join(scratch, "seeds", name), os.path.join(HERE, "seeds", name)]
    for directory in (found, grown, seeds[0]):
        os.makedirs(directory, exist_ok=True)
    dictionary = os.path.join(HERE, name + ".dict")
    command = [program, f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024", "-max_len=4096",
               "-print_final_stats=1", f"-artifact_prefix={found}", grown]
    command += [f"-dict={dictionary}"] if os.path.exists(dictionary) else []
    command += [directory for directory in seeds if os.path.isdir(directory)]
    environment = dict(os.environ, UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=seconds + 60, check=False)
        status, text = done.returncode, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as hung:
        status, text = -1, (hung.stdout or b"").decode(errors="replace") + "\nthe fuzzer does not end\n"
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    executed = int(executed.group(1)) if executed else 0
    return name, program, status, executed, text, found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    wanted = parser.parse_intermixed_args()
    programs = [p for p in sorted(glob.glob(os.path.join(wanted.directory, "fuzz_*")))
                if os.path.isfile(p) and os.access(p, os.X_OK) and not p.endswith("fuzz_seeds")
                and (not wanted.targets or os.path.basename(p).removeprefix("fuzz_") in wanted.targets)]
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="drawbar-fuzz.") as scratch:
        seeds = os.path.join(scratch, "seeds")
        os.makedirs(seeds)
        subprocess.run([os.path.join(wanted.directory, "fuzz_seeds"), seeds], check=True)
        with concurrent.futures.ThreadPoolExecutor(wanted.jobs) as pool:
            jobs = [pool.submit(run, program, scratch, wanted.seconds) for program in programs]
            for job in jobs:
                name, program, status, executed, text, found = job.result()
                # A fuzzer that tried next to nothing proves nothing.
                if status == 0 and executed > 1000:
                    passed += 1
                    continue
                failed += 1
                kept = tempfile.mkdtemp(prefix=f"drawbar-fuzz-{name}.")
                shutil.copytree(found, kept, dirs_exist_ok=True)
                print(f"--- fuzz_{name}: failed after {executed} inputs; to repeat: {program} {kept}/*")
                print("\n".join(text.splitlines()[-60:]))
    if not programs:
        print("no fuzzer was built")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
