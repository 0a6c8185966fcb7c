"""peer — workers and gateways that speak the protocol by hand, to break it in ways ours never would.

The numbers of the kinds are read from proto/frames.h, so that they are the compiler's.
"""
import http.client
import os
import random
import re
import struct
import time
import zlib

import msgpack
import zmq

from harness import Failed, check, check_equal, until

SOURCE = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def read_kinds():
    with open(os.path.join(SOURCE, "proto", "frames.h"), encoding="utf-8") as file:
        body = re.search(r"enum frame_kind \{(.*?)\};", file.read(), re.S).group(1)
    names = re.findall(r"FRAME_(\w+)", re.sub(r"/\*.*?\*/", "", body, flags=re.S))
    return {name: number for number, name in enumerate(names)}


KINDS = read_kinds()
NAMES = {number: name for name, number in KINDS.items()}


def id_bytes(text):
    number = 0
    for digit in text:
        number = number * 32 + DIGITS.index(digit)
    return number.to_bytes(16, "big")


def id_text(data):
    number = int.from_bytes(data, "big")
    return "".join(DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


def new_id():
    return int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10)


def crc32c(data):
    """Castagnoli, bit by bit: a record has 64 bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def png(width, height, pixel=None):
    """A PNG of noise, or of one colour (r, g, b)."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    noise = random.Random(width * 4099 + height)
    row = (lambda: bytes(pixel) * width) if pixel else (lambda: noise.randbytes(3 * width))
    raw = b"".join(b"\0" + row() for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 1))
            + chunk(b"IEND", b""))


class Frame:
    """A message that came: .kind is its name, .fields what follows session and epoch."""

    def __init__(self, data):
        values = msgpack.unpackb(data, raw=False, strict_map_key=False)
        self.kind, self.session, self.epoch = NAMES.get(values[0], values[0]), values[1], values[2]
        self.fields = values[3:]

    def __repr__(self):
        return f"{self.kind}{self.fields}"


class Peer:
    """A DEALER at one of the broker's doors."""

    def __init__(self, address):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(f"tcp://{address}")
        self.session, self.epoch = random.getrandbits(63) + 1, 0
        self.seen = []

    def send_bytes(self, data):
        self.socket.send(data)

    def send(self, kind, *fields, session=None, epoch=None):
        head = [KINDS[kind], self.session if session is None else session,
                self.epoch if epoch is None else epoch]
        self.send_bytes(msgpack.packb(head + list(fields), use_bin_type=True))

    def receive(self, limit_s):
        """The next message, or None."""
        if not self.socket.poll(int(limit_s * 1000)):
            return None
        frame = Frame(self.socket.recv())
        self.seen.append(frame)
        if frame.kind in ("WORKER_WELCOME", "GATEWAY_WELCOME"):
            self.epoch = frame.epoch
        return frame

    def expect(self, kind, limit_s=5, where=lambda frame: True):
        """The next message of the kind; others are passed over."""
        end = time.monotonic() + limit_s
        while (left := end - time.monotonic()) > 0:
            frame = self.receive(left)
            if frame is not None and frame.kind == kind and where(frame):
                return frame
        raise Failed(f"no {kind} within {limit_s} s; came: {self.seen[-10:]}")

    def expect_none(self, kind, for_s, where=lambda frame: True):
        end = time.monotonic() + for_s
        while (left := end - time.monotonic()) > 0:
            frame = self.receive(left)
            check(frame is None or frame.kind != kind or not where(frame), f"unexpected {frame}")

    def close(self):
        self.socket.close()
        self.context.term()


class FakeWorker(Peer):
    """A worker by hand. It beats in Redis only when it is told to."""

    def __init__(self, cluster, name, door=None, incarnation=None):
        self.cluster, self.name = cluster, name
        leader = until(cluster.redis.leader, 5, "there is a leader")
        super().__init__(door or leader[3])
        cluster.closers.append(self.close)
        self.incarnation = incarnation or self.beat()
        self.leases, self.last_job, self.pull = [], 0, 0

    def beat(self, incarnation=""):
        answer = self.cluster.redis.call("FCALL", "drawbar1_beat", 0, self.name, incarnation, "{}")
        value = answer[1]
        return int(value, 16) if isinstance(value, bytes) else value

    def hello(self, leases=(), expect="WORKER_WELCOME", models=("z-image-turbo",), instances=1):
        self.leases, self.last_job = list(leases), 0
        self.session = random.getrandbits(63) + 1
        self.send("WORKER_HELLO", 1, self.name, self.incarnation, [[m] for m in models], instances,
                  2048 * 2048, 0, self.leases, epoch=0)
        return self.expect(expect)

    def state(self, pull=None):
        self.pull = self.pull if pull is None else pull
        self.send("WORKER_STATE", self.pull, self.last_job, self.leases)

    def job(self, limit_s=5):
        """Waits for a JOB, saying STATE each second as a worker does; takes it in: (lease, frame)."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            frame = self.receive(0.5)
            if frame is None:
                self.state()
            elif frame.kind == "JOB":
                return frame
        raise Failed(f"no JOB within {limit_s} s; came: {self.seen[-10:]}")

    def take(self, frame, taken=True):
        """Does what a worker does with a JOB: the lease is held, the place is used."""
        number, lease = frame.fields[0], frame.fields[1]
        self.last_job, self.pull = number, max(0, self.pull - 1)
        self.leases.append([lease, taken, False])
        if taken:
            self.send("PROGRESS", lease, 0, 8)
        self.state()
        return lease

    def drop(self, lease):
        self.leases = [held for held in self.leases if held[0] != lease]

    def upload(self, frame, data, index=0, token=None):
        """PUTs a picture with the grant of the JOB; returns (status, body)."""
        _number, lease, _tries, _flags, _request, bases, granted = frame.fields[:7]
        job, epoch, grant = lease
        host = bases[0][0].removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=5)
        connection.request("PUT", f"/upload/{id_text(job)}/{grant}/{index}?epoch={epoch:08x}", data,
                           {"Authorization": f"Grant {token or granted}", "Content-Type": "image/png"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def result(self, data, width, height, seed=0):
        import hashlib # pylint: disable=import-outside-toplevel
        return msgpack.packb([self.name, "by-hand", 1, 0, 0, "",
                              [[width, height, seed, len(data), 0, hashlib.sha256(data).digest()]]],
                             use_bin_type=True)

    def done(self, frame, width=64, height=64, expect="ACK"):
        """Uploads a picture and says DONE until it is answered."""
        lease, data = frame.fields[1], png(width, height)
        status, body = self.upload(frame, data)
        check(status in (200, 201), f"upload answered {status} {body[:200]!r}")
        self.send("DONE", lease, self.result(data, width, height))
        answer = self.expect(expect, 10, lambda f: f.fields[0] == lease)
        self.drop(lease)
        return answer


class FakeGateway(Peer):
    """A gateway by hand."""

    def __init__(self, cluster, name="by-hand"):
        leader = until(cluster.redis.leader, 5, "there is a leader")
        super().__init__(leader[2])
        cluster.closers.append(self.close)
        self.name = name

    def hello(self, store, bases=("http://127.0.0.1:9",), expect="GATEWAY_WELCOME"):
        self.send("GATEWAY_HELLO", 1, self.name, store, [[b] for b in bases], False, epoch=0)
        return self.expect(expect)

    def submit(self, job_id, request, watch=False):
        self.send("SUBMIT", job_id, request, watch)


def packed_request(prompt="by hand", width=64, height=64, steps=2, n=1, model="z-image-turbo"):
    """Envelope and body as the gateway packs them."""
    fixed = b"\xcf" + bytes(8)
    rest = msgpack.packb(["default", model, 1, width, height, steps, n, 0, 3600, b"", b""], use_bin_type=True)
    envelope = bytes([0x90 | 13]) + fixed + fixed + rest[1:]
    body = msgpack.packb([prompt, "", 0.0, 7, 0, 90, b""], use_bin_type=True)
    return envelope + body


def store_id(cluster):
    return cluster.redis.call("HGET", "{drawbar}:meta", "store").decode()


__all__ = ["Peer", "FakeWorker", "FakeGateway", "Frame", "KINDS", "id_bytes", "id_text", "new_id", "png",
           "crc32c", "packed_request", "store_id", "check_equal"]
