#!/usr/bin/env python3
"""rules.py BUILD-DIR: what no off-the-shelf tool checks. Prints FILE:LINE: what is wrong.

  - who may include whom (the arrows of ARCHITECTURE.md)
  - calls that are not allowed
  - paths of somebody's machine
  - the pure cores stay pure: what their archives need from outside
"""
import fnmatch
import os
import re
import subprocess
import sys

SOURCE = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
SKIPPED_DIRECTORIES = {".git", "__pycache__"}

PROGRAMS = ("broker", "worker", "gateway", "cli")
MAY_INCLUDE = {"common": {"common"}, "proto": {"common", "proto"}}
MAY_INCLUDE.update({program: {"common", "proto", program} for program in PROGRAMS})
# The simulated instance is a program of its own that knows only common/.
MAY_INCLUDE["worker/instance"] = {"common", "worker/instance"}
FOLDERS = ("common", "proto", *PROGRAMS)

BANNED = re.compile(r"(?<![\w.>])(strcpy|stpcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atof|rand|srand|system"
                    r"|popen|tmpnam|mktemp)\s*\(")
BANNED_IN_TESTS = re.compile(r"(?<![\w.>])(gets|strtok|atoi|atol|atof|rand|srand|tmpnam|mktemp)\s*\(")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(work|home|root|Users|mnt)/[A-Za-z0-9_.-]")

# archive -> the functions that it may call besides the ones it defines itself.
PURE = {
    "broker/libdispatch.a": ["calloc", "free", "__assert_fail", "mem*", "str*"],
    "worker/libagent.a": ["calloc", "free", "__assert_fail", "mem*", "str*"],
}
# What pure code may use of proto/ and common/: these functions compute, and do nothing else.
PURE_OURS = ["job_next", "job_is_terminal", "job_cost", "job_id_equal", "lease_equal", "slice_equal",
             "*_name"]
# Written by the compiler, whatever the code says.
COMPILER = ["bcmp", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail", "__asan_*", "__ubsan_*", "__sanitizer_*"]


def files():
    for directory, names, file_names in os.walk(SOURCE):
        names[:] = [n for n in names if n not in SKIPPED_DIRECTORIES and not n.startswith("build")]
        for name in file_names:
            path = os.path.join(directory, name)
            yield path, os.path.relpath(path, SOURCE)


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (UnicodeDecodeError, OSError):
        return ""


def code_only(text):
    """The text with comments and string literals blanked, lines kept."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def owner_of(relative):
    """The longest entry of MAY_INCLUDE that the file is under."""
    candidates = [f for f in MAY_INCLUDE if relative.startswith(f + "/")]
    return max(candidates, key=len, default=None)


def check_includes(relative, text):
    owner = owner_of(relative)
    for match in INCLUDE.finditer(text):
        wanted = match.group(1)
        folder = owner_of(wanted)
        if owner is None or folder is None:
            continue
        if not any(wanted.startswith(allowed + "/") for allowed in MAY_INCLUDE[owner]):
            yield line_of(text, match.start()), f'{owner}/ may not include "{wanted}"'


def check_calls(relative, text):
    banned = BANNED_IN_TESTS if relative.startswith("tests/") else BANNED
    for match in banned.finditer(code_only(text)):
        yield line_of(text, match.start()), f"{match.group(1)}() is not allowed"


def check_paths(text):
    for match in MACHINE_PATH.finditer(text):
        yield line_of(text, match.start()), f"a path of one machine: {match.group(0)}..."


def symbols(archive, *options):
    done = subprocess.run(["nm", *options, archive], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in done.stdout.splitlines() if line.strip() and not line.endswith(":")}


def check_purity(build):
    for name, allowed in PURE.items():
        archive = os.path.join(build, name)
        if not os.path.exists(archive):
            yield f"{name}: was not built: the core must be an archive of its own"
            continue
        defined = symbols(archive, "--defined-only", "-g")
        for symbol in sorted(symbols(archive, "-u") - defined):
            if not any(fnmatch.fnmatchcase(symbol, p) for p in allowed + PURE_OURS + COMPILER):
                yield f"{name}: needs {symbol}: the core must not"


def main():
    build, found = sys.argv[1], 0
    for path, relative in files():
        text = read(path)
        findings = []
        if relative.endswith((".c", ".h")):
            findings += check_includes(relative, text)
            findings += check_calls(relative, text)
        if relative != "tests/lint/rules.py":
            findings += check_paths(text)
        for line, what in findings:
            print(f"{relative}:{line}: {what}")
            found += 1
    for what in check_purity(build):
        print(what)
        found += 1
    return 1 if found else 0


sys.exit(main())
