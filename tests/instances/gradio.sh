#!/bin/bash
# gradio.sh — makes a virtual environment with Gradio, once, and prints where it is.
#
#     tests/instances/gradio.sh          the path on standard output, all else on standard error
#
# Environment: DRAWBAR_GRADIO_VENV  one that is there already: nothing is installed
# Versions: requirements-gradio.txt. It lies in the user's cache; nothing is written into the clone. Ends with 1 and
# the reason where it cannot be had, within 20 minutes.
set -uo pipefail
requirements=$(dirname "${BASH_SOURCE[0]}")/requirements-gradio.txt
cache=${XDG_CACHE_HOME:-$HOME/.cache}/drawbar
venv=$cache/gradio-venv-$(cksum <"$requirements" | cut -d' ' -f1)

fail() { # WHY [LOG]: the reason, behind the end of the log
    [ $# -lt 2 ] || tail -n 5 "$2" >&2
    echo "gradio.sh: $1" >&2
    exit 1
}

has_gradio() { [ -x "$1/bin/python" ] && "$1/bin/python" -c 'import gradio' 2>/dev/null; }

if [ -n "${DRAWBAR_GRADIO_VENV:-}" ]; then
    has_gradio "$DRAWBAR_GRADIO_VENV" || fail "DRAWBAR_GRADIO_VENV: $DRAWBAR_GRADIO_VENV has no Gradio"
    venv=$DRAWBAR_GRADIO_VENV
elif [ ! -e "$venv/whole" ]; then
    mkdir -p "$cache" || fail "$cache cannot be made"
    exec 9>"$venv.lock"
    flock -w 1200 9 || fail "another one holds $venv.lock for 20 minutes"
    if [ ! -e "$venv/whole" ]; then
        log=$(mktemp) || fail "no temporary file"
        trap 'rm -f "$log"' EXIT
        echo "installing Gradio into $venv (once)" >&2
        rm -rf "$venv"
        timeout 120 python3 -m venv "$venv" >"$log" 2>&1 || fail "no virtual environment" "$log"
        timeout 900 "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$requirements" >"$log" 2>&1 ||
            fail "requirements-gradio.txt cannot be installed" "$log"
        has_gradio "$venv" || fail "Gradio was installed and cannot be imported"
        touch "$venv/whole"
    fi
fi
echo "$venv"
