#!/usr/bin/env python3
"""tidy.py BUILD-DIR CACHE-DIR: clang-tidy over our files of the compile database, on all cores.

A file that was clean is not checked again while nothing it is made of has changed: the cache holds the
hash of the file, the headers of ours that it includes, its command, the configuration and the tool.
"""
import concurrent.futures
import hashlib
import json
import os
import shlex
import subprocess
import sys

# Off everywhere: the analyzer of clang 14 does not know __attribute__((cleanup)) and calls every
# CLEANUP a leak, and every list of sys/queue.h a use after free (the sanitizers watch for both); casting
# const away by uintptr_t costs nothing.
OFF = "-clang-analyzer-unix.Malloc,-performance-no-int-to-ptr"
# Off in tests: Criterion's macros trip them, or a test may.
OFF_IN_TESTS = OFF + (
    ",-bugprone-macro-parentheses,-bugprone-reserved-identifier,-cert-dcl37-c,-misc-static-assert,"
    "-clang-analyzer-core.uninitialized.UndefReturn,-readability-function-size,-misc-redundant-expression,"
    "-bugprone-assignment-in-if-condition,-cert-env33-c,-clang-analyzer-security.insecureAPI.strcpy,"
    "-readability-isolate-declaration,-bugprone-implicit-widening-of-multiplication-result,"
    "-bugprone-not-null-terminated-result,-clang-analyzer-core.UndefinedBinaryOperatorResult")


def compile_flags(entry):
    """The command without compiler, output and dependency files: what a parser of the file needs."""
    words, flags, skip = shlex.split(entry["command"]), [], False
    for word in words[1:]:
        if skip:
            skip = False
        elif word in ("-o", "-MF", "-MQ", "-MT"):
            skip = True
        elif word not in ("-c", "-MD", entry["file"]) and not word.startswith("-fsanitize"):
            flags.append(word)
    return flags


def made_of(entry, source_dir):
    """The file and every header of ours that it reads."""
    command = ["clang", "-MM", *compile_flags(entry), "-x", "c", path_of(entry)]
    rule = subprocess.run(command, cwd=entry["directory"], capture_output=True, text=True, check=True)
    names = rule.stdout.split(":", 1)[1].replace("\\\n", " ").split()
    paths = [os.path.normpath(os.path.join(entry["directory"], name)) for name in names]
    return sorted(p for p in paths if p.startswith(source_dir) or p.startswith(entry["directory"]))


def path_of(entry):
    return os.path.normpath(os.path.join(entry["directory"], entry["file"]))


def check(job):
    entry, source_dir, cache, salt = job
    path = path_of(entry)
    is_test = path.startswith(os.path.join(source_dir, "tests") + os.sep)
    digest = hashlib.sha256(salt + " ".join(compile_flags(entry)).encode() + bytes([is_test]))
    try:
        for part in made_of(entry, source_dir):
            with open(part, "rb") as file:
                digest.update(hashlib.sha256(file.read()).digest())
    except subprocess.CalledProcessError as broken:
        return path, broken.stderr
    mark = os.path.join(cache, digest.hexdigest())
    if os.path.exists(mark):
        os.utime(mark)
        return path, ""
    command = ["clang-tidy", "--quiet", f"--config-file={source_dir}/.clang-tidy"]
    command += [f"--checks={OFF_IN_TESTS if is_test else OFF}"]
    done = subprocess.run(command + [path, "--", *compile_flags(entry), "-Wno-unknown-warning-option"],
                          cwd=entry["directory"], capture_output=True, text=True, check=False)
    if done.returncode == 0 and not done.stdout.strip():
        with open(mark, "w", encoding="utf-8"):
            pass
        return path, ""
    return path, done.stdout.strip() + ("" if done.stdout.strip() else done.stderr)


def main():
    build, cache = sys.argv[1], sys.argv[2]
    source_dir = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(source_dir, ".clang-tidy"), "rb") as file:
        salt = file.read()
    salt += subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout
    salt += OFF_IN_TESTS.encode()
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        entries = {path_of(e): e for e in json.load(file)}
    ours = [e for p, e in sorted(entries.items()) if p.startswith(source_dir + os.sep) and p.endswith(".c")]
    # The largest files first: otherwise the last one is waited for alone.
    ours.sort(key=lambda e: -os.path.getsize(path_of(e)))
    found = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for _path, text in pool.map(check, [(e, source_dir, cache, salt) for e in ours]):
            if text:
                found += 1
                print(text)
    return 1 if found else 0


sys.exit(main())
