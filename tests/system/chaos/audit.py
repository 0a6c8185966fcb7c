"""audit — reads what the world says of the jobs (records, lists, pictures, logs of the workers) and tells the
history, while the load goes on.

    auditor = Auditor(cluster, history); auditor.start() ... auditor.stop(); auditor.finish(limit_s)

A job is settled when it has ended SETTLE_S ago, its client looks no more, and the logs were read up to then:
its record, its place in the tenant's list and the bytes of its pictures in the store are compared with what
was seen, and it is forgotten. finish() waits for the rest. `prune`: pictures of settled jobs are removed, so
that a run of a million jobs fits on a disk.
"""
import collections
import glob
import hashlib
import os
import re
import socket
import threading
import time
from datetime import datetime, timezone

import msgpack

from harness import Failed, RedisError
from history import ENDS

SETTLE_S = 20.0
LOOK_AGAIN_S = 5.0
STATES = ("unknown", "queued", "running", "succeeded", "failed", "cancelled", "expired")
CODES = ("", "instance_refused", "instance_error", "instance_died", "instance_stuck", "bad_picture", "uniform_image",
         "storage", "worker_leaving", "worker_lost", "lease_lost", "too_many_attempts", "corrupt")
OVERLAP = 4096 # sequences read again at each look at the list: batches in flight may be that far behind


def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


class Record:
    """A job record as PROTOCOL.md, sections 4 and 5, writes it. Failed: it does not check."""
    __slots__ = ("status", "class_", "grant", "tries", "epoch", "revision", "worker", "sequence", "submit_ms",
                 "start_ms", "change_ms", "key", "n", "token", "worker_name", "code", "sha256")

    def __init__(self, data):
        def number(at, width):
            return int.from_bytes(data[at:at + width], "little")
        if len(data) < 64 or data[0] != 0xDB or number(60, 4) != crc32c(data[:60]) or data[2] >= len(STATES):
            raise Failed(f"a record that does not check: {data[:64]!r}")
        self.status, self.class_, self.grant, self.tries = STATES[data[2]], data[3], data[4], data[5]
        self.epoch, self.revision, self.worker = number(8, 4), number(12, 4), number(16, 8)
        self.sequence, self.submit_ms = number(24, 8), number(32, 8)
        self.start_ms, self.change_ms = number(40, 8), number(48, 8)
        parts = msgpack.Unpacker(raw=False, max_buffer_size=1 << 20)
        parts.feed(data[64:])
        envelope, body, *result = list(parts)
        self.key, self.n, self.token = envelope[0], envelope[8], int(body[0].removeprefix("s"))
        self.worker_name = result[0][0] if result else ""
        self.code = CODES[result[0][4]] if result else ""
        self.sha256 = [image[5].hex() for image in result[0][6]] if result else []


class Line:
    """A connection to Redis that is opened again when it breaks; OSError meanwhile."""

    def __init__(self, redis):
        self.redis, self.socket, self.stream = redis, None, None

    def call(self, *commands):
        """Sends all, then reads all answers."""
        try:
            if self.socket is None:
                self.socket = socket.create_connection(("127.0.0.1", self.redis.port), 3)
                self.stream = self.socket.makefile("rb")
            self.socket.sendall(b"".join(packed(words) for words in commands))
            return [self.redis._reply(self.stream) for _ in commands] # pylint: disable=protected-access
        except (OSError, RedisError, ValueError):
            self.close()
            raise

    def close(self):
        if self.socket is not None:
            self.socket.close()
            self.socket = None


def packed(words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class LogTail:
    """New lines of worker-NAME.log: what its instances began to draw."""
    DRAWING = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z info worker job-drawing job=(\w{26}) grant=(\d+)")

    def __init__(self, path):
        self.path, self.at = path, 0
        self.worker = os.path.basename(path)[len("worker-"):-len(".log")]

    def read(self, told):
        with open(self.path, "rb") as file:
            file.seek(self.at)
            text = file.read()
        text = text[:text.rfind(b"\n") + 1]
        self.at += len(text)
        for when, job_id, grant in self.DRAWING.findall(text):
            at = datetime.fromisoformat(when.decode()).replace(tzinfo=timezone.utc)
            told(job_id.decode(), int(grant), self.worker, at.timestamp() * 1000)


class Auditor:
    """One thread beside the load."""

    def __init__(self, cluster, history, prune=False):
        self.cluster, self.history, self.prune = cluster, history, prune
        self.line, self.tails = Line(cluster.redis), {}
        self.sequence, self.seen = 0, {}        # of the list read so far; id -> sequence, the newest ones
        self.due = collections.deque()          # (when, id), oldest first
        self.waiting = set()                    # ids in `due`
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.trouble = None

    def start(self):
        self.thread.start()

    def stop(self):
        self.stopping.set()
        if self.thread.is_alive():
            self.thread.join()
        if self.trouble is not None:
            raise self.trouble

    def _run(self):
        while not self.stopping.wait(1.0):
            try:
                self.look()
            except (OSError, RedisError):
                self.line.close() # Redis is being hurt: later
            except Exception as trouble: # pylint: disable=broad-except
                self.trouble = trouble
                return

    def look(self):
        self.read_logs()
        self.read_list()
        for job_id in list(self.history.jobs):
            self.put(job_id)
        self.settle_due()

    def put(self, job_id, delay_s=LOOK_AGAIN_S):
        if job_id not in self.waiting:
            self.waiting.add(job_id)
            self.due.append((time.monotonic() + delay_s, job_id))

    def read_logs(self):
        for path in glob.glob(os.path.join(self.cluster.directory, "worker-*.log")):
            self.tails.setdefault(path, LogTail(path)).read(self.history.drawn)

    def read_list(self):
        """Every job that Redis took stands in its tenant's list, acknowledged or not."""
        told = self.line.call(["ZRANGE", "{drawbar}:t:default", max(0, self.sequence - OVERLAP), "+inf", "BYSCORE",
                               "WITHSCORES"])[0]
        listed = {job_id.decode(): int(score) for job_id, score in zip(told[::2], told[1::2])}
        fresh = [job_id for job_id in listed if job_id not in self.seen]
        for job_id, record in zip(fresh, self.records(fresh)):
            if record is not None:
                self.history.found(job_id, record.token)
        self.seen.update(listed)
        self.sequence = max([self.sequence, *listed.values()])
        if len(self.seen) > 40 * OVERLAP: # a job older than that was settled, or is looked up by itself
            self.seen = {job_id: at for job_id, at in self.seen.items() if at > self.sequence - 20 * OVERLAP}

    def records(self, ids):
        if not ids:
            return []
        found = self.line.call(["MGET", *(f"{{drawbar}}:j:{job_id}" for job_id in ids)])[0]
        return [data and Record(data) for data in found]

    def settle_due(self, all_now=False):
        """Settles who has ended; puts the others back into the line."""
        ids, now = [], time.monotonic()
        while self.due and len(ids) < 1000 and (all_now or self.due[0][0] <= now):
            ids.append(self.due.popleft()[1])
        try:
            records = self.records(ids)
        except BaseException:
            self.due.extendleft((now, job_id) for job_id in ids)
            raise
        for job_id, record in zip(ids, records):
            self.waiting.discard(job_id)
            job = self.history.jobs.get(job_id)
            if job is not None and not self._settled(job, record, all_now):
                self.put(job_id)
        return len(ids)

    def _settled(self, job, record, all_now):
        if job.followers > 0:
            return False
        ended = record is not None and record.status in ENDS
        old = ended and time.time() * 1000 - record.change_ms > SETTLE_S * 1000
        gone = record is None and job.acked_s is not None and self.history.now() - job.acked_s > SETTLE_S
        if not (old or gone or (all_now and (ended or record is None))):
            return False
        self.history.settle(job.id, record, self.stored(job.id, record), job.id in self.seen or self._is_listed(job.id))
        return True

    def _is_listed(self, job_id):
        return self.line.call(["ZSCORE", "{drawbar}:t:default", job_id])[0] is not None

    def stored(self, job_id, record):
        """SHA-256 of the job's accepted pictures in the store."""
        if record is None or record.status != "succeeded":
            return []
        hour = datetime.fromtimestamp(id_ms(job_id) / 1000, timezone.utc).strftime("%Y%m%d%H")
        found = []
        for index in range(record.n):
            name = f"{job_id}.{record.epoch:08x}.{record.grant}.{index}"
            path = os.path.join(self.cluster.directory, "artifacts", hour, name)
            try:
                with open(path, "rb") as file:
                    found.append(hashlib.sha256(file.read()).hexdigest())
                if self.prune:
                    os.unlink(path)
            except FileNotFoundError:
                pass
        return found

    def finish(self, limit_s=120):
        """Waits until no job lives, settles everything, scans all records for strangers. The load and the
        auditor's thread have stopped, and nothing is broken any more."""
        end = time.monotonic() + limit_s
        while (live := self.line.call(["ZCARD", "{drawbar}:live"])[0]) > 0:
            if time.monotonic() > end:
                raise Failed(f"{live} jobs are still live {limit_s} s after the load ended: {self.live()}")
            time.sleep(0.2)
        self.read_logs()
        self.read_list()
        self.scan()
        for job_id in list(self.history.jobs):
            self.put(job_id, 0)
        while self.settle_due(all_now=True):
            if time.monotonic() > end + limit_s:
                break
            if self.due and all(self.history.jobs.get(j) and self.history.jobs[j].followers for _t, j in self.due):
                raise Failed("a client did not say that it left its job")
        return self.history.finish()

    def live(self):
        ids = [job_id.decode() for job_id in self.line.call(["ZRANGE", "{drawbar}:live", 0, 4])[0]]
        return [f"{job_id} {record and (record.status, record.grant)}" for job_id, record in zip(ids, self.records(ids))]

    def scan(self):
        """All records, also of jobs that stand in no list."""
        cursor = "0"
        while True:
            cursor, keys = self.line.call(["SCAN", cursor, "MATCH", "{drawbar}:j:*", "COUNT", 1000])[0]
            ids = [key.decode().rpartition(":")[2] for key in keys]
            strange = [job_id for job_id in ids if job_id not in self.seen]
            for job_id, record in zip(strange, self.records(strange)):
                if record is not None:
                    self.history.found(job_id, record.token)
            if cursor == b"0":
                return


def id_ms(job_id):
    """The first 48 bits of an id are the wall time at which it was minted."""
    value = 0
    for digit in job_id[:10]:
        value = value * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(digit)
    return value
