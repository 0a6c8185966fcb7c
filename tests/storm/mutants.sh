#!/bin/bash
# mutants.sh [BUILD-DIR] [SEEDS] [MUTANT...] — proves that the storm can fail: breaks each of the rules below in a
# copy of the real code (common/mutant.h) and says after how many seeds the storm saw it. Exits 1 if one lives
# through SEEDS seeds (default 2000), or if the same copy with nothing broken is blamed. All mutants unless some are
# named; as many at a time as there are cores.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
build=${1:-build}
seeds=${2:-2000}
shift $(($# < 2 ? $# : 2))
storm=$build/tests/storm/storm_mutants
ninja -C "$build" tests/storm/storm_mutants >/dev/null || { echo "build $build first: meson setup $build" >&2; exit 2; }

# What each one breaks, and where it is planted. The first 20 are those of model/README.md.
breaks="
NOFENCE        Redis: a deposed leader's commit is applied
NODEDUP        Redis: a batch sent again is applied again
NOFREEZE       core: a cancel is answered while the end of the job is on its way
NOLOOKUP       Redis: a repeated submit of an ended job is taken as new
EARLY202       core: ACCEPTED before the commit
EARLYACK       core: ACK before the commit
EARLYCANCEL    core: a cancel is answered before the commit
EARLYJOB       core: JOB before the commit
BYJOB          core: a result is accepted by job id
NOATT          core: a requeued job keeps its grant number
NOLIMIT        core: one try too many
SAMEFILE       store of pictures: file names without the attempt
NOINC          core: leases are kept for a name, whatever process has it
EPOCHCMP       core: a lease's epoch is compared with the present leader's
NOREAD         core: ended jobs are not known after a takeover
DUPSTALE       core: a repeated DONE of an ended job is STALE
UNLOADEDSTALE  core: STALE while the records are not loaded yet
STALEUNFENCED  core: STALE from memory, without the fenced read
NOINVENTORY    core: what STATE does not list is not missed
NORESEND       agent: DONE and FAIL are sent once
NOGAP          election: a standby elects at once, whatever it missed
PLAINRENEW     Redis: a leader key that has expired is not renewed
KEYANEW        core: a requeued job goes to the end of the queue
LOADKEY        core: after a takeover jobs stand in the order of their submits
OVERFULL       core: one job more than --max-jobs
NOSHARE        core: one tenant may fill the queue
NOTURNS        queue: a class is served while a higher one waits never
NOCOST         queue: a tenant's second job costs it nothing
DRAINPULL      core: a drained worker is granted jobs
DRAINONCE      core: DRAIN is said once
NORESIGN       broker: an orderly stop lets the leader key run out
RESTORELESS    core: a restore leaves out jobs that are on the move
RESTOREMIX     store: transitions are committed among the parts of a restore
NOWAIT         store: a batch counts before a replica has it
FENCEDLEADS    election: a fenced leader is a candidate under its old name
STEADYRUN      election: a standby that saw Redis restart fast has watched without a gap
HASTY          election: a Redis that lost all is taken for a new one by who knew its leader
RASHREAD       store: reads on a new connection before it is known that Redis there has our term
WAITOLD        Redis: a batch sent again writes nothing, so that WAIT waits for nothing
"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/mutants.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

try_mutant() { # NAME: writes its line, and a file NAME.lives if nobody saw it
    local seen seed what
    what=$(sed -n "s/^$1  *//p" <<<"$breaks")
    if seen=$("$storm" --mutant "$1" --seeds "$seeds" 2>&1 >/dev/null); then
        printf '%-14s %6s  %-66s\n' "$1" LIVES "$what"
        : >"$scratch/$1.lives"
    else
        seed=$(sed -n 's/^replay: .*--replay \([0-9]*\).*/\1/p' <<<"$seen")
        printf '%-14s %6s  %-66s %s\n' "$1" "$seed" "$what" "$(grep -v '^replay:' <<<"$seen" | tail -n 1)"
    fi
}
export -f try_mutant
export storm seeds breaks scratch

if ! "$storm" --seeds "$seeds" --jobs "$(nproc)" >/dev/null; then
    echo "the storm blames the unbroken code: $storm --seeds $seeds"
    exit 1
fi
printf '%-14s %6s  %-66s %s\n' mutant seeds breaks "seen as"
if [ $# -gt 0 ]; then mutants=("$@"); else mapfile -t mutants < <("$storm" --mutant list); fi
# shellcheck disable=SC2016 # the inner shell expands
printf '%s\n' "${mutants[@]}" | xargs -P "$(nproc)" -I{} bash -c 'try_mutant {} >"$scratch/{}.line"'
for mutant in "${mutants[@]}"; do cat "$scratch/$mutant.line"; done
lived=$(find "$scratch" -name '*.lives' | wc -l)
echo "$lived of ${#mutants[@]} lived through $seeds seeds"
[ "$lived" -eq 0 ]
