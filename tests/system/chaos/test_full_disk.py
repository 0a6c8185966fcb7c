"""The disk of Redis is full: nothing is promised that cannot be kept, nothing that was promised is lost."""
import ctypes
import os
import shutil
import tempfile

from promises import Ends, Submitters, check_none_lost, free_workers
from harness import Cluster, RedisError, Skip, check, check_equal, holds, until
from registry import test

DISK_KIB = 6 * 1024
SUBMIT = {"width": 64, "height": 64, "steps": 1}


class SmallDisk:
    """A tmpfs of DISK_KIB for Redis, and a file on it that can take the rest of the room."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.directory = tempfile.mkdtemp(prefix="drawbar-disk.")

    def __enter__(self):
        options = f"size={DISK_KIB}k".encode()
        if os.geteuid() != 0 or self.libc.mount(b"tmpfs", self.directory.encode(), b"tmpfs", 0, options) != 0:
            os.rmdir(self.directory)
            raise Skip("NOT TESTED: a full disk. It needs root and the right to mount a tmpfs")
        return self

    def __exit__(self, *_):
        mnt_detach = 2
        self.libc.umount2(self.directory.encode(), mnt_detach)
        shutil.rmtree(self.directory, ignore_errors=True)

    def fill(self, but=64 * 1024):
        """Leaves `but` bytes free."""
        free = os.statvfs(self.directory)
        with open(os.path.join(self.directory, "ballast"), "wb") as file:
            file.write(b"\0" * max(0, free.f_bavail * free.f_bsize - but))

    def make_room(self):
        os.unlink(os.path.join(self.directory, "ballast"))


class DiskCluster(Cluster):
    """Redis keeps its files on the small disk, everything else is elsewhere."""

    def __init__(self, disk, fsync):
        self.disk = disk
        super().__init__(broker=False, gateway=False, redis={"fsync": fsync})
        self.redis.process.kill()
        self.redis.directory = disk.directory
        self.redis.start()
        self.broker()
        self.gateway()


def is_full(c):
    try:
        c.redis.call("SET", "{probe}", "x" * 100)
        return False
    except RedisError as refused:
        return str(refused).startswith("MISCONF")


@test(limit_s=90)
def a_full_disk_of_redis_refuses_submits_holds_results_and_goes_on_when_there_is_room():
    with SmallDisk() as disk, DiskCluster(disk, "everysec") as c:
        c.worker("mia", sim="--step-ms 100")
        running = c.http.submit(steps=20)
        c.http.wait_step(running)
        waiting = [c.http.submit(seed=i) for i in range(3)]
        disk.fill()
        clients = Submitters(c.http.address, threads=2)
        refused = until(lambda: [r for r in clients.refused if r[2].get("code") == "storage_full"], 20,
                        "a submit is refused: storage_full")
        check(is_full(c), "Redis refuses writes")
        check_equal(refused[0][0], 503, "status")
        check(int(refused[0][1]["Retry-After"]) > 0, f"Retry-After in {refused[0][1]}")
        answer = c.http.post_job(**SUBMIT)
        check("full" in answer.problem(503)["detail"], f"the detail says what is wrong: {answer.json}")
        # The picture is drawn; its end cannot be written, so the worker keeps it and nothing is told.
        holds(lambda: c.http.job(running)["status"] == "running", 3, "no end is told that is not on the disk")
        check(c.broker_process.alive(), "the broker lives")
        # A broken connection in this state is made good as well.
        c.redis.call("CLIENT", "KILL", "TYPE", "normal")
        until(lambda: c.broker_process.log().count("redis-up") == 2, 10, "the broker is connected again")
        until(lambda: c.http.post_job(**SUBMIT).json.get("code") == "storage_full", 15, "storage_full after a reconnect")
        check(c.broker_process.alive(), "the broker outlives a reconnect to a full Redis")
        disk.make_room()
        clients.take(5)
        promised = clients.stop()
        check_none_lost(c.redis, promised, "after the disk was full")
        for job in [running, *waiting]:
            check_equal(c.http.wait(job, "succeeded", 30)["attempt"], 1, f"attempt of {job}")
        free_workers(c)
        Ends(c.redis).all_succeeded(promised, 60)


@test(limit_s=60)
def a_redis_that_ends_for_want_of_disk_has_lost_nothing_when_it_is_started_with_room():
    with SmallDisk() as disk, DiskCluster(disk, "always") as c:
        disk.fill()
        clients = Submitters(c.http.address)
        until(lambda: not c.redis.process.alive(), 30, "redis-server ends: it cannot keep what it would promise")
        promised = list(clients.acknowledged)
        until(lambda: clients.refused, 10, "submits are refused")
        check_equal({status for status, _, _ in clients.refused}, {503}, "statuses while Redis is away")
        disk.make_room()
        c.redis.start()
        check_none_lost(c.redis, promised, "after Redis ended")
        clients.take(5)
        free_workers(c)
        Ends(c.redis).all_succeeded(clients.stop(), 60)
