"""The end of Redis's append-only file is torn or damaged: what is left is whole, and the rest is made good."""
import os
import random
import shutil
import tempfile

from promises import Ends, Submitters, check_agreement, check_none_lost, free_workers
from harness import Cluster, Process, Redis, check, check_equal, free_port, until
from peer import SOURCE, id_text, new_id
from registry import test

TORN_PLACES = 24


class TornRedis(Redis):
    """A redis-server on a copy of another's files, which were cut or damaged in between."""

    def __init__(self, directory, files, damage):
        shutil.copytree(files, os.path.join(directory, "redis"), dirs_exist_ok=True)
        damage(incremental(os.path.join(directory, "redis")))
        super().__init__(directory)


def incremental(directory):
    """The path of the file that Redis appends to."""
    folder = os.path.join(directory, "appendonlydir")
    names = [name for name in os.listdir(folder) if name.endswith(".incr.aof")]
    check_equal(len(names), 1, "incremental files")
    return os.path.join(folder, names[0])


def places(path, count):
    """Byte positions to cut at: in the last batch of jobs and at its edges, and some further back."""
    with open(path, "rb") as file:
        data = file.read()
    last = data.rfind(b"*1\r\n$5\r\nMULTI", 0, data.rfind(b"{drawbar}:live")) # a batch is MULTI ... EXEC there
    check(last > 0, "there is a batch in the file")
    dice = random.Random(7)
    near = {last, last + 1, last + 5, len(data) - 1, len(data) - 2, len(data) - 10}
    return sorted(near | {dice.randrange(last, len(data)) for _ in range(count // 2)}
                  | {dice.randrange(len(data) // 2, last) for _ in range(count - count // 2 - len(near))})


@test(limit_s=90)
def a_file_of_redis_that_is_torn_at_any_byte_is_read_up_to_its_last_whole_batch():
    with Cluster() as c:
        free_workers(c, n=1, places=2, draw_ms=30)
        clients = Submitters(c.http.address)
        clients.take(150)
        clients.stop()
        for process in (c.broker_process, c.gateway_process, c.redis.process):
            process.kill()
        path = incremental(c.redis.directory)
        sizes = []
        for place in places(path, TORN_PLACES):
            with tempfile.TemporaryDirectory(prefix="drawbar-torn.") as directory:
                torn = TornRedis(directory, c.redis.directory, lambda file, at=place: os.truncate(file, at))
                try:
                    sizes.append(check_agreement(torn, f"after a cut at byte {place} of {os.path.getsize(path)}"))
                finally:
                    torn.process.kill()
        check(max(sizes) > 0, "no job was live at any cut: nothing was tested")


@test(limit_s=90)
def what_a_torn_file_lost_is_restored_by_the_broker():
    with Cluster() as c:
        for number in range(4):
            clients = Submitters(c.http.address)
            clients.take(80)
            c.redis.process.kill()
            promised = list(clients.acknowledged)
            path = incremental(c.redis.directory)
            at = places(path, 10)[number + 3]
            os.truncate(path, at)
            c.redis.start()
            clients.take(1)
            promised = clients.stop()
            check_none_lost(c.redis, promised, f"after a cut at byte {at}")
            check_agreement(c.redis, f"after a cut at byte {at}")
        check("redis-lost-tail" in c.broker_process.log(), "no cut took anything: nothing was tested")
        free_workers(c)
        Ends(c.redis).all_succeeded(promised, 60)


@test(limit_s=60)
def a_damaged_record_is_told_and_the_other_jobs_go_on():
    with Cluster() as c:
        ids = [c.http.submit(seed=i) for i in range(5)]
        c.broker_process.kill()
        c.redis.process.kill()
        path = incremental(c.redis.directory)
        with open(path, "r+b") as file: # inside a value: Redis cannot know, the record's checksum does
            at = file.read().find(b"\xdb\x01", 0) + 20
            file.seek(at)
            file.write(b"\xaa\x55")
        c.redis.start()
        c.broker(label="broker-2")
        until(lambda: "record-corrupt" in c.broker_process.log(), 10, "the broker tells of the record")
        c.worker("mia")
        for job in ids[1:]:
            c.http.wait(job, "succeeded", 30)
        told = c.http.get(f"/v1/jobs/{ids[0]}").problem(500)
        check("record" in told["detail"], f"the answer for the damaged one: {told}")


@test(limit_s=60)
def damaged_bytes_in_the_file_keep_redis_from_starting_and_it_says_which_tool_helps():
    # Not a crash: a crash tears the end, it does not change what was written. Redis is right not to guess.
    with tempfile.TemporaryDirectory(prefix="drawbar-flipped.") as directory:
        redis = Redis(directory)
        with open(os.path.join(SOURCE, "proto", "functions.lua"), encoding="utf-8") as file:
            redis.call("FUNCTION", "LOAD", file.read())
        for _ in range(20):
            redis.call("SET", id_text(new_id()), "x" * 100)
        redis.process.kill()
        path = incremental(redis.directory)
        with open(path, "r+b") as file:
            data = file.read()
            at = data.rfind(b"*3\r\n$3\r\nSET")
            file.seek(at)
            file.write(b"\xff\xff")
        process = Process(directory, "redis", ["redis-server", "--port", free_port(), "--dir", redis.directory,
                                               "--appendonly", "yes", "--save", "", "--daemonize", "no"], wait_ready=False)
        try:
            until(lambda: not process.alive(), 15, "redis-server refuses to start")
            check(process.child.returncode != 0, "its exit status")
            check("redis-check-aof --fix" in process.log(), f"it names the tool: {process.log()[-600:]}")
        finally:
            process.kill()
