"""comfyui_start FOLDER WORD... — runs the main.py of the ComfyUI in FOLDER, with these words, as `python main.py` does.

ComfyUI imports torchvision and torchaudio when it starts, for models of pictures and sound that no test loads; for the
PyTorch of these tests there are none that fit. Where they are missing, empty modules stand in their place: whatever used
one would fail at once. Nothing else is changed.
"""
import importlib.util
import os
import runpy
import sys
import types

import transformers # looks for torchvision while it is imported, and must not find a place-holder
from transformers import CLIPTokenizer # noqa: F401


def hold_place(name, **attributes):
    module = types.ModuleType(name)
    module.__dict__.update(attributes, __path__=[])
    sys.modules[name] = module
    return module


if importlib.util.find_spec("torchvision") is None:
    hold_place("torchvision", transforms=hold_place("torchvision.transforms"))
if importlib.util.find_spec("torchaudio") is None:
    hold_place("torchaudio", transforms=hold_place("torchaudio.transforms", MelScale=None))
folder = sys.argv[1]
os.chdir(folder)
sys.path[0] = folder
sys.argv = ["main.py", *sys.argv[2:]]
runpy.run_path("main.py", run_name="__main__")
