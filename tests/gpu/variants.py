#!/usr/bin/env python3
"""variants — ways to draw the same pictures faster, one after the other in one process on one GPU.

    tests/gpu/variants.py [--budget 500] [--out FILE.json] [--only base,fused]     full size, random weights
    tests/gpu/variants.py --tiny --device cpu                                      does it run?

Builds the weights once; each variant gets a copy of them, and is loaded, compiled and warmed by the
instance's own Engine and drawn with by its own Artist, without HTTP and without encoding. Told of each:
pictures a second and the time of a step, watts and clock, memory, and how far the picture is from the one of
float32 weights and float32 arithmetic; of the first and the quickest variant also where the GPU's time goes.
What the budget has no time for is named.

A card at its power limit is quicker in the first seconds than it stays: each load runs a while before it is
measured, and what it made meanwhile ("cool") is told beside what it made then.

Random weights say what a variant costs. Of its pictures they say how far 8-bit numbers carry through this
architecture, next to what bfloat16 does; whether one would see it, only the real weights can show.
"""
import argparse
import copy
import gc
import json
import os
import statistics
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "..", "worker", "instance"), HERE]
import zimage_server # noqa: E402
from power import Power # noqa: E402

BEGUN = time.monotonic()
VARIANTS = { # flags of the instance; the most telling first
    "base": ("--no-fuse",),
    "fp8+fused": ("--fp8", "--fuse"),
    "fused": ("--fuse",),
    "fp8": ("--fp8", "--no-fuse"),
    "fp8+tuned": ("--fp8", "--fuse", "--compile-mode", "max-autotune-no-cudagraphs"),
    "tuned": ("--fuse", "--compile-mode", "max-autotune-no-cudagraphs"),
}
KERNELS_SHOWN = 12
LAST_S = 15           # of the budget, for the quickest variant's profile
SETTLE_S = (6.0, 2.0) # load before the first measurement of a variant, and before each further one


def say(*words):
    print(f"[{time.monotonic() - BEGUN:6.1f}s]", *words, flush=True)


def job(number, size, n, steps):
    from zimage.jobs import Job
    from zimage.order import Order
    return Job(Order(id=f"v{number}", prompt=f"a lighthouse on a cliff, number {number}", negative_prompt="", width=size,
                     height=size, steps=steps, guidance=0.0, seed=number, n=n, format="png"))


class Variant:
    """One way to draw, loaded and warm. The engine's thread is this one."""

    def __init__(self, options):
        from zimage.artist import Artist
        from zimage.engine import Engine
        from zimage.jobs import Table
        self.cuda = options.device.startswith("cuda")
        self.artist = Artist(options, lambda event, **pairs: say("   ", event, pairs))
        self.engine = Engine(Table(), self.artist, options, self.artist.log)
        self.number, self.ready_s = 0, 0.0

    def start(self, pipe):
        """Takes the pipeline for its own."""
        begun = time.monotonic()
        self.engine._start(pipe)
        self.ready_s = time.monotonic() - begun

    def close(self):
        self.engine.artist = self.artist = None # the engine's encoding threads live on
        import torch
        torch._dynamo.reset() # holds what it compiled

    def draw(self, order, on_steps=lambda done: None, following=None):
        """The pictures of a job, on their way; `following` has its text encoded meanwhile."""
        pictures = []
        self.artist.draw(order, on_steps, pictures.append, lambda: following)
        return pictures

    def throughput(self, size, n, settle_s, seconds):
        """Pictures a second while the card settles, and then. One job behind the other; the pixels of a job are
        waited for during the next."""
        behind, following = self.draw(self._next(size, n)), self._next(size, n) # the first one fills the queue
        rates = []
        for limit in (settle_s, seconds):
            made, begun = 0, time.monotonic()
            while made == 0 or time.monotonic() - begun < limit:
                current, following = following, self._next(size, n)
                pictures = self.draw(current, following=following)
                for picture in behind:
                    picture.pixels()
                made += len(behind)
                behind = pictures
            rates.append(made / (time.monotonic() - begun))
        for picture in behind:
            picture.pixels()
        return {"cool_img_s": rates[0], "img_s": rates[1]}

    def _next(self, size, n):
        self.number += 1
        return job(self.number, size, n, 8)

    def step_ms(self, size, n, steps):
        times = []
        pictures = self.draw(job(1, size, n, steps), on_steps=lambda done: times.append(time.monotonic()))
        for picture in pictures:
            picture.pixels()
        return 1000 * statistics.median(b - a for a, b in zip(times[2:], times[3:]))

    def result(self, size):
        """One picture: what the transformer gave at its first step, the last latents, the pixels."""
        taken = {}
        transformer, decode = self.artist.pipe.transformer, self.artist._decode
        forward = transformer.forward

        def first(*args, **kwargs):
            given = forward(*args, **kwargs)
            taken.setdefault("first", given[0][0].float().clone()) # a graph's result lasts until its next run
            return given

        def last(latents, *rest):
            taken["latents"] = latents.float().clone()
            return decode(latents, *rest)
        order = job(1, size, 1, 8)
        self.artist.prepare(order)
        order.text = [text.to(transformer.dtype) for text in order.text]
        transformer.forward, self.artist._decode = first, last
        try:
            pixels = self.draw(order)[0].pixels()
        finally:
            transformer.forward, self.artist._decode = forward, decode
        return {"first": taken["first"].cpu(), "latents": taken["latents"].cpu(), "pixels": pixels.copy()}

    def profile(self, size, pictures):
        """The kernels that take most of the GPU's time, and the share of time in which one ran."""
        from served import idle_share
        from torch.profiler import ProfilerActivity, profile
        if not self.cuda:
            return None
        with profile(activities=[ProfilerActivity.CUDA]) as taken:
            self.throughput(size, 1, 0, 0.2 * pictures)
        path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"variants.{os.getpid()}.json")
        try:
            taken.export_chrome_trace(path)
            with open(path, encoding="utf-8") as file:
                trace = json.load(file)
        finally:
            if os.path.exists(path):
                os.unlink(path)
        sums, counts = {}, {}
        for event in trace["traceEvents"]:
            if event.get("cat") == "kernel":
                sums[event["name"]] = sums.get(event["name"], 0) + event["dur"]
                counts[event["name"]] = counts.get(event["name"], 0) + 1
        whole = sum(sums.values()) or 1
        idle = idle_share(trace, size * size * 3)
        return {"busy": None if idle is None else 1 - idle["idle"], "idle": idle,
                "kernels": [(name[:100], sums[name] / whole, counts[name])
                            for name in sorted(sums, key=sums.get, reverse=True)[:KERNELS_SHOWN]]}


def pristine_copy(pipe, parts=("transformer", "vae", "text_encoder")):
    """The same pipeline, of these parts with weights of its own: what a variant does to them stays with it."""
    from diffusers import ZImagePipeline
    own = {name: copy.deepcopy(getattr(pipe, name)) if name in parts else getattr(pipe, name)
           for name in ("transformer", "vae", "text_encoder")}
    made = ZImagePipeline(scheduler=pipe.scheduler, tokenizer=pipe.tokenizer, **own)
    made.set_progress_bar_config(disable=True)
    return made


class Bench:
    """The variants, and the table."""

    def __init__(self, o):
        self.o, self.cuda = o, o.device.startswith("cuda")
        self.small, self.large = (64, 128) if o.tiny else (512, 1024)
        self.found, self.left_out, self.facts = {}, [], {}
        self.pristine = self.reference = None

    def left(self):
        return self.o.budget - (time.monotonic() - BEGUN)

    def options(self, flags):
        o = self.o
        options = zimage_server.parse([
            "--tiny" if o.tiny else "--random", "--device", o.device, "--warm-sizes",
            f"{self.small}x{self.small},{self.large}x{self.large}", *(flag for flag in flags if flag != "--fp8")])
        options.dtype = "bfloat16"
        options.fp8 = "--fp8" in flags # a CPU computes them too, slowly: enough to see whether this runs
        return options

    def begin(self):
        import diffusers
        import torch
        from zimage import model
        dtype = torch.bfloat16
        self.pristine = model.random_pipeline(self.o.device, dtype, tiny=self.o.tiny)
        self.facts = {"device": torch.cuda.get_device_name(self.o.device) if self.cuda else "cpu",
                      "torch": torch.__version__, "diffusers": diffusers.__version__}
        say("built", self.facts)

    def draw_exactly(self):
        """Float32 weights (the same ones) and float32 arithmetic, drawn eagerly: what the others are held against."""
        import torch
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        options = self.options(("--no-compile", "--no-graphs", "--rope", "real", "--no-fuse", "--no-channels-last"))
        options.warm_sizes = []
        # Eager and with this layout, an Artist leaves the other two parts as they are: they need no copy.
        pipe = pristine_copy(self.pristine, parts=("transformer",))
        torch.nn.Module.to(pipe.transformer, torch.float32)
        exact = Variant(options)
        try:
            exact.start(pipe)
            self.reference = exact.result(self.small)
        finally:
            exact.close()
        say("drawn in float32")

    def measure(self, name):
        import torch
        o, found = self.o, {}
        before = self.memory()
        options = self.options(VARIANTS[name])
        say(f"{name}: {' '.join(VARIANTS[name])}")
        if options.fp8 and self.cuda:
            from zimage.products import why_not_eight_bits
            trouble = why_not_eight_bits(torch.device(o.device))
            if trouble:
                raise RuntimeError(trouble)
        variant = Variant(options)
        try:
            variant.start(pristine_copy(self.pristine))
            found["ready_s"] = variant.ready_s
            found["compiled"] = variant.artist.compiled.document()
            found["memory_mib"] = self.memory() - before
            self.found[name] = found
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            settle_s = SETTLE_S[0] if self.cuda else 0.0
            for size, n, steps in ((self.large, 1, 15), (self.small, 4, 15), (self.small, 1, 40)):
                with Power(self.cuda) as power:
                    row = variant.throughput(size, n, settle_s, o.seconds)
                settle_s = min(settle_s, SETTLE_S[1])
                row.update(power.means())
                row["step_ms"] = variant.step_ms(size, n, steps)
                found[f"{size} n={n}"] = row
                say(f"   {size} n={n}", {key: round(value, 3) for key, value in row.items()})
                self.save()
            if self.cuda:
                found["peak_mib"] = (torch.cuda.max_memory_allocated() >> 20) - before
            found["result"] = variant.result(self.small)
            if name == "base" or (name == self.best() and self.left() > LAST_S):
                found["profile"] = variant.profile(self.small, 6)
        finally:
            variant.close()

    def best(self):
        key = f"{self.small} n=1"
        return max((name for name in self.found if key in self.found[name]),
                   key=lambda name: self.found[name][key]["img_s"], default=None)

    def memory(self):
        if not self.cuda:
            return 0
        import torch
        return torch.cuda.memory_allocated() >> 20

    def run(self):
        slowest = 0
        self.begin()
        try:
            self.draw_exactly()
        except Exception as trouble:
            self.left_out.append(("the float32 picture", repr(trouble)[:300]))
            say("FAILED", repr(trouble)[:600])
        self.free()
        for name in self.o.only.split(",") if self.o.only else VARIANTS:
            # What is warm in the compiler's cache takes less than the first one took.
            if self.left() < (slowest * 0.8 if self.found else 0) + (90 if "tuned" in name and not self.o.tiny else 0):
                self.left_out.append((name, "no time left"))
                continue
            begun = time.monotonic()
            try:
                self.measure(name)
            except Exception as trouble:
                self.left_out.append((name, repr(trouble)[:300]))
                say(name, "FAILED", repr(trouble)[:600])
            self.free() # here, since a failure keeps what it failed with
            slowest = max(slowest, time.monotonic() - begun) if len(self.found) != 1 else slowest
            slowest = slowest or 0.6 * (time.monotonic() - begun)
            self.save()

    def free(self):
        import torch
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    # -- what is told --

    def differences(self, name):
        """Of a variant's picture from the float32 one."""
        mine, exact = self.found[name].get("result"), self.reference
        if mine is None or exact is None:
            return None

        def relative(key):
            return float((mine[key] - exact[key]).norm() / exact[key].norm())
        square = float(((mine["pixels"].astype(float) - exact["pixels"].astype(float)) ** 2).mean())
        from math import log10
        return {"first": relative("first"), "latents": relative("latents"),
                "psnr_db": 99.0 if square == 0 else 10 * log10(255 ** 2 / square)}

    def document(self):
        variants = {}
        for name, found in self.found.items():
            variants[name] = {key: value for key, value in found.items() if key != "result"}
            variants[name]["from_float32"] = self.differences(name)
        return {"facts": self.facts, "variants": variants, "left_out": self.left_out, "best": self.best(),
                "seconds": time.monotonic() - BEGUN}

    def save(self):
        if self.o.out:
            with open(self.o.out, "w", encoding="utf-8") as file:
                json.dump(self.document(), file, indent=1)

    def table(self):
        kind = "toy size: the numbers mean nothing" if self.o.tiny else "random weights"
        print(f"\n===== variants, {kind}, {self.facts.get('device')}, torch {self.facts.get('torch')} =====")
        keys = [f"{self.small} n=1", f"{self.small} n=4", f"{self.large} n=1"]
        document = self.document()["variants"]
        print(f"{'':10}" + "".join(f"| {key + ': img/s (cool), ms a step, W, MHz':44}" for key in keys) +
              "| ready s | MiB, peak")
        for name, found in document.items():
            cells = ""
            for key in keys:
                row = found.get(key)
                text = "-" if row is None else (f"{row['img_s']:7.3f} ({row['cool_img_s']:6.3f}) {row['step_ms']:8.2f} "
                                                f"{row.get('watts', 0):6.0f} {row.get('mhz', 0):6.0f}")
                cells += f"| {text:44}"
            print(f"{name:10}{cells}| {found.get('ready_s', 0):7.0f} | {found.get('memory_mib', 0)}, "
                  f"{found.get('peak_mib', 0)}")
        print(f"\nfrom the float32 picture at {self.small}: relative error of the first step's output, of the last latents; "
              "PSNR of the pixels")
        for name, found in document.items():
            far = found["from_float32"]
            if far:
                print(f"{name:10} {far['first']:.5f} {far['latents']:.5f} {far['psnr_db']:6.1f} dB")
        for name, found in document.items():
            taken = found.get("profile")
            if taken:
                print(f"\n{name} at {self.small}: a kernel ran {100 * (taken['busy'] or 0):.1f} % of the time; of the GPU's time")
                for kernel, share, count in taken["kernels"]:
                    print(f"  {100 * share:5.1f} % {count:6}x  {kernel}")
        for name, why in self.left_out:
            print(f"left out: {name}: {why}")
        print(f"({time.monotonic() - BEGUN:.0f} s in all)", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--budget", type=float, default=500, help="seconds for everything (%(default)s)")
    p.add_argument("--seconds", type=float, default=5, help="of one throughput (%(default)s)")
    p.add_argument("--device", default="cuda")
    p.add_argument("--tiny", action="store_true", help="toy size")
    p.add_argument("--only", default="", help="of " + ",".join(VARIANTS))
    p.add_argument("--out", default="", help="JSON file, also written between the measurements")
    o = p.parse_args()
    for name in filter(None, o.only.split(",")):
        if name not in VARIANTS:
            p.error(f"--only: {name} is none of {', '.join(VARIANTS)}")
    bench = Bench(o)

    def last_word():
        time.sleep(max(1, o.budget + 30 - (time.monotonic() - BEGUN)))
        bench.left_out.append(("the rest", "its time was over"))
        bench.table()
        os._exit(3)
    threading.Thread(target=last_word, daemon=True).start()
    try:
        bench.run()
    finally:
        bench.table()
        bench.save()
    sys.stdout.flush()
    os._exit(0 if bench.best() is not None else 1) # the engines' threads are inside the driver


if __name__ == "__main__":
    main()
