"""products — the matrix products of the transformer's blocks: joined, and in 8 bits if asked for.

- join(): products of the same input are one product of all their rows (q, k and v; the two halves of the
  gated layer; the modulations of all blocks). Fewer and larger ones fill the GPU better; the sums are the
  same ones. No memory is added: the old weights go, or are parts of the new ones.
- to_eight_bits(): weights in float8_e4m3fn with a scale for each output, the input rounded to the same with
  a scale for each token, as it comes. Half the memory and about half the time of a product, and another
  picture: an 8-bit number has 3 bits behind its first one.

What stays as it is: embedders, modulation, norms, attention, the last layer (they set the picture's levels
and cost nothing), and the text's own blocks, which run once a job.
"""
import torch

CAPABILITY = (8, 9)  # the first with 8-bit products: Ada; then Hopper
MOST = 448.0         # the largest number of float8_e4m3fn
LEAST = 1e-12        # of a row's largest number: a row of zeros has a scale too
ALIGNED = 16         # a layer's sides are multiples of this, or it stays: 8-bit products read 16 bytes at once


class Joined(torch.nn.Module):
    """Linear layers of the same input as one. Gives what each would have given, as a tuple."""

    def __init__(self, layers):
        super().__init__()
        self.widths = [layer.out_features for layer in layers]
        first = layers[0]
        self.whole = torch.nn.Linear(first.in_features, sum(self.widths), bias=first.bias is not None, device="meta")
        self.whole.weight = _frozen(torch.cat([layer.weight for layer in layers]))
        if first.bias is not None:
            self.whole.bias = _frozen(torch.cat([layer.bias for layer in layers]))

    def forward(self, x):
        return self.whole(x).split(self.widths, dim=-1)


class JoinedFeedForward(torch.nn.Module):
    """diffusers' FeedForward of this model: w2(silu(w1 x) * w3 x)."""

    def __init__(self, plain):
        super().__init__()
        self.w13, self.w2 = Joined((plain.w1, plain.w3)), plain.w2

    def forward(self, x):
        gate, value = self.w13(x)
        return self.w2(torch.nn.functional.silu(gate) * value)


class JoinedModulation:
    """The modulations of blocks, which all follow from the time alone, as one product. Called with the time it
    gives one for each block; a block takes it in the place of the time. A block that is given the time still
    makes its own."""

    def __init__(self, blocks):
        layers = [block.adaLN_modulation[0] for block in blocks]
        self.joined = Joined(layers)
        whole, widths = self.joined.whole, self.joined.widths
        for block, layer, weight, bias in zip(blocks, layers, whole.weight.split(widths), whole.bias.split(widths)):
            layer.weight, layer.bias = _frozen(weight), _frozen(bias)
            block.adaLN_modulation = Modulation(layer)

    def __call__(self, time):
        return self.joined(time)


class Modulation(torch.nn.Module):
    """Of one block: made here, or already made, which its width tells."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x if x.shape[-1] == self.layer.out_features else self.layer(x)


class EightBits(torch.nn.Module):
    """A Linear layer without bias, its weights and its input rounded to 8 bits."""

    def __init__(self, layer):
        super().__init__()
        weight, scale = _rounded(layer.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())

    def forward(self, x):
        # Compiled, the rounding becomes the tail of the kernel that makes x.
        rows, scale = _rounded(x.reshape(-1, x.shape[-1]))
        made = torch._scaled_mm(rows, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=x.dtype,
                                use_fast_accum=True)
        return made.view(*x.shape[:-1], -1)


def _frozen(tensor):
    return torch.nn.Parameter(tensor, requires_grad=False)


def _rounded(rows):
    """Each row in 8 bits, and the numbers [rows, 1] that it is to be multiplied by."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=LEAST) / MOST
    return (rows.float() / scale).clamp(-MOST, MOST).to(torch.float8_e4m3fn), scale


@torch.no_grad()
def join(blocks):
    """Joins what can be joined in these ZImageTransformerBlocks; artist.RealRope takes q, k and v from to_qkv.
    Returns the JoinedModulation of those that are modulated."""
    for block in blocks:
        attention = block.attention
        attention.to_qkv = Joined((attention.to_q, attention.to_k, attention.to_v))
        del attention.to_q, attention.to_k, attention.to_v
        block.feed_forward = JoinedFeedForward(block.feed_forward)
    return JoinedModulation([block for block in blocks if block.modulation])


@torch.no_grad()
def to_eight_bits(blocks):
    """Converts the products of these blocks' attention and feed-forward, one after the other: at no time is
    there more than one in both forms."""
    for block in blocks:
        for part in (block.attention, block.feed_forward):
            for parent in list(part.modules()):
                for name, layer in list(parent.named_children()):
                    if isinstance(layer, torch.nn.Linear) and _fits(layer):
                        setattr(parent, name, EightBits(layer))


def _fits(layer):
    return layer.bias is None and layer.in_features % ALIGNED == 0 and layer.out_features % ALIGNED == 0


def why_not_eight_bits(device):
    """Why this device has no 8-bit products, or None."""
    if device.type != "cuda":
        return f"{device.type} is no GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}"
    return None
