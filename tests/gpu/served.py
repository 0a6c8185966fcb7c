"""served — bench.py's other half: builds the model once, measures the plain loop with it, then serves it.

Takes the flags of zimage_server.py and, before them, `--baseline SECONDS SIZE...`. Prints `RESULT {json}` lines
beside the ready line. A line `profile SECONDS PIXELS` on standard input answers with the share of the time
in which no kernel ran.

Started by a worker it has neither input nor output: with DRAWBAR_RESULTS=FILE results are also appended
there, a line in FILE.ask is such a question, and a plain loop that is in FILE is not measured again.
"""
import io
import json
import os
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "worker", "instance"))
import zimage_server # noqa: E402

NEAR_US = 25000 # a gap so near to a picture's copy lies between two jobs


RESULTS = os.environ.get("DRAWBAR_RESULTS", "")


def result(**pairs):
    print("RESULT " + json.dumps(pairs), flush=True)
    if RESULTS:
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(pairs) + "\n")


def questions():
    """Lines of standard input or, when started by a worker, of the file."""
    if not RESULTS:
        yield from sys.stdin
    while RESULTS:
        time.sleep(0.1)
        if os.path.exists(RESULTS + ".ask"):
            with open(RESULTS + ".ask", encoding="utf-8") as file:
                line = file.readline()
            if line.endswith("\n"):
                os.unlink(RESULTS + ".ask")
                yield line


def baseline(pipe, device, size, seconds):
    """What people run: one picture after the other, saved as PNG, eager."""
    import torch

    def one(i):
        image = pipe([f"a lighthouse on a cliff, number {i}"], height=size, width=size, num_inference_steps=8,
                     guidance_scale=0.0, generator=torch.Generator(device).manual_seed(i)).images[0]
        image.save(io.BytesIO(), "PNG")
    one(0)
    one(1)
    begun, n = time.perf_counter(), 0
    while n < 3 or time.perf_counter() - begun < seconds:
        one(n)
        n += 1
    result(what="baseline", size=size, images=n, img_s=n / (time.perf_counter() - begun))


def idle_share(trace, copy_bytes):
    """From a kernel trace: idle shares of all the time, and of it the part near a picture's copy to the host."""
    events = trace["traceEvents"] if isinstance(trace, dict) else trace
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events
                   if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") and "dur" in e)
    copies = [e["ts"] + e["dur"] for e in events if e.get("cat") == "gpu_memcpy" and "DtoH" in e.get("name", "")
              and e.get("args", {}).get("bytes") == copy_bytes]
    if len(spans) < 2:
        return None
    idle = between = 0.0
    largest, end = 0.0, spans[0][1]
    for begin, until in spans:
        if begin > end:
            idle += begin - end
            largest = max(largest, begin - end)
            if any(abs(copy - end) < NEAR_US or abs(copy - begin) < NEAR_US for copy in copies):
                between += begin - end
        end = max(end, until)
    whole = end - spans[0][0]
    return {"idle": idle / whole, "between_jobs": between / whole, "largest_gap_ms": largest / 1000,
            "kernels": len(spans), "pictures": len(copies), "seconds": whole / 1e6}


def profile(seconds, size, cuda):
    from torch.profiler import ProfilerActivity, profile as profiler
    if not cuda:
        result(what="idle", size=size, error="no GPU")
        return
    with profiler(activities=[ProfilerActivity.CUDA]) as taken:
        time.sleep(seconds)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        taken.export_chrome_trace(file.name)
        with open(file.name, encoding="utf-8") as text:
            found = idle_share(json.load(text), size * size * 3)
    result(what="idle", size=size, **(found or {"error": "the trace holds no kernels"}))


def listen(cuda):
    for line in questions():
        word, seconds, size = line.split()
        try:
            assert word == "profile"
            profile(float(seconds), int(size), cuda)
        except Exception as trouble: # the bench goes on without it
            result(what="idle", size=int(size), error=repr(trouble)[:200])


def main():
    arguments = sys.argv[1:]
    seconds, sizes = 0.0, []
    if arguments[:1] == ["--baseline"]:
        seconds, sizes = float(arguments[1]), [int(s) for s in arguments[2].split(",") if s]
        arguments = arguments[3:]
    if RESULTS and os.path.exists(RESULTS):
        sizes = [] # a life after the first
    o = zimage_server.parse(arguments)
    import torch
    from zimage import model
    begun = time.monotonic()
    pipe = model.random_pipeline(o.device, getattr(torch, o.dtype), tiny=o.tiny)
    pipe.set_progress_bar_config(disable=True)
    cuda = o.device.startswith("cuda")
    result(what="built", seconds=time.monotonic() - begun, torch=torch.__version__,
           device=torch.cuda.get_device_name(o.device) if cuda else "cpu")
    for size in sizes:
        try:
            baseline(pipe, o.device, size, seconds)
        except Exception as trouble:
            result(what="baseline", size=size, error=repr(trouble)[:200])
    threading.Thread(target=listen, args=(cuda,), daemon=True).start()
    status = zimage_server.serve(o, pipe)
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
