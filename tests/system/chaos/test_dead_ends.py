"""What a user is told while something is away: what still works, and when to come again."""
import concurrent.futures

from harness import Cluster, check, check_equal, until
from registry import test

NEVER_WAS = "01M895VG93JP559KMPT422JF8Y"


def ask_everything(c, live, ended):
    """Every question at once, each answered in its own time: {name: answer}."""
    questions = {
        "submit": lambda: c.http.post_job(width=64, height=64, steps=1),
        "cancel": lambda: c.http.cancel(live),
        "live": lambda: c.http.get(f"/v1/jobs/{live}"),
        "ended": lambda: c.http.get(f"/v1/jobs/{ended}"),
        "unknown": lambda: c.http.get(f"/v1/jobs/{NEVER_WAS}"),
        "image": lambda: c.http.image(ended),
        "list": lambda: c.http.get("/v1/jobs"),
        "workers": lambda: c.http.get("/v1/workers"),
    }
    with concurrent.futures.ThreadPoolExecutor(len(questions)) as pool:
        answers = {name: pool.submit(question) for name, question in questions.items()}
        return {name: answer.result() for name, answer in answers.items()}


def told(c, away, live, ended, works):
    """What `works` is answered as ever, all else is a 503 that says what is away and when to come again."""
    for name, answer in ask_everything(c, live, ended).items():
        what = f"{name} while {away} is away"
        if name in works:
            check_equal(answer.status, works[name], f"status of {what}")
            continue
        problem = answer.problem(503)
        check_equal(problem["code"], "unavailable", f"code of {what}")
        check(int(answer.headers.get("Retry-After", 0)) == problem["retry_after_s"] > 0, f"Retry-After of {what}")
        check("roker" in problem["detail"] or "Redis" in problem["detail"], f"{what} names who is away: {problem}")
    ready = c.http.get("/readyz")
    check(ready.status == 503 and ready.json["reasons"], f"/readyz while {away} is away: {ready.json}")
    check_equal(c.http.get("/healthz").status, 200, f"/healthz while {away} is away")


def state_of(c, name, state):
    return c.http.get("/readyz").json["checks"][name] == state


@test(limit_s=90)
def whatever_is_away_every_question_is_answered_with_what_is_known_or_with_who_is_away_and_when_to_ask_again():
    with Cluster() as c:
        worker = c.worker("mia")
        ended = c.http.submit()
        c.http.wait(ended, "succeeded")
        worker.stop(40)
        live = c.http.submit()
        c.redis.process.kill()
        until(lambda: state_of(c, "redis", "failed"), 10, "the gateway knows that Redis is away")
        told(c, "Redis", live, ended, {"live": 200, "ended": 200, "image": 200})
        c.redis.start()
        until(lambda: c.http.get("/readyz").status == 200, 15, "all is well again")
        # Both requests above were answered 503: the submit was withdrawn, the cancel is done or was dropped.
        live = c.http.submit()
        c.broker_process.kill()
        until(lambda: state_of(c, "broker", "failed"), 15, "the gateway knows that the broker is away")
        told(c, "the broker", live, ended, {"live": 200, "ended": 200, "image": 200, "list": 200, "workers": 200,
                                            "unknown": 404})
        c.redis.process.kill()
        until(lambda: state_of(c, "redis", "failed"), 10, "the gateway knows that Redis is away")
        told(c, "everything", live, ended, {})
