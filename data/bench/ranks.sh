#!/usr/bin/env bash
# Two ranks under mpirun, of one thread each, against two threads of one process: data/bench/ranks.sh [FILE] (data/bench/cpu-ranks.txt;
# ON=epyc: cpu-epyc-ranks.txt). For a quiet machine of two cores. The two sides run in turn, PAIRS times, and a ratio is of
# neighbours: the ranks' time over the threads'. NAMES picks some of the three.
#   forward   N tokens of one KV group of MiniMax-M3's heads, keys travel and queries do
#   decode    one token over KEYS keys, a multiple of the 128 of a page, and so many REQUESTS of them
#   train     a step of the small model, windows dealt
# Of forward and decode: what the report says, from inputs in memory to outputs there, no files and no start of processes. One
# process runs as one rank, since a command without ranks has other outputs. Of train: (time of MANY steps - time of FEW) / their
# difference, so that setting up and judging cancel. FILE is written at the end, if all went well.
set -u
export LC_ALL=C
FILE=${1:+$(realpath -m -- "$1")}
cd "$(dirname "$0")/../.." || exit 2
B=${B:-build} MSA=${MSA:-$B/msa} MPI=${MPI:-$B/msa-mpi}
FILE=${FILE:-data/bench/cpu${ON:+-$ON}-ranks.txt}
N=${N:-16384} KEYS=${KEYS:-262144} REQUESTS=${REQUESTS:-1} PAIRS=${PAIRS:-5} FEW=${FEW:-1} MANY=${MANY:-11}
NAMES=${NAMES:-forward decode train}

fail() { # fail VARIABLE EXPECTED FOUND
    echo "ranks: $1: expected $2, found '$3'" >&2
    exit 2
}
[[ $# -le 1 && ${1:-} != -* ]] || fail FILE "a file's name, or nothing (the head of this script says what can be chosen)" "$*"
for name in N KEYS REQUESTS PAIRS FEW MANY; do
    [[ ${!name} =~ ^[1-9][0-9]{0,8}$ ]] || fail $name "an integer from 1 to 999999999" "${!name}"
done
[[ $((KEYS % 128)) -eq 0 ]] || fail KEYS "a multiple of 128" "$KEYS"
[[ $MANY -gt $FEW ]] || fail MANY "more steps than the $FEW of FEW" "$MANY"
read -r -d '' -a names <<< "$NAMES"
[[ ${#names[@]} -gt 0 ]] || fail NAMES "some of forward, decode and train" "$NAMES"
for name in "${names[@]}"; do
    [[ $name =~ ^(forward|decode|train)$ ]] || fail NAMES "some of forward, decode and train" "$name"
done
NAMES=${names[*]}
[[ ${ON:-} =~ ^[a-z0-9-]*$ ]] || fail ON "small letters, digits and -" "$ON"
[[ ! -e $FILE || -f $FILE ]] || fail FILE "a file, or nothing yet" "$FILE"
[[ $(id -u) -ne 0 ]] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
if [[ ! -x $MPI ]] || ! command -v mpirun > /dev/null; then
    echo "ranks: skipped: no $MPI or no mpirun here (libopenmpi-dev, openmpi-bin)"
    exit 0
fi
[[ -x $MSA ]] || fail MSA "a program" "$MSA"
W=$(mktemp -d) || exit 2
trap 'rm -rf "$W"' EXIT
{ mkdir -p "$(dirname "$FILE")" && : > "$FILE.part"; } 2> /dev/null || fail FILE "a place where it can be written" "$FILE"
trap 'rm -rf "$W" "$FILE.part"' EXIT
source tests/support/npy.sh
wanted() { # wanted NAME
    [[ " $NAMES " == *" $1 "* ]]
}
text=
! wanted train || text=$(data/text.sh "$B" kjv) || exit 2

tensor() { # tensor NAME COUNT SHAPE: numbers from -2 to 2
    head -c "$2" /dev/urandom | perl -e 'binmode STDIN; binmode STDOUT; while (read STDIN, my $x, 65536) { print pack "f<*", map { $_ / 63.75 - 2 } unpack "C*", $x }' |
        npy "$W/$1.npy" '<f4' "($3)"
}
counted() { # counted COMMAND...: ms from the report, of the first rank, which waits for all
    "$@" > "$W/log" 2>> "$W/err" && awk '/^sent/ { exit } $1 == 0 && NF > 6 { print $4 + $5 }' "$W/log"
}
seconds() { # seconds STEPS COMMAND...
    local steps=$1 begin=$EPOCHREALTIME
    shift
    rm -f "$W"/model.*
    "$@" train --text "$W/text" --out "$W/model.safetensors" --steps "$steps" --index-warmup 0 > "$W/log" 2>> "$W/err" || return 1
    awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'
}
stepped() { # stepped COMMAND...: ms a step
    local few many
    few=$(seconds "$FEW" "$@") && many=$(seconds "$MANY" "$@") && awk -v a="$few" -v b="$many" -v n=$((MANY - FEW)) 'BEGIN { print 1e3 * (b - a) / n }'
}
threads() { OMP_NUM_THREADS=2 "$MSA" "$@"; }
ranks() { OMP_NUM_THREADS=1 mpirun -q -n 2 "$MPI" "$@"; }
one() { threads "$@" --ranks 1; }

failed=0
pairs() { # pairs WHAT MEASURE ONE TWO [ARGUMENT...]
    local what=$1 measure=$2 one=$3 two=$4 i a b
    shift 4
    : > "$W/err"
    for i in $(seq "$PAIRS"); do
        a=$("$measure" "$one" "$@") && b=$("$measure" "$two" "$@") && echo "$a $b" || break
    done | awk 'NF == 2 && $1 > 0 && $2 > 0 { n++; a[n] = $1; b[n] = $2; r[n] = $2 / $1 }
        function median(x, n,   i, j, t) { for (i = 2; i <= n; i++) for (j = i; j > 1 && x[j] < x[j - 1]; j--) { t = x[j]; x[j] = x[j - 1]; x[j - 1] = t }
            return n % 2 ? x[(n + 1) / 2] : (x[n / 2] + x[n / 2 + 1]) / 2 }
        END { if (n != '"$PAIRS"') exit 1
            m = median(r, n); printf "%s: two threads %.2f ms, two ranks %.2f ms, ratio %.3f (%.3f to %.3f of %d pairs)\n", what, median(a, n), median(b, n), m, r[1], r[n], n }' \
        what="$what"
}
bench() {
    pairs "$@" && return
    grep . "$W/err" >&2 || echo "ranks: $1: expected times above 0, found others" >&2
    echo "$1: failed"
    return 1
}
measure() {
    echo "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) threads; $("$MSA" version); $(mpirun --version | head -n 1)"
    if wanted forward; then
        tensor q $((N * 2048)) "$N, 16, 128" && tensor k $((N * 128)) "$N, 1, 128" && tensor v $((N * 128)) "$N, 1, 128"
        tensor qi $((N * 128)) "$N, 1, 128" && tensor ki $((N * 128)) "$N, 128"
        for way in keys queries; do
            bench "forward of $N tokens, $way travel" counted one ranks forward --q "$W/q.npy" --k "$W/k.npy" --v "$W/v.npy" --qi "$W/qi.npy" \
                --ki "$W/ki.npy" --move $way --out "$W/out" || failed=1
        done
    fi
    if wanted decode; then
        local pages=$((KEYS * REQUESTS / 128))
        tensor q $((REQUESTS * 2048)) "$REQUESTS, 1, 16, 128" && tensor qi $((REQUESTS * 128)) "$REQUESTS, 1, 1, 128"
        tensor k $((pages * 16384)) "$pages, 1, 128, 128" && tensor v $((pages * 16384)) "$pages, 1, 128, 128"
        tensor ki $((pages * 16384)) "$pages, 128, 128"
        le32 $(seq 0 $((pages - 1))) | npy "$W/table.npy" '<i4' "($REQUESTS, $((KEYS / 128)))"
        le32 $(for ((i = 0; i < REQUESTS; i++)); do echo "$KEYS"; done) | npy "$W/lens.npy" '<i4' "($REQUESTS,)"
        bench "decode of $REQUESTS x $KEYS keys" counted one ranks decode --q "$W/q.npy" --qi "$W/qi.npy" --k-pages "$W/k.npy" --v-pages "$W/v.npy" \
            --ki-pages "$W/ki.npy" --page-table "$W/table.npy" --lens "$W/lens.npy" --out "$W/out" || failed=1
    fi
    if wanted train; then
        head -c 60000 "$text" > "$W/text"
        bench "training step of the small model" stepped threads ranks || failed=1
    fi
    return $failed
}
measure | tee "$FILE.part"
[[ ${PIPESTATUS[*]} == "0 0" ]] && mv "$FILE.part" "$FILE"
