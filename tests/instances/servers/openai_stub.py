"""openai_stub — a STUB of the images API that vLLM-Omni documents: openai_stub.py PORT

Faithful in what a driver meets: /v1/images/generations holds its connection until the picture is there, one drawing
after the other; no progress and no way to stop; FastAPI's 422 for a field out of its limits, {"detail"} with 400 for
a size that is none, 503 while the engine starts; /health without a body; one model at /v1/models, and another name in
a request is no error. Its pictures are noise. GET /stub/drawing is the test's own.
"""
import sys
import time

from stub import Gpu, Refused, draw, invalid, number, png_base64, serve

MODEL = "Tongyi-MAI/Z-Image-Turbo"
gpu = Gpu()
begun = time.monotonic()
at_work = [0]


def generate(request):
    if time.monotonic() - begun < 0.5:
        raise Refused(503, {"detail": "Multi-stage engine not initialized. Start server with an omni model."})
    if not isinstance(request, dict) or not isinstance(request.get("prompt"), str):
        raise invalid("prompt", "Field required", "missing")
    n = number(request, "n", 1, 10, 1)
    steps = number(request, "num_inference_steps", 1, 200, 50)
    seed = number(request, "seed", 0, 2**64 - 1, 0)
    guidance = request.get("guidance_scale", 0.0)
    if not isinstance(guidance, (int, float)) or not 0 <= guidance <= 20:
        raise invalid("guidance_scale", "Input should be from 0 to 20", "less_than_equal")
    if request.get("response_format", "b64_json") not in ("b64_json", "file"):
        raise invalid("response_format", "Value error, Only 'b64_json' or 'file' response format is supported")
    size = request.get("size") or "1024x1024"
    if not isinstance(size, str) or "x" not in size:
        raise invalid("size", "Value error, size must be in format 'WIDTHxHEIGHT' (e.g., '1024x1024')")
    try:
        width, height = (int(side) for side in size.split("x"))
    except ValueError as bad:
        raise Refused(400, {"detail": f"Invalid size format: '{size}'"}) from bad
    at_work[0] += 1
    with gpu:
        draw(steps * n)
    at_work[0] -= 1
    return {"created": int(time.time()), "output_format": request.get("output_format") or "png", "size": size,
            "data": [{"b64_json": png_base64(width, height, request["prompt"], seed + i, steps), "url": None,
                      "revised_prompt": None} for i in range(n)]}


def models(_):
    return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "vllm-omni",
                                        "permission": []}]}


serve(int(sys.argv[1]), {("POST", "/v1/images/generations"): generate, ("GET", "/v1/models"): models,
                         ("GET", "/health"): lambda _: None, ("GET", "/stub/drawing"): lambda _: at_work[0]})
