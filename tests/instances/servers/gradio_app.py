"""gradio_app — a small Gradio app as people write them around an image model, for the matrix: python gradio_app.py
plain|yields

It draws with numpy what follows from the prompt and the seed, STEP_S a step, with gr.Progress and Gradio's queue,
one picture at a time. `plain` draws in a function, which Gradio cannot stop; `yields` shows a preview each step.
While it draws there is a file `drawing` in its folder, and `overlap` for ever after it drew two pictures at once: what
the test looks at to know the truth.
"""
import hashlib
import os
import sys
import time

import gradio as gr
import numpy
from PIL import Image

STEP_S = 0.1
MARK, OVERLAP = "drawing", "overlap"


def steps_of(prompt, width, height, steps, seed, progress):
    """Yields after each step, and at last the picture."""
    digest = hashlib.sha256(f"{prompt}/{seed}".encode()).digest()
    shown = numpy.random.default_rng(int.from_bytes(digest[:8], "big")).random((int(height), int(width), 3))
    with open(OVERLAP if os.path.exists(MARK) else MARK, "w", encoding="utf-8"):
        pass
    try:
        for _ in progress.tqdm(range(int(steps)), desc="denoising"):
            time.sleep(STEP_S)
            yield None
        yield Image.fromarray((shown * 255).astype("uint8"))
    finally:
        os.unlink(MARK)


def draw(prompt, height, width, steps, seed, randomize_seed, progress=gr.Progress()):
    """A picture of the prompt."""
    seed = int.from_bytes(os.urandom(4), "big") if randomize_seed else int(seed)
    *_, picture = steps_of(prompt, width, height, steps, seed, progress)
    return picture, seed


def draw_with_previews(prompt, height, width, steps, seed, randomize_seed, progress=gr.Progress()):
    """The same, one yield a step."""
    seed = int.from_bytes(os.urandom(4), "big") if randomize_seed else int(seed)
    for picture in steps_of(prompt, width, height, steps, seed, progress):
        yield picture, seed


def main():
    if os.path.exists(MARK): # of one that was killed
        os.unlink(MARK)
    with gr.Blocks() as demo:
        prompt = gr.Textbox(label="Prompt")
        height = gr.Slider(64, 2048, value=512, step=16, label="Height")
        width = gr.Slider(64, 2048, value=512, step=16, label="Width")
        steps = gr.Slider(1, 100, value=9, step=1, label="Inference Steps")
        seed = gr.Number(value=42, label="Seed", precision=0)
        random = gr.Checkbox(value=True, label="Randomize Seed")
        picture, used = gr.Image(label="Picture", format="png"), gr.Number(label="Seed Used")
        gr.Button("Draw").click(draw if sys.argv[1] == "plain" else draw_with_previews,
                                [prompt, height, width, steps, seed, random], [picture, used], api_name="generate")
    demo.queue(default_concurrency_limit=1).launch(show_error=True, quiet=True)


if __name__ == "__main__":
    main()
