#!/bin/bash
# packages.sh — names the Debian packages of deploy/packages.txt that are missing, as the line that
# installs them (exit 1), or installs them itself.
#
#     tests/packages.sh [--install]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mapfile -t wanted < <(awk '$1 == "build" || $1 == "test" { print $2 }' deploy/packages.txt)
missing=()
for package in "${wanted[@]}"; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
if [ "${1:-}" != --install ]; then
    echo "packages are missing: ${as_root[*]:+${as_root[*]} }apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# A package must not start its own Redis on the machine: the tests start theirs.
"${as_root[@]}" apt-get update -q >&2
"${as_root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 </dev/null
