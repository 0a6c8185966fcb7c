#!/usr/bin/env python3
"""tiny_model — saves a Z-Image pipeline of toy size with random weights, without any download.

    tests/instances/tiny_model.py DIRECTORY

The classes are those of the real model (ZImageTransformer2DModel, Qwen3Model, AutoencoderKL,
FlowMatchEulerDiscreteScheduler, a byte-level tokenizer made here), so `zimage_server.py --model DIRECTORY`
loads it the way that it loads the real one. Its pictures are noise.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "worker", "instance"))
from zimage.model import random_pipeline # noqa: E402

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    random_pipeline(tiny=True).save_pretrained(sys.argv[1])
    print(f"saved {sys.argv[1]}")
