"""server — the HTTP side: one thread a connection, HTTP/1.1 with keep-alive, standard library only.

A handler decodes the request, asks the table, and writes one answer. It never touches the model, so the
health check answers while a job hangs.
"""
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from zimage import order as orders
from zimage.order import Refused

WAIT_MOST_S = 30
POLLS_MOST = 256
CONNECTIONS_MOST = 512
IDLE_S = 75        # a connection without a request is closed then
STOP_WAIT_S = 5    # how long DELETE waits for a running job to leave the GPU
HEADERS_BYTES = 65536
NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?\Z|\.[0-9]+\Z")
TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
ROUTES = (
    (re.compile(r"/healthz\Z"), {"GET": "show_health", "HEAD": "show_health"}),
    (re.compile(r"/v1/jobs\Z"), {"POST": "submit"}),
    (re.compile(r"/v1/jobs/([A-Za-z0-9._-]{1,64})\Z"),
     {"GET": "poll", "HEAD": "poll", "DELETE": "delete"}),
    (re.compile(r"/v1/jobs/([A-Za-z0-9._-]{1,64})/images/([^/]*)\Z"), {"GET": "image", "HEAD": "image"}),
)


class Problem(Exception):
    """The request is no good HTTP: answered with problem+json, and the connection is closed."""

    def __init__(self, status, title, detail):
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "zimage"
    sys_version = ""
    timeout = IDLE_S
    disable_nagle_algorithm = True
    wbufsize = -1 # one write for head and body

    def do_GET(self):
        self.route()
    do_HEAD = do_POST = do_DELETE = do_PUT = do_PATCH = do_OPTIONS = do_GET

    def route(self):
        target = urlsplit(self.path)
        try:
            body = self.read_body()
            try:
                self.serve(target, body)
            except Refused as refused:
                extra = {"Retry-After": "1"} if refused.status in (429, 503) else {}
                self.answer(refused.status, refused.document(), extra)
        except Problem as problem:
            self.close_connection = True
            self.answer(problem.status, {"type": "about:blank", "title": problem.title, "status": problem.status,
                                         "detail": problem.detail}, kind="application/problem+json")
        except (ConnectionError, socket.timeout):
            self.close_connection = True

    def serve(self, target, body):
        for pattern, methods in ROUTES:
            match = pattern.match(target.path)
            if match is None:
                continue
            name = methods.get(self.command)
            if name is None:
                error = Refused(405, "bad_method", "see the header Allow")
                self.answer(405, error.document(), {"Allow": ", ".join(sorted(methods))})
                return
            if name != "show_health" and not self.server.table.ready:
                raise Refused(503, "not_ready", "the instance is starting")
            getattr(self, name)(*match.groups(), **({"body": body} if name == "submit" else
                                                    {"query": target.query} if name == "poll" else {}))
            return
        raise Refused(404, "unknown_path", "no such resource")

    def read_body(self):
        if "Transfer-Encoding" in self.headers:
            raise Problem(411, "Length Required", "a body needs Content-Length")
        lengths = set(self.headers.get_all("Content-Length", ["0"]))
        length = lengths.pop()
        if lengths or not (length.isascii() and length.isdigit()):
            raise Problem(400, "Bad Request", "Content-Length is no number")
        if int(length) > orders.BODY_BYTES:
            raise Problem(413, "Content Too Large", f"at most {orders.BODY_BYTES} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the body ended early")
        return body

    # -- the routes --

    def show_health(self):
        table = self.server.table
        with table.changed:
            document = {"ready": table.ready and not table.releasing, "simulated": False,
                        "model": self.server.options.model_name, "epoch": table.epoch,
                        "queue_depth": len(table.queue),
                        "running": table.drawing.order.id if table.drawing else None,
                        "last_step_ms": round(table.last_step_ms, 2), "device": self.server.artist.device_name(),
                        "max_pixels": self.server.options.max_pixels, "formats": list(orders.FORMATS),
                        "pictures": table.pictures}
        document.update(self.server.artist.facts, compiled=self.server.artist.compiled.document(),
                        versions=self.server.versions)
        self.answer(200 if document["ready"] else 503, document)

    def submit(self, body):
        order = orders.read(body, self.server.options.max_pixels)
        job, verdict = self.server.table.add(order)
        if verdict == "full":
            raise Refused(429, "queue_full", "as many jobs wait as may")
        if verdict == "known":
            self.answer(200, self.server.table.document(job))
        else:
            self.answer(202, {"id": order.id, "state": "queued", "epoch": self.server.table.epoch})

    def find(self, name):
        job = self.server.table.find(name)
        if job is None:
            raise Refused(404, "unknown_job", "no such job, or it was dropped")
        return job

    def poll(self, name, query):
        job = self.find(name)
        arguments = parse_qs(query, keep_blank_values=True)
        wait_s = self.argument(arguments, "wait", WAIT_MOST_S, 0)
        since = self.argument(arguments, "since", orders.STEPS_MOST, orders.STEPS_MOST)
        if wait_s > 0 and self.server.polls.acquire(blocking=False):
            try:
                self.server.table.wait(job, int(since), wait_s)
            finally:
                self.server.polls.release()
        self.answer(200, self.server.table.document(job))

    @staticmethod
    def argument(arguments, name, most, otherwise):
        if name not in arguments:
            return otherwise
        text = arguments[name][0]
        if not NUMBER.match(text) or float(text) > most:
            raise Refused(400, "bad_argument", f"{name} must be a number from 0 to {most}", name)
        return float(text)

    def delete(self, name):
        state = self.server.table.remove(self.find(name), STOP_WAIT_S)
        self.answer(200, {"id": name, "state": state})

    def image(self, name, index):
        job = self.find(name)
        known = len(index) == 1 and index in "0123456789"
        data = self.server.table.picture(job, int(index)) if known else None
        if data is None:
            raise Refused(404, "no_image", "this job has no such image, or not yet")
        self.send(200, data, TYPES[job.order.format])

    # -- answers --

    def answer(self, status, document, extra=None, kind="application/json"):
        self.send(status, json.dumps(document, separators=(",", ":")).encode(), kind, extra)

    def send(self, status, data, kind, extra=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        if self.close_connection or self.server.table.releasing:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def send_error(self, code, message=None, explain=None):
        """What the library itself refuses: a bad request line, too many headers."""
        self.close_connection = True
        self.request_version = self.protocol_version # else the answer to a garbled line has no head
        self.command = self.command or "GET"
        title = message or "Bad Request"
        self.answer(code, {"type": "about:blank", "title": title, "status": int(code), "detail": explain or title},
                    kind="application/problem+json")

    def log_message(self, format, *args):
        """Requests are not logged: polls are many."""


class Server(ThreadingHTTPServer):
    """The listening socket. At most CONNECTIONS_MOST connections; one more is closed at once."""
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, options, table, artist, versions):
        self.options, self.table, self.artist, self.versions = options, table, artist, versions
        self.polls = threading.Semaphore(POLLS_MOST)
        self.places = threading.Semaphore(CONNECTIONS_MOST)
        self.open = 0
        if ":" in options.host:
            self.address_family = socket.AF_INET6
        super().__init__((options.host, options.port), Handler)

    def process_request(self, request, client_address):
        if self.places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request, client_address):
        import sys
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    def server_bind(self):
        # HTTPServer's own asks the resolver for a name, which may take seconds.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]

    def stop(self, within_s):
        """No new connections; the open polls are answered."""
        self.shutdown()
        self.server_close()
        self.table.release()
        end = time.monotonic() + within_s
        while self.polls._value < POLLS_MOST and time.monotonic() < end: # pylint: disable=protected-access
            time.sleep(0.01)
        time.sleep(0.05) # the answers leave
