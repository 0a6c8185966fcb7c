"""The Redis functions: one fenced writer, every batch applied once."""
import os
import struct
import tempfile
import time

from harness import Redis, RedisError, check, check_equal, until
from peer import SOURCE, crc32c, id_text, new_id
from registry import test

QUEUED, RUNNING, SUCCEEDED = 1, 2, 3


class Library:
    """A Redis with the functions, and a leader's token."""

    def __enter__(self):
        # pylint: disable=consider-using-with
        self.directory = tempfile.TemporaryDirectory(prefix="drawbar-functions.")
        self.redis = Redis(self.directory.name)
        with open(os.path.join(SOURCE, "proto", "functions.lua"), encoding="utf-8") as file:
            self.redis.call("FUNCTION", "LOAD", file.read())
        self.token = self.elect("me")[1]
        return self

    def __exit__(self, *_):
        self.redis.process.kill()
        self.directory.cleanup()

    def call(self, name, *arguments):
        return self.redis.call("FCALL", f"drawbar1_{name}", 0, *arguments)

    def elect(self, nonce, ttl=60000, standing="steady"):
        return self.call("elect", nonce, ttl, "0123456789abcdef", "ab" * 32, standing)

    def writes(self):
        """Writes since the start: one that only reads does not count."""
        told = self.redis.call("INFO", "persistence").decode()
        return int(told.split("rdb_changes_since_last_save:")[1].split()[0])

    def commit(self, n, *words, token=None, name="commit"):
        return self.call(name, token or self.token, n, *words)


def header(state, revision):
    """64 bytes as the broker writes them: only what the functions look at is set."""
    head = struct.pack("<BBBB", 0xDB, 1, state, 1).ljust(52, b"\0") + struct.pack("<II", revision, 0)
    return head + struct.pack("<I", crc32c(head))


def record(state=QUEUED, revision=1):
    # The revision stands where functions.lua looks for it, whatever the rest of the header says.
    with open(os.path.join(SOURCE, "proto", "functions.lua"), encoding="utf-8") as file:
        text = file.read()
    at = int(text.split("REVISION_AT, HEADER = ")[1].split(",")[1]) - 1
    head = bytearray(header(state, revision))
    head[at:at + 4] = struct.pack("<I", revision)
    return bytes(head) + b"body"


def submit(job, sequence=1, idem="", value="", data=None):
    return ["S", job, sequence, sequence, "default", idem, value, data or record()]


@test(short=True)
def a_batch_sent_again_is_answered_as_before_and_applied_once():
    with Library() as lib:
        job = id_text(new_id())
        first = lib.commit(1, *submit(job, idem="k", value=f"{job} 00"))
        check_equal(first, [b"OK", b"+"], "answer")
        check_equal(lib.commit(1, *submit(job, idem="k", value=f"{job} 00")), first, "answer to the same batch")
        check_equal(lib.redis.live(), 1, "live jobs")
        # The job ends; a copy of the first batch that was left on some connection must not bring it back.
        lib.commit(2, "F", job, record(SUCCEEDED, 2), 1000, "k", "")
        lib.commit(1, *submit(job))
        check_equal(lib.redis.live(), 0, "live jobs after the end")


@test(short=True)
def a_batch_that_leaves_a_gap_is_refused_with_the_last_number():
    with Library() as lib:
        check_equal(lib.commit(3, "N"), [b"GAP", 0], "answer")
        check_equal(lib.commit(1, "N"), [b"OK", b"+"], "answer to the first")
        check_equal(lib.commit(3, "N"), [b"GAP", 1], "answer")


@test(short=True)
def a_deposed_leader_is_fenced_from_every_function_that_writes_or_reads_jobs():
    with Library() as lib:
        old = lib.token
        lib.call("resign", old)
        lib.token = lib.elect("other")[1]
        check(old != lib.token, "a new term has a new token")
        check_equal(lib.commit(1, "N", token=old), [b"FENCED"], "commit")
        check_equal(lib.commit(1, "N", token=old, name="commit_end"), [b"FENCED"], "commit_end")
        check_equal(lib.call("read", old, id_text(new_id())), [b"FENCED"], "read")
        check_equal(lib.call("sweep", old, 1000), [b"FENCED"], "sweep")
        check_equal(lib.call("renew", old, 1000, "me", "-", "-")[0], 0, "renew")
        lib.call("resign", old)
        check(lib.redis.call("GET", "{drawbar}:leader"), "the other leads on")


@test()
def an_election_whose_reply_was_lost_counts_and_another_broker_is_told_who_leads():
    with Library() as lib:
        check_equal(lib.elect("me")[:2], [1, lib.token], "the same term again")
        answer = lib.elect("other")
        check_equal(answer[0], 0, "verdict for another")
        check(answer[1].startswith(b"me "), f"who leads: {answer[1]!r}")


@test()
def who_has_not_watched_for_a_term_is_elected_only_where_nobody_led_or_the_leader_resigned():
    with Library() as lib:
        check_equal(lib.token.split(b":")[0], b"1", "number of the first term")
        lib.call("renew", lib.token, 50, "me", "a:1", "b:2")
        until(lambda: lib.redis.call("GET", "{drawbar}:leader") is None, 3, "the term ends")
        check_equal(lib.elect("hasty", standing="new"), [0, b""], "a newcomer while the leader may be alive")
        check(lib.redis.call("GET", "{drawbar}:leader") is None, "nobody leads")
        lib.token = lib.elect("steady")[1]
        lib.call("resign", lib.token)
        check_equal(lib.elect("hasty", standing="waits")[0], 1, "a newcomer after an orderly stop")
        lib.redis.call("DEL", "{drawbar}:leader")
        check_equal(lib.elect("hastier", standing="waits"), [0, b""], "that stop counts once")
    with Library() as lib:
        lib.redis.call("FLUSHALL")
        check_equal(lib.elect("hasty", standing="waits"), [0, b""], "who heard of a leader, in a Redis that lost all")
        check_equal(lib.elect("hasty", standing="new")[0], 1, "a newcomer in an empty Redis")


@test()
def a_holder_that_asks_again_keeps_its_term_alive_and_writes_for_the_replicas():
    with Library() as lib:
        lib.call("renew", lib.token, 500, "me", "-", "-")
        before = lib.writes()
        check_equal(lib.elect("me", ttl=60000)[:2], [1, lib.token], "the same term again")
        check(lib.redis.call("PTTL", "{drawbar}:leader") > 50000, "the key lives on")
        check(lib.writes() > before, "something was written: a WAIT behind it means something")
        lib.commit(1, "N")
        before = lib.writes()
        lib.commit(1, "N")
        check(lib.writes() > before, "a batch sent again is a write as well")


@test()
def a_leader_renews_an_expired_term_unless_somebody_was_elected_since():
    with Library() as lib:
        lib.call("renew", lib.token, 50, "me", "a:1", "b:2")
        until(lambda: lib.redis.call("GET", "{drawbar}:leader") is None, 3, "the term ends")
        check_equal(lib.call("renew", lib.token, 60000, "me", "a:1", "b:2")[0], 1, "renewed after its end")
        check_equal(lib.redis.leader()[2:], ["a:1", "b:2"], "doors")
        lib.call("renew", lib.token, 50, "me", "a:1", "b:2")
        until(lambda: lib.redis.call("GET", "{drawbar}:leader") is None, 3, "the term ends")
        newer = lib.elect("other")[1]
        check_equal(lib.call("renew", lib.token, 60000, "me", "a:1", "b:2"), [0, newer],
                    "renewed after another's election: who came after")


@test()
def a_second_submit_of_an_id_or_of_an_idempotency_key_makes_no_second_job():
    with Library() as lib:
        one, two = id_text(new_id()), id_text(new_id())
        lib.commit(1, *submit(one, 1, "k", f"{one} aa"))
        check_equal(lib.commit(2, *submit(one, 2)), [b"OK", b"E"], "the same id")
        check_equal(lib.commit(3, *submit(two, 3, "k", f"{two} bb")), [b"OK", b"K", f"{one} aa".encode()], "the same key")
        check_equal(lib.redis.live(), 1, "live jobs")
        both = lib.commit(4, *submit(two, 4, "l", f"{two} cc"), *submit(one, 5))
        check_equal(both, [b"OK", b"+E"], "two in a batch")


@test()
def only_a_live_job_moves_or_ends():
    with Library() as lib:
        job = id_text(new_id())
        check_equal(lib.commit(1, "T", job, header(RUNNING, 2), "", "F", job, record(SUCCEEDED, 2), 1000, "", ""),
                    [b"OK", b"--"], "an absent job")
        lib.commit(2, *submit(job))
        check_equal(lib.commit(3, "T", job, header(RUNNING, 2), "{}"), [b"OK", b"+"], "a grant")
        check_equal(lib.commit(4, "F", job, record(SUCCEEDED, 3), 1000, "", ""), [b"OK", b"+"], "the end")
        check(0 < lib.redis.call("TTL", f"{{drawbar}}:j:{job}") <= 1000, "it lives as long as it is kept")
        check(0 < lib.redis.call("TTL", f"{{drawbar}}:a:{job}") <= 1000, "its reasons too")
        check_equal(lib.commit(5, "T", job, header(RUNNING, 4), "", "F", job, record(SUCCEEDED, 4), 9999, "", ""),
                    [b"OK", b"--"], "an ended job")
        check(lib.redis.call("TTL", f"{{drawbar}}:j:{job}") <= 1000, "its end stands")


@test()
def a_restore_writes_only_over_nothing_or_an_older_revision():
    with Library() as lib:
        job = id_text(new_id())

        def restore(n, revision):
            return lib.commit(n, "R", job, 1, 1, "default", "", "", record(RUNNING, revision))[1]
        check_equal(restore(1, 5), b"+", "over nothing")
        check_equal(restore(2, 5), b"-", "over the same revision")
        check_equal(restore(3, 4), b"-", "over a newer one")
        check_equal(restore(4, 6), b"+", "over an older one")


@test()
def an_ended_job_is_restored_with_its_key_and_its_place_in_the_list():
    with Library() as lib:
        job = id_text(new_id())
        lib.commit(1, "E", job, 7, 7, "default", "ab", f"{job} cd", record(SUCCEEDED, 3), 1000)
        check_equal(lib.commit(2, *submit(id_text(new_id()), 8, "ab", "another"))[1], b"K", "the same key again")
        check(0 < lib.redis.call("TTL", "{drawbar}:i:ab") <= 1000, "the key lives as long as its job")
        check_equal(lib.redis.call("ZSCORE", "{drawbar}:t:default", job), b"7", "listed")
        check_equal(lib.redis.call("ZSCORE", "{drawbar}:live", job), None, "not live")


@test()
def jobs_end_when_memory_is_full_and_submits_are_refused():
    with Library() as lib:
        job = id_text(new_id())
        lib.commit(1, *submit(job))
        lib.redis.call("CONFIG", "SET", "maxmemory", "1")
        try:
            lib.commit(2, *submit(id_text(new_id())))
            check(False, "a submit was taken without memory")
        except RedisError as refused:
            check("OOM" in str(refused), f"the error {refused}")
        check_equal(lib.commit(2, "F", job, record(SUCCEEDED, 2), 1000, "", "", name="commit_end"), [b"OK", b"+"],
                    "an end without memory")


@test()
def incarnations_rise_and_an_older_one_beats_in_vain():
    with Library() as lib:
        old = lib.call("beat", "mia", "", "{}")[1]
        new = lib.call("beat", "mia", "", '{"a":1}')[1]
        check(new > old, f"{old} then {new}")
        check_equal(lib.call("beat", "mia", old, "{}"), [0, new], "the older one's beat")
        check_equal(lib.redis.call("HGET", "{drawbar}:w", "mia"), new + b' {"a":1}', "facts")
        time.sleep(0.2)
        swept = lib.call("sweep", lib.token, 100)
        check_equal((swept[0], swept[2][0]), (b"OK", b"mia"), "the silent ones")
        check_equal(lib.call("sweep", lib.token, 60000)[2], [], "nobody is silent for a minute")
