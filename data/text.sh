#!/bin/sh
# Finds a real text, writes it below the build directory and prints its name: text.sh BUILD [kjv]
# The King James Bible of the package bible-kjv; where that is missing the licences that every Debian
# carries, unless kjv insists (the shipped models learned from it).
set -eu
build=$1
mkdir -p "$build"
if command -v bible >/dev/null 2>&1; then
    [ -s "$build/kjv.txt" ] || { bible -f 'gen1:1-rev22:21' > "$build/kjv.tmp" 2>/dev/null && mv "$build/kjv.tmp" "$build/kjv.txt"; }
    echo "$build/kjv.txt"
elif [ "${2:-}" = kjv ]; then
    echo "text.sh: expected the command bible (package bible-kjv), found none" >&2
    exit 1
else
    cat /usr/share/common-licenses/[A-Z]* > "$build/licences.txt"
    echo "$build/licences.txt"
fi
