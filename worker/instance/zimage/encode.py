"""encode — pixels to a file, in threads beside the GPU.

What is slow here releases the interpreter lock (one zlib call over a buffer that numpy filtered; Pillow
writing to a real descriptor), so that encoding never keeps the GPU thread from queueing its next step.
"""
import io
import os
import struct
import zlib

import numpy as np

JPEG_QUALITY = 92
WEBP_QUALITY = 90


def _chunk(tag, data):
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(tag)))


def png(pixels):
    """8-bit RGB. The filter is "up" in every row, which one subtraction makes for the whole picture."""
    height, width, channels = pixels.shape
    flat = pixels.reshape(height, width * channels)
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = 2
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    # Runs and Huffman codes only: what is left after the filter is noise that no longer match is found in.
    press = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    packed = press.compress(rows) + press.flush()
    return b"".join((b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
                     _chunk(b"IDAT", packed), _chunk(b"IEND", b"")))


def _pillow(pixels, kind, **options):
    from PIL import Image
    picture = Image.fromarray(pixels)
    if not hasattr(os, "memfd_create"):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        return buffer.getvalue()
    with os.fdopen(os.memfd_create("picture"), "w+b") as file:
        picture.save(file, kind, **options)
        file.flush()
        file.seek(0)
        return file.read()


def encode(pixels, kind):
    """pixels: uint8, height x width x 3. Returns the bytes of the file."""
    if kind == "png":
        return png(pixels)
    if kind == "jpeg":
        return _pillow(pixels, "JPEG", quality=JPEG_QUALITY)
    assert kind == "webp", kind
    return _pillow(pixels, "WEBP", quality=WEBP_QUALITY, method=2)
