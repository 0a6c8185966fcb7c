"""gradio — the real Gradio of the registry, with the app of servers/gradio_app.py: once with a plain function, once with one
that yields."""
import http.client
import json
import os
import threading

from harness import check
from kinds import SERVERS, Kind, ask, ask_json, kind, with_json

PREFIX = "/gradio_api"
ORDER = ("prompt", "height", "width", "steps", "seed", "random") # of the function's arguments


@kind
class GradioPlain(Kind):
    """A function that draws and returns: once begun it runs to its end."""

    name = "gradio"
    driver = "gradio"
    tells_steps = queues = True
    blames_request = False # the arguments are the driver's
    slow = {"width": 128, "height": 64, "steps": 40}
    environment = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "no_proxy": "127.0.0.1"}
    variant = "plain"

    def __init__(self):
        self.python = os.path.join(os.environ.get("DRAWBAR_GRADIO_VENV", ""), "bin", "python")
        self.folder = ""

    def missing(self):
        if not os.environ.get("DRAWBAR_GRADIO_VENV") or not os.path.exists(self.python):
            return ("needs DRAWBAR_GRADIO_VENV, a virtual environment with tests/instances/requirements-gradio.txt "
                    "(run.sh makes one)")
        return None

    def prepare(self, folder):
        self.folder = folder

    def command(self, port, folder):
        return ["env", f"GRADIO_SERVER_PORT={port}", f"GRADIO_TEMP_DIR={folder}/gradio", self.python, "-B",
                os.path.join(SERVERS, "gradio_app.py"), self.variant]

    def ready(self, port):
        return ask(port, "GET", "/config")[0] == 200

    def carries(self, method, path):
        if path == f"{PREFIX}/queue/join":
            return {"job"}
        return {"picture"} if path.startswith(f"{PREFIX}/file=") else set()

    def resize(self, method, path, body):
        data = json.loads(body)["data"]
        data[ORDER.index("width")] = self.size[0] + 16
        return with_json(body, data=data)

    def drawing(self, port):
        check(not os.path.exists(os.path.join(self.folder, "overlap")), "the app draws two pictures at once")
        waiting = ask_json(port, "GET", f"{PREFIX}/queue/status")["queue_size"]
        return waiting > 0 or os.path.exists(os.path.join(self.folder, "drawing"))

    def occupy(self, port):
        config = ask_json(port, "GET", "/config")
        index = next(d["id"] for d in config["dependencies"] if d["api_name"] == "generate")
        order = {"prompt": "somebody else's", "seed": 1, "random": False, **self.slow}
        ask_json(port, "POST", f"{PREFIX}/queue/join", {"data": [order[word] for word in ORDER], "fn_index": index,
                                                       "session_hash": "foreign"})
        over = threading.Event()

        def listen():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request("GET", f"{PREFIX}/queue/data?session_hash=foreign")
                for line in connection.getresponse():
                    if b"process_completed" in line:
                        break
            finally:
                connection.close()
            over.set()
        threading.Thread(target=listen, daemon=True).start()
        return over.is_set


@kind
class GradioYields(GradioPlain):
    """A generator: Gradio stops it at its next yield."""

    name = "gradio-yields"
    variant = "yields"
    stops_running = True
