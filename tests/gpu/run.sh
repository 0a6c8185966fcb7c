#!/bin/bash
# run.sh — bench.py, stack.py, variants.py or same.py on a machine with a GPU and perhaps no network.
#
#     tests/gpu/run.sh [bench | same | stack | variants] [arguments of that script]
#
# Environment: DRAWBAR_PYTHON   the python that has torch (default: python3)
#              DRAWBAR_WHEELS   a folder of wheels that this python lacks (diffusers, ...); unpacked, not installed
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${DRAWBAR_PYTHON:-python3}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/drawbar-gpu.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
if [ -n "${DRAWBAR_WHEELS:-}" ]; then
    for wheel in "$DRAWBAR_WHEELS"/*.whl; do
        "$python" -m zipfile -e "$wheel" "$scratch/site"
    done
    export PYTHONPATH=$scratch/site${PYTHONPATH:+:$PYTHONPATH}
fi
if ! "$python" -c 'import torch, transformers, diffusers; diffusers.ZImagePipeline
print("torch", torch.__version__, "transformers", transformers.__version__, "diffusers", diffusers.__version__)'; then
    echo "run.sh: $python lacks torch, transformers or diffusers (with ZImagePipeline); name wheels in DRAWBAR_WHEELS" >&2
    exit 2
fi
if command -v nvidia-smi >/dev/null; then nvidia-smi -L || true; fi
script=bench.py
case ${1:-} in
bench | same | stack | variants)
    script=$1.py
    shift
    ;;
esac
"$python" "$here/$script" "$@"
