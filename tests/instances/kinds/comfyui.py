"""comfyui — the real ComfyUI of two times, on a CPU: 0.3.75 of November 2025, and one of March 2024, whose /interrupt
stops whatever is drawn. Server, queue, cache, KSampler and SaveImage are ComfyUI's own, brought by comfyui.sh; model,
condition and VAE come from the custom node of servers/comfyui_toy.py."""
import json
import os
import shutil
import uuid

from kinds import SERVERS, Kind, ask, ask_json, kind, with_json

LATENT = "2" # the node that has the picture's size
WORKFLOW = {
    "1": {"class_type": "DrawbarToy", "inputs": {"text": "{prompt}", "unet_name": "toy.safetensors"}},
    LATENT: {"class_type": "EmptyLatentImage", "inputs": {"width": "{width}", "height": "{height}", "batch_size": 1}},
    "3": {"class_type": "KSampler", "inputs": {
        "model": ["1", 0], "positive": ["1", 1], "negative": ["1", 1], "latent_image": [LATENT, 0], "seed": "{seed}",
        "steps": "{steps}", "cfg": "{guidance}", "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}},
    "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "drawbar"}},
}


def filled(order):
    """The workflow as the driver fills it."""
    def fill(value):
        if isinstance(value, dict):
            return {name: fill(inside) for name, inside in value.items()}
        if isinstance(value, str) and value.startswith("{"):
            return order[value[1:-1]]
        return value
    return fill(WORKFLOW)


@kind
class ComfyUI(Kind):
    """0.3.75"""

    name = "comfyui"
    driver = "comfyui"
    tells_steps = stops_running = queues = True
    blames_request = False # the arguments are the workflow's
    fetches = 3
    slow = {"width": 128, "height": 64, "steps": 40}
    # One thread: two of them wait for each other in a loop, which costs ten times as much on a busy machine.
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    start_s = 120
    version = "new"

    def __init__(self):
        self.home = os.environ.get("DRAWBAR_COMFYUI", "")

    def missing(self):
        if not os.path.exists(os.path.join(self.home, self.version, "main.py")) or not self.home:
            return "needs DRAWBAR_COMFYUI, the directory that tests/instances/comfyui.sh makes"
        return None

    def prepare(self, folder):
        for name in ("custom_nodes", "web", "output", "temp", "input", "user", "models"):
            os.makedirs(os.path.join(folder, "comfyui", name))
        shutil.copy(os.path.join(SERVERS, "comfyui_toy.py"), os.path.join(folder, "comfyui", "custom_nodes"))
        with open(os.path.join(folder, "workflow.json"), "w", encoding="utf-8") as file:
            json.dump(WORKFLOW, file)

    def words_of_version(self, base):
        return ["--base-directory", base, "--front-end-root", os.path.join(base, "web"),
                "--database-url", "sqlite:///:memory:", "--disable-api-nodes"]

    def command(self, port, folder):
        base = os.path.join(folder, "comfyui")
        return [os.path.join(self.home, "venv", "bin", "python"), "-B", os.path.join(SERVERS, "comfyui_start.py"),
                os.path.join(self.home, self.version), "--cpu", "--listen", "127.0.0.1", "--port", port,
                "--disable-auto-launch", *self.words_of_version(base)]

    def attach_words(self, folder):
        return f"workflow={folder}/workflow.json"

    def ready(self, port):
        return ask(port, "GET", "/system_stats")[0] == 200

    def carries(self, method, path):
        if (method, path) == ("POST", "/prompt"):
            return {"job"}
        return {"picture"} if path.startswith("/view?") else set()

    def resize(self, method, path, body):
        graph = json.loads(body)["prompt"]
        graph[LATENT]["inputs"]["width"] += 16
        return with_json(body, prompt=graph)

    def drawing(self, port):
        queue = ask_json(port, "GET", "/queue")
        return bool(queue["queue_running"] or queue["queue_pending"])

    def occupy(self, port):
        # A seed of its own: the same one would come from ComfyUI's cache.
        graph = filled({"prompt": "somebody else's", "seed": uuid.uuid4().int % 2**32, "guidance": 1.0, **self.slow})
        job_id = ask_json(port, "POST", "/prompt", {"prompt": graph, "client_id": "foreign"})["prompt_id"]

        def is_over():
            status = ask_json(port, "GET", f"/history/{job_id}").get(job_id, {}).get("status")
            return status is not None and status["status_str"] == "success"
        return is_over


@kind
class OldComfyUI(ComfyUI):
    """March 2024"""

    name = "comfyui-2024"
    version = "old"

    def prepare(self, folder):
        super().prepare(folder)
        with open(os.path.join(folder, "comfyui", "paths.yaml"), "w", encoding="utf-8") as file:
            file.write(f"drawbar:\n    base_path: {folder}/comfyui\n    custom_nodes: custom_nodes\n")

    def words_of_version(self, base):
        return ["--output-directory", os.path.join(base, "output"), "--temp-directory", os.path.join(base, "temp"),
                "--extra-model-paths-config", os.path.join(base, "paths.yaml")]
