"""denoise — one step of the transformer, the same as diffusers' forward, in fewer and cheaper launches.

- What does not change from step to step is done once a job: the text is embedded and refined, and the
  rotary tables of a shape are kept.
- On a GPU a step is a CUDA graph: replaying it costs one call where launching its kernels costs more time
  than a step of a small picture takes. There is a graph for each (rows, height, width, padded text length);
  capturing one takes a tenth of a second, at the first step of that shape.

Graphs share one memory pool and one stream, so they never run at once, and what a graph gives is read before
another is replayed. Kernels are the same with and without a graph, and so is the picture, bit by bit.
"""
from collections import OrderedDict

import torch

GRAPHS_MOST = 32 # kept; the one not used for longest goes
TABLES_MOST = 64
PAD = 32         # the model pads text and image tokens to a multiple of this
PATCH = 2


class Graphs:
    """Captured calls. run(key, call, inputs) gives what call(*inputs) gives, which is valid until the next run."""

    def __init__(self, enabled):
        self.enabled = enabled
        self.kept = OrderedDict()
        self.pool = torch.cuda.graph_pool_handle() if enabled else None

    def run(self, key, call, inputs):
        if not self.enabled:
            return call(*inputs)
        if key in self.kept:
            self.kept.move_to_end(key)
        else:
            while len(self.kept) >= GRAPHS_MOST:
                self.kept.popitem(last=False)
            self.kept[key] = self._capture(call, inputs)
        graph, static, result = self.kept[key]
        for mine, given in zip(static, inputs):
            mine.copy_(given)
        graph.replay()
        return result

    def _capture(self, call, inputs):
        static = [given.clone() for given in inputs]
        # Once outside of the graph, on a stream of its own: libraries set themselves up at their first call.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call(*static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The encode pool waits for events meanwhile: what other threads do is no matter of this capture.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = call(*static)
        return graph, static, result


class Denoiser:
    """The forward of one ZImageTransformer2DModel whose rotary tables are real (artist.RealTables)."""

    def __init__(self, transformer, graphs, is_settled):
        """is_settled(rows): what is compiled stays as it is, so that a graph may be made of it."""
        self.model, self.graphs, self.is_settled = transformer, graphs, is_settled
        self.plain = transformer.forward
        self.modulation = None      # of all blocks at once: products.JoinedModulation
        self.tables = OrderedDict() # of shapes
        self.text = ([], None)      # of the job at work: its embeddings, and what became of them

    def forward(self, x, t, cap_feats, return_dict=True, **rest):
        """What the pipeline calls. Whatever is not the common case goes the model's own way."""
        lengths = {padded(len(feats)) for feats in cap_feats}
        shapes = {tuple(image.shape) for image in x if isinstance(image, torch.Tensor)}
        unusual = {name for name, value in rest.items() if value is not None}
        if len(lengths) != 1 or len(shapes) != 1 or len(x) != len(cap_feats) or unusual or return_dict:
            return self.plain(x, t, cap_feats, return_dict=return_dict, **rest)
        _, frames, height, width = shapes.pop()
        if frames != 1 or height % PATCH or width % PATCH:
            return self.plain(x, t, cap_feats, return_dict=return_dict, **rest)
        rows, length = len(x), lengths.pop()
        text = self._refined(cap_feats)
        tables = self._tables(rows, height, width, length)
        latents = torch.cat(list(x), dim=1).transpose(0, 1) # rows, channels, height, width

        def step(latents, t, text):
            return self._step(latents, t, text, tables)
        if self.is_settled(rows):
            made = self.graphs.run(("step", rows, height, width, length), step, (latents, t, text))
        else:
            made = step(latents, t, text)
        return ([row.unsqueeze(1) for row in made],)

    def _refined(self, cap_feats):
        """The texts of all rows, embedded and refined: once a job, and once for rows of the same text."""
        known, refined = self.text
        if len(known) == len(cap_feats) and all(a is b for a, b in zip(known, cap_feats)):
            return refined
        model, made = self.model, {}
        for feats in cap_feats:
            if id(feats) in made:
                continue
            length = padded(len(feats))
            embedded = model.cap_embedder(feats)
            filling = model.cap_pad_token.expand(length - len(feats), -1)
            row = torch.cat([embedded, filling.to(embedded.dtype)]).unsqueeze(0)
            table = model.rope_embedder(positions(1, (length, 1, 1), feats.device)).unsqueeze(0)
            for layer in model.context_refiner:
                row = layer(row, None, table)
            made[id(feats)] = row
        refined = torch.cat([made[id(feats)] for feats in cap_feats])
        self.text = (list(cap_feats), refined)
        return refined

    def _tables(self, rows, height, width, length):
        """Rotary tables of the image's tokens, and of these with the text's behind them."""
        key = (rows, height, width, length)
        if key not in self.tables:
            while len(self.tables) >= TABLES_MOST:
                self.tables.popitem(last=False)
            device, rope = self.model.x_pad_token.device, self.model.rope_embedder
            grid = (1, height // PATCH, width // PATCH)
            places = positions(length + 1, grid, device)
            filling = padded(len(places)) - len(places)
            places = torch.cat([places, places.new_zeros((filling, 3))])
            image = rope(places).unsqueeze(0)
            whole = torch.cat([image, rope(positions(1, (length, 1, 1), device)).unsqueeze(0)], dim=1)
            self.tables[key] = tuple(part.repeat(rows, 1, 1, 1) for part in (image, whole))
        self.tables.move_to_end(key)
        return self.tables[key]

    def _step(self, latents, t, text, tables):
        model = self.model
        rows, channels, height, width = latents.shape
        image_table, whole_table = tables
        modulation = model.t_embedder(t * model.t_scale).type_as(latents)
        patches = latents.reshape(rows, channels, height // PATCH, PATCH, width // PATCH, PATCH)
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(rows, -1, PATCH * PATCH * channels)
        states = model.all_x_embedder[f"{PATCH}-1"](patches)
        count = states.shape[1]
        if padded(count) > count:
            filling = model.x_pad_token.to(states.dtype).expand(rows, padded(count) - count, -1)
            states = torch.cat([states, filling], dim=1)
        first = len(model.noise_refiner)
        each = self.modulation(modulation) if self.modulation else [modulation] * (first + len(model.layers))
        for layer, mine in zip(model.noise_refiner, each[:first]):
            states = layer(states, None, image_table, mine)
        states = torch.cat([states, text], dim=1)
        for layer, mine in zip(model.layers, each[first:]):
            states = layer(states, None, whole_table, mine)
        states = model.all_final_layer[f"{PATCH}-1"](states[:, :count], c=modulation)
        image = states.reshape(rows, height // PATCH, width // PATCH, PATCH, PATCH, channels)
        return image.permute(0, 5, 1, 3, 2, 4).reshape(rows, channels, height, width)


def padded(count):
    return count + -count % PAD


def positions(first, grid, device):
    """Of the tokens of a grid, frame by frame; the first axis begins at `first`."""
    axes = [torch.arange(size, dtype=torch.int32, device=device) for size in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    places[:, 0] += first
    return places
