"""stub — what the stubs of other people's servers share: HTTP with JSON, answered as FastAPI would, one thread a
connection; a picture that follows from what was asked; and a job drawn step by step. They are stubs: they keep to a
documented API and draw noise.
"""
import base64
import hashlib
import json
import random
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STEP_S = 0.1
DECODE_S = 0.3


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status, body):
        super().__init__(status)
        self.status, self.body = status, body


def png(width, height, *key):
    """Noise that follows from the key."""
    def chunk(tag, data):
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))
    seed = hashlib.sha256(repr((width, height, key)).encode()).digest()
    noise = random.Random(seed).randbytes(height * width * 3)
    rows = b"".join(b"\0" + noise[y * width * 3:(y + 1) * width * 3] for y in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))


def png_base64(width, height, *key):
    return base64.b64encode(png(width, height, *key)).decode()


def draw(steps, on_step=lambda done: True):
    """Takes the time of a drawing. on_step(i) returns False to end the sampling; decoding comes all the same."""
    for done in range(steps):
        if not on_step(done):
            break
        time.sleep(STEP_S)
    time.sleep(DECODE_S)


def invalid(field, message, kind="value_error"):
    """FastAPI's 422."""
    return Refused(422, {"detail": [{"type": kind, "loc": ["body", field], "msg": message, "input": None}]})


def number(request, field, least, most, default=None):
    """A whole number of the request, or FastAPI's refusal."""
    value = request.get(field, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise invalid(field, "Input should be a valid integer", "int_parsing")
    if not least <= value <= most:
        raise invalid(field, f"Input should be from {least} to {most}", "greater_than_equal")
    return int(value)


def serve(port, routes):
    """`routes`: {("GET", "/path"): function of the request's JSON (or None) that returns what is answered}."""
    class Handler(BaseHTTPRequestHandler):
        """One connection."""
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "stub", ""

        def answer(self, status, body):
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            function = routes.get((self.command, self.path.partition("?")[0]))
            try:
                if function is None:
                    raise Refused(404, {"detail": "Not Found"})
                try:
                    request = json.loads(body) if body else None
                except ValueError as bad:
                    raise Refused(422, {"detail": [{"type": "json_invalid", "loc": ["body", 0],
                                                    "msg": "JSON decode error"}]}) from bad
                self.answer(200, function(request))
            except Refused as refused:
                self.answer(refused.status, refused.body)
            except OSError:
                self.close_connection = True # whoever asked has left

        do_GET = do_POST = handle_any

    class Server(ThreadingHTTPServer):
        """Quiet about clients that leave."""
        daemon_threads = True

        def handle_error(self, *_):
            pass
    Server(("127.0.0.1", port), Handler).serve_forever()


class Gpu:
    """One drawing at a time, first come first served."""

    def __init__(self):
        self.turn = threading.Condition()
        self.next_ticket = self.serving = 0

    def __enter__(self):
        with self.turn:
            ticket, self.next_ticket = self.next_ticket, self.next_ticket + 1
            while self.serving != ticket:
                self.turn.wait()

    def __exit__(self, *_):
        with self.turn:
            self.serving += 1
            self.turn.notify_all()
