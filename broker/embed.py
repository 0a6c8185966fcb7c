"""Writes a text file as a C array: embed.py INPUT OUTPUT NAME."""
import sys

source, target, name = sys.argv[1:4]
with open(source, "rb") as f:
    data = f.read()
with open(target, "w", encoding="ascii") as f:
    f.write("#include <stddef.h>\n")
    f.write(f"extern const char {name}[];\nextern const size_t {name}_length;\n")
    f.write(f"const char {name}[] = {{\n")
    for i in range(0, len(data), 16):
        f.write("    " + " ".join(f"{b}," for b in data[i : i + 16]) + "\n")
    f.write("    0,\n};\n")
    f.write(f"const size_t {name}_length = {len(data)};\n")
