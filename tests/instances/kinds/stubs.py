"""stubs — sdapi and openai against conformance stubs: no registry offers AUTOMATIC1111 (a git clone with an installer)
or a vLLM-Omni that runs without a GPU. Both drivers meet a real server, too: stable-diffusion.cpp's (sdserver.py)."""
import json
import os
import sys

from kinds import SERVERS, Kind, ask, ask_json, kind, with_json


class Stub(Kind):
    """A server of ours that keeps to somebody else's API."""

    real = False
    one_request = True
    script = ""

    def command(self, port, folder):
        return [sys.executable, "-B", os.path.join(SERVERS, self.script), port]


@kind
class Sdapi(Stub):
    """AUTOMATIC1111's API."""

    name = "sdapi-stub"
    driver = "sdapi"
    says = "AUTOMATIC1111's /sdapi/v1 as it is documented, without its program; pictures are noise"
    script = "sdapi_stub.py"
    tells_steps = stops_running = True
    slow = {"width": 128, "height": 64, "steps": 40}

    def ready(self, port):
        return ask(port, "GET", "/sdapi/v1/options")[0] == 200

    def carries(self, method, path):
        return {"job", "picture"} if path == "/sdapi/v1/txt2img" else set()

    def resize(self, method, path, body):
        return with_json(body, width=self.size[0] + 16)

    def drawing(self, port):
        return ask_json(port, "GET", "/sdapi/v1/progress")["state"]["job_count"] != 0


@kind
class OpenAi(Stub):
    """vLLM-Omni's API."""

    name = "openai-stub"
    driver = "openai"
    says = "vLLM-Omni's /v1/images/generations as it is documented, without its program; pictures are noise"
    script = "openai_stub.py"
    slow = {"width": 128, "height": 64, "steps": 40}

    def ready(self, port):
        return ask(port, "GET", "/health")[0] == 200

    def carries(self, method, path):
        return {"job", "picture"} if path == "/v1/images/generations" else set()

    def resize(self, method, path, body):
        return with_json(body, size=f"{self.size[0] + 16}x{self.size[1]}")

    def drawing(self, port):
        return json.loads(ask(port, "GET", "/stub/drawing")[1]) > 0
