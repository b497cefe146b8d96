#!/usr/bin/env bash
# What a GPU has to tell, in as many minutes as there are: data/bench/cuda.sh [DIR] (`make gpu`; DIR is data/bench). First the
# instructions, bit for bit against the engine; then, in the order of cuda_plan.sh, every kernel against the reference and on
# the clock; at the end a page, DIR/cuda.md, that holds what was found against cuda_targets.txt.
#
#     GPU_BUDGET=12   minutes, after which it stops          LIMIT=150   seconds that one process may take
#     ONLY=REGEX      the runs whose names match             PYTHON      one with PyTorch and Triton, for peers
#
# Each step is a process of its own with a limit: an illegal access spoils a process for all kernels after it, and a kernel
# that hangs ends nothing by itself. What a step found is written at once, a line of DIR/cuda.tsv and its file of results; the
# same command then goes on with the rest, also after a kill. A step that ended, well or not, is not done again with the
# same program on the same kind of device. Without a GPU the script says what is missing, in one line, and writes nothing.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit 2
B=${B:-build} MSA=${MSA:-build/msa} PYTHON=${PYTHON:-python3}
DIR=${1:-data/bench}
export MSA_TUNING='' # presets, but where a run is called tuned
SECONDS_EACH=${SECONDS_EACH:-2} LIMIT=${LIMIT:-150} REST=${REST:-5}
budget=${GPU_BUDGET:-12}
[[ $budget =~ ^[0-9]{1,5}(\.[0-9]+)?$ ]] || { echo "gpu: GPU_BUDGET: expected minutes, found '$budget'" >&2 && exit 2; }
deadline=$((SECONDS + $(awk -v m="$budget" 'BEGIN {printf "%d", 60 * m}')))

nothing() {
    echo "gpu: nothing measured: $1"
    exit 0
}
[[ -z ${NO_CUDA:-} ]] || nothing "$NO_CUDA"
# Libraries that came along with a program built elsewhere, where this machine has none.
[[ ! -d $B/lib ]] || ! ldd "$MSA" 2> /dev/null | grep -q 'not found' || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$PWD/$B/lib
"$MSA" kernels | cut -f 2 | grep -qw cuda || nothing "$MSA was built without nvcc: make cuda"
# cuBLAS may have come with PyTorch, where the loader does not look.
blas=$("$PYTHON" -c 'import glob, sys
for p in sys.path:
    print(*glob.glob(p + "/nvidia/*/lib/libcublas.so.*"), sep="\n")' 2> /dev/null | grep -m1 .)
[[ -z $blas ]] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}${blas%/*}

# ---- A process and its limit ---------------------------------------------------------------------------------------

W=$(mktemp -d) || exit 2
child='' guard='' steps=()
# A child that has not become its command yet has these traps too.
trap '[[ $BASHPID != $$ ]] || rm -rf "$W"' EXIT
trap '[[ $BASHPID == $$ ]] || exit; kill $child $guard 2> /dev/null; [[ ${#steps[@]} -eq 0 ]] || finish; exit 130' INT TERM

limited() { # limited SECONDS COMMAND...: what it says in $W/log; the exit status, 124 where it did not end
    local status limit=$1
    timeout -k 5 "$@" > "$W/log" 2>&1 < /dev/null &
    child=$!
    sleep $((limit + 10)) > /dev/null 2>&1 9>&- & # a process that waits for a lost device cannot even be killed
    guard=$!
    wait -n "$child" "$guard" 2> /dev/null
    status=$?
    if kill "$guard" 2> /dev/null; then
        wait "$guard" 2> /dev/null
    else
        status=124
    fi
    child='' guard=''
    return $((status == 137 ? 124 : status))
}
probe() { # whether a small kernel runs
    limited 60 "$MSA" check --backend cuda topk/warp --shape 'T=40 S=70 heads=4:2 width=64:64 block=32 topk=2'
}
probe
found=$? why=$(sed -n 's/.*expected a GPU, found //p' "$W/log") answer=$(tail -n 1 "$W/log")
[[ -z $why ]] || nothing "$why"

# ---- What is known already -----------------------------------------------------------------------------------------

mkdir -p "$DIR/.cuda" || exit 2
exec 9> "$DIR/.cuda/lock" # which a process left over from a killed run holds until its limit
left_over() { # such processes, whose results nobody wants any more; none where that run is alive
    local at pid left=()
    for at in /proc/[0-9]*/fd/9; do
        pid=${at#/proc/} pid=${pid%%/*}
        [[ $at -ef $DIR/.cuda/lock && $pid != "$$" && $pid != "$BASHPID" ]] || continue
        ! tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -q 'cuda\.sh ' || return
        left+=("$pid")
    done
    echo "${left[@]}"
}
end_left_over() { # whether there were some; a child that has not become its command yet looks like the run for a moment
    local pids i
    for i in 1 2 3; do
        pids=$(left_over)
        # shellcheck disable=SC2086
        [[ -z $pids ]] || { kill $pids 2> /dev/null && echo "gpu: ending what a killed run left at work" && return; }
        sleep 0.5
    done
    return 1
}
flock -n 9 || { end_left_over && flock -w 8 9; } ||
    { echo "gpu: waiting for what another run has at work" && flock -w $((LIMIT + 60)) 9; } || { echo "gpu: $DIR: another run does not end" >&2 && exit 1; }
rm -rf "$DIR/.cuda/part" && mkdir "$DIR/.cuda/part" || exit 2
table=$DIR/cuda.tsv
touch "$table" || exit 2
[[ ! -s $table || -z $(tail -c 1 "$table") ]] || echo >> "$table" # a line that a kill cut off
program=$(cksum < "$MSA" | cut -d ' ' -f 1)
if limited 20 nvidia-smi --query-gpu=name --format=csv,noheader && [[ -s $W/log ]]; then
    device=$(head -n 1 "$W/log")
else # it is not to be had, or lost: the one that this program has met last
    device=$(awk -F '\t' -v of="$program " 'NF == 6 && index($1, of) == 1 { name = substr($1, length(of) + 1) } END { print name }' "$table")
fi
id="$program ${device:-GPU}"

record() { # record STEP OUTCOME SECONDS WHAT
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$id" "$(date -u +%FT%TZ)" "$1" "$2" "$3" "${4//[$'\t\n']/ }" >> "$table"
}
room() { # whether what a step finds could be kept
    local place status=0
    for place in "$W" "$DIR/.cuda/part"; do
        head -c 1048576 /dev/zero 2> /dev/null > "$place/room" || status=1
        : 2> /dev/null > "$place/room"
    done
    return $status
}
declare -A outcome=() begun=() shape=() ids=() also=() keys=() limits=()
while IFS=$'\t' read -r of _ step what _ _; do
    [[ $of == "$id" ]] || continue
    outcome[$step]=$what
    [[ $what == ok && $step == bench* && ! -e $DIR/${step#bench }.json ]] && outcome[$step]=begun # its file is gone
    [[ $what != begun ]] || begun[$step]=$((${begun[$step]:-0} + 1))
    [[ $what != 'goes on' ]] || outcome[$step]=begun begun[$step]=0
done < <(awk -F '\t' 'NF == 6' "$table")

# A step waits for what it needs: a kernel is timed if it agrees, and a peer beside a kernel that was timed.
declare -A needs=()
over() { # over STEP: whether it has ended, or cannot begin any more
    local need=${needs[$1]:-}
    [[ ${outcome[$1]:-begun} =~ ^(begun|'goes on')$ ]] || return 0
    [[ -n $need ]] && over "$need" && [[ ${outcome[$need]:-} != ok ]]
}
ready() { # ready STEP
    ! over "$1" && [[ -z ${needs[$1]:-} || ${outcome[${needs[$1]}]:-} == ok ]]
}
finish() { # the page
    local step
    for step in "${steps[@]}"; do
        over "$step" || echo "$step"
    done > "$W/left"
    MSA=$MSA data/bench/cuda_summary.sh "$DIR" "$id" "$W/left" > "$W/page" && cp "$W/page" "$DIR/.cuda/part/page" && mv "$DIR/.cuda/part/page" "$DIR/cuda.md"
    cat "$W/page"
}

# ---- The steps, in their order -------------------------------------------------------------------------------------

add() { # add STEP [NEEDS [LIMIT]]: once
    [[ -z ${limits[$1]:-} ]] || return 0
    steps+=("$1") needs[$1]=${2:-} limits[$1]=${3:-$LIMIT}
}
add_peers() { # add_peers RUN.STAGE-NAME, or all: for the best kernels' files
    local step best='\.(dense-hopper|dense_backward-hopper|topk-threshold|sparse-union)$'
    for step in "${steps[@]}"; do
        [[ $step == "bench $1" || $1 == all && $step == bench* && $step =~ $best ]] && add "peers ${step#bench }" "$step" 600
    done
}
add_kernels() { # add_kernels NAME...: as the run's line says
    local name kernel step
    for name in "$@"; do
        for kernel in "${kernels[@]}"; do
            [[ $kernel == "$name" || $kernel == "$name"/* ]] || continue
            step="bench $run.${kernel/\//-}"
            [[ -z ${shape[$step]:-} ]] || continue
            shape[$step]=$words ids[$step]=$kind also[$step]=$more keys[$step]=$store
            add "agree $kernel"
            [[ $run != tuned* ]] && add "$step" "agree $kernel" "$limit" || add "$step" tune "$limit"
        done
    done
}
mapfile -t kernels < <("$MSA" kernels | awk -F '\t' '$2 ~ /cuda/ {print $1}')
SANITIZER=${SANITIZER:-$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)}
[[ -n $SANITIZER ]] || echo "gpu: no report of a sanitizer: no compute-sanitizer here"
torch=1
"$PYTHON" -c 'import torch, triton' 2> /dev/null || { torch='' && echo "gpu: no peers: $PYTHON has no PyTorch and Triton"; }

add "instructions all"
[[ ! ${outcome["instructions all"]:-} =~ hung|crashed ]] || add "instructions each"
while IFS='|' read -r run names words kind more store limit; do
    [[ $run =~ ${ONLY:-.} ]] || continue
    # shellcheck disable=SC2086
    case $names in
    sanitizer) [[ -z $SANITIZER ]] || add "sanitizer $words" ;;
    peers) [[ -z $torch ]] || add_peers "$words" ;;
    tune) add tune '' "$limit" ;;
    *) add_kernels $names ;;
    esac
done < <(data/bench/cuda_plan.sh)
# What was begun twice and never ended may be what stops the machine: last.
late=()
for i in "${!steps[@]}"; do
    [[ ${outcome[${steps[i]}]:-} == begun && ${begun[${steps[i]}]} -ge 2 ]] || continue
    late+=("${steps[i]}")
    unset "steps[i]"
done
steps+=("${late[@]}")

# ---- A step --------------------------------------------------------------------------------------------------------

well() { # whether nothing failed
    local step
    for step in "${!outcome[@]}"; do
        [[ ${outcome[$step]} =~ ^(ok|reported|begun|'goes on'|'left out')$ ]] || return 1
    done
}
stop() { # stop STATUS WHY: nothing more can be done now
    echo "gpu: stopped: $2"
    finish
    exit "$1"
}
judge() { # judge STEP STATUS LIMIT: its outcome, and what it said
    said=$(grep -m1 -E 'FAILED|^not ok|^msa ' "$W/log" || tail -n 1 "$W/log")
    case $2 in
    0) outcome[$1]=ok said=$(tail -n 1 "$W/log") ;;
    1) outcome[$1]=wrong ;;
    2) [[ $said =~ 'no memory'|'in the time of --limit' ]] && outcome[$1]='left out' || outcome[$1]=refused ;;
    124) outcome[$1]=hung said="no end within $3 s" ;;
    *) outcome[$1]=crashed said="exit status $2${said:+: $said}" ;;
    esac
    [[ $1 != tune || $2 -ne 0 ]] || ! grep -q '^left: ' "$W/log" || outcome[$1]='goes on'
    [[ $1 != sanitizer* ]] || said="${outcome[$1]}: $(grep -m1 'ERROR SUMMARY' "$W/log" || echo "$said")" outcome[$1]=reported
}
attempt() { # attempt STEP COMMAND...: its outcome on record; none where the budget cut it off
    local step=$1 start=$SECONDS limit=${limits[$1]:-$LIMIT} rest=$((deadline - SECONDS)) status said
    shift
    room || stop 1 "no room is left in $DIR or $W"
    record "$step" begun 0 ""
    outcome[$step]=begun
    limited $((limit < rest ? limit : rest)) "$@"
    status=$?
    [[ $status -eq 0 ]] || room || stop 1 "no room is left in $DIR or $W"
    [[ $step != bench* ]] || cat "$W/log"
    [[ $status -ne 124 || $limit -lt $rest ]] || return 0
    judge "$step" $status "$limit"
    # The file comes before the line that says that it is there.
    [[ $step != bench* || ${outcome[$step]} != ok ]] || { [[ $(tail -n 1 "$part") == '}' ]] && mv "$part" "$DIR/${step#bench }.json"; } ||
        outcome[$step]=refused said="it left no whole file"
    record "$step" "${outcome[$step]}" $((SECONDS - start)) "$said"
    echo "   ${outcome[$step]}, $((SECONDS - start)) s: $said"
    [[ ! ${outcome[$step]} =~ hung|crashed|refused ]] || probe || { sleep "$REST" && probe; } || stop 1 "the GPU does not answer after: $step"
}

instructions() { # instructions STEP: in one process; where that does not end, in one for each group
    local program=$B/tests/test_instructions group bad=ok
    [[ -x $program ]] || { echo "   left out: no $program here" && return; }
    if [[ $1 == *all ]]; then
        attempt "$1" "$program" 1 cuda
        [[ ${outcome[$1]} =~ hung|crashed ]] || return
        add "instructions each"
    fi
    timeout "$LIMIT" "$program" 1 2> /dev/null | sed -nE 's/^ok [0-9]+ - engine: (.*) \([0-9]+ verdicts\)$/\1/p' > "$W/groups"
    while IFS= read -r group; do
        [[ ${outcome["instructions $group"]:-begun} != begun || $SECONDS -ge $deadline ]] || attempt "instructions $group" "$program" 1 cuda "$group"
        [[ ${outcome["instructions $group"]:-begun} != begun ]] || return # the budget
        [[ ${outcome["instructions $group"]} == ok ]] || bad=wrong
    done < "$W/groups"
    outcome["instructions each"]=$bad
    record "instructions each" $bad 0 "each group in a process of its own"
}
bench() { # bench STEP
    local kernel=${1##*.}
    local tuned=''
    [[ $1 != "bench tuned"* ]] || tuned=$DIR/cuda.tuned
    part=$DIR/.cuda/part/${1#bench }.json
    attempt "$1" env MSA_TUNING="$tuned" "$MSA" bench "${kernel/-/\/}" --backend cuda --shape "${shape[$1]}" --distribution "${ids[$1]}" --seconds "$SECONDS_EACH" \
        --limit "${limits[$1]}" ${also[$1]:+--${also[$1]}} ${keys[$1]:+--index-keys "${keys[$1]}"} --json "$part"
}
tune() { # tune STEP: what a value took last has to fit twice into what it leaves
    local limit=${limits[$1]} rest=$((deadline - SECONDS))
    attempt "$1" "$MSA" tune --backend cuda --budget $((2 * (limit < rest ? limit : rest) / 3)) --out "$DIR/cuda.tuned"
}
sanitize() { # sanitize STEP TOOL STAGE: a small shape
    local few=40
    [[ $3 != *decode ]] || few=3
    attempt "$1" "$SANITIZER" --tool "$2" --error-exitcode 9 "$MSA" check --backend cuda "$3" --shape "T=$few S=70 heads=4:2 width=64:64 block=32 topk=2"
}

# ---- One after the other -------------------------------------------------------------------------------------------

[[ $found -le 1 ]] || stop 1 "the GPU does not answer: $answer"
for step in "${steps[@]}"; do
    ready "$step" || continue
    if [[ $((deadline - SECONDS)) -lt 5 ]]; then
        well
        stop $? "its time is over (GPU_BUDGET=$budget minutes); the same command goes on"
    fi
    echo "== $step"
    # shellcheck disable=SC2086
    case $step in
    instructions*) instructions "$step" ;;
    agree*) attempt "$step" "$MSA" check --backend cuda "${step#agree }" ;;
    bench*) bench "$step" ;;
    tune) tune "$step" ;;
    peers*) attempt "$step" "$PYTHON" data/bench/peers/gpu.py "$DIR/${step#peers }.json" ;;
    sanitizer*) sanitize "$step" ${step#sanitizer } ;;
    esac
done
finish
well
