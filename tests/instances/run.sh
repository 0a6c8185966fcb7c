#!/bin/bash
# run.sh — the image servers, on a CPU: the conformance suite against the simulated and the reference instance, the
# tests of the latter with a toy model, and every kind of server driven through the whole stack (test_drive.py); ends
# with `N passed, N failed[, N skipped]`. With its caches warm it takes less than 8 minutes on two cores.
#
#     tests/instances/run.sh [SIMULATED-INSTANCE]     default: what a build directory of tests/run.sh holds
#
# Environment: DRAWBAR_VENV         a virtual environment with worker/instance/requirements.txt in it
#              DRAWBAR_GRADIO_VENV, DRAWBAR_SD_SERVER, DRAWBAR_COMFYUI   as gradio.sh, sd_server.sh, comfyui.sh say
#              DRAWBAR_BUILD        as in tests/run.sh
# What is not given is made once in the user's cache; nothing is written into the clone. Without PyTorch, or another
# server, and where it cannot be installed, what needs it is a loud, counted skip.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_dir=$(cd "$here/../.." && pwd)
requirements=$source_dir/worker/instance/requirements.txt
cache=${XDG_CACHE_HOME:-$HOME/.cache}/drawbar
build_root=${DRAWBAR_BUILD:-$cache/build-$(printf %s "$source_dir" | cksum | cut -d' ' -f1)}
simulated=${1:-$build_root/gcc/worker/instance/drawbar-sim-instance}
venv=${DRAWBAR_VENV:-$cache/instance-venv-$(cksum <"$requirements" | cut -d' ' -f1)}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/drawbar-instances.XXXXXX")
pids=()
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

clean_up() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    rm -rf "$scratch"
}
trap clean_up EXIT

total_passed=0 total_failed=0 total_skipped=0
counted() { # COMMAND...: shows its output but for the count line, and adds that
    "$@" 2>&1 | tee "$scratch/counted" | grep --line-buffered -vE '^[0-9]+ passed, [0-9]+ failed'
    local status=${PIPESTATUS[0]} line
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$scratch/counted" | tail -n 1)
    if [ -z "$line" ]; then total_failed=$((total_failed + 1)); return; fi
    local p f s
    p=$(sed -E 's/^([0-9]+) passed.*/\1/' <<<"$line")
    f=$(sed -E 's/.* ([0-9]+) failed.*/\1/' <<<"$line")
    s=$(sed -nE 's/.* ([0-9]+) skipped.*/\1/p' <<<"$line")
    total_passed=$((total_passed + p)) total_failed=$((total_failed + f)) total_skipped=$((total_skipped + ${s:-0}))
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then total_failed=$((total_failed + 1)); fi
}

skip() { # WHAT WHY
    printf '\n*** SKIPPED: %s: %s ***\n\n' "$1" "$2"
    total_skipped=$((total_skipped + 1))
}

url= # of the instance that start() began
start() { # NAME COMMAND...
    local name=$1
    shift
    "$@" --port 0 --ready-file "$scratch/$name.ready" >"$scratch/$name.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 600); do
        [ -f "$scratch/$name.ready" ] && break
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    if [ ! -f "$scratch/$name.ready" ]; then
        tail -n 20 "$scratch/$name.log"
        return 1
    fi
    url=http://$(sed -E 's/.*http=//' "$scratch/$name.ready")
}

have_torch() { [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import torch, diffusers, transformers' 2>/dev/null; }
make_venv() {
    have_torch && return
    [ -z "${DRAWBAR_VENV:-}" ] || return 1
    echo "installing PyTorch and diffusers into $venv (once)"
    rm -rf "$venv"
    mkdir -p "$cache"
    python3 -m venv "$venv" >"$scratch/pip.log" 2>&1 &&
        timeout 1500 "$venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0 >>"$scratch/pip.log" 2>&1 &&
        timeout 900 "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$requirements" >>"$scratch/pip.log" 2>&1 &&
        have_torch && return
    tail -n 5 "$scratch/pip.log"
    rm -rf "$venv"
    return 1
}

if [ -x "$simulated" ]; then
    if start simulated "$simulated" --step-ms 15; then
        counted python3 "$here/conformance.py" "$url"
    else
        total_failed=$((total_failed + 1))
    fi
else
    skip "conformance of the simulated instance" "$simulated is not built (tests/run.sh build-gcc)"
fi

if make_venv; then
    model=$scratch/model
    if "$venv/bin/python" "$here/tiny_model.py" "$model" >"$scratch/model.log" 2>&1 &&
        start reference "$venv/bin/python" "$source_dir/worker/instance/zimage_server.py" --model "$model" --device cpu; then
        counted python3 "$here/conformance.py" "$url"
        counted "$venv/bin/python" "$here/test_reference.py" "$model"
    else
        cat "$scratch/model.log"
        total_failed=$((total_failed + 1))
    fi
else
    skip "the reference instance" "PyTorch or diffusers cannot be installed here"
fi

# The servers of other people: where one cannot be had, its script says why and test_drive.py skips what needs it.
provide() { # VARIABLE SCRIPT
    local path
    path=$("$here/$2") && export "$1=$path"
}
have_torch && export DRAWBAR_VENV=$venv
provide DRAWBAR_GRADIO_VENV gradio.sh
provide DRAWBAR_SD_SERVER sd_server.sh
provide DRAWBAR_COMFYUI comfyui.sh
build=${simulated%/worker/instance/*}
if [ -x "$build/worker/drawbar-worker" ]; then
    counted python3 "$here/test_drive.py" --build "$build"
else
    skip "every driver through the whole stack" "$build holds no build (tests/run.sh build-gcc)"
fi

printf '%d passed, %d failed' "$total_passed" "$total_failed"
if [ "$total_skipped" -gt 0 ]; then printf ', %d skipped' "$total_skipped"; fi
echo
[ "$total_failed" -eq 0 ]
