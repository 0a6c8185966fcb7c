"""sdserver — stable-diffusion.cpp's sd-server by each of its three APIs: its own (sdcpp), A1111's (sdapi) and OpenAI's
(openai). The program is the real one, as it is, built by sd_server.sh; the model is a FLUX.2 of toy size with random
weights (tiny_sd_model.py)."""
import base64
import os
import re
import subprocess
import sys

from harness import until
from kinds import FOLDER, Kind, ask, ask_json, kind, with_json


class SdServer(Kind):
    """What the three have in common: the process. It draws one picture at a time, cannot be stopped in one, and
    tells no steps."""

    slow = {"width": 128, "height": 128, "steps": 50}
    silence_ms = 12000 # a quick job of one second takes three and more beside other work
    folder = ""

    def __init__(self):
        self.program = os.environ.get("DRAWBAR_SD_SERVER", "")

    def missing(self):
        if not os.access(self.program, os.X_OK):
            return "needs DRAWBAR_SD_SERVER, the program sd-server (tests/instances/sd_server.sh builds one)"
        return None

    def prepare(self, folder):
        self.folder = folder
        subprocess.run([sys.executable, os.path.join(FOLDER, "..", "tiny_sd_model.py"), os.path.join(folder, "model")],
                       check=True, capture_output=True)

    def command(self, port, folder):
        model = os.path.join(folder, "model")
        # One thread: two of them wait for each other in a loop, which costs ten times as much on a busy machine.
        return [self.program, "--listen-port", port, "--threads", 1,
                "--diffusion-model", os.path.join(model, "toy.safetensors"),
                "--llm", os.path.join(model, "llm.safetensors"), "--taesd", os.path.join(model, "tae.safetensors")]

    def ready(self, port):
        return ask(port, "GET", "/v1/models")[0] == 200

    def drawing(self, port):
        """No API tells it; its log does, one line when it begins a picture and one when it has made it."""
        with open(os.path.join(self.folder, "server.log"), encoding="utf-8", errors="replace") as file:
            life = file.read().rpartition("listening on:")[2]
        return len(re.findall(r"generate_image \d+x\d+", life)) > life.count("generate_image completed")

    def submit(self, port, order):
        """A job by its own API; returns a function that returns its view."""
        body = {**order, "sample_params": {"sample_steps": order["steps"],
                                           "guidance": {"txt_cfg": order.get("guidance", 0) + 1}}}
        status, text = ask(port, "POST", "/sdcpp/v1/img_gen", body)
        if status != 202:
            raise OSError(f"{status} {text!r}")
        path = re.search(r"/sdcpp/v1/jobs/\w+", text.decode()).group(0)
        return lambda: ask_json(port, "GET", path)

    def direct(self, port, order):
        view = self.submit(port, order)
        until(lambda: view()["status"] == "completed", 60, "the server has drawn what it was asked directly")
        return base64.b64decode(view()["result"]["images"][0]["b64_json"])


@kind
class Native(SdServer):
    """Its own API: jobs with ids, in a queue."""

    name = "sdserver-sdcpp"
    driver = "sdcpp"
    queues = polls = True
    fetches = 3

    def carries(self, method, path):
        if (method, path) == ("POST", "/sdcpp/v1/img_gen"):
            return {"job"}
        return {"picture"} if method == "GET" and path.startswith("/sdcpp/v1/jobs/") else set()

    def resize(self, method, path, body):
        return with_json(body, width=self.size[0] + 16)

    def occupy(self, port):
        view = self.submit(port, {"prompt": "somebody else's", "seed": 1, **self.slow})
        return lambda: view()["status"] == "completed"


@kind
class A1111(SdServer):
    """A1111's API, as much as it has of it."""

    name = "sdserver-sdapi"
    driver = "sdapi"
    one_request = True

    def carries(self, method, path):
        return {"job", "picture"} if path == "/sdapi/v1/txt2img" else set()

    def resize(self, method, path, body):
        return with_json(body, width=self.size[0] + 16)


@kind
class OpenAi(SdServer):
    """OpenAI's API; what that has no word for stands in the prompt."""

    name = "sdserver-openai"
    driver = "openai"
    one_request = True

    def carries(self, method, path):
        return {"job", "picture"} if path == "/v1/images/generations" else set()

    def resize(self, method, path, body):
        return with_json(body, size=f"{self.size[0] + 16}x{self.size[1]}")
