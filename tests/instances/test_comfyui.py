#!/usr/bin/env python3
"""test_comfyui [--build DIR] [-k WORD]: what only ComfyUI does, with the servers of kinds/comfyui.py on the stage of
test_drive.py. Ends with `N passed, N failed, N skipped`.
"""
import argparse
import glob
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "system")]
sys.dont_write_bytecode = True

import harness # noqa: E402
import test_drive # noqa: E402
from harness import check, check_equal, until # noqa: E402
from kinds import all_kinds, ask_json # noqa: E402
from pictures import png_size # noqa: E402
from test_drive import LIMIT_S, pixels, scenario # noqa: E402

test_drive.SCENARIOS.clear()


def saved(s):
    return sorted(glob.glob(os.path.join(s.cluster.directory, "comfyui", "output", "*.png")))


@scenario()
def a_seed_drawn_twice_is_the_same_picture_from_comfyuis_cache(s):
    first = s.succeeds(s.quick(prompt="cached", seed=5))
    files = saved(s)
    second = s.succeeds(s.quick(prompt="cached", seed=5))
    check_equal(saved(s), files, "files that were saved") # else it was no cache that answered
    check_equal(s.picture(second["id"]), s.picture(first["id"]), "the picture")
    check_equal((second["attempt"], second["progress"]["step"]), (1, s.kind.steps), "attempt and step")


@scenario()
def a_cached_picture_whose_file_was_removed_is_saved_anew(s):
    first = s.succeeds(s.quick(prompt="cached", seed=6))
    for path in saved(s):
        os.unlink(path)
    second = s.succeeds(s.quick(prompt="cached", seed=6))
    check_equal(second["attempt"], 1, "attempt")
    check_equal(pixels(s.picture(second["id"])), pixels(s.picture(first["id"])), "the picture")
    check_equal(len(saved(s)), 1, "files that were saved")


@scenario()
def a_cuda_error_in_a_node_is_told_with_comfyuis_words(s):
    job_id = s.quick(prompt="raises")
    job = s.http.wait_end(job_id, LIMIT_S)
    check_equal(job["status"], "failed", "status")
    for reason in s.reasons(job_id):
        check_equal(reason["code"], "instance_error", "code")
        check("in KSampler: CUDA error: an illegal memory access" in reason["message"], f"the words of {reason}")
    s.becomes_free()


@scenario()
def a_workflow_that_comfyui_refuses_is_told_by_node_and_input(s):
    carried = s.kind.resize
    s.kind.resize = lambda method, path, body: body.replace(b'"euler"', b'"oiler"')
    try:
        s.relay.fault("job", "resize")
        job_id = s.quick()
        s.succeeds(job_id)
    finally:
        s.kind.resize = carried
    reason, = s.reasons(job_id)
    check_equal(reason["code"], "instance_error", "code")
    for word in ("HTTP 400: node 3 (KSampler): Value not in list", "sampler_name: 'oiler' not in"):
        check(word in reason["message"], f"{word} in {reason}")


@scenario()
def a_job_behind_a_foreign_one_longer_than_the_patience_is_drawn_at_the_first_attempt(s):
    s.succeeds(s.quick()) # warm: from now on silence is a fault
    s.becomes_free()
    over = s.kind.occupy(s.server.port) # 4 s and more, and the agent is patient for 3
    job_id = s.quick(n=2)
    job = s.http.wait_end(job_id, LIMIT_S)
    check(over(), "the foreign job was drawn to its end")
    check_equal((job["status"], job["attempt"], s.reasons(job_id)), ("succeeded", 1, []), "how it ended")


@scenario()
def a_cancel_never_stops_a_foreign_job_that_is_drawn(s):
    over = s.kind.occupy(s.server.port)
    job_ids = [s.quick(), s.quick()]
    until(lambda: len(ask_json(s.server.port, "GET", "/queue")["queue_pending"]) > 0, LIMIT_S, "our job waits there")
    for job_id in job_ids:
        s.http.cancel(job_id)
    until(over, LIMIT_S, "the foreign job is drawn to its end")


@scenario()
def a_node_that_hangs_while_http_goes_on_is_found_by_its_silence(s):
    s.succeeds(s.quick())
    s.becomes_free()
    job_id = s.quick(prompt="hangs")
    until(lambda: s.reasons(job_id), LIMIT_S, "the attempt has failed")
    check_equal(s.reasons(job_id)[0]["code"], "instance_stuck", "code")
    check_equal(ask_json(s.server.port, "GET", "/queue")["queue_running"] != [], True, "ComfyUI hangs, HTTP goes on")
    s.http.cancel(job_id)
    s.server.kill()
    s.server.start()
    job = s.succeeds(s.quick())
    check_equal(png_size(s.picture(job["id"])), s.kind.size, "size after a restart")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=os.environ.get("DRAWBAR_TEST_BUILD", ""))
    parser.add_argument("-k", default="", metavar="WORD")
    asked = parser.parse_args()
    if not os.path.isdir(asked.build):
        print("test_comfyui.py: --build DIR: name a build directory (tests/run.sh build-gcc makes one)")
        return 2
    harness.BUILD = os.path.realpath(asked.build)
    test_drive.ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) # PR_SET_CHILD_SUBREAPER: what is left behind is ours to end
    passed = failed = skipped = 0
    for kind in (k for k in all_kinds() if k.driver == "comfyui"):
        why = kind.missing()
        if why is not None:
            print(f"\n*** SKIPPED: {kind.name}: {why} ***\n", flush=True)
            skipped += 1
            continue
        p, f = test_drive.run_kind(kind, asked.k)
        passed, failed = passed + p, failed + f
    left = test_drive.end_children()
    if left:
        print("    processes were left behind:\n      " + "\n      ".join(left))
    print(f"{passed} passed, {failed + bool(left)} failed, {skipped} skipped")
    return 1 if failed or left or not passed + skipped else 0


if __name__ == "__main__":
    sys.exit(main())
