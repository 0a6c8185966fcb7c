#!/usr/bin/env python3
"""zimage_server — the reference instance: Z-Image-Turbo on one GPU behind the HTTP API of API.md.

    zimage_server.py --model DIR|HUB-ID [--port 8188]     a model on disk, or one that diffusers fetches
    zimage_server.py --random                             full size, random weights: for measuring
    zimage_server.py --tiny --device cpu                  toy size, random weights: for tests

Prints `ready role=instance http=HOST:PORT` when it listens; /healthz says when the model is warm. SIGTERM
ends it with status 0; a GPU that fails or hangs with another. Needs requirements.txt; no other server.
"""
import argparse
import ipaddress
import os
import signal
import sys
import threading
import time

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Otherwise the compiler tunes reductions by the clock, in each process anew: another order of sums, and another picture
# for the same seed where a job is drawn again (measured; see tests/gpu/RESULTS.md). Set here, it holds in every thread.
os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))


def log(event, **pairs):
    """One line of key=value, as the other programs write them."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    text = " ".join(f"{k}={v}" if " " not in str(v) else f'{k}="{v}"' for k, v in pairs.items())
    # In one piece: several threads write.
    sys.stderr.write(f"{stamp}Z instance {event} {text}".replace("\n", " ") + "\n")
    sys.stderr.flush()


def sizes(text):
    """"1024x1024,512x512" -> [(1024, 1024), (512, 512)]"""
    found = []
    for size in filter(None, text.split(",")):
        try:
            width, height = map(int, size.lower().split("x"))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{size!r} is not WIDTHxHEIGHT") from None
        if not (64 <= width <= 2048 and 64 <= height <= 2048) or width % 16 or height % 16:
            raise argparse.ArgumentTypeError(f"{size}: sides are multiples of 16 from 64 to 2048")
        found.append((width, height))
    if not found:
        raise argparse.ArgumentTypeError("at least one size: the warm-up draws it")
    return found


def within(least, most, kind=int):
    def read(text):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}")
        return value
    return read


def parse(arguments):
    p = argparse.ArgumentParser(prog="zimage_server.py", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    which = p.add_argument_group("what is drawn with").add_mutually_exclusive_group(required=True)
    which.add_argument("--model", metavar="DIR|ID", help="a directory that save_pretrained wrote, or a hub id")
    which.add_argument("--random", action="store_true", help="full size, random weights; pictures are noise")
    which.add_argument("--tiny", action="store_true", help="toy size, random weights; pictures are noise")
    p.add_argument("--model-name", default="z-image-turbo", help="the name in /healthz (%(default)s)")
    p.add_argument("--device", default="cuda", help="cuda, cuda:1, ... or cpu (%(default)s)")
    p.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="default: bfloat16; on a cpu float32")
    p.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    p.add_argument("--port", type=within(0, 65535), default=8188, help="0 takes a free one (%(default)s)")
    p.add_argument("--insecure-plaintext", action="store_true", help="allow a --host that other machines can reach")
    p.add_argument("--ready-file", help="also write the ready line there")
    p.add_argument("--queue", type=within(0, 1024), default=2, help="jobs that may wait (%(default)s)")
    p.add_argument("--max-pixels", type=within(64 * 64, 2048 * 2048), default=2048 * 2048, help="width x height")
    p.add_argument("--max-batch", type=within(1, 8), default=4,
                   help="images of one job drawn at once, up to 512x512; larger ones are drawn singly (%(default)s)")
    p.add_argument("--encoders", type=within(1, 16), default=3, help="threads that encode (%(default)s)")
    p.add_argument("--watchdog-s", type=within(0.1, 3600, float), default=60.0,
                   help="no step for so long, and for 10 times the usual: exit (%(default)s)")
    p.add_argument("--warm-sizes", type=sizes, metavar="WxH,...",
                   help="drawn before it is ready, and compiled for (1024x1024,512x512; on a cpu 64x64)")
    p.add_argument("--warm-steps", type=within(1, 50), default=2, help=argparse.SUPPRESS)
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    p.add_argument("--compile-mode", choices=("default", "max-autotune-no-cudagraphs"), default="default",
                   help="of the transformer's blocks; autotuned, the start takes minutes (%(default)s)")
    p.add_argument("--graphs", action=argparse.BooleanOptionalAction, help="CUDA graphs; default: on a GPU")
    p.add_argument("--channels-last", action=argparse.BooleanOptionalAction, help="in the VAE; default: on a GPU")
    p.add_argument("--rope", choices=("real", "complex"), help="real: rotations that can be compiled, steps that can be "
                   "graphs; complex: the model's own forward (real if compiled or with graphs)")
    p.add_argument("--fuse", action=argparse.BooleanOptionalAction, help="products of the same input as one (q, k, v; the "
                   "two halves of the gated layer); needs --rope real; default: on a GPU")
    p.add_argument("--fp8", action="store_true", help="the transformer's products in 8 bits: faster, its weights take half "
                   "the memory, and pictures change slightly; needs a GPU of compute capability 8.9 or more (Ada, Hopper)")
    p.add_argument("--attention", default="auto",
                   help="a backend of diffusers (native, _flash_3, ...); auto: FlashAttention-3 if installed")
    o = p.parse_args(arguments)
    gpu = o.device.startswith("cuda")
    o.compile = gpu if o.compile is None else o.compile
    o.compile_mode = None if o.compile_mode == "default" else o.compile_mode
    o.graphs = gpu if o.graphs is None else o.graphs and gpu
    o.channels_last = gpu if o.channels_last is None else o.channels_last
    o.rope = o.rope or ("real" if o.compile or o.graphs or o.fuse else "complex")
    if o.fuse and o.rope == "complex":
        p.error("--fuse: the model's own attention, which --rope complex takes, has three products; leave one of them out")
    o.fuse = gpu and o.rope == "real" if o.fuse is None else o.fuse
    o.dtype = o.dtype or ("bfloat16" if gpu else "float32")
    o.warm_sizes = o.warm_sizes or ([(1024, 1024), (512, 512)] if gpu else [(64, 64)])
    if not 1 <= len(o.model_name) <= 64:
        p.error("--model-name: must have 1 to 64 characters")
    if o.fp8 and not gpu:
        p.error(f"--fp8: {o.device} is no GPU; it needs one of compute capability 8.9 or more (Ada, Hopper), leave it out")
    if o.fp8 and o.dtype != "bfloat16":
        p.error(f"--fp8: 8-bit products give bfloat16; leave out --dtype {o.dtype}")
    if not o.insecure_plaintext and not is_loopback(o.host):
        p.error(f"--host: {o.host} can be reached by other machines in plain text; "
                "add --insecure-plaintext if that is meant")
    return o


def is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def say_ready(server, path):
    host = f"[{server.options.host}]" if ":" in server.options.host else server.options.host
    line = f"ready role=instance http={host}:{server.server_port}\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    if path:
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(line)
        os.replace(path + ".new", path)


def serve(o, pipe=None, on_engine=None):
    """Runs the instance until a signal; returns the exit status. A loaded pipeline may be handed in."""
    import diffusers
    import torch
    import transformers
    from zimage import VERSION
    from zimage.artist import Artist
    from zimage.engine import Engine
    from zimage.jobs import Table
    from zimage.products import why_not_eight_bits
    from zimage.server import Server

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if o.device.startswith("cuda") and not torch.cuda.is_available():
        log("no-gpu", device=o.device, cure="--device cpu")
        return 1
    trouble = why_not_eight_bits(torch.device(o.device)) if o.fp8 else None
    if trouble:
        log("no-fp8", device=o.device, error=f"--fp8 needs compute capability 8.9 or more (Ada, Hopper); {trouble}",
            cure="leave out --fp8")
        return 1
    table = Table(o.queue)
    artist = Artist(o, log)
    try:
        server = Server(o, table, artist, {"instance": VERSION, "torch": torch.__version__,
                                           "diffusers": diffusers.__version__,
                                           "transformers": transformers.__version__})
    except OSError as trouble:
        log("listen-failed", host=o.host, port=o.port, error=trouble)
        return 1
    engine = Engine(table, artist, o, log)
    threading.Thread(target=server.serve_forever, args=(0.05,), name="http", daemon=True).start()
    threading.Thread(target=engine.run, args=(pipe,), name="gpu", daemon=True).start()
    if on_engine is not None:
        on_engine(engine)
    say_ready(server, o.ready_file)
    stop.wait()
    server.stop(2.5)
    log("stopped")
    return 0


if __name__ == "__main__":
    status = serve(parse(sys.argv[1:]))
    sys.stdout.flush()
    # Threads may be inside the driver: no interpreter shutdown beneath them.
    os._exit(status)
