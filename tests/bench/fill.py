"""fill — a queue of any length in seconds: copies of one real job, written as the leader would write them.

One job is submitted over HTTP; its record is the pattern. Then, for a term of its own, this client commits
copies of it through drawbar1_commit: id, sequence, queue key and the header's CRC are each copy's own.
"""
import os
import socket
import struct
import time

SEQUENCE_AT, CRC_AT, KEY_AT = 24, 60, 64 + 2 # proto/job.c; the key stands in the envelope
CLASS_STEP = 2 ** 45                         # of the score; broker/batch.c
BATCH, PIPELINE = 256, 32                    # LIMIT_BATCH_OPS; batches sent before their answers are read
DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def id_text(number):
    return "".join(DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


def pack(words):
    packed = b"*%d\r\n" % len(words)
    for word in words:
        word = word if isinstance(word, bytes) else str(word).encode()
        packed += b"$%d\r\n%s\r\n" % (len(word), word)
    return packed


def copies(pattern, first_sequence, count):
    """(id, sequence, record) of each copy."""
    head, rest = bytearray(pattern[:64]), bytearray(pattern[64:])
    key, = struct.unpack_from(">Q", rest, KEY_AT - 64)
    epoch_ms = int(time.time() * 1000) << 80
    for i in range(count):
        struct.pack_into("<Q", head, SEQUENCE_AT, first_sequence + i)
        struct.pack_into("<I", head, CRC_AT, crc32c(head[:CRC_AT]))
        struct.pack_into(">Q", rest, KEY_AT - 64, key + 1 + i)
        yield id_text(epoch_ms | int.from_bytes(os.urandom(10), "big")), first_sequence + i, bytes(head + rest)


def fill(redis, job_id, count):
    """Copies the queued job `count` times. No broker may be running."""
    pattern = redis.record(job_id)
    first, = struct.unpack_from("<Q", pattern, SEQUENCE_AT)
    verdict, token = redis.call("FCALL", "drawbar1_elect", 0, "fill", 600000, "0123456789abcdef", "ab" * 32)[:2]
    assert verdict == 1, f"another broker leads: {token}"
    n, words, waiting = 0, [], 0
    with socket.create_connection(("127.0.0.1", redis.port)) as s, s.makefile("rb") as replies:
        def read(left):
            nonlocal waiting
            while waiting > left:
                answer = redis._reply(replies) # pylint: disable=protected-access
                assert answer[0] == b"OK" and set(answer[1]) == {ord("+")}, answer
                waiting -= 1
        for job, sequence, record in copies(pattern, first + 1, count):
            words += ["S", job, CLASS_STEP * pattern[3] + sequence, sequence, "default", "", "", record]
            if len(words) == 8 * BATCH or sequence == first + count:
                n += 1
                s.sendall(pack(["FCALL", "drawbar1_commit", 0, token, n] + words))
                words, waiting = [], waiting + 1
                read(PIPELINE)
        read(0)
    redis.call("FCALL", "drawbar1_resign", 0, token)
