"""faults — a relay of the tests, between a worker's agent and an image server, that does to their talk what networks
and sick servers do. It is no part of the product.

    relay = Relay(port, kind)
    relay.fault("job", "500")       the next request that carries a job is answered 500, and never reaches the server
    relay.fault("picture", "cut")   the next answer that carries a picture ends in its middle
    relay.reset()                   every connection that is open now is reset

What a request carries is the kind's word (kinds/__init__.py). Bytes pass as they are: keep-alive, chunks and event
streams are the server's own. Only requests are read as messages; a client that pipelines would be held up, none does.
So the real servers and the stubs get the same faults. That a server hangs or dies needs no relay: it is stopped by
SIGSTOP, or killed; while it is dead, door(False) makes that nobody listens here either.
"""
import os
import re
import socket
import struct
import threading

REPLACED = {
    "500": (b"HTTP/1.1 500 Internal Server Error", b'{"detail": "a fault of the test"}'),
    "503": (b"HTTP/1.1 503 Service Unavailable", b'{"detail": "a fault of the test: no room"}'),
    "422": (b"HTTP/1.1 422 Unprocessable Entity", b'{"detail": "a fault of the test: not this one"}'),
    "garbage": (b"HTTP/1.1 200 OK", None),
}
PASSED_ON = ("cut", "resize")


class Request:
    """One request, whole."""

    def __init__(self, head, body):
        self.head, self.body = head, body
        self.method, self.path = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]

    def bytes(self):
        head = re.sub(rb"(?i)(\r\ncontent-length:)[^\r]*", rb"\1 %d" % len(self.body), self.head)
        return head + self.body


class Pair:
    """A connection of the agent, and the one to the server that goes with it."""

    def __init__(self, relay, client):
        self.relay, self.client = relay, client
        self.server = None
        self.words, self.cut = set(), False # of the request that is not answered yet

    def read_request(self, waiting):
        """(Request, what follows it), or None at the end."""
        while b"\r\n\r\n" not in waiting:
            chunk = self.client.recv(65536)
            if not chunk:
                return None
            waiting += chunk
        head, _, rest = waiting.partition(b"\r\n\r\n")
        head += b"\r\n\r\n"
        found = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
        length = int(found.group(1)) if found else 0
        if re.search(rb"(?i)\r\nexpect:", head):
            self.client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
        while len(rest) < length:
            chunk = self.client.recv(65536)
            if not chunk:
                return None
            rest += chunk
        return Request(head, rest[:length]), rest[length:]

    def requests(self):
        """The agent's side, until one of the two hangs up."""
        waiting = b""
        try:
            self.server = socket.create_connection(("127.0.0.1", self.relay.to_port), 5)
            self.server.settimeout(None)
            threading.Thread(target=self.answers, daemon=True).start()
            while found := self.read_request(waiting):
                request, waiting = found
                words = self.relay.kind.carries(request.method, request.path)
                fault = self.relay.begun(self, words)
                if fault in REPLACED:
                    self.replace(fault)
                    break
                if fault == "resize":
                    request.body = self.relay.kind.resize(request.method, request.path, request.body)
                self.cut = fault == "cut"
                self.server.sendall(request.bytes())
        except OSError:
            pass
        self.end()

    def replace(self, fault):
        line, body = REPLACED[fault]
        body = os.urandom(700) if body is None else body
        self.client.sendall(line + b"\r\nContent-Type: application/json\r\nConnection: close\r\n"
                            b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.client.shutdown(socket.SHUT_WR)

    def answers(self):
        """The server's side."""
        held = b"" # of an answer that is cut: its beginning
        try:
            while chunk := self.server.recv(65536):
                self.relay.answered(self)
                if self.cut:
                    held += chunk
                    head, end, body = held.partition(b"\r\n\r\n")
                    length = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
                    half = int(length.group(1)) // 2 if length else 1
                    if not end or len(body) < half:
                        continue
                    self.client.sendall(head + end + body[:half])
                    break
                self.client.sendall(chunk)
        except OSError:
            pass
        self.end()

    def end(self, reset=False):
        self.relay.answered(self)
        for s in (self.client, self.server):
            if s is None:
                continue
            try:
                if reset:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR) # wakes its thread
                s.close()
            except OSError:
                pass
        with self.relay.lock:
            self.relay.pairs.discard(self)


class Relay:
    """Listens on `port` of loopback, for the server on `to_port`."""

    def __init__(self, port, to_port, kind):
        self.port, self.to_port, self.kind = port, to_port, kind
        self.url = f"http://127.0.0.1:{port}"
        self.lock = threading.Lock()
        self.pairs, self.faults, self.counts = set(), [], {"job": 0, "picture": 0}
        self.listener = None
        self.door(True)

    def door(self, is_open):
        """False: nobody listens, as when the server is dead."""
        if is_open:
            listener = self.listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        elif self.listener is not None:
            self.listener.shutdown(socket.SHUT_RDWR) # wakes accept()
            self.listener.close()
            self.listener = None

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            pair = Pair(self, client)
            with self.lock:
                self.pairs.add(pair)
            threading.Thread(target=pair.requests, daemon=True).start()

    def fault(self, part, what, times=1):
        """The next `times` requests that carry this part ("job" or "picture") get the fault."""
        assert what in REPLACED or what in PASSED_ON
        with self.lock:
            self.faults += [(part, what)] * times

    def clear(self):
        """Faults that met nobody are forgotten; returns them."""
        with self.lock:
            left, self.faults = self.faults, []
        return left

    def begun(self, pair, words):
        """A request came: counts it, and returns the fault that it meets, or None."""
        with self.lock:
            pair.words = words
            for word in words:
                self.counts[word] += 1
            for i, (part, what) in enumerate(self.faults):
                if part in words:
                    del self.faults[i]
                    return what
        return None

    def answered(self, pair):
        with self.lock:
            pair.words = set()

    def count(self, part):
        """Requests so far that carried it."""
        with self.lock:
            return self.counts[part]

    def unanswered(self, part):
        """Requests that carry it, and whose answer has not begun."""
        with self.lock:
            return sum(part in pair.words for pair in self.pairs)

    def reset(self):
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            pair.end(reset=True)

    def close(self):
        self.door(False)
        self.reset()
