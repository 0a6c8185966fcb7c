"""model — a ready ZImagePipeline: loaded from a directory or the hub, or built with random weights.

Random weights have the published architecture and sizes: they cost what the real ones cost and draw
noise. They are for measuring without a download and for tests; /healthz says "weights": "random".
"""
import importlib.util
import logging

import torch

# The published config files of Z-Image-Turbo.
TRANSFORMER = {
    "all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 16, "dim": 3840, "n_layers": 30,
    "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "norm_eps": 1e-5, "qk_norm": True,
    "cap_feat_dim": 2560, "rope_theta": 256.0, "t_scale": 1000.0, "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512]}
VAE = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2, "act_fn": "silu", "latent_channels": 16, "norm_num_groups": 32, "sample_size": 1024,
    "scaling_factor": 0.3611, "shift_factor": 0.1159, "force_upcast": True, "use_quant_conv": False,
    "use_post_quant_conv": False, "mid_block_add_attention": True}
TEXT = {
    "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
    "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "attention_bias": False, "attention_dropout": 0.0}
ROPE_THETA = 1000000.0
SCHEDULER = {"num_train_timesteps": 1000, "use_dynamic_shifting": False, "shift": 3.0}

# The same classes at toy size: a picture of 64 x 64 takes milliseconds on a CPU.
TINY_TRANSFORMER = dict(TRANSFORMER, dim=128, n_layers=2, n_refiner_layers=1, n_heads=1, n_kv_heads=1,
                        cap_feat_dim=64)
TINY_VAE = dict(VAE, block_out_channels=[32, 32, 32, 32], layers_per_block=1)
TINY_TEXT = dict(TEXT, vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
                 num_attention_heads=2, num_key_value_heads=1, head_dim=32)

CHAT = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def byte_tokenizer():
    """A byte-level tokenizer of 256 tokens and Qwen's special ones, made without a download."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=special[0], eos_token=special[2],
                                        model_max_length=131072, padding_side="right",
                                        additional_special_tokens=special[1:2])
    tokenizer.chat_template = CHAT
    return tokenizer


def _text_encoder(values):
    from transformers import Qwen3Config, Qwen3Model
    try:
        config = Qwen3Config(**values, rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA})
    except (TypeError, KeyError): # before transformers 5
        config = Qwen3Config(**values, rope_theta=ROPE_THETA)
    return Qwen3Model(config)


def _fill(module, device, dtype):
    """Bounded, non-degenerate signals: norms 1, biases 0, the rest normal by fan-in."""
    module.eval().requires_grad_(False)
    torch.nn.Module.to(module, device=device, dtype=dtype) # diffusers' own warns of the dtype
    for name, p in module.named_parameters():
        if p.ndim == 1:
            p.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        elif "embed_tokens" in name or "pad_token" in name:
            p.normal_(0, 0.02)
        else:
            p.normal_(0, p[0].numel() ** -0.5)
        if "adaLN_modulation" in name and p.ndim == 2:
            p.mul_(0.3)


@torch.no_grad()
def random_pipeline(device="cpu", dtype=torch.float32, tiny=False, seed=0):
    """The pipeline with random weights, at full or at toy size, built where it will run."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            transformer = ZImageTransformer2DModel(**(TINY_TRANSFORMER if tiny else TRANSFORMER))
            vae = AutoencoderKL(**(TINY_VAE if tiny else VAE))
            text_encoder = _text_encoder(TINY_TEXT if tiny else TEXT)
    finally:
        torch.set_default_dtype(before)
    for module in (transformer, vae, text_encoder):
        _fill(module, device, dtype)
    # A rotary table must stay float32, as from_pretrained leaves it.
    with torch.device(device):
        rotary = type(text_encoder.rotary_emb)(config=text_encoder.config)
    text_encoder.rotary_emb = rotary.to(device)
    return ZImagePipeline(scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER), vae=vae, text_encoder=text_encoder,
                          tokenizer=byte_tokenizer(), transformer=transformer)


def load_pipeline(source, device, dtype):
    """From a directory or a hub id. Raises what diffusers raises."""
    from diffusers import ZImagePipeline
    pipeline = ZImagePipeline.from_pretrained(source, torch_dtype=dtype, low_cpu_mem_usage=True)
    return pipeline.to(device)


def choose_attention(transformer, wanted):
    """Sets diffusers' attention backend; "auto" takes FlashAttention-3 if it is installed. Returns its name."""
    if wanted == "auto":
        wanted = "_flash_3" if importlib.util.find_spec("flash_attn_interface") else "native"
    if wanted != "native":
        logging.getLogger("diffusers").setLevel(logging.ERROR)
        transformer.set_attention_backend(wanted)
    return wanted
