"""harness — a Drawbar of real processes for one test: Redis, broker, gateways, workers, on free loopback
ports, in a directory of its own, gone without a trace when the test ends.

    with Cluster() as c:
        c.worker("mia")
        job = c.http.submit(prompt="a red fox")
        c.http.wait(job, "succeeded")

Nothing here sleeps for a fixed time to let something happen: until() waits for a condition, with a
limit, and says what it waited for.
"""
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

BUILD = os.environ.get("DRAWBAR_TEST_BUILD", "")
PROGRAM_FOLDERS = ("broker", "worker", "worker/instance", "gateway", "cli")
SANITIZED = "ASAN_OPTIONS" in os.environ
# Everything is several times slower under the sanitizers.
SLOWNESS = 3 if SANITIZED else 1
# Ends of the logs of a failed test, for the runner to print behind what failed.
LOGS = []


class Failed(Exception):
    """What a test did not find as it should be."""


class Skip(Exception):
    """This machine cannot run the test; the text says what is missing."""


def check(claim, text):
    if not claim:
        raise Failed(text)


def check_equal(got, wanted, what):
    if got != wanted:
        raise Failed(f"{what}: got {got!r}, wanted {wanted!r}")


def until(condition, limit_s, what, pause_s=0.02):
    """Waits until condition() is true and returns what it gave. OSErrors inside count as "not yet"."""
    end, last = time.monotonic() + limit_s * SLOWNESS, None
    while True:
        try:
            value = condition()
            if value:
                return value
        except (OSError, http.client.HTTPException) as trouble:
            last = trouble
        if time.monotonic() > end:
            raise Failed(f"not within {limit_s} s: {what}" + (f" (last: {last!r})" if last else ""))
        time.sleep(pause_s)


def holds(condition, for_s, what):
    """Checks that condition() stays true for a time: the way to show that something does not happen."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        check(condition(), f"did not last {for_s} s: {what}")
        time.sleep(0.05)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def steady_port():
    """A free port that no outgoing connection is given while its listener is restarted: one below the
    range that the kernel gives out."""
    for _ in range(200):
        port = random.randrange(12000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise Failed("no free port between 12000 and 32000")


def program(name):
    for folder in PROGRAM_FOLDERS:
        path = os.path.join(BUILD, folder, name)
        if os.path.isfile(path):
            return path
    raise Failed(f"{name} was not built in {BUILD}")


def environment(**more):
    """PATH with our programs, nothing of the user's Drawbar settings."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("DRAWBAR_")}
    env["PATH"] = os.pathsep.join([os.path.join(BUILD, f) for f in PROGRAM_FOLDERS] + [env["PATH"]])
    env.update(more)
    return env


def process_state(pid):
    """The letter of /proc/PID/stat ("R", "S", "T", "Z"), or "" if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def processes_with(word):
    """Pids of living processes that have `word` in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if word.encode() in file.read() and process_state(int(name)) not in ("Z", ""):
                    found.append(int(name))
        except OSError:
            pass
    return found


class Process:
    """A child with its log in a file. `ready` holds the key=address pairs of its ready line."""

    def __init__(self, directory, label, command, env=None, wait_ready=True, limit_s=20):
        self.label, self.command = label, [str(word) for word in command]
        self.log_path = os.path.join(directory, f"{label}.log")
        self.ready_file = os.path.join(directory, f"{label}.ready")
        self.ready = {}
        if os.path.exists(self.ready_file):
            os.unlink(self.ready_file)
        if wait_ready:
            self.command += ["--ready-file", self.ready_file]
        with open(self.log_path, "ab") as log:
            log.write(("$ " + " ".join(self.command) + "\n").encode())
            log.flush()
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          cwd=directory, env=env or environment())
        self.pid = self.child.pid
        if wait_ready:
            until(self._is_ready, limit_s, f"{label} is ready")

    def _is_ready(self):
        if self.child.poll() is not None:
            raise Failed(f"{self.label} ended with {self.child.returncode} before it was ready:\n{self.log()[-2000:]}")
        if not os.path.exists(self.ready_file):
            return False
        with open(self.ready_file, encoding="utf-8") as file:
            words = file.read().split()
        check(words and words[0] == "ready", f"{self.label}: the ready file does not say ready: {words}")
        self.ready = dict(word.split("=", 1) for word in words[1:])
        return True

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def alive(self):
        return self.child.poll() is None

    def signal(self, number):
        os.kill(self.pid, number)

    def pause(self):
        self.signal(signal.SIGSTOP)
        until(lambda: process_state(self.pid) == "T", 5, f"{self.label} is stopped")

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        """kill -9, as a power cut would."""
        if self.alive():
            self.child.kill()
        self.child.wait()

    def stop(self, limit_s=15):
        """SIGTERM and an orderly end; its exit status must be 0."""
        if not self.alive():
            return self.child.returncode
        self.child.send_signal(signal.SIGCONT)
        self.child.terminate()
        try:
            return self.child.wait(limit_s * SLOWNESS)
        except subprocess.TimeoutExpired as hung:
            self.kill()
            raise Failed(f"{self.label} did not end within {limit_s} s of SIGTERM") from hung


class Answer:
    """An HTTP answer, whole."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        try:
            return json.loads(self.body)
        except ValueError as bad:
            raise Failed(f"{self.status} with a body that is not JSON: {self.body[:300]!r}") from bad

    def problem(self, status, title=None):
        """Checks that this is a problem+json of the status, and returns it."""
        check_equal(self.status, status, f"status of {self.body[:300]!r}")
        kind = (self.headers.get("Content-Type") or "").split(";")[0]
        check_equal(kind, "application/problem+json", f"content type of the {status}")
        told = self.json
        check_equal(told.get("status"), status, "status in the problem")
        check(told.get("type") and told.get("title") and told.get("detail"), f"type, title, detail in {told}")
        check(title is None or title in json.dumps(told), f"{title!r} in {told}")
        return told


class Http:
    """A client of one gateway. Each call is a connection of its own."""

    def __init__(self, address):
        self.address = address
        self.host, self.port = address.rsplit(":", 1)
        self.port = int(self.port)

    def call(self, method, path, body=None, headers=None, limit_s=70):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=limit_s)
        try:
            headers = dict(headers or {})
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
                headers.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.call("GET", path, **options)

    def post_job(self, headers=None, **request):
        request.setdefault("prompt", "a red fox")
        return self.call("POST", "/v1/jobs", request, headers)

    def submit(self, headers=None, **request):
        """Submits a small, quick job unless the request says otherwise; returns its id."""
        request = {"width": 64, "height": 64, "steps": 2, **request}
        answer = self.post_job(headers, **request)
        check_equal(answer.status, 202, f"status of the submit ({answer.body[:300]!r})")
        return answer.json["id"]

    def job(self, job_id):
        answer = self.get(f"/v1/jobs/{job_id}")
        check_equal(answer.status, 200, f"status of GET job ({answer.body[:300]!r})")
        return answer.json

    def wait(self, job_id, status, limit_s=20):
        """Polls until the job has the status; a job that ended otherwise ends the wait."""
        def there():
            job = self.job(job_id)
            if job["status"] == status:
                return job
            check(job["status"] not in ("succeeded", "failed", "cancelled", "expired"),
                  f"the job ended {job['status']} instead of {status}: {job}")
            return None
        return until(there, limit_s, f"job {job_id} is {status}")

    def wait_end(self, job_id, limit_s=20):
        """Waits for the end, whatever it is."""
        def ended():
            job = self.job(job_id)
            return job if job["status"] in ("succeeded", "failed", "cancelled", "expired") else None
        return until(ended, limit_s, f"job {job_id} has ended")

    def wait_step(self, job_id, limit_s=20):
        """Waits until the job runs and its instance has drawn at least one step."""
        def stepped():
            job = self.job(job_id)
            return job if job["status"] == "running" and (job["progress"] or {}).get("step") else None
        return until(stepped, limit_s, f"job {job_id} has a step")

    def cancel(self, job_id):
        return self.call("DELETE", f"/v1/jobs/{job_id}")

    def image(self, job_id, index=0, method="GET", headers=None):
        return self.call(method, f"/v1/jobs/{job_id}/images/{index}", headers=headers)

    def workers(self):
        answer = self.get("/v1/workers")
        check_equal(answer.status, 200, f"status of GET workers ({answer.body[:300]!r})")
        told = answer.json
        return told["workers"] if isinstance(told, dict) else told

    def events(self, job_id, last_event_id=None, limit_s=30):
        """Yields (event, id, data) of the job's event stream until the server ends it."""
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        connection = http.client.HTTPConnection(self.host, self.port, timeout=limit_s * SLOWNESS)
        try:
            connection.request("GET", f"/v1/jobs/{job_id}/events", headers=headers)
            answer = connection.getresponse()
            if answer.status == 204: # nothing newer than Last-Event-ID, and the job has ended
                return
            check_equal(answer.status, 200, "status of the event stream")
            check_equal(answer.headers.get_content_type(), "text/event-stream", "type of the event stream")
            event, event_id, data = "message", None, []
            for line in answer:
                line = line.decode().rstrip("\r\n")
                if line == "" and data:
                    yield event, event_id, json.loads("\n".join(data))
                    event, data = "message", []
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if field == "event":
                    event = value
                elif field == "id":
                    event_id = value
                elif field == "data":
                    data.append(value)
        finally:
            connection.close()

    def raw(self, data, limit_s=15, half_close=False):
        """Sends bytes as they are and returns all that comes until the server closes or limit_s passes."""
        with socket.create_connection((self.host, self.port), limit_s) as s:
            got = b""
            try:
                s.sendall(data)
                if half_close:
                    s.shutdown(socket.SHUT_WR)
                while chunk := s.recv(65536):
                    got += chunk
                    head, separator, rest = got.partition(b"\r\n\r\n")
                    length = re.search(rb"content-length:\s*(\d+)", head, re.I)
                    if separator and length and len(rest) >= int(length.group(1)):
                        break
            except OSError: # it takes too long, or the server has closed while we still sent
                pass
            return got


class RedisError(Exception):
    """An error reply."""


class Redis:
    """A redis-server of this test, and a small client for it."""

    def __init__(self, directory, wrap=(), port=0, fsync="everysec", host="127.0.0.1"):
        self.directory = os.path.join(directory, "redis")
        os.makedirs(self.directory, exist_ok=True)
        self.port = port or free_port()
        self.host, self.url = host, f"redis://{host}:{self.port}"
        self.wrap, self.fsync = list(wrap), fsync
        self.process = None
        self.start()

    def start(self, env=None):
        self.process = Process(os.path.dirname(self.directory), "redis", self.wrap + [
            "redis-server", "--port", self.port, "--bind", self.host, "--protected-mode", "no", "--dir", self.directory,
            "--appendonly", "yes", "--appendfsync", self.fsync, "--save", "", "--maxmemory", "256mb",
            "--maxmemory-policy", "noeviction", "--daemonize", "no", "--loglevel", "warning"], wait_ready=False, env=env)
        until(lambda: self.call("PING") == "PONG", 10, "Redis answers")

    def call(self, *words):
        with socket.create_connection((self.host, self.port), 5) as s:
            packed = b"*%d\r\n" % len(words)
            for word in words:
                word = word if isinstance(word, bytes) else str(word).encode()
                packed += b"$%d\r\n%s\r\n" % (len(word), word)
            s.sendall(packed)
            with s.makefile("rb") as stream:
                return self._reply(stream)

    def _reply(self, stream):
        line = stream.readline()
        if not line:
            raise ConnectionError("Redis closed the connection")
        kind, rest = line[:1], line[1:].strip()
        if kind == b"-":
            if rest.startswith(b"LOADING"):
                raise ConnectionError("Redis is loading")
            raise RedisError(rest.decode())
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
        return None if rest == b"-1" else [self._reply(stream) for _ in range(int(rest))]

    def record(self, job_id):
        return self.call("GET", f"{{drawbar}}:j:{job_id}")

    def live(self):
        return self.call("ZCARD", "{drawbar}:live")

    def leader(self):
        """(nonce, epoch number, gateway door, worker door) of the leader key; None without leader."""
        value = self.call("GET", "{drawbar}:leader")
        words = value.decode().split() if value else []
        return words if len(words) == 4 and words[3] != "-" else None


class Proxy:
    """A TCP proxy on a free port that can lose what a network loses."""

    def __init__(self, port):
        self.to_port = port
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.lose_reply_to = None # bytes: the reply to the next request with them in it is lost
        self.lost = 0
        self.pairs = []
        self.open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while self.open:
            try:
                client, _ = self.server.accept()
                server = socket.create_connection(("127.0.0.1", self.to_port))
            except OSError:
                continue
            self.pairs.append((client, server))
            flags = {"deaf": False}
            for source, sink, is_request in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, is_request, flags), daemon=True).start()

    def _pump(self, source, sink, is_request, flags):
        try:
            while chunk := source.recv(65536):
                if is_request and self.lose_reply_to and self.lose_reply_to in chunk:
                    self.lose_reply_to = None
                    flags["deaf"] = True
                if not is_request and flags["deaf"]:
                    self.lost += 1
                    break
                sink.sendall(chunk)
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Ends every connection that is open now."""
        for pair in self.pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.pairs = []

    def close(self):
        self.open = False
        self.server.close()
        self.cut()


class Cluster:
    """One Drawbar. `broker` and `gateway` start with it unless they are told not to. `redis` are further
    arguments of its Redis: port, fsync."""

    keep = False # the directory stays

    def __init__(self, broker=True, gateway=True, broker_flags=(), gateway_flags=(), redis_wrap=(), redis=None):
        self.directory = tempfile.mkdtemp(prefix="drawbar-system.")
        self.processes, self.closers = [], []
        self.redis = self.broker_process = self.gateway_process = self.http = None
        self.failed = False
        try:
            self.redis = Redis(self.directory, redis_wrap, **(redis or {}))
            if broker:
                self.broker(*broker_flags)
            if gateway:
                self.gateway(*gateway_flags)
        except BaseException:
            self.failed = True
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, _value, _trace):
        self.failed = kind not in (None, Skip)
        self.close()

    def start(self, label, command, **options):
        process = Process(self.directory, label, command, **options)
        self.processes.append(process)
        return process

    def broker(self, *flags, label="broker", redis_url=None, gateway_port=0, worker_port=0, **options):
        self.broker_process = self.start(label, [
            program("drawbar-broker"), "--redis", redis_url or self.redis.url, "--host", "127.0.0.1",
            "--gateway-port", gateway_port, "--worker-port", worker_port, *flags], **options)
        return self.broker_process

    def gateway(self, *flags, label="gateway", redis_url=None, artifacts=None, listen="127.0.0.1:0", **options):
        process = self.start(label, [
            program("drawbar-gateway"), "--redis", redis_url or self.redis.url, "--listen", listen,
            "--uploads", "127.0.0.1:0", "--artifacts", artifacts or os.path.join(self.directory, "artifacts"),
            *flags], **options)
        http_client = Http(gateway_address(process))
        if self.http is None:
            self.gateway_process, self.http = process, http_client
        until(lambda: http_client.get("/readyz").status == 200 or self.broker_process is None, 15,
              "the gateway is ready")
        return http_client

    def worker(self, name, *flags, instances=1, sim="--step-ms 5", start=None, attach=(), ready=True, **options):
        """An agent with `instances` simulated instances, or attached to the URLs of `attach`."""
        words = [program("drawbar-worker"), "--redis", self.redis.url, "--name", name,
                 "--state-dir", os.path.join(self.directory, "state")]
        if attach:
            for url in attach:
                words += ["--attach", f"driver=drawbar url={url}"]
        else:
            start = start or f"{program('drawbar-sim-instance')} --port {{port}} {sim}"
            words += ["--start", start, "--instances", instances, "--base-port", 0]
        process = self.start(f"worker-{name}", [*words, *flags], **options)
        if ready:
            until(lambda: self.worker_is_ready(name), 20, f"worker {name} pulls")
        return process

    def worker_is_ready(self, name):
        return any(w["name"] == name and w["state"] == "alive" for w in self.http.workers())

    def instance(self, worker, index=0):
        """What the worker told of its instance in its last beat; None before the first with instances."""
        for told in self.http.workers():
            if told["name"] == worker and len(told.get("instances", [])) > index:
                return told["instances"][index]
        return None

    def close(self):
        try:
            for closer in self.closers:
                closer()
            # Workers first: they have results to hand in.
            for process in reversed(self.processes):
                if process.alive() and not self.failed and SANITIZED:
                    process.stop()
                process.kill()
            if self.redis is not None and self.redis.process is not None:
                self.redis.process.kill()
            self.look_for_sanitizer_reports()
        except BaseException:
            self.failed = True
            raise
        finally:
            if self.failed:
                self.keep_logs()
            if not self.keep:
                shutil.rmtree(self.directory, ignore_errors=True)

    def look_for_sanitizer_reports(self):
        """Also in the logs of instances that agents started."""
        for directory, _, names in os.walk(self.directory):
            for name in names:
                if not name.endswith(".log"):
                    continue
                with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                    found = re.search(r".*(LeakSanitizer|AddressSanitizer|runtime error:).*", file.read())
                check(not found, f"{name}: {found and found.group(0)}")

    def keep_logs(self, lines=25):
        for name in sorted(os.listdir(self.directory)):
            if name.endswith(".log"):
                with open(os.path.join(self.directory, name), encoding="utf-8", errors="replace") as file:
                    LOGS.append(f"-- {name}")
                    LOGS.extend(line[:240] for line in file.read().splitlines()[-lines:])


def gateway_address(process):
    return process.ready.get("http") or process.ready["listen"]
