#!/usr/bin/env bash
# embed.sh BUILD: makes figures of the site BUILD/book live, those that have a declaration here, with the module
# BUILD/lab/msa.wasm and, where a program beside the declaration records what it shows, BUILD/lab/NAME.data.js. The module
# goes into a script: a page opened from a disk may load scripts, but fetch nothing.
set -euo pipefail
site=$1/book module=$1/lab/msa.wasm lab=$(dirname "$0")
if [[ ! -s $module ]]; then
    echo "  lab: the figures stay still: clang, lld and wasi-libc are not all here"
    exit 0
fi
cp "$lab"/*.js "$lab/lab.css" "$site/"
shared="lab.js $(cd "$lab" && ls [a-z]*.js | grep -vx lab.js)"
printf 'lab.load("%s");\n' "$(base64 -w0 "$module")" > "$site/lab_msa.js"
live=0
for figure in "$lab"/[0-9]*.js; do
    name=$(basename "$figure" .js) scripts= recorded=
    if [[ -e $lab/$name.c ]]; then
        recorded=$name.data.js
        if [[ ! -s $1/lab/$recorded ]]; then
            echo "  lab: $name stays still: its program recorded nothing here"
            continue
        fi
        cp "$1/lab/$recorded" "$site/"
    fi
    page=$site/$(sed -n '1s/.*{#\(.*\)}.*/\1/p' "$lab/../$name.md").html
    for script in $shared $recorded $name.js lab_msa.js; do scripts+="<script src=\"$script\" defer></script>"; done
    sed -i -e 's#</head>#<link href="lab.css" rel="stylesheet"/>\n&#' -e "s#</body>#$scripts\n&#" "$page"
    live=$((live + 1))
done
echo "  lab: $live figures live, $(stat -c %s "$site/lab_msa.js") bytes of reference"
