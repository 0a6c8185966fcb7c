#!/bin/bash
# lint.sh — says nothing and exits 0 when the tree is clean; else prints each finding and exits 1.
#
# clang-format, clang-tidy (cached by content), cppcheck, shellcheck, and our own rules: who includes
# whom, forbidden calls, pure cores (lint/rules.py). Needs a build for the compile database and the
# archives: DRAWBAR_BUILD or a directory of this clone in the user's cache, never in the clone.
set -euo pipefail
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/drawbar
build=${DRAWBAR_BUILD:-$cache/build-$(printf %s "$source_dir" | cksum | cut -d' ' -f1)}/lint
cd "$source_dir"
found=0
log=$(mktemp "${TMPDIR:-/tmp}/drawbar-lint.XXXXXX")
trap 'rm -f "$log"' EXIT

# clang's flags, so that clang-tidy understands the database.
if [ ! -f "$build/build.ninja" ]; then
    rm -rf "$build"
    mkdir -p "$(dirname "$build")"
    CC=clang meson setup "$build" "$source_dir" -Dtests=enabled -Dfuzz=true >"$log" 2>&1 || { cat "$log"; exit 1; }
fi
ninja -C "$build" >"$log" 2>&1 || { tail -n 40 "$log"; exit 1; }

mapfile -t c_files < <(find broker worker gateway cli common proto tests -name '*.[ch]' | LC_ALL=C sort)
for file in "${c_files[@]}"; do
    clang-format --dry-run -Werror "$file" >"$log" 2>&1 && continue
    echo "$file:$(sed -n '1s/^[^:]*:\([0-9]*\):.*/\1/p' "$log"): clang-format -i would change it"
    found=1
done

# cppcheck reads no system headers; the macros of this one look like syntax errors without it.
queue_header=$(echo '#include <sys/queue.h>' | clang -E -M -x c - | grep -o '[^ ]*sys/queue.h')
mkdir -p "$build/cppcheck"
cppcheck --quiet --enable=warning,performance,portability --library=posix --error-exitcode=1 \
    --inline-suppr --suppressions-list=tests/lint/cppcheck.txt --include="$queue_header" \
    --cppcheck-build-dir="$build/cppcheck" -j "$(nproc)" \
    -D_GNU_SOURCE '-DDRAWBAR_VERSION=""' -I . broker worker gateway cli common proto || found=1

mapfile -t scripts < <(grep -lE '^#!/bin/(ba)?sh' -r .ci deploy tests --include='*' 2>/dev/null | LC_ALL=C sort)
shellcheck --severity=info "${scripts[@]}" || found=1

/usr/bin/python3 tests/lint/rules.py "$build" || found=1
/usr/bin/python3 tests/lint/tidy.py "$build" "$cache/tidy" || found=1
exit $found
