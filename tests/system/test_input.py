"""What bad input gets."""
import json
import re
import socket
import time

from harness import Cluster, Failed, check, check_equal, until
from registry import test

UNKNOWN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def post_raw(c, data, kind="application/json"):
    return c.http.call("POST", "/v1/jobs", data, {"Content-Type": kind} if kind else {})


def names_of(problem):
    return {error["field"] for error in problem["errors"]}


@test(short=True)
def what_is_not_json_is_400():
    bad = [b"", b"{", b"nonsense", b'{"prompt":"a"', b'{"prompt":"a"}}', b'{"prompt":"a"} x', b"\xff\xfe",
           b'{"prompt":"\xff"}', b'{"prompt":"\xc0\xaf"}', b'{"prompt":"\xed\xa0\x80"}', b'{"prompt":"a","prompt":"b"}',
           b'{"prompt":"a","metadata":{"k":"1","k":"2"}}', b"[" * 60000, b'{"a":' * 10000, b"{'prompt':'a'}",
           b'{"prompt":"a","seed":01}', b'{"prompt":"a","guidance":NaN}', b'{"prompt":"a","guidance":1e999}',
           b'{"prompt":"\x00"}', b'\xef\xbb\xbf{"prompt":"a"}']
    with Cluster() as c:
        for data in bad:
            answer = post_raw(c, data)
            try:
                answer.problem(400)
            except Failed as failed:
                raise Failed(f"{data[:40]!r}: {failed}") from failed
        check_equal(c.redis.live(), 0, "jobs made of it")
        check_equal(c.http.post_job().status, 202, "a good one afterwards")


@test(short=True)
def json_that_is_no_request_is_422_and_names_the_field():
    bad = [
        ({}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": 7}, "prompt"), ({"prompt": None}, "prompt"),
        ({"prompt": "a" * 4001}, "prompt"), ({"prompt": ["a"]}, "prompt"), ({"prompt": "a\0b"}, "prompt"),
        ({"width": 63}, "width"), ({"width": 65}, "width"), ({"width": 2064}, "width"), ({"width": -64}, "width"),
        ({"width": "64"}, "width"), ({"width": 64.5}, "width"), ({"width": True}, "width"),
        ({"width": 2**63}, "width"), ({"height": 48}, "height"), ({"height": 2049}, "height"),
        ({"steps": 0}, "steps"), ({"steps": 51}, "steps"), ({"steps": 1.5}, "steps"), ({"n": 0}, "n"), ({"n": 9}, "n"),
        ({"seed": -1}, "seed"), ({"seed": 2**32}, "seed"), ({"seed": "1"}, "seed"), ({"guidance": "x"}, "guidance"),
        ({"guidance": -1}, "guidance"), ({"guidance": 1e300}, "guidance"), ({"format": "gif"}, "format"),
        ({"format": 1}, "format"), ({"quality": 0}, "quality"), ({"quality": 101}, "quality"),
        ({"priority": "urgent"}, "priority"), ({"expires_in_s": 9}, "expires_in_s"),
        ({"expires_in_s": 86401}, "expires_in_s"), ({"metadata": {"k": 1}}, "metadata"), ({"metadata": []}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"), ({"metadata": {"k": "v" * 2048}}, "metadata"),
        ({"negative_prompt": 1}, "negative_prompt"), ({"model": ""}, "model"), ({"model": "m" * 65}, "model"),
        ({"model": "a b"}, "model"), ({"colour": "red"}, "colour"),
    ]
    with Cluster() as c:
        for fields, name in bad:
            request = fields if name == "prompt" else {"prompt": "a", **fields}
            try:
                problem = c.http.call("POST", "/v1/jobs", request).problem(422)
                check(any(field == name or field.startswith(name) for field in names_of(problem)),
                      f"errors {problem['errors']}")
                check(all(error["message"] for error in problem["errors"]), f"messages of {problem['errors']}")
            except Failed as failed:
                raise Failed(f"{str(fields)[:60]}: {failed}") from failed
        for value in ("[]", '"a"', "7", "null", "true"):
            post_raw(c, value).problem(422)
        both = c.http.call("POST", "/v1/jobs", {"prompt": "", "width": 1, "steps": 99}).problem(422)
        check_equal(names_of(both), {"prompt", "width", "steps"}, "all mistakes at once")
        check_equal(c.redis.live(), 0, "jobs made of it")


@test()
def what_stands_right_at_a_limit_is_taken():
    good = [{"prompt": "a" * 4000}, {"prompt": "\U0001F98A" * 4000}, {"width": 64, "height": 2048}, {"steps": 50},
            {"n": 8}, {"seed": 0}, {"seed": 2**32 - 1}, {"quality": 1}, {"quality": 100}, {"expires_in_s": 10},
            {"expires_in_s": 86400}, {"metadata": {f"k{i}": "v" for i in range(16)}}, {"guidance": 0},
            {"priority": "high"}, {"priority": "low"}, {"negative_prompt": ""}, {"metadata": {}}]
    with Cluster() as c:
        for fields in good:
            answer = c.http.call("POST", "/v1/jobs", {"prompt": "a", **fields})
            check_equal(answer.status, 202, f"status of {str(fields)[:60]} ({answer.body[:200]!r})")


@test(short=True)
def a_body_over_64_kib_is_413():
    with Cluster() as c:
        big = json.dumps({"prompt": "a", "negative_prompt": "b" * 66000}).encode()
        post_raw(c, big).problem(413)
        chunks = b"".join(b"%x\r\n%s\r\n" % (8192, b"x" * 8192) for _ in range(9)) + b"0\r\n\r\n"
        answer = c.http.raw(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                            b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        check(answer.startswith(b"HTTP/1.1 413"), f"chunked: {answer[:100]!r}")
        endless = c.http.raw(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                             b"Content-Length: 99999999999\r\n\r\n")
        check(endless.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400")), f"a length of 99 GB: {endless[:100]!r}")
        check_equal(c.http.get("/healthz").status, 200, "status afterwards")


@test(short=True)
def unknown_ids_and_pages_are_404_and_wrong_methods_405_with_allow():
    with Cluster() as c:
        for job_id in (UNKNOWN, "x", UNKNOWN + "0", "..%2f..%2fetc", UNKNOWN[:-1] + "U"):
            for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/images/0", f"/v1/jobs/{job_id}/events"):
                c.http.get(path).problem(404)
            c.http.cancel(job_id).problem(404)
        for path in ("/nothing", "/v1", "/v1/jobs/a/b/c/d", "/v2/jobs"):
            c.http.get(path).problem(404)
        job_id = c.http.submit()
        c.http.get(f"/v1/jobs/{job_id}/images/99999999999999999999").problem(404)
        c.http.get(f"/v1/jobs/{job_id}/images/-1").problem(404)
        for method, path, allowed in (("PUT", "/v1/jobs", "POST"), ("POST", f"/v1/jobs/{job_id}", "DELETE"),
                                      ("DELETE", "/v1/workers", "GET"), ("POST", "/healthz", "GET"),
                                      ("DELETE", f"/v1/jobs/{job_id}/images/0", "GET"),
                                      ("POST", f"/v1/jobs/{job_id}/events", "GET")):
            answer = c.http.call(method, path)
            answer.problem(405)
            check(allowed in (answer.headers["Allow"] or ""), f"Allow of {path}: {answer.headers['Allow']!r}")


@test()
def a_query_argument_that_makes_no_sense_is_400():
    with Cluster() as c:
        job_id = c.http.submit()
        for path in (f"/v1/jobs/{job_id}?wait=x", f"/v1/jobs/{job_id}?wait=-1", "/v1/jobs?limit=0",
                     "/v1/jobs?limit=abc", "/v1/jobs?status=lost", "/v1/jobs?cursor=%00%ff"):
            c.http.get(path).problem(400)


@test()
def another_content_type_is_415():
    with Cluster() as c:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
            post_raw(c, b'{"prompt":"a"}', kind).problem(415)
        for kind in ("application/json", "application/json; charset=utf-8", "APPLICATION/JSON"):
            check_equal(post_raw(c, b'{"prompt":"a"}', kind).status, 202, f"status for {kind}")


@test()
def a_full_queue_is_429_with_retry_after_and_takes_jobs_again_when_there_is_room():
    with Cluster(broker_flags=("--max-jobs", "5")) as c:
        ids = [c.http.submit() for _ in range(5)]
        answer = c.http.post_job(width=64, height=64)
        answer.problem(429)
        check(int(answer.headers["Retry-After"]) >= 1, f"Retry-After {answer.headers['Retry-After']!r}")
        c.http.cancel(ids[0])
        c.http.submit()


def refused_within_5_s(c, what):
    begin = time.monotonic()
    answer = c.http.post_job(width=64, height=64)
    took = time.monotonic() - begin
    answer.problem(503)
    check(int(answer.headers["Retry-After"]) >= 1, f"Retry-After {answer.headers['Retry-After']!r}")
    check(took < 6, f"{what}: the answer took {took:.1f} s")


@test(limit_s=90)
def without_a_broker_submits_are_503_within_5_s_and_taken_again_when_it_is_back():
    with Cluster() as c:
        job_id = c.http.submit()
        c.broker_process.kill()
        refused_within_5_s(c, "broker away")
        check_equal(c.http.job(job_id)["status"], "queued", "status without the broker, from Redis")
        check_equal(c.http.get("/readyz").status, 503, "readyz")
        c.broker()
        until(lambda: c.http.get("/readyz").status == 200, 10, "readyz is good again")
        c.http.submit()


@test(limit_s=90)
def without_redis_submits_are_503_within_5_s_and_taken_again_when_it_is_back():
    with Cluster() as c:
        c.worker("mia")
        c.http.wait(c.http.submit(), "succeeded")
        c.redis.process.kill()
        refused_within_5_s(c, "Redis away")
        c.redis.start()
        until(lambda: c.http.post_job(width=64, height=64, steps=1).status == 202, 15, "submits are taken again")


@test(limit_s=90)
def a_job_whose_client_heard_503_is_not_drawn_when_the_broker_comes_back():
    with Cluster() as c:
        c.worker("mia")
        c.broker_process.kill()
        refused_within_5_s(c, "broker away")
        c.broker()
        until(lambda: c.http.get("/readyz").status == 200, 10, "readyz is good again")
        c.http.wait(c.http.submit(seed=1), "succeeded")
        listed = c.http.get("/v1/jobs").json["jobs"]
        check_equal([job["status"] for job in listed if job["status"] != "cancelled"], ["succeeded"],
                    "the jobs that there are")


@test(short=True)
def conflicting_framing_is_400_and_the_connection_ends():
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    cases = {
        "length twice": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd" + get,
        "length and chunked": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
                              b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get,
        "signed length": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd" + get,
        "negative length": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n" + get,
        "length with a list": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 4\r\n\r\nabcd" + get,
        "unknown coding": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nabcd" + get,
        "chunked twice": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + get,
        "space before colon": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\nabcd" + get,
        "body of a GET": b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd" + get,
        "bad chunk size": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabcd\r\n0\r\n\r\n" + get,
    }
    with Cluster() as c:
        for name, data in cases.items():
            answer = c.http.raw(data, limit_s=4)
            # 413 is what libevent says to a chunk size that is no number.
            check(answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 501")),
                  f"{name}: {answer[:120]!r}")
            check_equal(answer.count(b"HTTP/1.1 "), 1 if answer else 0, f"{name}: answers ({answer[:300]!r})")
        check_equal(c.http.get("/healthz").status, 200, "status afterwards")


@test()
def nonsense_on_the_http_port_does_no_harm():
    cases = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), b"\r\n" * 1000, b"GET\r\n\r\n",
             b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10000 + b"\r\n",
             b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
             b"GET http://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
             b"GET /v1/jobs/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(256)) * 10]
    with Cluster() as c:
        for data in cases:
            answer = c.http.raw(data, limit_s=2, half_close=True)
            check(answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5", b"HTTP/1.0 4")), f"{data[:40]!r}: {answer[:80]!r}")
        check_equal(c.http.get("/healthz").status, 200, "status afterwards")


@test(limit_s=60)
def a_client_that_drips_its_request_is_cut_off():
    with Cluster() as c:
        with socket.create_connection((c.http.host, c.http.port), 5) as s:
            begin = time.monotonic()
            s.settimeout(0.5)
            data = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"a" * 1000
            ended = False
            for i in range(len(data)):
                try:
                    s.sendall(data[i:i + 1])
                    if s.recv(4096) == b"":
                        ended = True
                        break
                except socket.timeout:
                    pass
                except OSError:
                    ended = True
                    break
                if time.monotonic() - begin > 25:
                    break
            took = time.monotonic() - begin
            check(ended and took < 20, f"a dripping client was kept for {took:.0f} s")


@test()
def a_client_that_leaves_while_it_waits_does_no_harm():
    with Cluster() as c:
        job_id = c.http.submit()
        waiting = []
        for path in (f"/v1/jobs/{job_id}?wait=30", f"/v1/jobs/{job_id}/events"):
            for _ in range(20):
                s = socket.create_connection((c.http.host, c.http.port), 5)
                s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                waiting.append(s)
        check_equal(c.http.get("/healthz").status, 200, "status while they wait")
        for s in waiting:
            s.close()
        c.worker("mia")
        c.http.wait(job_id, "succeeded")
        check(c.gateway_process.alive(), "the gateway lives")


@test()
def many_requests_on_one_connection_are_answered_in_order():
    with Cluster() as c:
        with socket.create_connection((c.http.host, c.http.port), 5) as s:
            s.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
                      + b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            got = b""
            while chunk := s.recv(65536):
                got += chunk
        statuses = re.findall(rb"HTTP/1\.1 (\d+) ", got)
        check_equal(statuses, [b"200", b"404", b"200"], "statuses")
