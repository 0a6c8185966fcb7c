"""compiled — what torch.compile has made ready, and what may be made next without keeping a job waiting.

The parts are compiled in regions, each a few seconds: one transformer block (all blocks share its code),
one layer of the text encoder, the five blocks of the VAE's decoder and its last norm.

- The sequence length of blocks and layers is dynamic: one compilation serves every picture size and every
  prompt length. Static ones would be needed for each size times each of 16 padded prompt lengths.
- The VAE's blocks are compiled for each picture size (dynamic=False), in slices of one block.

Serving runs under the stance "eager_on_recompile": what is not compiled for a shape runs eagerly and
nothing is ever compiled while a job is drawn. A key that was wanted and is cold is compiled in the GPU
thread by slice(), which the engine calls when no job waits, or between two jobs if work never ends.

What is compiled does not depend on measured times (zimage_server.py says so to the compiler), so each process
compiles the same, and draws the same.
"""
import time
from collections import Counter

import torch

VAE_SIZES = 24          # compiled at most; further sizes stay eager
UNDER_LOAD_WANTED = 16  # uses of a cold key before it may be compiled between two jobs ...
UNDER_LOAD_EVERY_S = 60 # ... and no more than one slice in that time


class Compiled:
    """Knows nothing of jobs. `regions` maps a key to the slices that warm it: functions without arguments,
    which run the part at that shape. Keys: ("text",), ("dit", "one" | "many"), ("vae", width, height)."""

    def __init__(self, enabled, log):
        self.enabled = enabled
        self.log = log
        self.warm = set()
        self.wanted = Counter()
        self.slices = {}
        self.failed = set()
        self.last_slice = 0.0
        self.deterministic = False

    def begin(self):
        """In the thread that will compile and draw, before anything is compiled."""
        import torch._dynamo
        import torch._inductor.config
        self.deterministic = getattr(torch._inductor.config, "deterministic", False)
        if not self.deterministic:
            self.log("pictures-differ-between-processes", torch=torch.__version__,
                     cure="a torch that knows TORCHINDUCTOR_DETERMINISTIC, which zimage_server.py sets")
        # Regions share code objects; each shape is an entry.
        for name in ("recompile_limit", "cache_size_limit"):
            if hasattr(torch._dynamo.config, name):
                setattr(torch._dynamo.config, name, 8 * VAE_SIZES)
        torch.compiler.set_stance("eager_on_recompile")

    def want(self, key, make_slices):
        """A job uses the part at that shape. make_slices: called once, if it is cold."""
        if not self.enabled or key in self.warm or key in self.failed:
            return
        self.wanted[key] += 1
        if key not in self.slices:
            if key[0] == "vae" and sum(k[0] == "vae" for k in self.slices | dict.fromkeys(self.warm)) >= VAE_SIZES:
                return
            self.slices[key] = make_slices()

    def is_cold(self, key):
        """It is to be compiled yet, and until then runs otherwise than it will."""
        return self.enabled and key not in self.warm and key not in self.failed

    def has_work(self, idle):
        if not self.slices:
            return False
        rested = time.monotonic() - self.last_slice >= UNDER_LOAD_EVERY_S
        return idle or (rested and max(self.wanted[key] for key in self.slices) >= UNDER_LOAD_WANTED)

    def slice(self):
        """Compiles one region of the key that is wanted most. A key is warm after its last one."""
        key = max(self.slices, key=lambda k: self.wanted[k])
        begun = time.monotonic()
        torch.compiler.set_stance("default")
        try:
            self.slices[key].pop(0)()
        except torch.OutOfMemoryError:
            raise
        except Exception as trouble: # whatever the compiler throws: eager still works
            self.log("compile-failed", key="/".join(map(str, key)), error=repr(trouble)[:300])
            self.failed.add(key)
            self.slices[key] = []
        finally:
            torch.compiler.set_stance("eager_on_recompile")
            self.last_slice = time.monotonic()
        if not self.slices[key]:
            del self.slices[key]
            if key not in self.failed:
                self.warm.add(key)
            self.log("compiled", key="/".join(map(str, key)), seconds=round(time.monotonic() - begun, 1))

    def document(self):
        def text(keys):
            return sorted("/".join(map(str, key)) for key in list(keys))
        return {"enabled": self.enabled, "deterministic": self.deterministic, "ready": text(self.warm),
                "failed": text(self.failed), "waiting": text(self.slices)}


def dynamic_length(forward, mode=None):
    """Compiles a block's or a layer's forward with dimension 1 of the states and of the rotary tables free."""
    inner = torch.compile(forward, mode=mode)

    def mark(tensor, dimensions=(0, 1)):
        for dimension in dimensions: # a batch of one is a case of its own
            if tensor.shape[dimension] > 1:
                torch._dynamo.maybe_mark_dynamic(tensor, dimension)

    def call(states, *args, **kwargs):
        mark(states)
        for name, value in [*enumerate(args), *kwargs.items()]:
            for tensor in value if isinstance(value, tuple) else (value,):
                if not isinstance(tensor, torch.Tensor):
                    continue
                # The modulation is [batch, 256]: no sequence, though some sequence is 256 long. Unmarked, its batch
                # would be taken for the only one.
                mark(tensor, (0, 1) if tensor.ndim >= 3 or name == "position_ids" else (0,))
        return inner(states, *args, **kwargs)
    return call


def static_shape(forward):
    return torch.compile(forward, dynamic=False)
