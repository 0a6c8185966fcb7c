"""artist — text, denoising, decoding, with diffusers' ZImagePipeline; the GPU thread's, and nobody else's.

Under backlog the GPU must never wait for the host, so nothing here waits for the GPU but the step callback,
and that waits for the step before the one it has just queued ("one behind"): progress is honest, a cancel
takes at most two steps, one step stays queued. Hence:

- text: padded to 64, 128, 256 or 512 tokens instead of always 512. The encoder is causal, so what
  follows the prompt cannot change it; and without a mask the fast attention is taken.
- the next job's text is encoded in a step callback of the job at work; the last texts are kept encoded;
- steps and texts are CUDA graphs (denoise.py): launching them one by one takes longer than they run;
- the schedule's tensors are remembered: making them anew waits for the GPU (a blocking copy);
- the transformer's products can be joined and have 8 bits (products.py);
- pixels become 8-bit RGB on the GPU and are copied to pinned memory; a thread of the encode pool waits.

The same order gives the same picture, byte for byte, from the same software on the same device with the
same parts compiled: each image has a generator of its own, and jobs are never mixed in a batch.
"""
import threading
from collections import OrderedDict

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from zimage import model, products
from zimage.compiled import Compiled, dynamic_length, static_shape
from zimage.denoise import Denoiser, Graphs

TOKENS = (64, 128, 256, 512) # 512 is the model's own limit; longer prompts are cut there
BATCH_PIXELS = 512 * 512     # above, images of one job are drawn one after the other: a batch gains 3 % there
TEXTS_MOST = 64              # encoded prompts that are kept, 2.6 MB each at most


class Stopped(Exception):
    """The job was told to stop."""


class Picture:
    """One picture on its way to the host. wait_drawn() and pixels() are called by a thread of the pool."""

    def __init__(self, index, drawn, tensor, copied):
        self.index, self.drawn, self.tensor, self.copied = index, drawn, tensor, copied

    def wait_drawn(self):
        if self.drawn is not None:
            self.drawn.synchronize()

    def pixels(self):
        if self.copied is not None:
            self.copied.synchronize()
        return self.tensor.numpy()


class RememberingScheduler(FlowMatchEulerDiscreteScheduler):
    """Keeps the schedules that it has made: a new one costs a copy that waits for the GPU."""

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None):
        if not hasattr(self, "schedules"):
            self.schedules = {}
        key = (num_inference_steps, str(device), None if sigmas is None else tuple(float(s) for s in sigmas),
               mu if self.config.use_dynamic_shifting else None)
        if timesteps is not None or key not in self.schedules:
            super().set_timesteps(num_inference_steps, device=device, sigmas=sigmas, mu=mu, timesteps=timesteps)
            if timesteps is None and len(self.schedules) < 256:
                self.schedules[key] = (self.num_inference_steps, self.timesteps, self.sigmas)
            return
        self.num_inference_steps, self.timesteps, self.sigmas = self.schedules[key]
        self._step_index = self._begin_index = None


class RealRope:
    """The model's attention with the rotation written in real numbers: the compiler generates no code for
    complex ones. The rotary tables come as [..., 2] then (RealTables)."""
    _attention_backend = None
    _parallel_config = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, freqs_cis=None):
        from diffusers.models.attention_dispatch import dispatch_attention_fn
        joined = getattr(attn, "to_qkv", None)
        parts = joined(hidden_states) if joined is not None else \
            (attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states))
        query, key, value = (part.unflatten(-1, (attn.heads, -1)) for part in parts)
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        if freqs_cis is not None:
            query, key = self._turn(query, freqs_cis), self._turn(key, freqs_cis)
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = attention_mask[:, None, None, :]
        states = dispatch_attention_fn(query, key, value, attn_mask=attention_mask, dropout_p=0.0, is_causal=False,
                                       backend=self._attention_backend, parallel_config=self._parallel_config)
        states = attn.to_out[0](states.flatten(2, 3).to(query.dtype))
        return attn.to_out[1](states) if len(attn.to_out) > 1 else states

    @staticmethod
    def _turn(x, table):
        cos, sin = table[..., 0].unsqueeze(2), table[..., 1].unsqueeze(2)
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(3).type_as(x)


class RealTables:
    """The model's rotary tables as pairs of real numbers."""

    def __init__(self, tables):
        self.tables = tables

    def __call__(self, ids):
        return torch.view_as_real(self.tables(ids))


class NormAndActivation(torch.nn.Module):
    """Two parts as one, for the compiler."""

    def __init__(self, norm, activation):
        super().__init__()
        self.norm, self.activation = norm, activation

    def forward(self, x):
        return self.activation(self.norm(x))


def weights_bytes(*modules):
    """Memory of their weights; those that share it are counted once."""
    tensors = (t for module in modules for t in [*module.parameters(), *module.buffers()])
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


class Artist:
    """One model on one device."""

    def __init__(self, options, log):
        self.options, self.log = options, log
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        self.dtype = getattr(torch, options.dtype)
        self.tokenizing = threading.Lock() # a fast tokenizer is not for two threads at once
        self.pipe = None
        self.behind = None                 # event of the step that was queued last
        self.compiled = Compiled(options.compile, log)
        self.graphs = Graphs(options.graphs)
        self.texts = OrderedDict()         # encoded ones by their token ids
        self.facts = {"weights": "random" if options.random or options.tiny else "loaded", "fused": False,
                      "products": "fp8" if options.fp8 else options.dtype}

    # -- start --

    @torch.no_grad()
    def load(self, pipe=None):
        """Loads the model and puts the speed-ups on. A pipeline that is there already may be handed in."""
        o = self.options
        if pipe is None and (o.random or o.tiny):
            pipe = model.random_pipeline(self.device, self.dtype, tiny=o.tiny)
        elif pipe is None:
            pipe = model.load_pipeline(o.model, self.device, self.dtype)
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = RememberingScheduler.from_config(pipe.scheduler.config)
        for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
            part.eval().requires_grad_(False)
        self.text_model = getattr(pipe.text_encoder, "model", pipe.text_encoder) # without a causal-LM head
        self.text_plain = getattr(self.text_model.config, "_attn_implementation", "") == "sdpa" and \
            not getattr(self.text_model, "has_sliding_layers", False)
        if o.rope == "real" and pipe.transformer.siglip_embedder is None:
            pipe.transformer.rope_embedder = RealTables(pipe.transformer.rope_embedder)
            for block in self._blocks(pipe.transformer):
                block.attention.set_processor(RealRope())
            denoiser = Denoiser(pipe.transformer, self.graphs, self._is_settled)
            pipe.transformer.forward = denoiser.forward
            self.facts["fused"] = o.fuse
            if o.fuse:
                denoiser.modulation = products.join(self._blocks(pipe.transformer))
        if o.fp8:
            products.to_eight_bits([*pipe.transformer.noise_refiner, *pipe.transformer.layers])
        if self.cuda and (o.fuse or o.fp8):
            torch.cuda.empty_cache() # the old weights' place
        self.facts["weights_bytes"] = weights_bytes(pipe.transformer, pipe.vae, pipe.text_encoder)
        self.facts["attention"] = model.choose_attention(pipe.transformer, o.attention)
        if o.channels_last:
            pipe.vae.to(memory_format=torch.channels_last)
        if self.compiled.enabled:
            self.compiled.begin()
            for block in self._blocks(pipe.transformer):
                block.forward = dynamic_length(block.forward, o.compile_mode)
            for layer in self.text_model.layers:
                layer.forward = dynamic_length(layer.forward)
            for block in self._vae_blocks(pipe.vae):
                block.forward = static_shape(block.forward)
            # Alone, the last norm and its activation are a fifth of the decoder's time.
            decoder = pipe.vae.decoder
            decoder.conv_norm_out = NormAndActivation(decoder.conv_norm_out, decoder.conv_act)
            decoder.conv_act = torch.nn.Identity()
            decoder.conv_norm_out.forward = static_shape(decoder.conv_norm_out.forward)
        self.pipe = pipe

    @staticmethod
    def _blocks(transformer):
        """In the order of their use, but that the text's own are among them."""
        return [*transformer.noise_refiner, *transformer.context_refiner, *transformer.layers]

    @staticmethod
    def _vae_blocks(vae):
        return [vae.decoder.mid_block, *vae.decoder.up_blocks]

    def _is_settled(self, rows):
        """A graph of steps with so many rows would hold the kernels that are to stay."""
        return not self.compiled.enabled or not self.compiled.is_cold(("dit", "one" if rows == 1 else "many"))

    def device_name(self):
        return torch.cuda.get_device_name(self.device) if self.cuda else "cpu"

    def measure(self):
        """What the health check tells; called between jobs, since a poisoned device would not answer."""
        if self.cuda:
            free, total = torch.cuda.mem_get_info(self.device)
            self.facts.update(memory_free_mib=free >> 20, memory_total_mib=total >> 20)

    # -- text --

    def tokenize(self, order):
        """Token ids of the prompt, and of the negative one if it is used. Any thread may call it."""
        texts = [order.prompt] + ([order.negative_prompt] if order.guidance > 0 else [])
        ids = []
        for text in texts:
            with self.tokenizing:
                chat = self.pipe.tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False,
                                                               add_generation_prompt=True, enable_thinking=True)
                ids.append(self.pipe.tokenizer([chat], truncation=True, max_length=TOKENS[-1]).input_ids[0])
        return ids

    @torch.no_grad()
    def _embed(self, ids):
        """The encoder's last but one states of the prompt's tokens, queued and not waited for."""
        known = self.texts.get(tuple(ids))
        if known is not None:
            self.texts.move_to_end(tuple(ids))
            return known
        room = next(n for n in TOKENS if n >= len(ids))
        padded = torch.zeros((1, room), dtype=torch.long, pin_memory=self.cuda)
        padded[0, :len(ids)] = torch.tensor(ids)
        padded = padded.to(self.device, non_blocking=True)
        if self.text_plain and not self.compiled.is_cold(("text",)):
            states = self.graphs.run(("text", room), self._states, (padded,))
        else:
            states = self._states(padded)
        while len(self.texts) >= TEXTS_MOST:
            self.texts.popitem(last=False)
        self.texts[tuple(ids)] = states[0, :len(ids)].clone()
        return self.texts[tuple(ids)]

    def _states(self, ids):
        # As a dictionary the mask is taken as it is; else transformers looks into it, and so waits for the GPU.
        mask = {"full_attention": None} if self.text_plain else None
        return self.text_model(input_ids=ids, attention_mask=mask, use_cache=False,
                               output_hidden_states=True).hidden_states[-2]

    def prepare(self, job):
        """Encodes a job's text, unless that is done."""
        if job.text is None:
            job.text = self.tokenize(job.order)
        if job.text and isinstance(job.text[0], list):
            self.compiled.want(("text",), self._text_slices)
            job.text = [self._embed(ids) for ids in job.text]

    def _text_slices(self):
        def run():
            with torch.no_grad():
                self._states(torch.zeros((1, TOKENS[0]), dtype=torch.long, device=self.device))
        return [run]

    # -- drawing --

    def _batch(self, order):
        return self.options.max_batch if order.width * order.height <= BATCH_PIXELS else 1

    def draw(self, job, on_steps, on_picture, next_job):
        """Draws all images of a job; raises Stopped once job.wants_stop is seen.
        on_steps(n): n of steps x images are made. on_picture(Picture): one is on its way. next_job(): whose
        text may be encoded meanwhile."""
        self.prepare(job)
        order, batch, text = job.order, self._batch(job.order), job.text
        self.compiled.want(("vae", order.width, order.height),
                           lambda: self._vae_slices(order.width, order.height))
        made = 0
        for first in range(0, order.n, batch):
            indexes = range(first, min(first + batch, order.n))
            self._draw_some(job, text, indexes, (made, on_steps, on_picture, next_job))
            made += len(indexes) * order.steps

    @torch.no_grad()
    def _draw_some(self, job, text, indexes, hooks):
        made, on_steps, on_picture, next_job = hooks
        order, n = job.order, len(indexes)
        rows = n * (2 if order.guidance > 0 else 1)
        self.compiled.want(("dit", "one" if rows == 1 else "many"), lambda: self._dit_slices(rows))

        def on_step_end(pipe, i, t, tensors):
            event = self._record()
            other = next_job()
            if other is not None:
                self._prepare_quietly(other)
            previous, self.behind = self.behind, event
            if previous is not None:
                previous.synchronize()
            done = made + n * (i + 1 if event is None else i)
            if done > 0:
                on_steps(done)
            if job.wants_stop:
                raise Stopped
            return {}

        generators = [torch.Generator(self.device).manual_seed(order.seed_of(i)) for i in indexes]
        latents = self.pipe(prompt=None, prompt_embeds=[text[0]] * n,
                            negative_prompt_embeds=[text[1]] * n if order.guidance > 0 else None,
                            height=order.height, width=order.width, num_inference_steps=order.steps,
                            guidance_scale=order.guidance, generator=generators, output_type="latent",
                            callback_on_step_end=on_step_end, callback_on_step_end_tensor_inputs=[]).images
        drawn = self.behind
        for row, index in enumerate(indexes):
            on_picture(self._decode(latents[row:row + 1], index, drawn))

    def _prepare_quietly(self, job):
        try:
            self.prepare(job)
        except torch.OutOfMemoryError:
            raise
        except (ValueError, TypeError, IndexError): # its own turn will tell it, as its own failure
            job.text = None

    def _record(self):
        if not self.cuda:
            return None
        event = torch.cuda.Event(blocking=True)
        event.record()
        return event

    def _decode(self, latents, index, drawn):
        vae = self.pipe.vae
        latents = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
        image = vae.decode(latents, return_dict=False)[0][0].float()
        image = (image * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        if not self.cuda:
            return Picture(index, None, image, None)
        host = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
        host.copy_(image, non_blocking=True)
        self.behind = self._record()
        return Picture(index, drawn, host, self.behind)

    # -- compiling, when the engine says so --

    def _dit_slices(self, rows):
        """One call of the whole transformer compiles its three kinds of block, at two sizes so that the
        first is not taken for the only one."""
        def run(side, tokens):
            device, transformer = self.device, self.pipe.transformer
            latents = [torch.zeros((transformer.in_channels, 1, side // 8, side // 8), device=device,
                                   dtype=transformer.dtype)] * rows
            text = [torch.zeros((tokens, self.text_model.config.hidden_size), device=device,
                                dtype=transformer.dtype)] * rows
            with torch.no_grad():
                transformer(latents, torch.full((rows,), 0.5, device=device), text, return_dict=False)
        return [lambda: run(512, 40), lambda: run(256, 72)]

    def _vae_slices(self, width, height):
        """One slice a block, each fed with what the one before it gives."""
        vae = self.pipe.vae
        state = {}

        def first():
            with torch.no_grad():
                latents = torch.zeros((1, vae.config.latent_channels, height // 8, width // 8),
                                      device=self.device, dtype=vae.dtype)
                if self.options.channels_last:
                    latents = latents.to(memory_format=torch.channels_last)
                state["x"] = vae.decoder.conv_in(latents)

        def through(block):
            def run():
                with torch.no_grad():
                    state["x"] = block(state["x"], None)
            return run
        blocks = [through(block) for block in self._vae_blocks(vae)]

        def tail():
            with torch.no_grad():
                state["x"] = vae.decoder.conv_norm_out(state["x"])
        blocks.append(tail)

        def begin(run=blocks[0]):
            first()
            run()

        def end(run=blocks[-1]):
            run()
            state.clear()
            if self.cuda:
                torch.cuda.synchronize()
        return [begin, *blocks[1:-1], end]
