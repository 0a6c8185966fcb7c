#!/bin/bash
# quickstart.sh — from a fresh Debian 12 to a first picture: installs what is missing, builds, starts
# everything with `drawbar up`, submits a prompt, shows how it goes, saves the picture.
#
#     deploy/quickstart.sh [--once] [-o FILE] [--prompt PROMPT] [--port PORT] [--data DIR] [--attach INSTANCE]...
#
#     --once      stop after the picture, with exit status 0; without it all stays up until Ctrl-C
#     -o FILE     where the picture goes            (default: drawbar-demo.png in this directory)
#     --prompt    what to draw                      (default: "a red fox in the snow")
#     --port      of the HTTP API                   (default: 8080; 0: any free one)
#     --data      queue, pictures and logs          (default: ~/.local/share/drawbar)
#     --attach    a real instance, for example "driver=drawbar url=http://127.0.0.1:7861"; may be
#                 repeated. Without it the instances are SIMULATED: test pictures, no model, no GPU.
#
# The build goes to a directory of this clone in the user's cache (DRAWBAR_BUILD names another); nothing
# is written into the clone.
set -euo pipefail

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'quickstart.sh: %s\n' "$*" >&2
    exit "${2:-1}"
}
usage() { sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }
wrong() {
    printf 'quickstart.sh: %s; see --help\n' "$1" >&2
    exit 2
}

mode=--try prompt="a red fox in the snow" output=drawbar-demo.png
options=()
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --once) mode=--once ;;
    -o | --output | --prompt | --port | --data | --attach)
        [ $# -ge 2 ] || wrong "$1 needs a value"
        case $1 in
        -o | --output) output=$2 ;;
        --prompt) prompt=$2 ;;
        *) options+=("$1" "$2") ;;
        esac
        shift
        ;;
    *) wrong "there is no option \"$1\"" ;;
    esac
    shift
done

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/drawbar
build=${DRAWBAR_BUILD:-$cache/build-$(printf %s "$source_dir" | cksum | cut -d' ' -f1)}/release

# -- packages: only what is missing --

install_missing() {
    local wanted=() missing=() package as_root=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        fail "this is no Debian or Ubuntu; install what deploy/packages.txt lists under \"build\", then use meson and ninja"
    fi
    mapfile -t wanted < <(awk '$1 == "build" { print $2 }' "$source_dir/deploy/packages.txt")
    for package in "${wanted[@]}"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            fail "packages are missing and there is no sudo; as root: apt-get install -y --no-install-recommends ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${#missing[@]} packages: ${missing[*]}"
    "${as_root[@]}" apt-get update -q >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "apt-get update failed"; }
    # RUNLEVEL=1: the package's own Redis service is not started; Drawbar runs one of its own.
    "${as_root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        "${missing[@]}" >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; fail "apt-get install failed"; }
}

# -- the build: silent unless it fails --

build_all() {
    if [ ! -f "$build/build.ninja" ]; then
        rm -rf "$build"
        mkdir -p "$build"
        meson setup "$build" "$source_dir" --buildtype=release -Dtests=disabled >"$log" 2>&1 ||
            { tail -n 20 "$log" >&2; fail "the build could not be configured"; }
    fi
    ninja -C "$build" >"$log" 2>&1 || { tail -n 40 "$log" >&2; fail "the build failed"; }
}

log=$(mktemp "${TMPDIR:-/tmp}/drawbar-quickstart.XXXXXX")
trap 'rm -f "$log"' EXIT
install_missing
say "building in $build"
build_all
rm -f "$log"
trap - EXIT

say "starting Drawbar and asking for \"$prompt\""
exec "$build/cli/drawbar" up "${options[@]}" "$mode=$prompt" --output="$output"
