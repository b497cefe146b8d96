# Sourced by the test scripts: TAP on stdout, a scratch directory $W, and what the last command said in
# $W.out and $W.err, shown when a check fails. Scripts run in the project's root; MSA names the program.
set -u
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
MSA=$(realpath -m "${MSA:-build/msa}")
W=$(mktemp -d) || exit 2
trap 'rm -rf "$W" "$W.out" "$W.err"' EXIT

n=0 failed=0
check() { # check STATUS NAME
    n=$((n + 1))
    if [[ $1 -eq 0 ]]; then
        echo "ok $n - $2"
    else
        sed 's/^/# /' "$W.err" "$W.out" 2> /dev/null | head -n 8 # before the line that they are about
        echo "not ok $n - $2"
        failed=$((failed + 1))
    fi
}
skip() { # skip NAME REASON
    n=$((n + 1))
    echo "ok $n - $1 # SKIP $2"
}
finish() { # the plan and the exit status: the last line of a script
    echo "1..$n"
    [[ $failed -eq 0 ]]
    exit
}
has_models() { # whether this build reads and writes checkpoints
    ! "$MSA" train --text /dev/null --out "$W/x.safetensors" 2>&1 | grep -q jansson
}
