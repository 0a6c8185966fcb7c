#!/bin/bash
# model.sh [--all] — checks tests/storm/model/lease.pml with Spin: the design must be without error, and each
# broken rule must be found.
#
#     (nothing)   one job, one fault, a deposed leader that goes on deciding; every broken rule      about 20 s
#     --all       also two faults, two jobs, more attempts, no cycles, and the questions             minutes, 2 GB
#
# Needs spin and gcc. Exits 0 if all is as it must be, 1 if not, 2 if it could not be run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2
model=$PWD/model/lease.pml
command -v spin >/dev/null || { echo "model.sh: spin is missing: apt-get install spin" >&2; exit 2; }
scratch=$(mktemp -d "${TMPDIR:-/tmp}/model.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# One run: NAME WANTED FLAGS; wanted is good, found, or cycle (found only by the search for cycles). Writes a line
# to NAME.line, and NAME.bad if it is not as wanted.
try_model() {
    local name=$1 wanted=$2 dir=$scratch/$1 checks=-DSAFETY search=() verdict=unfinished states
    shift 2
    mkdir "$dir" && cd "$dir" || return
    if [ "$wanted" = cycle ] || [ "$wanted" = none ]; then
        checks=-DNP search=(-l)
    fi
    if spin -a "$@" "$model" >spin.log 2>&1 && gcc -O1 -w $checks -DNOREDUCE -o pan pan.c 2>gcc.log; then
        ./pan -m1000000 -w"${MODEL_HASH:-24}" "${search[@]}" >out 2>&1
    else
        cat spin.log gcc.log >out
    fi
    states=$(sed -nE 's/^ *([0-9.e+]+) states, stored.*/\1/p' out | head -n 1)
    if grep -qE 'errors: [1-9]' out; then
        verdict=found
    elif grep -q 'errors: 0$' out && ! grep -qE 'search depth too small|out of memory|not completed' out; then
        verdict=good
    fi
    printf '%-28s %-11s %12s states  %s\n' "$name" "$verdict" "${states:-?}" \
        "$(sed -nE 's/^pan:[0-9]+: (.*)/\1/p' out | head -n 1 | cut -c1-110)" >"$scratch/$name.line"
    case $wanted:$verdict in
    good:good | none:good | found:found | cycle:found) ;;
    *) : >"$scratch/$name.bad" ;;
    esac
    rm -rf "$dir"
}
export -f try_model
export scratch model

runs="1-job-1-fault-full good -DNJ=1 -DFB=1 -DFULL
"
for rule in NODEDUP NOFREEZE NOLOOKUP BYJOB NOATT NOLIMIT SAMEFILE EPOCHCMP NOREAD DUPSTALE UNLOADEDSTALE \
    STALEUNFENCED NOINVENTORY NORESEND; do
    runs+="$rule found -DNJ=1 -DFB=2 -DM_$rule
"
done
for rule in NOFENCE EARLY202 EARLYACK EARLYCANCEL EARLYJOB; do
    runs+="$rule found -DNJ=1 -DFB=2 -DFULL -DM_$rule
"
done
runs+="NOINC cycle -DNJ=1 -DFB=2 -DM_NOINC
"
if [ "${1:-}" = --all ]; then
    runs+="1-job-2-faults good -DNJ=1 -DFB=2
1-job-2-faults-full good -DNJ=1 -DFB=2 -DFULL
2-jobs-1-fault good -DNJ=2 -DFB=1
1-job-1-fault-full-cycles none -DNJ=1 -DFB=1 -DFULL
1-job-2-faults-cycles none -DNJ=1 -DFB=2
1-job-2-faults-3-attempts good -DNJ=1 -DFB=2 -DMAXATT=3
NOINCRES good -DNJ=1 -DFB=2 -DM_NOINCRES
NOFENCE-without-P4 found -DNJ=1 -DFB=2 -DFULL -DM_NOFENCE -DM_NOP4
DUPSTALE-that-deletes found -DNJ=1 -DFB=2 -DM_DUPSTALE -DSTALEDELETES
failed-and-never-run found -DNJ=1 -DFB=2 -DASK_RAN
"
fi
printf %s "$runs" | xargs -P "$(nproc)" -L 1 bash -c 'try_model "$@"' _
while read -r name _; do cat "$scratch/$name.line"; done <<<"${runs%$'\n'}"
bad=$(find "$scratch" -name '*.bad' | wc -l)
echo "$(wc -l <<<"${runs%$'\n'}") runs of the model, $bad not as they must be"
[ "$bad" -eq 0 ]
