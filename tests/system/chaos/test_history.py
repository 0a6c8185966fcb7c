"""The checker of histories can fail: each of its complaints is provoked once, by a history made up for it."""
import os
import struct
import tempfile

import msgpack

import audit
from harness import Failed, check, check_equal
from history import AFTERMATH_S, RULES, STALE_VIEW_S, WITHDRAW_S, History
from registry import test

JOB, OTHER = "01M894BNG63HMYBEXH38D9P6C8", "01M894BNKJZGNNC3W1MC5BAXXS"
SHA = "ab" * 32


class Story:
    """A history with a clock of its own, and a record that fits a job which succeeded at once."""

    def __init__(self):
        self.clock = 10.0
        self.history = History()
        self.history.now = lambda: self.clock

    def at(self, seconds):
        self.clock = seconds
        return self

    def submitted(self, job=JOB, has_key=True):
        """A job that was acknowledged, and is followed no more."""
        token = self.history.new_token(has_key)
        begun = self.history.invoked(token)
        self.history.acknowledged(token, job, begun)
        self.history.left(job)
        return token

    def saw(self, status, job=JOB, where="gateway-1", client="ann", **more):
        self.history.saw(client, where, job, {"status": status, **more}, more.pop("asked_s", self.clock))
        return self

    def record(self, status="succeeded", **more):
        record = audit.Record.__new__(audit.Record)
        wall = int(self.history.wall_ms(self.clock))
        told = {"status": status, "class_": 1, "grant": 1, "tries": 1, "epoch": 1, "revision": 3, "worker": 5,
                "sequence": 1, "submit_ms": wall, "start_ms": wall, "change_ms": wall, "key": 1, "n": 1, "token": 0,
                "worker_name": "mia", "code": "", "sha256": [SHA] if status == "succeeded" else [], **more}
        for name, value in told.items():
            setattr(record, name, value)
        return record

    def settle(self, record, job=JOB, stored=None, listed=True):
        stored = [SHA] * record.n if stored is None and record and record.status == "succeeded" else stored or []
        self.history.settle(job, record, stored, listed)
        return self

    def complains(self, *rules):
        self.history.finish()
        check_equal(sorted(self.history.counts), sorted(rules), f"rules of {self.history.complaints}")
        for text in self.history.complaints:
            check("job 01M" in text and " s" in text, f"job and times in {text!r}")
        PROVOKED.update(rules)


PROVOKED = set()


def drew(story, *executions, job=JOB):
    for at, grant, worker in executions:
        story.history.drawn(job, grant, worker, story.history.wall_ms(at))


def lost_in_all_ways():
    story = Story()
    story.submitted()
    story.settle(None).complains("lost")
    story = Story()
    story.submitted()
    story.settle(story.record("queued")).complains("lost")
    story = Story()
    story.submitted()
    story.complains("lost") # never settled
    story = Story()
    story.submitted()
    story.settle(story.record(), listed=False).complains("not_listed")


def ends_that_change():
    story = Story()
    story.submitted()
    story.saw("succeeded").saw("cancelled", where="gateway-2").complains("changed_end", "lost")
    story = Story()
    story.submitted()
    story.saw("succeeded").at(10 + STALE_VIEW_S + 1).saw("running", where="gateway-2").settle(story.record())
    story.complains("changed_end")
    story = Story()
    story.submitted()
    story.saw("failed").settle(story.record()).complains("changed_end")


def second_completions():
    story = Story()
    story.submitted()
    story.saw("succeeded", attempt=1, worker="mia").saw("succeeded", attempt=2, worker="zoe", where="gateway-2")
    story.settle(story.record()).complains("two_completions")
    story = Story()
    story.submitted()
    story.saw("succeeded", attempt=1, worker="mia").settle(story.record(grant=2, worker_name="zoe"))
    story.complains("two_completions")
    story = Story()
    story.submitted()
    drew(story, (10, 1, "mia"))
    story.settle(story.record(grant=2)).complains("two_completions")


def pictures_of_another():
    for stored, seen in (([SHA], "cd" * 32), (["cd" * 32], SHA), ([], SHA)):
        story = Story()
        story.submitted()
        story.history.picture(JOB, 0, seen)
        story.settle(story.record(), stored=stored).complains("wrong_picture")
    story = Story()
    story.submitted()
    story.history.picture(JOB, 0, SHA)
    story.history.picture(JOB, 0, "cd" * 32)
    story.settle(story.record()).complains("wrong_picture")


def keys_and_ids():
    story = Story()
    token = story.submitted()
    story.history.found(OTHER, token)
    story.settle(story.record()).settle(story.record(), job=OTHER).complains("two_jobs")
    story = Story()
    story.submitted()
    story.submitted()
    story.settle(story.record()).complains("shared_id")


def views_that_go_backwards():
    for before, after in (({"attempt": 2}, {"attempt": 1}), ({"revision": 5}, {"revision": 4})):
        story = Story()
        story.submitted()
        story.saw("running", **before).saw("running", **after).settle(story.record()).complains("backwards")
    story = Story()
    story.submitted()
    story.saw("succeeded").saw("running").settle(story.record()).complains("backwards")


def cancels():
    story = Story()
    story.submitted()
    story.history.cancel_asked(JOB)
    story.history.cancel_answered(JOB, "cancelled")
    story.at(11).saw("succeeded").settle(story.record()).complains("uncancelled")
    story = Story()
    story.submitted()
    story.settle(story.record("cancelled")).complains("cancelled_unasked")
    story = Story() # 503, sent again with its key, acknowledged, and then withdrawn: the gateway did so once
    token = story.history.new_token(True)
    story.history.invoked(token)
    story.history.refused(token, 503)
    story.history.acknowledged(token, JOB, story.history.invoked(token))
    story.history.left(JOB)
    story.settle(story.record("cancelled")).complains("cancelled_unasked")


def refusals():
    story = Story()
    token = story.history.new_token(False)
    story.history.invoked(token)
    story.history.refused(token, 422)
    story.history.found(JOB, token)
    story.settle(story.record()).complains("refused_but_kept")
    story = Story()
    token = story.history.new_token(False)
    story.history.invoked(token)
    story.history.refused(token, 503)
    story.history.found(JOB, token)
    story.at(10 + WITHDRAW_S + 1).settle(story.record()).complains("refused_but_kept")


def executions():
    story = Story()
    story.submitted()
    drew(story, (10, 1, "mia"), (12, 2, "zoe"))
    story.settle(story.record(grant=2)).complains("drawn_again")
    story = Story() # a fault elsewhere does not explain it
    story.submitted()
    story.history.fault_ends(story.history.fault_begins("kill-gateway", ["gateway-1"]))
    drew(story, (10, 1, "mia"), (12, 2, "zoe"))
    story.settle(story.record(grant=2)).complains("drawn_again")
    story = Story() # mia's lease was the first, whenever she told of it: a fault of zoe does not explain it
    story.submitted()
    story.history.fault_ends(story.history.fault_begins("pause-worker", ["zoe"]))
    drew(story, (12, 2, "zoe"), (15, 1, "mia"))
    story.settle(story.record(grant=2)).complains("drawn_again")
    story = Story()
    story.submitted()
    drew(story, (10, 1, "mia"), (11, 1, "zoe"))
    story.history.fault_begins("pause-worker", ["mia", "zoe"])
    story.settle(story.record()).complains("two_hands")
    story = Story()
    story.submitted()
    story.settle(story.record("failed", code="too_many_attempts")).complains("failed_unhurt")


def order():
    story = Story()
    for i, (job, waited, granted) in enumerate(((JOB, 10, 15), (OTHER, 10, 12))):
        story.at(waited).submitted(job)
        start = int(story.history.wall_ms(granted))
        story.at(20).settle(story.record(key=i, sequence=i, start_ms=start), job=job)
    story.complains("out_of_order")
    check(JOB in story.history.complaints[0] and OTHER in story.history.complaints[0], "both jobs are named")
    story = Story() # seen queued again at 11 s, granted at 15 s; the other one came later and was granted first
    for i, (job, granted, grant) in enumerate(((JOB, 15, 2), (OTHER, 12, 1))):
        story.at(10).submitted(job)
        if grant == 2:
            story.history.requeue_seen(job, story.history.wall_ms(11), 1, 5)
        start = int(story.history.wall_ms(granted))
        story.at(20).settle(story.record(key=i, sequence=i, start_ms=start, grant=grant, worker=6), job=job)
    story.complains("out_of_order")


@test(short=True)
def each_rule_of_the_history_complains_when_it_is_broken():
    for provoke in (lost_in_all_ways, ends_that_change, second_completions, pictures_of_another, keys_and_ids,
                    views_that_go_backwards, cancels, refusals, executions, order):
        provoke()
    check_equal(set(RULES) - PROVOKED, set(), "rules that nothing provoked")


@test(short=True)
def a_good_history_has_no_complaint():
    story = Story()
    token = story.history.new_token(True)
    story.history.invoked(token)
    story.history.unknown(token) # the gateway died; the same key again
    begun = story.history.invoked(token)
    story.history.acknowledged(token, JOB, begun)
    story.saw("queued").saw("running", attempt=1, worker="mia")
    story.at(12).saw("running", where="gateway-2", attempt=1).saw("queued", attempt=1)
    fault = story.history.fault_begins("kill-worker", ["mia"])
    story.at(13).history.fault_ends(fault)
    drew(story, (11, 1, "mia"), (14, 2, "zoe"))
    story.at(15).saw("succeeded", attempt=2, worker="zoe")
    story.at(16).saw("running", where="gateway-2", attempt=1) # another gateway, a little late
    story.history.picture(JOB, 0, SHA)
    story.history.left(JOB)
    story.history.found(JOB, token)
    story.settle(story.record(grant=2, worker_name="zoe"))
    # 503, and withdrawn; 503 and no job at all; drawn although refused, because its gateway died.
    refused = story.history.new_token(False)
    story.history.invoked(refused)
    story.history.refused(refused, 503)
    story.history.found(OTHER, refused)
    story.settle(story.record("cancelled"), job=OTHER)
    story.complains()
    check_equal(dict(story.history.figures.again), {"kill-worker": 1}, "executions explained")
    story = Story() # a worker that slept tells when it wakes what its instance began before
    story.submitted()
    story.history.fault_ends(story.history.fault_begins("pause-worker-long", ["mia"]))
    drew(story, (12, 2, "zoe"), (15, 1, "mia"))
    story.settle(story.record(grant=2, worker_name="zoe")).complains()
    check_equal(dict(story.history.figures.again), {"pause-worker-long": 1}, "executions explained")
    check_equal(story.history.figures.accepted, 1, "accepted")


@test(short=True)
def a_fault_explains_what_follows_it_only_for_a_while_and_only_on_its_victim():
    story = Story()
    fault = story.history.fault_begins("kill-worker", ["mia"])
    story.at(11).history.fault_ends(fault)
    hurt = story.history.hurt
    check(hurt("mia", 10.5, 12) and hurt("mia", 11 + AFTERMATH_S, 99), "its victim, during it and after it")
    check(not hurt("mia", 12 + AFTERMATH_S, 99) and not hurt("mia", 5, 9), "long after it, and before it")
    check(not hurt("zoe", 10, 12) and hurt(None, 10, 12), "another one")


@test(short=True)
def a_job_that_waited_for_a_worker_it_avoids_was_not_passed():
    story = Story()
    for i, (job, granted, grant, worker) in enumerate(((JOB, 15, 2, 6), (OTHER, 12, 1, 5))):
        story.at(10).submitted(job)
        if grant == 2:
            story.history.requeue_seen(job, story.history.wall_ms(11), 1, 5)
        start = int(story.history.wall_ms(granted))
        story.at(20).settle(story.record(key=i, sequence=i, start_ms=start, grant=grant, worker=worker), job=job)
    story.complains()


@test(short=True)
def a_record_is_read_as_the_protocol_writes_it_and_a_broken_one_is_noticed():
    header = struct.pack("<8BIIQQQQQI", 0xDB, 1, 3, 1, 2, 1, 4, 0, 7, 9, 11, 13, 17, 19, 23, 0)
    header += audit.crc32c(header).to_bytes(4, "little")
    envelope = msgpack.packb([29, 0, "default", "m", 1, 64, 64, 2, 1, 0, 60, b"", b""])
    body = msgpack.packb(["s31", "", 0.0, 1, 0, 90, b""])
    result = msgpack.packb(["mia", "i", 1, 0, 0, "", [[64, 64, 1, 9, 0, b"\xab" * 32]]])
    record = audit.Record(header + envelope + body + result)
    got = {name: getattr(record, name) for name in audit.Record.__slots__}
    check_equal(got, {"status": "succeeded", "class_": 1, "grant": 2, "tries": 1, "epoch": 7, "revision": 9, "worker": 11,
                      "sequence": 13, "submit_ms": 17, "start_ms": 19, "change_ms": 23, "key": 29, "n": 1, "token": 31,
                      "worker_name": "mia", "code": "", "sha256": [SHA]}, "the record")
    try:
        audit.Record(b"\xdb\x01\x02" + header[3:] + envelope + body + result)
    except Failed:
        pass
    else:
        raise Failed("a header with another state under the same CRC was believed")


@test(short=True)
def the_log_of_a_worker_tells_each_execution_once_however_it_is_cut():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "worker-mia.log")
        line = f"2026-11-25T10:34:56.391Z info worker job-drawing job={JOB} grant=%d instance=instance-0\n"
        tail, told = audit.LogTail(path), []
        for text in (line % 1 + "noise\n" + (line % 2)[:40], (line % 2)[40:], ""):
            with open(path, "a", encoding="utf-8") as file:
                file.write(text)
            tail.read(lambda *what: told.append(what))
    check_equal([(job, grant, worker) for job, grant, worker, _at in told], [(JOB, 1, "mia"), (JOB, 2, "mia")], "told")
    check_equal(told[0][3] % 60000, 56391.0, "the time, in ms")
