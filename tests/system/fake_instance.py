"""fake_instance — an instance that speaks the API of worker/instance/API.md and misbehaves on command.

The simulated instance has faults by chance and by count; a test that wants "wrong size once, then good"
says so here: FakeInstance(["wrong_size", "good"]). The last word goes on for ever.
"""
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from peer import png

STEP_S = 0.01


class Job:
    """One POST: its state is a function of time, so nothing has to tick."""

    def __init__(self, request, mode, step_s):
        self.request, self.mode, self.step_s = request, mode, step_s
        self.begin, self.cancelled = time.monotonic(), False

    def step(self):
        done = int((time.monotonic() - self.begin) / self.step_s)
        if self.mode == "hang":
            done = min(done, 1)
        return min(done, self.request["steps"])

    def state(self):
        if self.cancelled:
            return "cancelled"
        if self.step() < self.request["steps"]:
            return "running"
        return "failed" if self.mode == "fail" else "succeeded"

    def picture(self):
        width, height = self.request["width"], self.request["height"]
        if self.mode == "wrong_size":
            return png(width // 2, height)
        if self.mode == "garbage":
            return b"\x89PNG\r\n\x1a\n" + b"these are not the chunks you are looking for"
        if self.mode == "cut":
            return png(width, height)[:-40]
        if self.mode == "empty":
            return b""
        if self.mode == "black":
            return png(width, height, (0, 0, 0))
        return png(width, height)


class FakeInstance:
    """Listens on a free port of loopback until close()."""

    def __init__(self, modes=("good",), step_s=STEP_S, error="out of memory"):
        self.modes, self.step_s, self.error = list(modes), step_s, error
        self.jobs, self.order, self.deleted = {}, [], []
        self.lock = threading.Lock()
        instance = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, body, kind="application/json"):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                self.answer(*instance.post(json.loads(self.rfile.read(length))))

            def do_GET(self):
                if self.path == "/healthz":
                    self.answer(200, instance.health())
                    return
                parts = self.path.partition("?")[0].split("/")
                job = instance.jobs.get(parts[3]) if len(parts) > 3 else None
                if job is None:
                    self.answer(404, {"error": {"code": "unknown", "message": "no such job"}})
                elif len(parts) > 5:
                    self.answer(200, job.picture(), "image/png")
                else:
                    instance.wait_news(job, self.path)
                    self.answer(200, instance.view(job))

            def do_DELETE(self):
                self.answer(*instance.delete(self.path.split("/")[3]))

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_):
                pass # a client that leaves in the middle of an answer

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def health(self):
        return {"ready": True, "model": "z-image-turbo", "max_pixels": 2048 * 2048, "epoch": "fake",
                "simulated": True, "device": "none", "last_step_ms": 10}

    def post(self, request):
        with self.lock:
            if request["id"] not in self.jobs:
                mode = self.modes.pop(0) if len(self.modes) > 1 else self.modes[0]
                if mode == "refuse":
                    return 422, {"error": {"code": "refused", "message": "not this one"}}
                self.jobs[request["id"]] = Job(request, mode, self.step_s)
                self.order.append(request)
            return 202, self.view(self.jobs[request["id"]])

    def view(self, job):
        state = job.state()
        told = {"id": job.request["id"], "state": state, "step": job.step(), "steps": job.request["steps"],
                "epoch": "fake", "gpu_ms": 1, "error": None, "images": []}
        if state == "failed":
            told["error"] = {"code": "cuda", "message": self.error}
        if state == "succeeded":
            told["images"] = [{"index": i, "seed": (job.request["seed"] + i) % 2**32}
                              for i in range(job.request["n"])]
        return told

    @staticmethod
    def wait_news(job, path):
        """The long poll: until another step than `since`, the end, or `wait` seconds."""
        query = dict(word.split("=", 1) for word in path.partition("?")[2].split("&") if "=" in word)
        end = time.monotonic() + min(float(query.get("wait", 0)), 5)
        since = int(query.get("since", -1))
        while time.monotonic() < end and job.state() == "running" and job.step() == since:
            time.sleep(0.01)

    def delete(self, job_id):
        with self.lock:
            self.deleted.append(job_id)
            job = self.jobs.get(job_id)
            if job is None:
                return 404, {"error": {"code": "unknown", "message": "no such job"}}
            if job.state() == "running":
                job.cancelled = True
            else:
                del self.jobs[job_id]
            return 200, self.view(job)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
