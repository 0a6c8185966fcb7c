#!/usr/bin/env python3
"""conformance — does an instance keep worker/instance/API.md?

    tests/instances/conformance.py [-k WORD] URL...

Runs every check against every URL (a simulated or a reference instance that nobody else uses, started
with the default --queue) and prints `N passed, N failed[, N skipped]`. Standard library only.
"""
import argparse
import hashlib
import http.client
import json
import os
import socket
import struct
import sys
import threading
import time
import traceback
import zlib
from urllib.parse import urlsplit

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "system"))
from harness import Failed, Skip, check, check_equal, until # noqa: E402
from pictures import jpeg_size, png_size, webp_size # noqa: E402

CHECKS = []
OVER = ("succeeded", "failed", "cancelled")


def conforms(function):
    CHECKS.append(function)
    return function


class Answer:
    """A status, headers, a body, and the JSON in it."""

    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self):
        return json.loads(self.body)

    def expect(self, status, what, code=None, field=None):
        check_equal(self.status, status, f"status of {what} ({self.body[:200]!r})")
        if code is not None:
            check_equal(self.json["error"]["code"], code, f"error code of {what}")
        if field is not None:
            check_equal(self.json["error"]["field"], field, f"field to blame for {what}")
        return self


class Instance:
    """One instance under test, over one kept-alive connection."""
    numbers = iter(range(1, 10**9))
    run = f"c{os.getpid()}"

    def __init__(self, url):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        self.made = []

    def ask(self, method, path, body=None, headers=None, connection=None):
        connection = connection or self.connection
        for attempt in (1, 2): # a connection that was closed while idle is opened again
            try:
                connection.request(method, path, body, headers or {})
                return Answer(connection.getresponse())
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                connection.close()
                if attempt == 2:
                    raise
        raise AssertionError

    def another(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=60)

    def order(self, **changes):
        order = {"id": f"{self.run}.{next(self.numbers)}", "prompt": "a red fox in the snow", "width": 64,
                 "height": 64, "steps": 3, "seed": 7}
        order.update(changes)
        return {k: v for k, v in order.items() if v is not None}

    def slow(self, **changes):
        """An order that takes seconds, so that it can be caught at work."""
        return self.order(**{"width": 512, "height": 512, "steps": 50, "n": 2, **changes})

    def post(self, order):
        if isinstance(order, dict) and isinstance(order.get("id"), str):
            self.made.append(order["id"])
        body = order if isinstance(order, bytes) else json.dumps(order).encode()
        return self.ask("POST", "/v1/jobs", body, {"Content-Type": "application/json"})

    def submit(self, order):
        self.post(order).expect(202, f"the submit of {order}")
        return order["id"]

    def job(self, name):
        return self.ask("GET", f"/v1/jobs/{name}").expect(200, f"the poll of {name}").json

    def wait(self, name, *states):
        job = until(lambda: (lambda j: j if j["state"] in OVER else None)(
            self.ask("GET", f"/v1/jobs/{name}?wait=5").json), 60, f"{name} is over")
        check(job["state"] in (states or OVER), f"state of {name}: {job}")
        return job

    def wait_running(self, name):
        until(lambda: self.job(name)["state"] == "running" and self.job(name)["step"] >= 1, 30, f"{name} is at work")

    def picture(self, name, index=0):
        return self.ask("GET", f"/v1/jobs/{name}/images/{index}")

    def health(self):
        return self.ask("GET", "/healthz").expect(200, "the health check").json

    def clear(self):
        for name in self.made:
            for _ in range(2):
                self.ask("DELETE", f"/v1/jobs/{name}")
        until(lambda: self.health()["running"] is None, 30, "the instance is idle")
        self.made = []


def png_pixels_are_whole(data):
    """True if all chunks have their checksum and the rows are all there."""
    at, packed = 8, b""
    while at < len(data):
        length, tag = struct.unpack(">I4s", data[at:at + 8])
        chunk = data[at + 8:at + 8 + length]
        check_equal(struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0], zlib.crc32(tag + chunk),
                    f"checksum of {tag}")
        packed += chunk if tag == b"IDAT" else b""
        at += 12 + length
    width, height = png_size(data)
    return len(zlib.decompress(packed)) == height * (1 + 3 * width)


@conforms
def health_tells_what_the_page_says(i):
    h = i.health()
    check(h["ready"] is True and isinstance(h["simulated"], bool), f"ready, simulated: {h}")
    check(1 <= len(h["model"]) <= 64 and len(h["epoch"]) == 16 and int(h["epoch"], 16) >= 0, f"model, epoch: {h}")
    check(h["queue_depth"] == 0 and h["running"] is None and h["last_step_ms"] >= 0, f"an idle instance: {h}")
    check(isinstance(h["device"], str) and 64 * 64 <= h["max_pixels"] <= 2048 * 2048, f"device, max_pixels: {h}")
    check("png" in h["formats"], f"formats: {h}")
    check_equal(i.health()["epoch"], h["epoch"], "the epoch of the same process")


@conforms
def a_job_is_drawn_and_its_picture_has_the_asked_size(i):
    name = i.submit(i.order(width=96, height=64))
    job = i.wait(name, "succeeded")
    check_equal((job["id"], job["step"], job["steps"], job["epoch"]), (name, 3, 3, i.health()["epoch"]), "the job")
    for field in ("queue_ms", "gpu_ms", "encode_ms"):
        check(isinstance(job[field], int) and job[field] >= 0, f"{field} of {job}")
    check("error" not in job, f"no error in {job}")
    got = i.picture(name).expect(200, "the picture")
    check_equal(job["images"], [{"index": 0, "width": 96, "height": 64, "seed": 7, "bytes": len(got.body)}], "images")
    check_equal(got.headers["Content-Type"], "image/png", "type")
    check_equal(png_size(got.body), (96, 64), "size")
    check(png_pixels_are_whole(got.body), "all rows are there")


@conforms
def every_format_of_the_health_check_is_what_it_says(i):
    kinds = {"png": ("image/png", png_size), "jpeg": ("image/jpeg", jpeg_size), "webp": ("image/webp", webp_size)}
    for name in i.health()["formats"]:
        job = i.submit(i.order(format=name, width=112, height=80))
        i.wait(job, "succeeded")
        got = i.picture(job).expect(200, name)
        check_equal((got.headers["Content-Type"], kinds[name][1](got.body)), (kinds[name][0], (112, 80)), name)


@conforms
def several_images_have_the_seeds_that_follow_and_wrap(i):
    name = i.submit(i.order(n=5, seed=2**32 - 2))
    job = i.wait(name, "succeeded")
    check_equal([(x["index"], x["seed"]) for x in job["images"]],
                [(0, 2**32 - 2), (1, 2**32 - 1), (2, 0), (3, 1), (4, 2)], "seeds")
    bodies = [i.picture(name, index).expect(200, f"image {index}").body for index in range(5)]
    check_equal(len(set(bodies)), 5, "different pictures")
    check_equal([len(b) for b in bodies], [x["bytes"] for x in job["images"]], "bytes")
    i.picture(name, 5).expect(404, "the image after the last", "no_image")


@conforms
def the_same_order_gives_the_same_bytes_also_after_other_work(i):
    digests = []
    for extra in ({}, {"seed": 8}, {"prompt": "a blue whale"}, {}):
        name = i.submit(i.order(**extra))
        i.wait(name, "succeeded")
        digests.append(hashlib.sha256(i.picture(name).body).hexdigest())
    check_equal(digests[0], digests[3], "the same order again")
    check_equal(len(set(digests)), 3, "another seed or prompt is another picture")


@conforms
def the_same_order_gives_the_same_bytes_in_a_queue_and_in_several_images(i):
    alone = i.submit(i.order(n=3, width=80))
    i.wait(alone, "succeeded")
    names = [i.submit(i.order(width=64)), i.submit(i.order(n=3, width=80)), i.submit(i.order(width=128))]
    for name in names:
        i.wait(name, "succeeded")
    for index in range(3):
        check_equal(i.picture(names[1], index).body, i.picture(alone, index).body, f"image {index}")


@conforms
def a_known_id_is_answered_with_its_job_and_drawn_once(i):
    order = i.order()
    name = i.submit(order)
    again = i.post(dict(order, seed=99)).expect(200, "the same id again").json
    check_equal(again["id"], name, "id")
    i.wait(name, "succeeded")
    check_equal(i.post(order).expect(200, "after the end").json["state"], "succeeded", "state")
    check_equal(i.job(name)["images"][0]["seed"], 7, "the first order counts")


@conforms
def one_is_at_work_two_wait_and_a_fourth_is_refused(i):
    first = i.submit(i.slow())
    i.wait_running(first)
    waiting = [i.submit(i.slow()), i.submit(i.order())]
    full = i.post(i.order()).expect(429, "the fourth", "queue_full")
    check_equal(full.headers["Retry-After"], "1", "Retry-After")
    h = i.health()
    check_equal((h["running"], h["queue_depth"]), (first, 2), "health")
    for name in waiting:
        job = i.job(name)
        check_equal((job["state"], job["step"], job["queue_ms"], job["images"]), ("queued", 0, 0, []), "a queued job")
    i.post(i.slow(id=first)).expect(200, "a known id, which is never refused")


@conforms
def a_queued_job_is_dropped_and_forgotten(i):
    first = i.submit(i.slow())
    second = i.submit(i.slow())
    i.wait_running(first)
    gone = i.ask("DELETE", f"/v1/jobs/{second}").expect(200, "DELETE").json
    check_equal(gone, {"id": second, "state": "cancelled"}, "the answer")
    i.ask("GET", f"/v1/jobs/{second}").expect(404, "afterwards", "unknown_job")
    i.ask("DELETE", f"/v1/jobs/{second}").expect(404, "DELETE again", "unknown_job")
    check_equal(i.health()["queue_depth"], 0, "queue_depth")


@conforms
def a_running_job_stops_within_two_steps_and_the_next_one_begins(i):
    first = i.submit(i.slow())
    second = i.submit(i.order())
    i.wait_running(first)
    before = i.job(first)["step"]
    gone = i.ask("DELETE", f"/v1/jobs/{first}").expect(200, "DELETE").json
    check_equal(gone, {"id": first, "state": "cancelled"}, "the answer")
    job = i.job(first)
    check_equal((job["state"], job["images"]), ("cancelled", []), "it stays known")
    # One step may have been made between the poll and the DELETE.
    check(job["step"] <= before + 3, f"steps made after the cancel: {before} -> {job['step']}")
    i.wait(second, "succeeded")
    i.picture(first).expect(404, "its picture", "no_image")
    check_equal(i.ask("DELETE", f"/v1/jobs/{first}").expect(200, "DELETE again").json["state"], "cancelled", "state")
    i.ask("GET", f"/v1/jobs/{first}").expect(404, "then", "unknown_job")


@conforms
def a_finished_job_is_forgotten_on_delete(i):
    name = i.submit(i.order())
    i.wait(name, "succeeded")
    check_equal(i.ask("DELETE", f"/v1/jobs/{name}").expect(200, "DELETE").json["state"], "succeeded", "state")
    i.ask("GET", f"/v1/jobs/{name}").expect(404, "afterwards", "unknown_job")
    i.picture(name).expect(404, "its picture", "unknown_job")
    check_equal(i.post(i.order(id=name)).status, 202, "its id may be used again")


@conforms
def long_polls_tell_every_step_and_the_end(i):
    name = i.submit(i.slow(n=1, steps=20))
    seen, job, begun = [], {"state": "queued", "step": 0}, time.monotonic()
    while job["state"] not in OVER and time.monotonic() - begun < 60:
        job = i.ask("GET", f"/v1/jobs/{name}?wait=10&since={job['step']}").expect(200, "a poll").json
        seen.append(job["step"])
    check_equal(job["state"], "succeeded", "the end")
    check(seen == sorted(seen) and len(set(seen)) >= 10, f"the steps seen {seen}")


@conforms
def a_long_poll_ends_in_time_or_with_the_end(i):
    name = i.submit(i.slow(n=4))
    i.wait_running(name)
    begun = time.monotonic()
    job = i.ask("GET", f"/v1/jobs/{name}?wait=0.3&since=50").expect(200, "a poll").json
    took = time.monotonic() - begun
    check(job["state"] == "running" and 0.25 <= took < 3, f"{took:.2f} s, {job['state']}")
    begun = time.monotonic()
    i.ask("GET", f"/v1/jobs/{name}").expect(200, "a poll without wait")
    check(time.monotonic() - begun < 1, "no wait: at once")
    got = []
    polls = [threading.Thread(target=lambda: got.append(
        i.ask("GET", f"/v1/jobs/{name}?wait=30", connection=i.another()).json["state"])) for _ in range(3)]
    for poll in polls:
        poll.start()
    time.sleep(0.2)
    i.ask("DELETE", f"/v1/jobs/{name}")
    for poll in polls:
        poll.join(20)
    check_equal(got, ["cancelled"] * 3, "what the open polls say")


@conforms
def bad_arguments_of_a_poll_are_named(i):
    name = i.submit(i.order())
    for query, field in (("wait=-1", "wait"), ("wait=31", "wait"), ("wait=x", "wait"), ("since=51", "since"),
                         ("wait=1&since=", "since")):
        i.ask("GET", f"/v1/jobs/{name}?{query}").expect(400, query, "bad_argument", field)


@conforms
def every_field_has_its_limits_on_both_sides(i):
    good = (("prompt", "x"), ("prompt", "é" * 4000), ("negative_prompt", ""), ("guidance", 0), ("guidance", 20),
            ("steps", 1), ("seed", 0), ("seed", 2**32 - 1), ("n", 1), ("format", "png"), ("id", "x" * 64))
    bad = (("prompt", ""), ("prompt", "é" * 4001), ("prompt", 7), ("prompt", None), ("negative_prompt", 7),
           ("negative_prompt", "x" * 4001), ("width", 48), ("width", 2064), ("width", 100), ("width", "64"),
           ("width", 64.0), ("width", True), ("width", None), ("height", 0), ("steps", 0), ("steps", 51),
           ("steps", None), ("guidance", -0.1), ("guidance", 20.1), ("guidance", "1"), ("seed", -1), ("seed", 2**32),
           ("seed", None), ("seed", 1.5), ("n", 0), ("n", 9), ("format", "bmp"), ("format", 1), ("id", ""),
           ("id", "x" * 65), ("id", "a/b"), ("id", None), ("id", 5), ("model", "x"))
    for field, value in good:
        order = i.order(**{field: value})
        i.submit(order)
        i.wait(order["id"], "succeeded")
    for field, value in bad:
        i.post(i.order(**{field: value})).expect(422, f"{field} = {value!r:.40}", "bad_field", field)


@conforms
def a_body_that_is_no_object_is_refused(i):
    text = json.dumps(i.order())
    for body in (b"", b"{", b"[]", b"7", b"\xff", text[:-1].encode(), text.encode() + b"x",
                 text.replace('"prompt": "a red', '"prompt": "\\u0000').encode(),
                 text.replace('"prompt": "a red', '"prompt": "\\ud800').encode(),
                 text.replace('"seed": 7', '"seed": 7, "seed": 8').encode(),
                 text.replace('"seed": 7', '"seed": NaN').encode(), text.encode("utf-16"),
                 b'{"a":' * 5000 + b"1" + b"}" * 5000):
        i.post(body).expect(400, repr(body[:40]), "bad_json")


@conforms
def a_body_over_the_limit_is_refused_and_the_instance_lives(i):
    order = i.order()
    body = json.dumps(order).encode()
    i.post(body + b" " * (65536 - len(body))).expect(202, "a body at the limit")
    i.made.append(order["id"])
    connection = i.another()
    try:
        over = i.ask("POST", "/v1/jobs", body + b" " * (65537 - len(body)), connection=connection)
        check_equal(over.status, 413, "one byte more")
        check_equal(over.headers["Content-Type"].split(";")[0], "application/problem+json", "type")
    finally:
        connection.close()
    i.health()


@conforms
def unknown_paths_and_methods_are_told(i):
    for method, path, status, code in (
            ("GET", "/", 404, "unknown_path"), ("GET", "/v1/jobsx", 404, "unknown_path"),
            ("GET", "/v1/jobs/a/b", 404, "unknown_path"), ("GET", "/v1/jobs/" + "x" * 65, 404, "unknown_path"),
            ("GET", "/v1/jobs/nobody", 404, "unknown_job"), ("DELETE", "/v1/jobs/nobody", 404, "unknown_job"),
            ("GET", "/v1/jobs/nobody/images/0", 404, "unknown_job"), ("PUT", "/healthz", 405, "bad_method"),
            ("GET", "/v1/jobs", 405, "bad_method"), ("POST", "/v1/jobs/nobody", 405, "bad_method"),
            ("DELETE", "/v1/jobs/nobody/images/0", 405, "bad_method")):
        answer = i.ask(method, path).expect(status, f"{method} {path}", code)
        check((answer.headers["Allow"] is not None) == (status == 405), f"Allow of {method} {path}")


@conforms
def head_is_get_without_a_body(i):
    name = i.submit(i.order())
    i.wait(name, "succeeded")
    for path in ("/healthz", f"/v1/jobs/{name}", f"/v1/jobs/{name}/images/0"):
        get, head = i.ask("GET", path), i.ask("HEAD", path)
        check_equal((head.status, head.body, head.headers["Content-Length"]), (200, b"", str(len(get.body))), path)


@conforms
def a_picture_is_no_picture_before_the_end(i):
    name = i.submit(i.slow())
    i.wait_running(name)
    for index in ("0", "9", "x", "00", "-1"):
        i.picture(name, index).expect(404, f"image {index}", "no_image")


@conforms
def no_more_than_64_finished_jobs_are_kept(i):
    names = []
    for _ in range(66):
        names.append(i.submit(i.order(steps=1)))
        i.wait(names[-1], "succeeded")
    i.ask("GET", f"/v1/jobs/{names[0]}").expect(404, "the oldest", "unknown_job")
    check_equal(i.job(names[-1])["state"], "succeeded", "the newest")
    check_equal(i.job(names[-60])["state"], "succeeded", "the 60th")


@conforms
def health_and_polls_are_answered_while_a_job_is_at_work(i):
    name = i.submit(i.slow())
    i.wait_running(name)
    worst = 0
    for _ in range(10):
        begun = time.monotonic()
        i.health()
        worst = max(worst, time.monotonic() - begun)
    check(worst < 1, f"the slowest health check took {worst:.2f} s")


@conforms
def a_request_that_is_no_http_is_refused_and_the_instance_lives(i):
    for text in (b"hello\r\n\r\n", b"GET /healthz\x00 HTTP/1.1\r\n\r\n",
                 b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
                 b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 20000 + b"\r\n"):
        with socket.create_connection((i.host, i.port), timeout=5) as s:
            try:
                s.sendall(text)
                s.shutdown(socket.SHUT_WR)
                got = s.recv(4096)
                check(not got or b" 4" in got[:13] or b" 5" in got[:13], f"{text[:30]!r} answered {got[:60]!r}")
            except OSError:
                pass # closed without a word is fine as well
    i.health()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", metavar="WORD")
    parser.add_argument("urls", nargs="+", metavar="URL")
    wanted = parser.parse_args()
    counts = {"ok": 0, "FAILED": 0, "skipped": 0}
    for url in wanted.urls:
        instance = Instance(url)
        until(lambda: instance.ask("GET", "/healthz").status == 200, 120, f"{url} is ready")
        kind = "simulated" if instance.health()["simulated"] else "reference"
        for function in CHECKS:
            if wanted.k not in function.__name__:
                continue
            begun, word, text = time.monotonic(), "ok", ""
            try:
                function(instance)
            except Skip as skip:
                word, text = "skipped", str(skip)
            except Failed as failed:
                word, text = "FAILED", str(failed)
            except Exception:
                word, text = "FAILED", traceback.format_exc()
            try:
                instance.clear()
            except Exception as trouble:
                word, text = "FAILED", f"{text}\nclearing up: {trouble!r}"
            counts[word] += 1
            print(f"{word:8}{time.monotonic() - begun:6.1f} s  {kind}: {function.__name__.replace('_', ' ')}")
            if text:
                print("    " + text.strip().replace("\n", "\n    "))
            sys.stdout.flush()
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    print(f"{counts['ok']} passed, {counts['FAILED']} failed{skipped}")
    return 1 if counts["FAILED"] or not counts["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
