"""comfyui_toy — a custom node for ComfyUI that gives what its own nodes sample and save: a model, a prompt's condition and
a VAE, of toy size and with random weights. KSampler, its progress and interrupt, SaveImage, queue and cache are
ComfyUI's own.

A word in the prompt makes the sampling go wrong as real nodes do: "raises" (a CUDA error, by its words), "hangs" (the
thread that draws sleeps until the process dies; HTTP goes on). Without the word "cached" ComfyUI's cache is not used.
"""
import hashlib
import time

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch

STEP_S = 0.1
CONTEXT = 16
UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
        "channel_mult": [1, 1], "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1],
        "transformer_depth_middle": 1, "num_heads": 2, "use_spatial_transformer": True, "context_dim": CONTEXT,
        "use_linear_in_transformer": False, "adm_in_channels": None, "dtype": torch.float32,
        "use_temporal_attention": False}


def generator(text):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def toy_model(prompt):
    torch.manual_seed(1)
    config = comfy.supported_models.SD15(dict(UNET))
    if hasattr(config, "set_inference_dtype"):
        config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, device=torch.device("cpu"))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)

    def slowly(apply, wanted):
        time.sleep(STEP_S)
        if "raises" in prompt:
            raise RuntimeError("CUDA error: an illegal memory access was encountered (it is a toy)")
        while "hangs" in prompt:
            time.sleep(1)
        return apply(wanted["input"], wanted["timestep"], **wanted["c"])
    patcher.set_model_unet_function_wrapper(slowly)
    return patcher


class ToyVAE:
    """Eight pixels a latent, as a VAE has it."""

    def decode(self, latents, *_args, **_named):
        pixels = latents[:, :3].float().repeat_interleave(8, 2).repeat_interleave(8, 3)
        return (pixels * 0.3 + 0.5).clamp(0, 1).movedim(1, -1)

    def spacial_compression_decode(self):
        return 8

    def temporal_compression_decode(self):
        return None


class DrawbarToy:
    """prompt -> MODEL, CONDITIONING, VAE"""

    RETURN_TYPES = ("MODEL", "CONDITIONING", "VAE")
    FUNCTION = "load"
    CATEGORY = "drawbar"

    @classmethod
    def INPUT_TYPES(cls): # ComfyUI's word
        return {"required": {"text": ("STRING", {"multiline": True}),
                             "unet_name": ("STRING", {"default": "toy.safetensors"})}}

    @classmethod
    def IS_CHANGED(cls, text, unet_name): # ComfyUI's word, too
        del unet_name
        # Never the same, or ComfyUI would draw no seed twice; with "cached" in the prompt it need not.
        return 0 if "cached" in text else float("nan")

    def load(self, text, unet_name):
        del unet_name
        words = torch.randn(1, 8, CONTEXT, generator=generator(text))
        return toy_model(text), [[words, {}]], ToyVAE()


NODE_CLASS_MAPPINGS = {"DrawbarToy": DrawbarToy}
