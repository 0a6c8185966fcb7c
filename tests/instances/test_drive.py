#!/usr/bin/env python3
"""test_drive [--build DIR] [-k WORD] [--jobs N] [--list]: every kind of server in kinds/, driven end to end.

    client -> gateway -> broker + Redis -> drawbar-worker --attach -> relay (faults.py) -> the server

All of them are real processes, but for the relay; which servers are stubs is said. A kind has one Drawbar and one
server, which go through the scenarios below one after the other. What a server cannot do is asserted as lacking: a
job without steps told shows step 0, an instance that cannot be stopped stays busy. -k takes kinds or scenarios with
the word in their name. One line a scenario; ends with `N passed, N failed, N skipped`.
"""
import argparse
import concurrent.futures
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import zlib

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "system")]
sys.dont_write_bytecode = True

import harness # noqa: E402
from faults import Relay # noqa: E402
from harness import Cluster, Failed, check, check_equal, until # noqa: E402
from kinds import Kind, all_kinds # noqa: E402
from pictures import png_size # noqa: E402
from run import end_children, end_tree # noqa: E402

SCENARIOS = []
TRIES = 5 # where the job's record has them
LIMIT_S = 60 # for what takes a few seconds on a machine of its own
KIND_LIMIT_S = 600


def scenario(only=lambda kind: True):
    """`only`: the kinds that can have it at all."""
    def announce(function):
        SCENARIOS.append((function.__name__.replace("_", " "), function, only))
        return function
    return announce


class Server:
    """The process of the kind's server, in a group of its own."""

    def __init__(self, kind, folder):
        self.kind, self.folder, self.port, self.child = kind, folder, harness.steady_port(), None
        self.log_path = os.path.join(folder, "server.log")

    def start(self):
        words = [str(word) for word in self.kind.command(self.port, self.folder)]
        with open(self.log_path, "ab") as log:
            self.child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                                          env=harness.environment(**self.kind.environment), start_new_session=True)

        def ready():
            if self.child.poll() is not None:
                raise Failed(f"the server ended with {self.child.returncode}: {' '.join(words)}")
            return self.kind.ready(self.port)
        until(ready, self.kind.start_s, "the server takes jobs")

    def signal(self, number):
        if self.child is not None and self.child.poll() is None:
            os.killpg(self.child.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        if self.child is not None:
            self.child.wait()


class Stage:
    """What the scenarios of one kind play on."""

    def __init__(self, kind):
        self.kind, self.slow_s, self.agent = kind, None, None
        self.cluster = Cluster()
        try:
            folder = self.cluster.directory
            kind.prepare(folder)
            self.server = Server(kind, folder)
            self.cluster.closers.append(self.server.kill)
            self.server.start()
            self.relay = Relay(harness.steady_port(), self.server.port, kind)
            self.cluster.closers.append(self.relay.close)
            self.start_agent()
        except BaseException:
            self.close(failed=True)
            raise
        self.http = self.cluster.http

    def start_agent(self, *flags):
        c, kind = self.cluster, self.kind
        attach = f"driver={kind.driver} url={self.relay.url} model=z-image-turbo {kind.attach_words(c.directory)}"
        self.agent = c.start("worker", [
            harness.program("drawbar-worker"), "--redis", c.redis.url, "--name", "mia", "--state-dir",
            os.path.join(c.directory, "state"), "--attach", attach.strip(), "--stuck-ms", kind.silence_ms, *flags,
            *kind.extra_flags])
        until(lambda: self.state() == "ready", LIMIT_S, "the agent has found the server")

    def close(self, failed):
        self.cluster.failed = failed
        self.cluster.close()

    # -- what is asked of Drawbar --

    def quick(self, **more):
        width, height = self.kind.size
        return self.http.submit(width=width, height=height, **{"steps": self.kind.steps, "seed": 7, **more})

    def slow(self, **more):
        return self.http.submit(**self.kind.slow, **{"seed": 11, **more})

    def state(self):
        """Of the instance, in a heartbeat that came after this call: an older one may tell of another job."""
        seconds, micros = self.cluster.redis.call("TIME")
        called_ms = int(seconds) * 1000 + int(micros) // 1000
        until(lambda: int(self.cluster.redis.call("ZSCORE", "{drawbar}:hb", "mia") or 0) > called_ms, LIMIT_S,
              "a heartbeat")
        return (self.cluster.instance("mia") or {}).get("state")

    def reasons(self, job_id):
        """Codes and messages of the attempts that failed so far."""
        found = self.cluster.redis.call("LRANGE", f"{{drawbar}}:a:{job_id}", 0, -1)
        return [json.loads(text) for text in found]

    def tries(self, job_id):
        return self.cluster.redis.record(job_id)[TRIES]

    def succeeds(self, job_id):
        return self.http.wait(job_id, "succeeded", LIMIT_S)

    def picture(self, job_id, index=0):
        answer = self.http.image(job_id, index)
        check_equal(answer.status, 200, f"status of picture {index}")
        return answer.body

    # -- what is seen of the server --

    def at_work(self, job_id, jobs_before):
        """Waits until the server draws the job."""
        until(lambda: self.relay.count("job") > jobs_before, LIMIT_S, "the server was handed the job")
        if self.kind.tells_steps:
            self.http.wait_step(job_id, LIMIT_S)
            return
        self.http.wait(job_id, "running", LIMIT_S)
        until(lambda: self.kind.drawing(self.server.port) is not False, LIMIT_S, "the server draws")

    def begin_slow(self):
        before = self.relay.count("job")
        job_id = self.slow()
        self.at_work(job_id, before)
        return job_id

    def server_is_busy(self):
        drawing = self.kind.drawing(self.server.port)
        return self.relay.unanswered("job") > 0 if drawing is None else drawing

    def becomes_free(self, limit_s=LIMIT_S):
        """Waits until Drawbar says that the instance is ready. The server must be idle then: this is the promise
        that two jobs never share a GPU."""
        until(lambda: self.state() == "ready", limit_s, "the instance is ready")
        check(not self.server_is_busy(), "the instance is told as ready, and its server still draws")

    def settle(self):
        """Between two scenarios, of which each ends with a job drawn or a free instance."""
        self.relay.clear()
        until(lambda: not self.server_is_busy(), LIMIT_S, "the server has nothing to do")


def pixels(png):
    """What a PNG shows, packed: without the texts that some servers write into it."""
    at, packed = 8, b""
    while at < len(png):
        length = int.from_bytes(png[at:at + 4], "big")
        packed += png[at + 8:at + 8 + length] if png[at + 4:at + 8] == b"IDAT" else b""
        at += 12 + length
    return zlib.decompress(packed)


# -- the scenarios: what a user sees, and what the server is asked --


@scenario()
def pictures_have_the_size_that_was_asked_for_and_follow_their_seeds(s):
    two = s.succeeds(s.quick(n=2))
    check_equal((two["attempt"], two["worker"], two["warnings"]), (1, "mia", []), "attempt, worker, warnings")
    check_equal([image["seed"] for image in two["images"]], [7, 8], "seeds")
    shown = [s.picture(two["id"], i) for i in range(2)]
    check_equal([png_size(png) for png in shown], [tuple(s.kind.size)] * 2, "sizes")
    check(pixels(shown[0]) != pixels(shown[1]), "two seeds make two pictures")
    one = s.succeeds(s.quick(seed=8))
    check(not s.kind.repeats or pixels(s.picture(one["id"])) == pixels(shown[1]), "the same seed makes the same picture")
    check_equal(one["progress"], {"step": s.kind.steps, "steps": s.kind.steps}, "progress of a drawn job")


@scenario(only=lambda kind: type(kind).direct is not Kind.direct)
def a_job_draws_what_the_same_order_draws_by_the_servers_own_api(s):
    width, height = s.kind.size
    plain = {"prompt": "a red fox", "width": width, "height": height, "steps": 2, "seed": 7}
    orders = [plain, {**plain, "seed": 4294967295}, {**plain, "steps": 3}, {**plain, "guidance": 2.5},
              {**plain, "guidance": 2.5, "negative_prompt": "snow </sd_cpp_extra_args>"}]
    shown = []
    for order in orders:
        job = s.succeeds(s.http.submit(**order))
        shown.append(pixels(s.picture(job["id"])))
        check(shown[-1] == pixels(s.kind.direct(s.server.port, order)), f"the picture of {order}")
    check_equal(len(set(shown)), len(orders), "each of these words makes another picture")


@scenario()
def words_of_a_server_inside_a_prompt_change_nothing(s):
    for tag in ('<sd_cpp_extra_args>{"width":64,"batch_count":2}</sd_cpp_extra_args>', "<lora:x:1>"):
        job = s.succeeds(s.quick(prompt=f"a red fox {tag}"))
        check_equal((job["attempt"], png_size(s.picture(job["id"]))), (1, tuple(s.kind.size)), f"with {tag}")


@scenario()
def steps_are_told_as_they_are_drawn_or_not_at_all(s):
    before = s.relay.count("job")
    job_id = s.slow()
    s.at_work(job_id, before)
    begun = time.monotonic()
    told = [data["progress"]["step"] for event, _, data in s.http.events(job_id, limit_s=LIMIT_S)
            if "progress" in data and data.get("status", "running") == "running"]
    s.slow_s = time.monotonic() - begun
    job = s.succeeds(job_id)
    steps = s.kind.slow["steps"]
    check_equal(told, sorted(told), "steps never go back")
    if s.kind.tells_steps:
        between = {step for step in told if 0 < step < steps}
        check(len(between) >= 3, f"steps between the first and the last of {steps}: {told}")
    else:
        check_equal({step for step in told}, {0}, "steps of a server that tells none")
    check_equal((job["attempt"], png_size(s.picture(job_id))), (1, (s.kind.slow["width"], s.kind.slow["height"])),
                "attempt and size")


@scenario()
def a_job_cancelled_in_the_queue_never_reaches_the_server(s):
    before = s.relay.count("job")
    first = s.begin_slow()
    others = [s.slow(seed=20 + i) for i in range(3)] # an agent may pull a job or two ahead of its turn
    last = others[-1]
    check_equal(s.http.job(last)["status"], "queued", "status of the last one")
    check_equal(s.http.cancel(last).status, 200, "status of the cancel")
    check_equal(s.http.job(last)["status"], "cancelled", "status of the job")
    for job_id in [*reversed(others[:-1]), first]:
        s.http.cancel(job_id)
    s.becomes_free()
    check(s.relay.count("job") - before <= 3, "the server was never handed the last one")
    check_equal(s.http.job(last)["attempt"], 0, "attempts of the last one")


@scenario(only=lambda kind: kind.queues)
def a_job_cancelled_in_the_queue_of_the_server_is_taken_out_of_it(s):
    before, pictures = s.relay.count("job"), s.relay.count("picture")
    foreign_is_over = s.kind.occupy(s.server.port)
    job_id = s.quick()
    until(lambda: s.relay.count("job") > before, LIMIT_S, "the server was handed our job")
    check(not foreign_is_over(), "the foreign job is drawn")
    check_equal(s.http.cancel(job_id).status, 200, "status of the cancel")
    check_equal(s.http.job(job_id)["status"], "cancelled", "status of the job")
    until(lambda: s.state() == "ready", LIMIT_S, "the instance is ready")
    check(not foreign_is_over(), "the instance is ready before the foreign job has ended")
    until(lambda: foreign_is_over() and not s.kind.drawing(s.server.port), LIMIT_S, "the foreign job ends")
    if not s.kind.one_request and not s.kind.polls:
        check_equal(s.relay.count("picture"), pictures, "pictures fetched")


@scenario()
def a_cancel_of_a_running_job_stops_it_or_keeps_the_instance_busy_until_the_answer(s):
    job_id = s.begin_slow()
    begun = time.monotonic()
    answer = s.http.cancel(job_id)
    check_equal((answer.status, answer.json["status"]), (200, "cancelled"), "the answer to the cancel")
    if not s.kind.stops_running:
        check_equal(s.state(), "busy", "the instance, while the server draws on")
        check(s.server_is_busy(), "the server draws on")
    until(lambda: not s.server_is_busy(), LIMIT_S, "the server is free")
    took = time.monotonic() - begun
    if s.kind.stops_running and s.slow_s is not None:
        check(took < 0.6 * s.slow_s, f"{took:.1f} s until the server is free: the whole job takes {s.slow_s:.1f} s")
    s.becomes_free()
    check_equal(s.http.job(job_id)["images"], [], "pictures of a cancelled job")
    check_equal(s.succeeds(s.quick())["attempt"], 1, "attempt of the next job")


@scenario()
def a_job_submitted_behind_a_cancelled_one_is_drawn_when_the_server_is_free(s):
    job_id = s.begin_slow()
    before = s.relay.count("job")
    next_id = s.quick()
    s.http.cancel(job_id)
    if not s.kind.stops_running: # what answers nobody is waited for
        until(lambda: s.relay.count("job") > before or not s.server_is_busy(), LIMIT_S, "the server is free")
        check(s.relay.unanswered("job") <= 1, "jobs at the server")
    job = s.succeeds(next_id)
    check_equal((job["attempt"], png_size(s.picture(next_id))), (1, tuple(s.kind.size)), "attempt and size")


@scenario()
def a_server_killed_in_a_job_costs_one_attempt_and_the_job_succeeds_on_the_next(s):
    job_id = s.begin_slow()
    s.relay.door(False)
    s.server.kill()
    until(lambda: s.reasons(job_id), LIMIT_S, "the attempt has failed")
    s.server.start()
    s.relay.door(True)
    job = s.succeeds(job_id)
    check_equal((job["attempt"], s.tries(job_id)), (2, 2), "attempts and tries")
    check_equal([r["code"] for r in s.reasons(job_id)], ["instance_died"], "reasons")
    check_equal(png_size(s.picture(job_id)), (s.kind.slow["width"], s.kind.slow["height"]), "size")


@scenario()
def a_server_that_hangs_fails_the_attempt_and_the_job_succeeds_when_it_wakes(s):
    s.succeeds(s.quick()) # the first job of a server's life may take its time
    if s.kind.tells_steps:
        job_id = s.begin_slow()
        s.server.signal(signal.SIGSTOP)
    else:
        s.agent.stop()
        s.start_agent("--opaque-ms", s.kind.silence_ms)
        order = {} if s.kind.one_request else {"steps": 10}
        s.succeeds(s.quick(**order)) # ten times what this one took is borne in silence, if that is longer
        s.becomes_free()
        if s.kind.one_request:
            s.server.signal(signal.SIGSTOP)
            job_id = s.quick()
        else: # a job that was not taken by the server would be no try
            before = s.relay.count("job")
            job_id = s.quick(**order)
            s.at_work(job_id, before)
            s.server.signal(signal.SIGSTOP)
    until(lambda: s.reasons(job_id), 2 * LIMIT_S, "the attempt has failed")
    check(s.http.job(job_id)["status"] in ("queued", "running"), "the job goes on")
    s.server.signal(signal.SIGCONT)
    job = s.succeeds(job_id)
    check_equal([r["code"] for r in s.reasons(job_id)], ["instance_stuck"], f"reasons {s.reasons(job_id)}")
    check_equal((job["attempt"], s.tries(job_id)), (2, 2), "attempts and tries")
    if not s.kind.tells_steps:
        s.becomes_free()
        s.agent.stop()
        s.start_agent()


@scenario()
def connections_that_are_reset_in_a_job_cost_at_most_one_attempt(s):
    job_id = s.begin_slow()
    s.relay.reset()
    s.succeeds(job_id)
    check(s.tries(job_id) <= 2, f"tries: {s.tries(job_id)}")
    check({r["code"] for r in s.reasons(job_id)} <= {"instance_died"}, f"reasons {s.reasons(job_id)}")


def fails_once(s, part, fault, codes, times=1):
    """A quick job meets the fault: one attempt fails, told with one of the codes, and the next one succeeds."""
    s.relay.fault(part, fault, times)
    job_id = s.quick()
    job = s.succeeds(job_id)
    check_equal(s.relay.clear(), [], "the fault was met")
    reasons = s.reasons(job_id)
    check_equal((job["attempt"], s.tries(job_id), len(reasons)), (2, 2, 1), f"attempts, tries, reasons {reasons}")
    check(reasons[0]["code"] in codes, f"the reason {reasons[0]} is one of {codes}")
    check_equal(png_size(s.picture(job_id)), tuple(s.kind.size), "size")
    return reasons[0]


def parts(kind):
    """Of what the driver sends, apart: the job and the picture, or one request for both."""
    return ("job",) if kind.one_request else ("job", "picture")


@scenario()
def an_answer_500_is_a_failed_attempt_with_its_reason(s):
    for part in parts(s.kind):
        times = s.kind.fetches if part == "picture" else 1
        reason = fails_once(s, part, "500", {"instance_error"}, times)
        check("500" in reason["message"] and "fault of the test" in reason["message"], f"the server's words: {reason}")


@scenario()
def an_answer_503_leaves_the_server_alone_and_is_no_try(s):
    s.relay.fault("job", "503")
    job_id = s.quick()
    s.succeeds(job_id)
    check_equal((s.relay.clear(), s.tries(job_id)), ([], 1), "the fault was met; tries")


@scenario()
def a_refusal_that_names_the_request_ends_the_job_where_the_request_is_the_users(s):
    s.relay.fault("job", "422")
    job_id = s.quick()
    job = s.http.wait_end(job_id, LIMIT_S)
    check_equal(s.relay.clear(), [], "the fault was met")
    if s.kind.blames_request:
        check_equal((job["status"], job["error"]["code"]), ("failed", "instance_refused"), "how it ended")
        check("fault of the test" in job["error"]["message"], f"the server's words: {job['error']}")
    else:
        check_equal((job["status"], job["attempt"]), ("succeeded", 2), "how it ended")
    s.succeeds(s.quick())


@scenario()
def garbage_for_an_answer_is_a_failed_attempt(s):
    for part in parts(s.kind):
        fails_once(s, part, "garbage", {"instance_error", "bad_picture"})


@scenario()
def an_answer_cut_in_its_middle_costs_at_most_one_attempt_and_is_never_a_result(s):
    s.relay.fault("picture", "cut")
    job_id = s.quick()
    s.succeeds(job_id)
    check_equal(s.relay.clear(), [], "the fault was met")
    check(s.tries(job_id) <= 2, f"tries: {s.tries(job_id)}") # a picture that the server keeps is fetched again
    check({r["code"] for r in s.reasons(job_id)} <= {"instance_died", "instance_error", "bad_picture"},
          f"reasons {s.reasons(job_id)}")
    check_equal(png_size(s.picture(job_id)), tuple(s.kind.size), "size of a whole picture")


@scenario()
def a_picture_of_another_size_is_a_failed_attempt_and_never_a_result(s):
    reason = fails_once(s, "job", "resize", {"bad_picture"})
    check("x" in reason["message"], f"the sizes in {reason}")


# -- the run --


def run_kind(kind, word):
    """In the kind's own process: returns (passed, failed)."""
    wanted = [(name, f) for name, f, only in SCENARIOS if only(kind) and (word in kind.name or word in name)]
    stage, passed, failed, problem = None, 0, 0, ""
    for name, function in wanted:
        begun, text = time.monotonic(), ""
        try:
            stage = stage or Stage(kind)
            function(stage)
            stage.settle()
        except Failed as wrong:
            where = [f.lineno for f in traceback.extract_tb(wrong.__traceback__) if f.filename == __file__]
            text = f"{wrong}\nat line {' < '.join(str(n) for n in reversed(where))}"
        except Exception: # pylint: disable=broad-except
            text = traceback.format_exc()
        passed, failed = passed + (not text), failed + bool(text)
        print(f"{'FAILED' if text else 'ok':8}{time.monotonic() - begun:6.1f} s  {kind.name}: {name}", flush=True)
        if not text:
            continue
        print("    " + text.strip().replace("\n", "\n    "))
        if stage is not None:
            stage.close(failed=True)
        print("\n".join("    " + line for line in harness.LOGS), flush=True)
        harness.LOGS.clear()
        if stage is None: # the next one would not find its server either
            break
        stage = None # the next one begins anew
    if stage is not None:
        stage.close(failed=False)
    return passed, failed


def run_one(name, word):
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)
    kind = next(k for k in all_kinds() if k.name == name)
    passed, failed = run_kind(kind, word)
    left = end_children()
    if left:
        print("    processes were left behind:\n      " + "\n      ".join(left))
    print(f"counts {passed} {failed + bool(left)}", flush=True)
    os._exit(0)


def run_in_child(kind, build, word):
    begun = time.monotonic()
    child = subprocess.Popen([sys.executable, "-B", os.path.realpath(__file__), "--one", kind.name, "-k", word],
                             env=dict(os.environ, DRAWBAR_TEST_BUILD=build), stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        text, _ = child.communicate(timeout=KIND_LIMIT_S)
    except subprocess.TimeoutExpired:
        end_tree(child.pid)
        text = child.communicate()[0] + f"    no end within {KIND_LIMIT_S} s\n"
    text, _, counts = text.rpartition("counts ")
    passed, failed = (int(n) for n in counts.split()) if text else (0, 1)
    return kind, text or counts, passed, failed, time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=os.environ.get("DRAWBAR_TEST_BUILD", ""))
    parser.add_argument("-k", default="", metavar="WORD")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        run_one(asked.one, asked.k)
    kinds = [k for k in all_kinds() if any(asked.k in k.name or asked.k in name for name, _, _ in SCENARIOS)]
    if asked.list:
        for k in kinds:
            print(f"{k.name}: driver {k.driver}, {'real' if k.real else 'STUB: ' + k.says}")
        return 0
    if not os.path.isdir(asked.build):
        print("test_drive.py: --build DIR: name a build directory (tests/run.sh build-gcc makes one)")
        return 2
    passed = failed = skipped = 0
    runnable = []
    for k in kinds:
        why = k.missing()
        if why is None:
            runnable.append(k)
            continue
        print(f"\n*** SKIPPED: {k.name}: {why} ***\n", flush=True)
        skipped += 1
    with concurrent.futures.ThreadPoolExecutor(max(1, asked.jobs)) as pool:
        started = [pool.submit(run_in_child, k, os.path.realpath(asked.build), asked.k) for k in runnable]
        for done in concurrent.futures.as_completed(started):
            k, text, p, f, seconds = done.result()
            passed, failed = passed + p, failed + f
            if not k.real:
                print(f"{k.name} is a STUB: {k.says}")
            print(f"{text.rstrip()}\n{k.name}: {seconds:.0f} s", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed + skipped else 0


if __name__ == "__main__":
    sys.exit(main())
