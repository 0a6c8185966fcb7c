"""Width and height of an encoded picture, checked as far as a decoder would complain."""
import struct

from harness import check, check_equal


def png_size(data):
    """(width, height) of a PNG whose chunks are whole."""
    check(data[:8] == b"\x89PNG\r\n\x1a\n", f"not a PNG: {data[:16]!r}")
    check(data[-8:-4] == b"IEND", "the PNG has no end")
    return struct.unpack(">II", data[16:24])


def jpeg_size(data):
    check(data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9", f"not a JPEG: {data[:16]!r}")
    at = 2
    while data[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + struct.unpack(">H", data[at + 2:at + 4])[0]
    height, width = struct.unpack(">HH", data[at + 5:at + 9])
    return width, height


def webp_size(data):
    check(data[:4] == b"RIFF" and data[8:12] == b"WEBP", f"not a WebP: {data[:16]!r}")
    check_equal(struct.unpack("<I", data[4:8])[0] + 8, len(data), "bytes that the WebP says it has")
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return (int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
