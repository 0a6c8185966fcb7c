#!/usr/bin/env python3
"""tiny_sd_model — writes a FLUX.2 (klein) model of toy size with random weights, for stable-diffusion.cpp.

    tests/instances/tiny_sd_model.py DIRECTORY

Three files in safetensors: toy.safetensors (the transformer), llm.safetensors (a Qwen3 of one layer, with the
real vocabulary's size) and tae.safetensors (a TAESD). stable-diffusion.cpp takes width and depth of this family
from the tensors themselves, so that its server runs them as it is, in a fraction of a second on a CPU. The
pictures are coloured noise, another one for each seed. Plain Python; the same bytes each time.
"""
import json
import os
import random
import struct
import sys

WIDTH = 128 # of the transformer: one head of the 128 that its position code needs
LATENT = 128 # channels of a FLUX.2 latent
HEADS, KEY_HEADS, HEAD = 32, 8, 128 # of Qwen3, fixed in stable-diffusion.cpp
TEXT_WIDTH, TEXT_MLP, VOCABULARY = 64, 128, 151936
TAE_WIDTH, TAE_LATENT = 64, 32
POOL = 65521 # a prime: rows of no matrix begin at the same place of the pool


def numbers(values):
    return struct.pack(f"<{len(values)}e", *values)


class File:
    """Tensors by name, written as safetensors: the header's length, the header, the bytes."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.pool = [self.random.gauss(0, 1) for _ in range(POOL)]
        self.header, self.parts, self.offset = {}, [], 0

    def add(self, name, shape, data):
        self.header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [self.offset, self.offset + len(data)]}
        self.parts.append(data)
        self.offset += len(data)

    def noise(self, name, *shape, gain=1.0):
        """Normal numbers of such a size that what goes in comes out about as large, times `gain`."""
        count, fan_in = 1, 1
        for i, size in enumerate(shape):
            count *= size
            fan_in *= size if i > 0 else 1
        scale, start = gain / fan_in ** 0.5, self.random.randrange(POOL)
        once = numbers([value * scale for value in self.pool[start:] + self.pool[:start]])
        self.add(name, list(shape), (once * (count // POOL + 1))[:2 * count])

    def same(self, name, size, value):
        self.add(name, [size], numbers([value]) * size)

    def write(self, path):
        header = json.dumps(self.header).encode()
        header += b" " * (-len(header) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.writelines(self.parts)


def transformer():
    file = File(1)
    file.noise("img_in.weight", WIDTH, LATENT)
    file.noise("txt_in.weight", WIDTH, TEXT_WIDTH)
    file.noise("time_in.in_layer.weight", WIDTH, 256)
    file.noise("time_in.out_layer.weight", WIDTH, WIDTH)
    for side in ("img", "txt"):
        file.noise(f"double_stream_modulation_{side}.lin.weight", 6 * WIDTH, WIDTH)
        block = f"double_blocks.0.{side}"
        file.noise(f"{block}_attn.qkv.weight", 3 * WIDTH, WIDTH)
        file.noise(f"{block}_attn.proj.weight", WIDTH, WIDTH)
        file.same(f"{block}_attn.norm.query_norm.scale", WIDTH, 1)
        file.same(f"{block}_attn.norm.key_norm.scale", WIDTH, 1)
        file.noise(f"{block}_mlp.0.weight", 6 * WIDTH, WIDTH)
        file.noise(f"{block}_mlp.2.weight", WIDTH, 3 * WIDTH)
    file.noise("single_stream_modulation.lin.weight", 3 * WIDTH, WIDTH)
    file.noise("single_blocks.0.linear1.weight", 9 * WIDTH, WIDTH)
    file.noise("single_blocks.0.linear2.weight", WIDTH, 4 * WIDTH)
    file.same("single_blocks.0.norm.query_norm.scale", WIDTH, 1)
    file.same("single_blocks.0.norm.key_norm.scale", WIDTH, 1)
    file.noise("final_layer.adaLN_modulation.1.weight", 2 * WIDTH, WIDTH)
    file.noise("final_layer.linear.weight", LATENT, WIDTH)
    return file


def text_encoder():
    file = File(2)
    file.noise("model.embed_tokens.weight", VOCABULARY, TEXT_WIDTH)
    layer = "model.layers.0"
    for name, heads in (("q", HEADS), ("k", KEY_HEADS), ("v", KEY_HEADS)):
        file.noise(f"{layer}.self_attn.{name}_proj.weight", heads * HEAD, TEXT_WIDTH)
    file.noise(f"{layer}.self_attn.o_proj.weight", TEXT_WIDTH, HEADS * HEAD)
    for name in ("gate", "up"):
        file.noise(f"{layer}.mlp.{name}_proj.weight", TEXT_MLP, TEXT_WIDTH)
    file.noise(f"{layer}.mlp.down_proj.weight", TEXT_WIDTH, TEXT_MLP)
    for name in ("self_attn.q_norm", "self_attn.k_norm"):
        file.same(f"{layer}.{name}.weight", HEAD, 1)
    for name in (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm"):
        file.same(f"{name}.weight", TEXT_WIDTH, 1)
    return file


def autoencoder():
    """Both halves, since the server loads both. Thin branches beside the way straight through: ten blocks do not
    blow the picture up."""
    file = File(3)

    def convolution(name, out, into, bias=None, gain=1.4):
        file.noise(f"{name}.weight", out, into, 3, 3, gain=gain)
        if bias is not None:
            file.same(f"{name}.bias", out, bias)

    def blocks(half, first, pooled, count=3):
        for place in range(first, first + count):
            name = f"{half}.layers.{place}"
            for i, gain in ((0, 1.4), (2, 1.4), (4, 0.3)):
                convolution(f"{name}.conv.{i}", TAE_WIDTH, TAE_WIDTH, 0, gain)
            if pooled:
                file.noise(f"{name}.pool.0.weight", 4 * TAE_WIDTH, TAE_WIDTH, 1, 1)
                file.same(f"{name}.pool.1.weight", 4 * TAE_WIDTH, 1)
                file.same(f"{name}.pool.1.bias", 4 * TAE_WIDTH, 0)
                file.noise(f"{name}.pool.3.weight", TAE_WIDTH, 4 * TAE_WIDTH, 1, 1, gain=0.3)

    # The places left out are activations and resizings, which have no weights.
    convolution("decoder.layers.0", TAE_WIDTH, TAE_LATENT, 0)
    for first, pooled in ((2, True), (7, False), (12, False)):
        blocks("decoder", first, pooled)
        convolution(f"decoder.layers.{first + 4}", TAE_WIDTH, TAE_WIDTH)
    blocks("decoder", 17, False, count=1)
    convolution("decoder.layers.18", 3, TAE_WIDTH, 0.5, gain=0.3)
    convolution("encoder.layers.0", TAE_WIDTH, 3, 0)
    blocks("encoder", 1, False, count=1)
    for first, pooled in ((3, False), (7, False), (11, True)):
        convolution(f"encoder.layers.{first - 1}", TAE_WIDTH, TAE_WIDTH)
        blocks("encoder", first, pooled)
    convolution("encoder.layers.14", TAE_LATENT, TAE_WIDTH, 0)
    return file


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    os.makedirs(sys.argv[1], exist_ok=True)
    for label, made in (("toy", transformer()), ("llm", text_encoder()), ("tae", autoencoder())):
        made.write(os.path.join(sys.argv[1], f"{label}.safetensors"))
    print(f"saved {sys.argv[1]}")
