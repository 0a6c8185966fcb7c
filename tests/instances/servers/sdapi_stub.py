"""sdapi_stub — a STUB of the API that AUTOMATIC1111's web UI documents at /docs: sdapi_stub.py PORT

Faithful in what a driver meets: txt2img holds its connection until the picture is there, behind one lock; progress
and interrupt are global; job_count is -1 until the sampling begins; sampling_step counts from 0 and is 0 again while
the picture is decoded; an interrupt ends the sampling and the picture comes all the same; one that comes before the
job begins is forgotten; a field of the wrong type is FastAPI's 422. Its pictures are noise.
"""
import json
import sys

from stub import Gpu, Refused, draw, invalid, number, png_base64, serve

OPTIONS = {"sd_model_checkpoint": "stub-of-a-checkpoint.safetensors [0123456789]", "samples_format": "png",
           "CLIP_stop_at_last_layers": 1}
IDLE = {"skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0,
        "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0}
gpu = Gpu()
state = dict(IDLE)


def txt2img(request):
    if not isinstance(request, dict):
        raise invalid("", "Input should be a valid dictionary", "model_attributes_type")
    for field in ("prompt", "negative_prompt"):
        if not isinstance(request.get(field, ""), (str, type(None))):
            raise invalid(field, "Input should be a valid string", "string_type")
    steps, seed = number(request, "steps", 1, 150, 50), number(request, "seed", -1, 2**32 - 1, -1)
    width, height = number(request, "width", 64, 2048, 512), number(request, "height", 64, 2048, 512)
    count = number(request, "batch_size", 1, 8, 1) * number(request, "n_iter", 1, 100, 1)
    sampler = request.get("sampler_name") or request.get("sampler_index") or "Euler"
    if sampler != "Euler":
        raise Refused(404, {"detail": "Sampler not found"})
    images = []
    with gpu:
        state.update(IDLE, job="scripts_txt2img", job_count=-1)
        for i in range(count):
            if state["interrupted"]:
                break
            state.update(job_count=count, sampling_steps=steps)

            def on_step(done):
                state["sampling_step"] = done
                if done == steps - 1:
                    state.update(job_no=i + 1)
                return not state["interrupted"]
            draw(steps, on_step)
            images.append(png_base64(width, height, request.get("prompt"), seed + i, steps))
            state["sampling_step"] = 0
        state.update(job="", job_count=0)
    info = {"prompt": request.get("prompt"), "seed": seed, "all_seeds": [seed + i for i in range(count)],
            "width": width, "height": height, "steps": steps, "sampler_name": sampler}
    return {"images": images if request.get("send_images", True) else [], "parameters": request,
            "info": json.dumps(info)}


def progress(_):
    part = state["sampling_step"] / state["sampling_steps"] if state["job_count"] > 0 else 0
    return {"progress": min(part, 1), "eta_relative": 0.0, "state": dict(state), "current_image": None,
            "textinfo": None}


def interrupt(_):
    state["interrupted"] = True
    return {}


serve(int(sys.argv[1]), {("POST", "/sdapi/v1/txt2img"): txt2img, ("GET", "/sdapi/v1/progress"): progress,
                         ("POST", "/sdapi/v1/interrupt"): interrupt, ("GET", "/sdapi/v1/options"): lambda _: OPTIONS})
