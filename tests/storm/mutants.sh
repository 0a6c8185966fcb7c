#!/bin/bash
# mutants.sh [BUILD-DIR] [SEEDS] — proves that the storm can fail: breaks each of the rules below in a copy of
# the real code (common/mutant.h) and says after how many seeds the storm saw it. Exits 1 if one lives through
# SEEDS seeds (default 500), or if the same copy with nothing broken is blamed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
build=${1:-build}
seeds=${2:-500}
storm=$build/tests/storm/storm_mutants
ninja -C "$build" tests/storm/storm_mutants >/dev/null || { echo "build $build first: meson setup $build" >&2; exit 2; }

# What each one breaks, and where it is planted.
declare -A breaks=(
    [NOFENCE]="Redis: a deposed leader's commit is applied"
    [NODEDUP]="Redis: a batch sent again is applied again"
    [NOFREEZE]="core: a cancel is answered while the end of the job is on its way"
    [NOLOOKUP]="Redis: a repeated submit of an ended job is taken as new"
    [EARLY202]="core: ACCEPTED before the commit"
    [EARLYACK]="core: ACK before the commit"
    [EARLYCANCEL]="core: a cancel is answered before the commit"
    [EARLYJOB]="core: JOB before the commit"
    [BYJOB]="core: a result is accepted by job id"
    [NOATT]="core: a requeued job keeps its grant number"
    [NOLIMIT]="core: one try too many"
    [SAMEFILE]="store of pictures: file names without the attempt"
    [NOINC]="core: leases are kept for a name, whatever process has it"
    [EPOCHCMP]="core: a lease's epoch is compared with the present leader's"
    [NOREAD]="core: ended jobs are not known after a takeover"
    [DUPSTALE]="core: a repeated DONE of an ended job is STALE"
    [UNLOADEDSTALE]="core: STALE while the records are not loaded yet"
    [STALEUNFENCED]="core: STALE from memory, without the fenced read"
    [NOINVENTORY]="core: what STATE does not list is not missed"
    [NORESEND]="agent: DONE and FAIL are sent once"
)
lived=0
if ! "$storm" --seeds "$seeds" >/dev/null 2>&1; then
    echo "the storm blames the unbroken code: $storm --seeds $seeds"
    exit 1
fi
printf '%-14s %6s  %-70s %s\n' mutant seeds breaks "seen as"
while read -r mutant; do
    if seen=$("$storm" --mutant "$mutant" --seeds "$seeds" 2>&1 >/dev/null); then
        printf '%-14s %6s  %-70s\n' "$mutant" LIVES "${breaks[$mutant]}"
        lived=$((lived + 1))
    else
        seed=$(sed -n 's/^replay: .*--replay \([0-9]*\).*/\1/p' <<<"$seen")
        printf '%-14s %6s  %-70s %s\n' "$mutant" "$seed" "${breaks[$mutant]}" "$(grep -v '^replay:' <<<"$seen" | tail -n 1)"
    fi
done < <("$storm" --mutant list)
echo "$lived of ${#breaks[@]} lived through $seeds seeds"
[ "$lived" -eq 0 ]
