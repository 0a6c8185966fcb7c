"""The way of a job: submit, poll, download."""
from harness import Cluster, check, check_equal, until
from pictures import jpeg_size, png_size, webp_size
from registry import test


@test(short=True)
def a_submitted_job_is_drawn_and_its_picture_has_the_asked_size():
    with Cluster() as c:
        c.worker("mia")
        answer = c.http.post_job(prompt="a red fox", width=320, height=192, steps=4, seed=7)
        check_equal(answer.status, 202, "status of the submit")
        fresh = answer.json
        check_equal(answer.headers["Location"], f"/v1/jobs/{fresh['id']}", "Location")
        check_equal(fresh["seed"], 7, "seed")
        check(fresh["status"] in ("queued", "running") and fresh["created_at"], f"the answer {fresh}")
        check_equal(sorted(fresh["links"]), ["cancel", "events", "images", "self"], "links")
        job = c.http.wait(fresh["id"], "succeeded")
        image = job["images"][0]
        check_equal((image["width"], image["height"], image["format"], image["seed"]), (320, 192, "png", 7),
                    "the image's entry")
        check_equal(job["attempt"], 1, "attempt")
        check_equal(job["worker"], "mia", "worker")
        check_equal(job["progress"], {"step": 4, "steps": 4}, "progress")
        check_equal(job["request"]["prompt"], "a red fox", "the echoed prompt")
        check(job["expires_at"] and job["timings"]["total_ms"] >= job["timings"]["run_ms"] >= 0,
              f"expires_at and timings of {job}")
        got = c.http.get(image["url"])
        check_equal(got.status, 200, "status of the picture")
        check_equal(png_size(got.body), (320, 192), "size of the picture")
        check_equal(len(got.body), image["bytes"], "bytes of the picture")


@test(short=True)
def every_format_arrives_as_what_it_says_it_is():
    sizes = {"png": ("image/png", png_size), "jpeg": ("image/jpeg", jpeg_size), "webp": ("image/webp", webp_size)}
    with Cluster() as c:
        c.worker("mia")
        for name, (kind, size_of) in sizes.items():
            job_id = c.http.submit(format=name, width=96, height=64, quality=80)
            c.http.wait(job_id, "succeeded")
            got = c.http.image(job_id)
            check_equal(got.headers["Content-Type"], kind, f"type of {name}")
            check_equal(size_of(got.body), (96, 64), f"size of {name}")


@test()
def a_picture_has_length_etag_and_immutable_caching_also_for_head():
    with Cluster() as c:
        c.worker("mia")
        job_id = c.http.submit()
        c.http.wait(job_id, "succeeded")
        got, head = c.http.image(job_id), c.http.image(job_id, method="HEAD")
        check_equal(head.status, 200, "status of HEAD")
        check_equal(head.body, b"", "body of HEAD")
        for name in ("Content-Type", "Content-Length", "ETag", "Cache-Control"):
            check(got.headers[name] and got.headers[name] == head.headers[name],
                  f"{name}: GET {got.headers[name]!r}, HEAD {head.headers[name]!r}")
        check("immutable" in got.headers["Cache-Control"], got.headers["Cache-Control"])
        again = c.http.image(job_id, headers={"If-None-Match": got.headers["ETag"]})
        check_equal(again.status, 304, "status of a conditional GET")


@test()
def n_pictures_have_the_seeds_that_follow_each_other_modulo_two_to_the_32():
    with Cluster() as c:
        c.worker("mia")
        job_id = c.http.submit(n=3, seed=2**32 - 1)
        job = c.http.wait(job_id, "succeeded")
        check_equal([i["seed"] for i in job["images"]], [2**32 - 1, 0, 1], "seeds")
        bodies = {c.http.image(job_id, i).body for i in range(3)}
        check_equal(len(bodies), 3, "different pictures")
        check_equal(c.http.image(job_id, 3).status, 404, "status of a fourth picture")


@test()
def the_same_request_with_the_same_seed_gives_the_same_picture():
    with Cluster() as c:
        c.worker("mia")
        first, second = c.http.submit(seed=5), c.http.submit(seed=5)
        c.http.wait(first, "succeeded")
        c.http.wait(second, "succeeded")
        check(c.http.image(first).body == c.http.image(second).body, "the pictures differ")


@test()
def defaults_are_told_and_a_random_seed_too():
    with Cluster() as c:
        fresh = c.http.post_job(prompt="only a prompt").json
        other = c.http.post_job(prompt="only a prompt").json
        check(fresh["seed"] != other["seed"], "two random seeds are equal")
        request = c.http.job(fresh["id"])["request"]
        told = {k: request[k] for k in ("width", "height", "steps", "guidance", "n", "format", "priority",
                                        "expires_in_s", "seed")}
        check_equal(told, {"width": 1024, "height": 1024, "steps": 8, "guidance": 0.0, "n": 1, "format": "png",
                           "priority": "normal", "expires_in_s": 3600, "seed": fresh["seed"]}, "defaults")


@test()
def a_long_poll_ends_with_the_job_and_at_its_time_limit():
    import time # pylint: disable=import-outside-toplevel
    with Cluster() as c:
        job_id = c.http.submit()
        begin = time.monotonic()
        waiting = c.http.get(f"/v1/jobs/{job_id}?wait=1").json
        check_equal(waiting["status"], "queued", "status without a worker")
        check(0.8 <= time.monotonic() - begin < 5, "a wait of one second")
        check_equal(waiting["reason"], "no_worker", "reason")
        c.worker("mia")
        check_equal(c.http.get(f"/v1/jobs/{job_id}?wait=20").json["status"], "succeeded", "status after the wait")
        answer = c.http.post_job({"Prefer": "wait=20"}, width=64, height=64, steps=2)
        check_equal(answer.json["status"], "succeeded", "status of a submit with Prefer: wait")
        check(answer.json["images"], "the answer of a finished submit has its images")


@test()
def jobs_are_listed_newest_first_page_by_page():
    with Cluster() as c:
        ids = [c.http.submit() for _ in range(5)]
        page = c.http.get("/v1/jobs?limit=2").json
        seen = [job["id"] for job in page["jobs"]]
        cursors = 0
        while cursor := page.get("next_cursor") or page.get("cursor") or page.get("next"):
            page = c.http.get(f"/v1/jobs?limit=2&cursor={cursor}").json
            seen += [job["id"] for job in page["jobs"]]
            cursors += 1
            check(cursors < 5, "the pages do not end")
        check_equal(seen, ids[::-1], "ids")
        c.http.cancel(ids[0])
        told = c.http.get("/v1/jobs?status=cancelled").json["jobs"]
        check_equal([job["id"] for job in told], [ids[0]], "cancelled jobs")


@test()
def workers_models_and_health_are_told():
    with Cluster() as c:
        c.worker("mia", instances=2)
        workers = c.http.workers()
        check_equal([w["name"] for w in workers], ["mia"], "workers")
        until(lambda: c.instance("mia", 1), 5, "both instances are told")
        models = c.http.get("/v1/models")
        check_equal(models.status, 200, "status of models")
        check(b"z-image-turbo" in models.body, f"models {models.body!r}")
        check_equal(c.http.get("/healthz").status, 200, "status of healthz")
        check_equal(c.http.get("/readyz").status, 200, "status of readyz")


@test()
def priorities_and_the_order_of_submits_decide_who_is_next():
    with Cluster() as c:
        first = [c.http.submit(priority="low", seed=i) for i in range(2)]
        urgent = c.http.submit(priority="high")
        positions = [c.http.job(i)["position"] for i in (urgent, *first)]
        check_equal(positions[0], 1, "position of the urgent one")
        check(positions[1] < positions[2], f"positions in their class {positions}")
        c.worker("mia", sim="--step-ms 50")
        ends = {i: c.http.wait(i, "succeeded") for i in (urgent, *first)}
        waits = [ends[i]["timings"]["queued_ms"] for i in (urgent, *first)]
        check(waits[1] < waits[2], f"the first of a class waits less than the second: {waits}")


@test()
def two_reactors_and_two_gateways_serve_the_same_jobs():
    with Cluster(gateway_flags=("--threads", "2")) as c:
        c.worker("mia")
        other = c.gateway(label="gateway2")
        ids = [client.submit() for client in (c.http, other) * 4]
        for job_id in ids:
            c.http.wait(job_id, "succeeded")
            check_equal(other.job(job_id)["status"], "succeeded", "status at the other gateway")
            check_equal(png_size(other.image(job_id).body), (64, 64), "picture at the other gateway")
