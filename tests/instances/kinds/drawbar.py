"""drawbar — instances that speak worker/instance/API.md: the simulated one, and the reference instance with a toy
model on a CPU."""
import os
import subprocess

from harness import program
from kinds import FOLDER, Kind, ask, ask_json, kind, with_json

SOURCE = os.path.realpath(os.path.join(FOLDER, "..", "..", ".."))


class Drawbar(Kind):
    """What both have in common: the API."""

    driver = "drawbar"
    tells_steps = stops_running = queues = True

    def ready(self, port):
        return ask(port, "GET", "/healthz")[0] == 200

    def carries(self, method, path):
        if method == "POST":
            return {"job"}
        return {"picture"} if "/images/" in path else set()

    def resize(self, method, path, body):
        return with_json(body, width=self.size[0] + 16)

    def drawing(self, port):
        told = ask_json(port, "GET", "/healthz")
        return told["running"] is not None or told["queue_depth"] > 0

    def occupy(self, port):
        order = {"id": "foreign", "prompt": "somebody else's", "seed": 1, **self.slow}
        status, body = ask(port, "POST", "/v1/jobs", order)
        if status != 202:
            raise OSError(f"the foreign job: {status} {body!r}")
        return lambda: ask_json(port, "GET", "/v1/jobs/foreign")["state"] == "succeeded"


@kind
class Simulated(Drawbar):
    """The simulated instance: the program is real, the model is not."""

    name = "drawbar-sim"
    slow = {"width": 64, "height": 64, "steps": 40}

    def command(self, port, folder):
        return [program("drawbar-sim-instance"), "--port", port, "--step-ms", 100]


@kind
class Reference(Drawbar):
    """The reference instance: diffusers' ZImagePipeline with a toy model."""

    name = "drawbar-zimage"
    slow = {"width": 512, "height": 512, "steps": 50, "n": 2}
    silence_ms = 15000 # a decoding tells no steps
    # One thread: OpenMP's threads wait for each other spinning, which on a busy machine takes twenty times as long.
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

    def __init__(self):
        self.python = os.path.join(os.environ.get("DRAWBAR_VENV", ""), "bin", "python")

    def missing(self):
        if not os.environ.get("DRAWBAR_VENV") or not os.path.exists(self.python):
            return "needs DRAWBAR_VENV, a virtual environment with worker/instance/requirements.txt (run.sh makes one)"
        return None

    def prepare(self, folder):
        subprocess.run([self.python, os.path.join(SOURCE, "tests", "instances", "tiny_model.py"),
                        os.path.join(folder, "model")], check=True, capture_output=True,
                       env={**os.environ, **self.environment})

    def command(self, port, folder):
        return [self.python, "-B", os.path.join(SOURCE, "worker", "instance", "zimage_server.py"), "--port", port,
                "--model", os.path.join(folder, "model"), "--device", "cpu"]
