"""Whoever dies, no job is lost, and none is drawn twice without need."""
import os
import signal
import time

from harness import SANITIZED, Cluster, check, check_equal, holds, process_state, processes_with, program, until
from peer import SOURCE
from registry import test


def running_on(c, job_id):
    """The worker that draws the job, when a step was drawn."""
    return c.http.wait_step(job_id)["worker"]


@test(short=True, limit_s=90)
def a_worker_killed_in_a_job_is_evicted_and_the_job_succeeds_on_the_other_within_10_s_at_its_old_place():
    with Cluster() as c:
        first = c.worker("mia", sim="--step-ms 300")
        job_id = c.http.submit(steps=20)
        check_equal(running_on(c, job_id), "mia", "its worker")
        # 20 jobs of 0.6 s come later: the job must not wait behind them when it is taken back.
        c.worker("zoe", sim="--step-ms 30")
        later = [c.http.submit(steps=20, seed=i) for i in range(20)]
        first.kill()
        begin = time.monotonic()
        job = c.http.wait(job_id, "succeeded", limit_s=20)
        took = time.monotonic() - begin
        check_equal(c.http.job(later[-1])["status"], "queued", "the last of the later ones")
        check(SANITIZED or took < 10, f"it took {took:.1f} s")
        check_equal(job["worker"], "zoe", "its worker at the end")
        check_equal(job["attempt"], 2, "attempt")
        check_equal(c.http.image(job_id).status, 200, "status of its picture")
        names = [w["name"] for w in c.http.workers() if w.get("state", w.get("status")) != "gone"]
        check("zoe" in names, f"workers {names}")


@test(short=True)
def an_agent_that_is_restarted_gives_its_job_back_at_once():
    with Cluster() as c:
        first = c.worker("mia", sim="--step-ms 300")
        job_id = c.http.submit(steps=40)
        running_on(c, job_id)
        first.kill()
        begin = time.monotonic()
        c.worker("mia", sim="--step-ms 1", ready=False)
        # From the HELLO of the new one: the job is queued or already runs as attempt 2.
        until(lambda: c.http.job(job_id)["attempt"] != 1 or c.http.job(job_id)["status"] != "running", 5,
              "the job is taken back")
        took = time.monotonic() - begin
        check(took < 2.5, f"it was taken back only after {took:.1f} s")
        c.http.wait(job_id, "succeeded")


@test(short=True, limit_s=90)
def an_agent_that_is_asked_to_stop_hands_its_job_to_another():
    with Cluster() as c:
        first = c.worker("mia", sim="--step-ms 100")
        job_id = c.http.submit(steps=50)
        running_on(c, job_id)
        c.worker("zoe")
        begin = time.monotonic()
        status = first.stop(limit_s=40)
        check_equal(status, 0, "exit status of the agent")
        job = c.http.wait(job_id, "succeeded", 15)
        check(time.monotonic() - begin < 45, "a drain")
        check(job["attempt"] in (1, 2), f"attempt {job['attempt']}")


@test(limit_s=150)
def a_broker_killed_with_1000_queued_and_2_running_loses_none_and_runs_none_twice():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 200", instances=2)
        running = [c.http.submit(steps=50, seed=i) for i in range(2)]
        for job_id in running:
            running_on(c, job_id)
        queued = [c.http.submit(steps=1, seed=i) for i in range(1000)]
        c.broker_process.kill()
        begin = time.monotonic()
        c.broker()
        until(lambda: c.http.get("/readyz").status == 200, 15, "the gateway has the broker again")
        back = time.monotonic() - begin
        check(back < 5, f"it took {back:.1f} s")
        # Adopted: they go on, they do not begin again.
        for job_id in running:
            job = c.http.job(job_id)
            check(job["status"] in ("running", "succeeded") and job["attempt"] == 1, f"a running job: {job}")
        c.worker("zoe", sim="--step-ms 1", instances=4)
        until(lambda: c.redis.live() == 0, 90, "all jobs have ended")
        jobs = [c.http.job(job_id) for job_id in running + queued]
        check_equal({job["status"] for job in jobs}, {"succeeded"}, "statuses")
        check_equal({job["attempt"] for job in jobs[:2]}, {1}, "attempts of those that ran")


@test(limit_s=120, short=True)
def redis_killed_and_restarted_loses_no_acknowledged_job():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 100")
        running = c.http.submit(steps=50)
        running_on(c, running)
        ids = [c.http.submit(steps=1, seed=i) for i in range(200)]
        c.redis.process.kill()
        c.redis.start()
        until(lambda: c.http.post_job(width=64, height=64, steps=1).status == 202, 15, "submits are taken again")
        c.worker("zoe", sim="--step-ms 1", instances=2)
        for job_id in [running] + ids:
            c.http.wait(job_id, "succeeded", 40)
        check_equal(c.http.job(running)["attempt"], 1, "attempt of the running one")


@test(limit_s=120)
def redis_that_lost_the_last_second_gets_the_jobs_again_from_the_broker():
    with Cluster() as c:
        early = [c.http.submit(seed=i) for i in range(5)]
        time.sleep(1.5) # appendfsync everysec: these are in the file now, those below may not be
        aof = os.path.join(c.redis.directory, "appendonlydir")
        saved = {name: os.path.getsize(os.path.join(aof, name)) for name in os.listdir(aof)}
        late = [c.http.submit(seed=100 + i) for i in range(5)]
        c.redis.process.kill()
        for name, size in saved.items():
            os.truncate(os.path.join(aof, name), size)
        c.redis.start()
        check(all(c.redis.record(i) for i in early), "Redis kept the early ones")
        c.worker("mia", ready=False)
        for job_id in early + late:
            c.http.wait(job_id, "succeeded", 30)


@test(limit_s=90)
def everything_killed_at_once_and_started_again_goes_on():
    with Cluster() as c:
        agent = c.worker("mia", sim="--step-ms 200")
        ids = [c.http.submit(steps=10, seed=i) for i in range(20)]
        running_on(c, ids[0])
        for process in (c.redis.process, c.broker_process, c.gateway_process, agent):
            process.kill()
        c.redis.start()
        c.http = None
        c.broker()
        c.gateway()
        c.worker("mia", sim="--step-ms 1")
        for job_id in ids:
            c.http.wait(job_id, "succeeded", 30)


@test(limit_s=90)
def the_late_result_of_an_evicted_worker_is_refused_and_the_other_result_stands():
    with Cluster() as c:
        late = c.worker("late", sim="--step-ms 300")
        job_id = c.http.submit(steps=10)
        running_on(c, job_id)
        # The instance goes on and finishes, the agent is frozen: it does not know that it was evicted.
        late.pause()
        c.worker("zoe")
        done = c.http.wait(job_id, "succeeded", 20)
        check_equal(done["worker"], "zoe", "whose result it is")
        picture = c.http.image(job_id).body
        late.resume()
        until(lambda: c.worker_is_ready("late"), 20, "the late worker is back")
        holds(lambda: c.http.job(job_id)["worker"] == "zoe" and c.http.image(job_id).body == picture, 3,
              "the accepted result stands")
        check(late.alive(), "the late worker lives")
        # and it is of use again
        c.http.wait(c.http.submit(), "succeeded")


@test(limit_s=60)
def a_short_pause_of_a_worker_costs_nothing():
    with Cluster() as c:
        agent = c.worker("mia", sim="--step-ms 200")
        job_id = c.http.submit(steps=35)
        running_on(c, job_id)
        agent.pause()
        time.sleep(3) # half of what evicts
        agent.resume()
        job = c.http.wait(job_id, "succeeded")
        check_equal(job["attempt"], 1, "attempt")


@test(limit_s=90)
def a_paused_broker_loses_its_leadership_quietly_and_jobs_go_on():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 150")
        job_id = c.http.submit(steps=50)
        running_on(c, job_id)
        c.broker_process.pause()
        time.sleep(4) # longer than the leader's term
        c.broker_process.resume()
        job = c.http.wait(job_id, "succeeded", 30)
        check_equal(job["attempt"], 1, "attempt")
        c.http.wait(c.http.submit(), "succeeded", 20)


@test(limit_s=90)
def a_stalled_redis_evicts_nobody():
    with Cluster() as c:
        agents = [c.worker(name, sim="--step-ms 200") for name in ("mia", "zoe")]
        ids = [c.http.submit(steps=50, seed=i) for i in range(2)]
        for job_id in ids:
            running_on(c, job_id)
        c.redis.process.pause()
        time.sleep(8) # longer than the silence that evicts
        c.redis.process.resume()
        for job_id in ids:
            check_equal(c.http.wait(job_id, "succeeded", 30)["attempt"], 1, "attempt")
        check(all(agent.alive() for agent in agents), "the agents live")


def step_clock(c, seconds):
    """Makes the clock of Redis, as Drawbar's functions read it, wrong by so much from now on."""
    with open(os.path.join(SOURCE, "proto", "functions.lua"), encoding="utf-8") as file:
        library = file.read()
    honest = "return t[1] * 1000"
    check(honest in library, "functions.lua reads the clock in another way")
    c.redis.call("FUNCTION", "LOAD", "REPLACE", library.replace(honest, f"return (t[1] + {seconds}) * 1000"))


@test(limit_s=90)
def a_step_of_the_clock_of_redis_evicts_nobody_and_expires_nothing():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 200")
        running = c.http.submit(steps=50, expires_in_s=60)
        running_on(c, running)
        waiting = c.http.submit(steps=1, expires_in_s=60)
        beat = float(c.redis.call("ZSCORE", "{drawbar}:hb", "mia"))
        step_clock(c, 300)
        until(lambda: float(c.redis.call("ZSCORE", "{drawbar}:hb", "mia")) > beat + 290_000, 5, "a beat 300 s later")
        check_equal(c.http.wait(running, "succeeded", 30)["attempt"], 1, "attempt of the running job")
        c.http.wait(waiting, "succeeded", 20)
        step_clock(c, -300)
        again = c.http.submit(steps=40)
        check_equal(c.http.wait(again, "succeeded", 30)["attempt"], 1, "attempt after a step back")


@test()
def no_process_outlives_a_killed_agent_that_started_its_instance_through_a_shell():
    with Cluster() as c:
        mark = f"drawbar-mark-{os.getpid()}"
        sim = program("drawbar-sim-instance")
        # A shell in a shell in the background: two generations between agent and instance.
        start = f"sh -c 'true {mark}; sh -c \"{sim} --port {{port}} --step-ms 5; true {mark}\"; true {mark}'"
        agent = c.worker("mia", start=start)
        c.http.wait(c.http.submit(), "succeeded")
        before = processes_with(mark)
        check(len(before) >= 2, f"shells {before}")
        mine = [pid for pid in processes_with("drawbar-sim-instance") if owner_is(pid, os.getpid())]
        check(len(mine) >= 1, "the instance is a descendant of this test")
        agent.kill()
        until(lambda: all(process_state(pid) in ("", "Z") for pid in before + mine), 3,
              "shells and instance are gone, with nobody but the killed agent to end them")


def owner_is(pid, ancestor):
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


@test()
def programs_end_in_order_on_sigterm_and_leave_nothing():
    with Cluster() as c:
        agent = c.worker("mia")
        c.http.wait(c.http.submit(), "succeeded")
        for process in (agent, c.gateway_process, c.broker_process):
            check_equal(process.stop(), 0, f"exit status of {process.label}")
        check(c.redis.leader() is None, "the leader key is gone after an orderly stop")
        check_equal(c.redis.call("ZCARD", "{drawbar}:hb"), 0, "workers that beat")


@test()
def a_gateway_that_stops_finishes_what_it_was_asked():
    import threading # pylint: disable=import-outside-toplevel
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 200")
        answers = []
        waiter = threading.Thread(target=lambda: answers.append(
            c.http.post_job({"Prefer": "wait=20"}, width=64, height=64, steps=10)))
        waiter.start()
        until(lambda: c.redis.live() == 1, 5, "the job is in Redis")
        c.gateway_process.signal(signal.SIGTERM)
        waiter.join(25)
        check(answers and answers[0].status in (200, 202), f"answers {[(a.status, a.body[:100]) for a in answers]}")
        c.gateway_process.child.wait(30)
        check_equal(c.gateway_process.child.returncode, 0, "exit status of the gateway")


@test(limit_s=90)
def a_picture_whose_gateway_is_gone_is_held_and_handed_to_the_next_one():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 100")
        job_id = c.http.submit(steps=10)
        running_on(c, job_id)
        c.gateway_process.kill()
        time.sleep(2) # the instance finishes; there is nobody to take the picture
        c.http = None
        c.gateway(label="gateway2")
        job = c.http.wait(job_id, "succeeded", 30)
        check_equal(job["attempt"], 1, "attempt")
        check_equal(c.http.image(job_id).status, 200, "status of its picture")
        c.http.wait(c.http.submit(), "succeeded")


@test(limit_s=60)
def a_full_redis_refuses_submits_and_lets_running_jobs_end():
    with Cluster() as c:
        c.worker("mia", sim="--step-ms 100")
        job_id = c.http.submit(steps=20)
        running_on(c, job_id)
        c.redis.call("CONFIG", "SET", "maxmemory", "1")
        answer = c.http.post_job(width=64, height=64)
        answer.problem(503)
        check("storage_full" in str(answer.json), f"the reason in {answer.json}")
        check(answer.headers["Retry-After"], "Retry-After")
        c.http.wait(job_id, "succeeded")
        c.redis.call("CONFIG", "SET", "maxmemory", "256mb")
        c.http.wait(c.http.submit(), "succeeded")
