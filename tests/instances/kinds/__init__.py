"""kinds — the servers that test_drive.py has Drawbar drive. One file a kind of server; all_kinds() finds them.

A file holds one or more subclasses of Kind, each under @kind. What a class says of its server is what the scenarios
assert: a server that tells no steps must show none, one that cannot stop must keep its instance busy. Standard
library only: the server itself is a process of its own, with whatever Python or program it needs; those written here
are in ../servers (beside the kinds they would import a kind called gradio instead of Gradio).

Between the agent and the server stands the relay of faults.py. It asks the kind what a request carries (`carries`)
to put a fault where it hurts, and how to make the server draw another size than was asked (`resize`).
"""
import glob
import http.client
import importlib
import json
import os

KINDS = []
FOLDER = os.path.dirname(os.path.realpath(__file__))
SERVERS = os.path.join(os.path.dirname(FOLDER), "servers")


def kind(cls):
    """Announces a class of this package to the matrix."""
    KINDS.append(cls)
    return cls


def all_kinds():
    """An object of every kind, in the order of file and place."""
    if not KINDS:
        for path in sorted(glob.glob(os.path.join(FOLDER, "[a-z]*.py"))):
            if path.endswith("_server.py") or path.endswith("_app.py"): # processes, not kinds
                continue
            importlib.import_module("kinds." + os.path.basename(path)[:-3])
    return [cls() for cls in KINDS]


class Kind:
    """One kind of server. A subclass sets `name`, `driver`, `slow` and command(), and what differs from here."""

    name = ""      # in the output, and for -k
    driver = ""    # of Drawbar
    words = ""     # further words of --attach; `model=z-image-turbo` is always given. See attach_words()
    real = True    # the real program, from a registry or from this repository
    says = ""      # if not real: a sentence that says plainly what stands in for what; printed by the run

    tells_steps = False    # else a job shows step 0 until it has succeeded
    stops_running = False  # a job that is drawn can be stopped; else its instance stays busy until the answer
    queues = False         # has a queue of its own in which our job can wait behind somebody else's: occupy()
    repeats = True         # the same seed gives the same picture, byte for byte
    one_request = False    # the request that hands in the job is answered by its picture
    fetches = 1            # times that the driver asks for a picture, answered 500, before the attempt has failed
    polls = False          # the picture comes with the last of many answers, of which two in a row may be lost
    blames_request = True  # the driver takes a 400 or 422 for the user's fault: the job ends

    size = (128, 64)       # width and height of a quick job; not a square, so that nobody can swap them
    steps = 2              # and its steps: under a second if possible
    # A job of 3 to 6 s, so that a cancel or a kill comes while it is drawn. The scenarios draw it about ten times.
    slow = {"width": 64, "height": 64, "steps": 50}
    environment = {}       # further variables of the server's process
    start_s = 60           # it answers within this, on a busy machine
    extra_flags = ()       # of drawbar-worker
    silence_ms = 3000      # without a step for so long it hangs, however busy the machine is

    def missing(self):
        """None, or why this kind cannot be run here: a loud, counted skip."""
        return None

    def prepare(self, folder):
        """Called once, before the first command(): writes files (a model, a workflow) into the test's folder."""

    def command(self, port, folder):
        """The words of the server's process, which listens on this port of 127.0.0.1. It is started in a process
        group of its own, killed by SIGKILL in the middle of a job, started again with the same words, and stopped
        by SIGSTOP and SIGCONT; its output goes to a file."""
        raise NotImplementedError

    def attach_words(self, folder):
        """`words`, where they name a file in the test's folder."""
        del folder
        return self.words

    def ready(self, port):
        """True once it takes jobs. OSError counts as "not yet"."""
        raise NotImplementedError

    def carries(self, method, path):
        """What a request of the driver carries: "job" (it hands in a job: its answer can refuse it), "picture" (the
        answer carries the picture), both, or nothing, as a set. `path` has its query."""
        raise NotImplementedError

    def resize(self, method, path, body):
        """The body of a request that carries a job, with another picture size in it: what a server that does not
        draw what it is asked would do. Bytes in, bytes out; the server must take it."""
        raise NotImplementedError

    def drawing(self, port):
        """Whether the server itself says that it draws, or has jobs waiting: True or False; None if it tells nobody.
        The truth about "the GPU is free". Asked of the server, past the relay."""
        del port
        return None

    def direct(self, port, order):
        """The PNG of an order in Drawbar's words, drawn by the server's own API, past the relay; None: not known how."""
        del port, order

    def occupy(self, port):
        """Only with `queues`: gives the server a slow job that is not ours, past the relay, and returns a function
        that says whether it has ended (and takes it off the server's hands, if it needs that)."""
        raise NotImplementedError


def ask(port, method, path, body=None, headers=None, limit_s=10):
    """(status, body) of one request to the server itself. `body` may be a dictionary: it goes as JSON."""
    headers = dict(headers or {})
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask_json(port, method, path, body=None, limit_s=10):
    """The JSON of an answer 200; OSError if it is another."""
    status, data = ask(port, method, path, body, limit_s=limit_s)
    if status != 200:
        raise OSError(f"{method} {path}: {status} {data[:200]!r}")
    return json.loads(data)


def with_json(body, **changes):
    """A JSON object's bytes, some of its members changed."""
    return json.dumps({**json.loads(body), **changes}).encode()
