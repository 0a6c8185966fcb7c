"""drawbar drain: a worker finishes what it has, takes nothing new, and leaves."""
import http.server
import json
import os
import re
import signal
import subprocess
import tempfile
import threading

from harness import Cluster, Http, check, check_equal, environment, free_port, holds, processes_with, program, until
from registry import test
from test_cli import drawbar


def worker_listed(c, name):
    """What GET /v1/workers tells of the worker; None: it is not listed."""
    return next((w for w in c.http.workers() if w["name"] == name), None)


def drain(c, name):
    return c.http.call("POST", f"/v1/workers/{name}/drain")


@test(short=True, limit_s=90)
def a_drained_worker_finishes_its_job_takes_no_other_and_leaves_with_its_instances():
    with Cluster() as c:
        mia = c.worker("mia", sim="--step-ms 150")
        running = c.http.submit(steps=50)
        check_equal(c.http.wait_step(running)["worker"], "mia", "who draws it")
        instances = [pid for pid in processes_with("drawbar-sim-instance") if is_child(pid, mia.pid)]
        check(instances, "mia's instance is there")
        queued = [c.http.submit(steps=1, seed=i) for i in range(4)]
        answer = drain(c, "mia")
        check_equal(answer.status, 202, f"status ({answer.body!r})")
        told = answer.json
        check_equal((told["name"], told["draining"], told["state"]), ("mia", True, "alive"), "what is known of it")
        check(told["instances"] and told["pid"] == mia.pid, f"its own facts in {told}")
        until(lambda: worker_listed(c, "mia")["draining"], 5, "it says itself that it drains")
        status, out, _ = drawbar(c, "workers")
        check(status == 0 and re.search(r"^mia\s+draining", out, re.M), f"drawbar workers: {out!r}")
        # Nobody else is here: the queued ones wait rather than go to mia.
        holds(lambda: all(c.http.job(i)["status"] == "queued" for i in queued), 1, "nothing new goes there")
        check_equal(drain(c, "mia").status, 202, "status of a second drain")
        c.worker("zoe")
        for job_id in queued:
            check_equal(c.http.wait(job_id, "succeeded")["worker"], "zoe", "who draws the queued ones")
        job = c.http.wait(running, "succeeded")
        check_equal((job["worker"], job["attempt"]), ("mia", 1), "worker and attempt of the running one")
        check_equal(c.http.image(running).status, 200, "status of its picture")
        check_equal(mia.child.wait(15), 0, "exit status of mia")
        check_equal([pid for pid in instances if alive(pid)], [], "instances left")
        until(lambda: worker_listed(c, "mia") is None, 5, "it is not listed any more")
        check("mia" not in drawbar(c, "workers")[1], "nor by drawbar workers")
        drain(c, "mia").problem(404, "no_worker")


def is_child(pid, parent):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return int(file.read().rpartition(")")[2].split()[1]) == parent
    except OSError:
        return False


def alive(pid):
    return pid in processes_with("drawbar-sim-instance")


@test(limit_s=90)
def drain_wait_follows_several_workers_until_they_have_left_and_one_started_again_works_again():
    with Cluster() as c:
        agents = [c.worker(name, sim="--step-ms 100") for name in ("mia", "zoe")]
        ids = [c.http.submit(steps=50, seed=i) for i in range(2)]
        check_equal({c.http.wait_step(i)["worker"] for i in ids}, {"mia", "zoe"}, "who draws them")
        until(lambda: all(w["running"] == 1 for w in c.http.workers()), 5, "their beats tell of the jobs")
        status, out, err = drawbar(c, "drain", "mia", "nobody", "zoe", "--wait")
        check_equal(status, 3, f"exit status with one that nobody knows ({out!r} {err!r})")
        check('There is no worker "nobody"' in err and "(404)" in err, f"it names the unknown one: {err!r}")
        for name in ("mia", "zoe"):
            check(f"{name} drains: 1 job to finish, then it leaves\n" in out, f"what is told first: {out!r}")
            check(f"{name} has left\n" in out, f"what is told last: {out!r}")
        check_equal([c.http.job(i)["status"] for i in ids], ["succeeded"] * 2, "statuses when it returns")
        check_equal([a.child.wait(5) for a in agents], [0, 0], "exit statuses of the agents")
        c.worker("mia")
        job = c.http.wait(c.http.submit(), "succeeded")
        check_equal(job["worker"], "mia", "a new process of the name is not drained")
        status, out, _ = drawbar(c, "drain", "mia", "--json")
        check_equal((status, json.loads(out)["name"]), (0, "mia"), "drain --json")
        late = c.worker("late", sim="--step-ms 500")
        c.http.wait_step(c.http.submit(steps=12))
        status, _, err = drawbar(c, "drain", "late", "--wait", "--timeout", 1)
        check(status == 4 and "go on draining" in err, f"--timeout: {status} {err!r}")
        check(late.alive(), "it is not ended for that")
        late.stop(limit_s=45) # SIGTERM puts a bound to a drain that has none


@test(limit_s=90)
def a_drain_survives_the_leader_that_told_it():
    with Cluster() as c:
        leader = c.broker_process
        mia = c.worker("mia", sim="--step-ms 200")
        c.broker(label="standby", wait_ready=False)
        running = c.http.submit(steps=40)
        c.http.wait_step(running)
        check_equal(drain(c, "mia").status, 202, "status of the drain")
        until(lambda: worker_listed(c, "mia")["draining"], 5, "it drains")
        queued = c.http.submit(steps=1)
        leader.kill()
        until(lambda: c.http.get("/readyz").status == 200, 10, "the standby leads")
        check(mia.alive() and c.http.job(running)["status"] == "running", "mia still draws")
        check_equal(drain(c, "mia").status, 202, "status of a drain at the new leader")
        holds(lambda: c.http.job(queued)["status"] == "queued", 1.5, "the new leader gives it nothing")
        job = c.http.wait(running, "succeeded", 20)
        check_equal((job["worker"], job["attempt"]), ("mia", 1), "worker and attempt")
        check_equal(mia.child.wait(15), 0, "exit status of mia")
        check_equal(c.http.job(queued)["status"], "queued", "the other job")
        c.worker("zoe")
        check_equal(c.http.wait(queued, "succeeded")["attempt"], 1, "attempt of the other job")


@test(limit_s=90)
def a_drain_of_who_is_not_there_is_answered_clearly():
    with Cluster() as c:
        drain(c, "nobody").problem(404, "There is no worker \\\"nobody\\\"")
        drain(c, "a%2Fb%20c").problem(404, "a/b c")
        drain(c, "%ff").problem(404, "No worker can have this name")
        drain(c, "x" * 65).problem(404, "No worker can have this name")
        refused = c.http.get("/v1/workers/nobody/drain")
        refused.problem(405)
        check_equal(refused.headers["Allow"], "POST", "Allow")
        mia = c.worker("mia")
        mia.kill()
        until(lambda: worker_listed(c, "mia")["state"] == "gone", 15, "mia is evicted")
        drain(c, "mia").problem(409, "worker_silent")
        check("gone" in drain(c, "mia").json["detail"], "it says that mia is gone")
        status, _, err = drawbar(c, "drain", "mia", "--wait")
        check(status == 3 and "gone" in err and "(409)" in err, f"drawbar drain: {status} {err!r}")
        # Silent, and its eviction is not decided yet: the broker has just begun.
        zoe = c.worker("zoe")
        c.broker_process.kill()
        zoe.kill()
        until(lambda: worker_listed(c, "zoe")["state"] == "silent", 15, "zoe is silent")
        away = drain(c, "zoe")
        away.problem(503, "unavailable")
        check(away.headers["Retry-After"], "Retry-After without a broker")
        c.broker()
        until(lambda: c.http.get("/readyz").status == 200, 10, "there is a broker again")
        told = drain(c, "zoe").problem(409, "worker_silent")
        check("zoe is silent since" in told["detail"] or "zoe is gone" in told["detail"], f"the detail {told}")
        gone = subprocess.run([program("drawbar"), "drain", "mia"], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=30, check=False,
                              env=environment(DRAWBAR_SERVER=f"http://127.0.0.1:{free_port()}"))
        check_equal(gone.returncode, 5, "exit status when nobody listens")


@test(limit_s=60)
def a_drain_asked_for_right_after_a_fail_over_waits_for_the_workers_session():
    with Cluster() as c:
        mia = c.worker("mia")
        c.broker_process.kill()
        answers = []
        asker = threading.Thread(target=lambda: answers.append(drain(c, "mia")))
        asker.start() # nobody leads yet
        c.broker()
        asker.join(20)
        check(answers, "it is answered")
        check_equal(answers[0].status, 202, f"status ({answers[0].body!r})")
        check_equal(mia.child.wait(15), 0, "exit status of mia")


class Forgetful(http.server.BaseHTTPRequestHandler):
    """A server whose first DRAIN is lost: the worker drains only when it was told twice."""
    n_told = 0

    def do_POST(self):
        Forgetful.n_told += 1
        self.say(202, self.worker())

    def do_GET(self):
        self.say(200, {"workers": [] if Forgetful.n_told > 1 else [self.worker()]})

    @staticmethod
    def worker():
        return {"name": "mia", "incarnation": "00000000000000aa", "state": "alive", "draining": False}

    def say(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@test()
def drain_wait_tells_a_worker_again_that_goes_on_working():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run([program("drawbar"), "drain", "mia", "--wait"], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=40, check=False,
                              env=environment(DRAWBAR_SERVER=f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
        check_equal(done.returncode, 0, f"exit status ({done.stdout!r} {done.stderr!r})")
        check_equal(Forgetful.n_told, 2, "how often it was told")
        check("mia has left" in done.stdout, f"what is told: {done.stdout!r}")


@test(limit_s=90)
def up_does_not_start_a_drained_worker_again():
    with tempfile.TemporaryDirectory(prefix="drawbar-up.") as directory:
        port, log_path = free_port(), os.path.join(directory, "log")
        with open(log_path, "ab") as log:
            child = subprocess.Popen([program("drawbar"), "up", "--workers", "2", "--data",
                                      os.path.join(directory, "data"), "--port", str(port)],
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory,
                                     env=environment(HOME=directory))
        try:
            client = Http(f"127.0.0.1:{port}")
            until(lambda: len([w for w in client.workers() if w["state"] == "alive"]) == 2, 30, "two workers")
            name = client.workers()[0]["name"]
            done = subprocess.run([program("drawbar"), "drain", name, "--wait"], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=30, check=False,
                                  env=environment(DRAWBAR_SERVER=f"http://127.0.0.1:{port}"))
            check_equal(done.returncode, 0, f"exit status ({done.stdout!r} {done.stderr!r})")
            holds(lambda: len(client.workers()) == 1, 3, "it stays away")
            client.wait(client.submit(), "succeeded")
            with open(log_path, encoding="utf-8") as file:
                check("has finished and left" in file.read(), "up says so")
            child.send_signal(signal.SIGINT)
            check_equal(child.wait(30), 0, "exit status after Ctrl-C")
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait(20)
