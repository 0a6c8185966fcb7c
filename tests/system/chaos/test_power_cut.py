"""The power of Redis's host goes: what was promised is there when it is back."""
import os
import subprocess
import tempfile

from promises import Submitters, records
from harness import check, check_equal, environment, program, until
from power_cut import PowerCuts
from registry import test


@test(limit_s=60)
def power_cuts_with_the_settings_of_drawbar_up_lose_no_acknowledged_job():
    with PowerCuts("always") as cuts:
        for number in range(3):
            cuts.round(number)
        # The broker had nothing to restore: Redis itself had kept it all.
        check("redis-lost-tail" not in cuts.leader.log(), "Redis lost acknowledged batches")
        cuts.all_succeeded()


@test(limit_s=60)
def drawbar_up_starts_redis_so_that_each_write_is_on_the_disk_before_it_is_answered():
    with tempfile.TemporaryDirectory(prefix="drawbar-up.") as directory:
        up = subprocess.Popen([program("drawbar"), "up", "--data", directory + "/data", "--port", "0", "--workers", "0"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                              env=environment(HOME=directory, XDG_STATE_HOME=directory))
        try:
            told = until(lambda: redis_cli(directory, "CONFIG", "GET", "append*"), 30, "the Redis of drawbar up answers")
            pairs = dict(zip(told[::2], told[1::2]))
            check_equal((pairs["appendonly"], pairs["appendfsync"]), ("yes", "always"), "appendonly and appendfsync")
        finally:
            up.terminate()
            check_equal(up.wait(40), 0, "exit status of drawbar up")


def redis_cli(directory, *words):
    path = os.path.join(directory, "data", "run", "redis.sock")
    done = subprocess.run(["redis-cli", "-s", path, *words], capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else None


@test(limit_s=60)
def a_power_cut_of_redis_and_of_the_leader_at_once_loses_no_acknowledged_job():
    with PowerCuts("always") as cuts:
        for number in range(2):
            cuts.round(number, with_leader=True)
        cuts.all_succeeded()


@test(limit_s=90)
def redis_down_for_5_s_with_its_last_second_lost_is_made_whole_by_the_leader_while_a_standby_stands_by():
    with PowerCuts("everysec", standby=True) as cuts:
        until(lambda: "standby leader=" in cuts.standby.log(), 10, "the standby stands by")
        cuts.round(0, down_s=5)
        check("redis-lost-tail" in cuts.leader.log(), "the cut took nothing that was acknowledged: nothing was tested")
        cuts.all_succeeded()


@test(limit_s=60)
def the_cut_is_a_real_one_without_fsync_and_without_the_leader_acknowledged_jobs_are_gone():
    # What makes the tests above worth something: the same fault with nobody to make it good does lose.
    with PowerCuts("everysec") as cuts:
        clients = Submitters(cuts.c.http.address)
        clients.take(50)
        cuts.c.broker_process.kill()
        cuts.c.power.cut(cuts.c.redis)
        cuts.c.gateway_process.kill() # it would hold the submits for 5 s
        promised = clients.stop()
        cuts.c.redis.start()
        check(None in records(cuts.c.redis, promised), "nothing is lost: the cut cut nothing")
