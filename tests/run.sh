#!/bin/bash
# run.sh — builds what the named suites need, runs them, and ends with `N passed, N failed`.
#
#     tests/run.sh [SUITE...]        default: unit fuzz sanitizers system
#
#     lint         tests/lint.sh                                   build-gcc, build-clang   warnings are errors
#     unit         every Criterion test                            fuzz                     each decoder, FUZZ_SECONDS (30)
#     sanitizers   unit and a short system run under ASan + UBSan  system                   real processes
#     storm        both cores in simulated worlds, STORM_SEEDS (6000); the mutants and the model of the protocol
#     chaos        real processes, killed, paused, cut off and starved in every phase of a job
#     instances    the simulated and the reference instance; installs PyTorch (CPU) into the cache once
#
# Environment: DRAWBAR_BUILD   where build directories go (default: a directory of this clone in the
#                              user's cache; nothing is written into the clone)
#              DRAWBAR_JOBS    system tests at a time (default: the number of cores, at most 4)
# Exit status: 0 all passed, 1 something failed, 2 the suites could not be run.
set -euo pipefail
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/drawbar
build_root=${DRAWBAR_BUILD:-$cache/build-$(printf %s "$source_dir" | cksum | cut -d' ' -f1)}
fuzz_seconds=${FUZZ_SECONDS:-30}
cores=$(nproc)
jobs=${DRAWBAR_JOBS:-$((cores < 4 ? cores : 4))}
mkdir -p "$build_root"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/drawbar-tests.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

total_passed=0 total_failed=0 total_skipped=0
passed=0 failed=0 skipped=0 # of the suite that runs

# Configures (once) and builds $build_root/NAME. What a compiler says is shown only when it fails.
build() { # NAME COMPILER TARGETS MESON-OPTIONS...
    local dir=$build_root/$1 compiler=$2 targets=$3 log=$scratch/build-$1.log
    shift 3
    if [ ! -f "$dir/build.ninja" ]; then
        rm -rf "$dir"
        CC=$compiler meson setup "$dir" "$source_dir" "$@" >"$log" 2>&1 || { cat "$log"; return 1; }
    fi
    # shellcheck disable=SC2086 # targets is a list
    ninja -C "$dir" $targets >"$log" 2>&1 || { tail -n 60 "$log"; return 1; }
}

build_gcc() { build gcc gcc "" -Dwerror=true -Dtests=enabled; }
build_clang() { build clang clang "" -Dwerror=true -Dtests=enabled; }
build_asan() { build asan gcc "" -Dtests=enabled -Db_sanitize=address,undefined; }
build_fuzz() {
    build fuzz clang fuzzers -Dfuzz=true -Dtests=disabled -Db_sanitize=address,undefined \
        -Db_lundef=false -Dc_args=-fsanitize=fuzzer-no-link
}

count_one() { # COMMAND...: one test that is a whole command
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

# Adds the numbers of a line `N passed, N failed[, N skipped]`, the last one of FILE; a program that
# ended without it is one failure.
count_line() { # FILE EXIT-STATUS
    local line
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$1" | tail -n 1 || true)
    if [ -z "$line" ]; then
        failed=$((failed + 1))
        return
    fi
    local p f s
    p=$(sed -E 's/^([0-9]+) passed.*/\1/' <<<"$line")
    f=$(sed -E 's/.* ([0-9]+) failed.*/\1/' <<<"$line")
    s=$(sed -nE 's/.* ([0-9]+) skipped.*/\1/p' <<<"$line")
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
    # A non-zero status that no failed test explains is itself a failure.
    if [ "$2" -ne 0 ] && [ "$f" -eq 0 ]; then failed=$((failed + 1)); fi
}

run_counted() { # COMMAND...: shows its output but for the count line, and adds that
    local status
    set +e
    "$@" 2>&1 | tee "$scratch/counted.log" | grep --line-buffered -vE '^[0-9]+ passed, [0-9]+ failed'
    status=${PIPESTATUS[0]}
    set -e
    count_line "$scratch/counted.log" "$status"
}

suite_lint() { count_one env DRAWBAR_BUILD="$build_root" "$source_dir/tests/lint.sh"; }
suite_build_gcc() { count_one build_gcc; }
suite_build_clang() { count_one build_clang; }

suite_unit() {
    build_gcc || { failed=$((failed + 1)); return; }
    run_counted /usr/bin/python3 "$source_dir/tests/unit.py" "$build_root/gcc"
}

suite_fuzz() {
    build_fuzz || { failed=$((failed + 1)); return; }
    run_counted /usr/bin/python3 "$source_dir/tests/fuzz/run.py" "$build_root/fuzz/tests/fuzz" \
        --seconds "$fuzz_seconds" --jobs "$cores"
}

suite_sanitizers() {
    build_asan || { failed=$((failed + 1)); return; }
    # A leak alone does not change the exit status of a Criterion test: unit.py reads the logs.
    export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
    run_counted /usr/bin/python3 "$source_dir/tests/unit.py" "$build_root/asan"
    run_counted /usr/bin/python3 "$source_dir/tests/system/run.py" --build "$build_root/asan" --short --jobs "$jobs"
    unset ASAN_OPTIONS UBSAN_OPTIONS
}

suite_system() {
    build_gcc || { failed=$((failed + 1)); return; }
    run_counted /usr/bin/python3 "$source_dir/tests/system/run.py" --build "$build_root/gcc" --jobs "$jobs"
}

suite_storm() {
    build_gcc || { failed=$((failed + 1)); return; }
    count_one "$build_root/gcc/tests/storm/storm" --seeds "${STORM_SEEDS:-6000}" --jobs "$cores"
    count_one "$source_dir/tests/storm/mutants.sh" "$build_root/gcc"
    count_one "$source_dir/tests/storm/model.sh"
}

suite_chaos() {
    build_gcc || { failed=$((failed + 1)); return; }
    run_counted /usr/bin/python3 "$source_dir/tests/system/run.py" --chaos --build "$build_root/gcc" --jobs "$jobs"
}

suite_instances() {
    build_gcc || { failed=$((failed + 1)); return; }
    run_counted env DRAWBAR_BUILD="$build_root" "$source_dir/tests/instances/run.sh"
}

counts() { # PASSED FAILED SKIPPED
    printf '%d passed, %d failed' "$1" "$2"
    if [ "$3" -gt 0 ]; then printf ', %d skipped' "$3"; fi
}

run_suite() { # NAME
    local started=$SECONDS
    passed=0 failed=0 skipped=0
    "suite_${1//-/_}"
    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))
    total_skipped=$((total_skipped + skipped))
    awk -v name="$1" -v counts="$(counts $passed $failed $skipped)" -v s=$((SECONDS - started)) \
        'BEGIN { printf "suite %s: %s in %.1f min\n", name, counts, s / 60 }'
}

suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(unit fuzz sanitizers system)
for suite in "${suites[@]}"; do
    case $suite in
    lint | build-gcc | build-clang | unit | fuzz | sanitizers | system | storm | chaos | instances) ;;
    *)
        echo "run.sh: no suite \"$suite\"; there are lint build-gcc build-clang unit fuzz sanitizers system storm chaos instances" >&2
        exit 2
        ;;
    esac
done
"$source_dir/tests/packages.sh" || exit 2
for suite in "${suites[@]}"; do run_suite "$suite"; done
counts $total_passed $total_failed $total_skipped
echo
[ "$total_failed" -eq 0 ]
