#!/usr/bin/env bash
# msa train on ranks, threads and processes under mpirun: the losses of one process, bytes as the model says, one line for bad
# input, a checkpoint that is whole where a rank dies, and a run that goes on with another number of ranks.
source "$(dirname "$0")/support/tap.sh"

if ! has_models; then
    skip "training on ranks" "this build has no jansson, so no checkpoints"
    finish
fi
for i in $(seq 1500); do echo "line $i of a text that is the same on every machine: $((i * i % 1009))"; done > "$W/text"
train() { # train OUT PROGRAM... -- [OPTION...]; in the background `exec` makes $! the program itself
    local out=$1 program=()
    shift
    while [[ $1 != -- ]]; do program+=("$1") && shift; done
    ${exec-} "${program[@]}" train --text "${text-$W/text}" --out "$out" --steps "${steps-24}" --context 48 --layers 2 --d-model 16 --heads 2 \
        --kv-heads 1 --d-head 8 --d-index 8 --d-ff 24 --block 8 --topk 3 --index-warmup 8 --batch 4 --save-every 2 --seed 3 "${@:2}"
}
# near FILE FILE: the losses of two curves, which have five digits, within one of the last. What roundings do in so few steps is
# less (tests/test_train_ranks.c): a digit turns where it is near its half.
near() {
    paste -d, "$1" "$2" | awk -F, 'NR > 1 { for (c = 2; c <= 3; c++) { d = $c - $(c + 5); if (d < 0) d = -d; if (d > 1.01e-4 * $c) bad = 1 } }
        END { exit bad || NR < 3 }'
}
counted() { # bytes are the model's, and of each kind that a run like this one has to have
    awk '/^sent/ { seen = $2 + 0 == $7 + 0 && $2 > 0 } END { exit !seen }' "$W.out"
}
train "$W/one.safetensors" "$MSA" -- > "$W.out" 2> "$W.err"
check $? "one process"
equal() { # equal WHAT PROGRAM... -- [OPTION...]
    local what=$1
    shift
    rm -f "$W"/ranks.*
    train "$W/ranks.safetensors" "$@" > "$W.out" 2> "$W.err" && [[ ! -s $W.err && ! -e $W/ranks.safetensors.train ]] &&
        near "$W/one.csv" "$W/ranks.csv" && counted && grep -q '^held-out text' "$W.out"
    check $? "the losses of one process on $what"
}
equal "2 threads, windows dealt" "$MSA" -- --ranks 2
equal "2 threads, windows cut" "$MSA" -- --ranks 2 --context-ranks 2
equal "3 threads, which 4 windows are cut for" "$MSA" -- --ranks 3
equal "4 threads, both" "$MSA" -- --ranks 4 --context-ranks 2
awk '$1 ~ /^[0-3]$/ && NF == 8 && $2 == 48 { n++ } /of the mean$/ { even = $(NF - 3) < 1.05 } END { exit n != 4 || !even }' "$W.out"
check $? "... a row of the report for each, with even work"

# Stopped, it goes on with other ranks, also with none.
rm -f "$W"/cut.*
exec=exec steps=4000 train "$W/cut.safetensors" "$MSA" -- --ranks 2 > "$W.out" 2> "$W.err" &
pid=$!
while kill -0 $pid 2> /dev/null && [[ $(wc -l < "$W/cut.csv" 2> /dev/null) -lt 6 ]]; do sleep 0.05; done
kill -INT $pid
wait $pid
[[ -e $W/cut.safetensors.train && ! -e $W/cut.safetensors ]] && grep -q '^stopped after step' "$W.out" && grep -q '^2 ranks' "$W.out"
check $? "an interrupt leaves a state, and all ranks stop in the same step"
rm -f "$W"/cut.*

refuses() { # refuses WORD NAME PROGRAM... -- [OPTION...]
    local word=$1 name=$2
    shift 2
    rm -f "$W"/none.*
    train "$W/none.safetensors" "$@" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && ! -s $W.out && $(wc -l < "$W.err") -eq 1 && -z $(ls "$W" | grep none) ]] && grep -qF -- "$word" "$W.err"
    check $? "$name: one line"
}
refuses "--context-ranks: expected a divisor of the 4 ranks, found 3" "ranks that do not divide" "$MSA" -- --ranks 4 --context-ranks 3
refuses "--batch: expected a multiple of the 3 groups" "windows that do not divide" "$MSA" -- --ranks 3 --context-ranks 1
refuses "--context-ranks: expected it with --ranks" "shared windows without ranks" "$MSA" -- --context-ranks 2
refuses "--context: expected two tokens for each of the 32 ranks" "windows too short" "$MSA" -- --ranks 32 --context-ranks 32
refuses "--context-ranks: expected 1 with --sink" "a sink in windows that are cut" "$MSA" -- --ranks 2 --context-ranks 2 --sink
refuses "--batch: expected a multiple of the 3 ranks with --sink" "... that nobody asked to cut" "$MSA" -- --ranks 3 --sink
refuses "--backend: expected ref or fast" "threads of another back end" "$MSA" -- --ranks 2 --backend simt
head -c 20 "$W/text" > "$W/tiny"
text=$W/tiny refuses "--text: expected more than" "a text that every rank refuses" "$MSA" -- --ranks 2

# ---- Processes ------------------------------------------------------------------------------------------

MPI=$(dirname "$MSA")/msa-mpi
if [[ ! -x $MPI ]] || ! command -v mpirun > /dev/null; then
    skip "training under mpirun" "no $(basename "$MPI") or no mpirun here: MPI (libopenmpi-dev) was not found"
    finish
fi
[[ $(id -u) -ne 0 ]] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_base_warn_component_unused=0 OMP_NUM_THREADS=1
for ranks in $([[ -n ${FULL:-} ]] && echo 1 2 3 4 || echo 2 3); do
    equal "$ranks processes" mpirun -q -n $ranks "$MPI" --
done
equal "2 processes, windows cut" mpirun -q -n 2 "$MPI" -- --context-ranks 2
# A slow rank, which the others wait for: it stops again and again, for twice as long as it runs.
cat > "$W/one-is-slow" << 'END2'
if [ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -eq 1 ]; then
    (while kill -STOP $$; do sleep 0.02; kill -CONT $$; sleep 0.01; done) 2> /dev/null &
fi
exec "$@"
END2
equal "2 processes, one of which is slow" mpirun -q -n 2 sh "$W/one-is-slow" "$MPI" --
refuses "--ranks:" "ranks under mpirun" mpirun -q -n 2 "$MPI" -- --ranks 2
cat > "$W/one-differs" << 'END2'
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -ne 1 ] || set -- "$@" $OTHER
exec "$@"
END2
OTHER="--lr 1e-3" refuses "rank 1 of 2: expected the text and options of rank 0" "one of two ranks has another rate" \
    mpirun -q -n 2 sh "$W/one-differs" "$MPI" --
OTHER="--clip 0" refuses "--clip" "one of two ranks fails" mpirun -q -n 2 sh "$W/one-differs" "$MPI" --

# A rank that is killed after some steps (Open MPI may say "Read -1", if it was copying from it); the run goes on with three, and with one process, from the same state.
cat > "$W/says-its-process" << 'END2'
echo $$ > "$PIDS.${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}"
exec "$@"
END2
rm -f "$W"/cut.*
export PIDS="$W/pid"
exec=exec steps=100000 train "$W/cut.safetensors" mpirun -q -n 2 sh "$W/says-its-process" "$MPI" -- > "$W.out" 2> "$W.err" &
pid=$!
while kill -0 $pid 2> /dev/null && [[ $(wc -l < "$W/cut.csv" 2> /dev/null) -lt 8 ]]; do sleep 0.05; done
kill -KILL "$(< "$W/pid.1")"
wait $pid
[[ $? -ne 0 && -e $W/cut.safetensors.train && ! -e $W/cut.safetensors ]] &&
    [[ $(grep -v '^Read -1, expected [0-9]*, errno = 3$' "$W.err") == "msa train: rank 1 of 2 has died: the same command goes on from the last saved state" ]]
check $? "one of two ranks is killed: the other says so and ends, the last state is there"
cp "$W/cut.safetensors.train" "$W/state" && cp "$W/cut.csv" "$W/rows"
on() { # on NAME PROGRAM... -- [OPTION...]: goes on for a few steps
    rm -f "$W"/cut.*
    cp "$W/state" "$W/cut.safetensors.train" && cp "$W/rows" "$W/cut.csv"
    exec=exec steps=100000 train "$W/cut.safetensors" "${@:2}" > "$W.out" 2> "$W.err" &
    local pid=$! rows
    rows=$(($(wc -l < "$W/rows") + 6))
    while kill -0 $pid 2> /dev/null && [[ $(wc -l < "$W/cut.csv") -lt $rows ]]; do sleep 0.05; done
    kill -TERM $pid
    wait $pid 2> /dev/null
    head -n "$rows" "$W/cut.csv" > "$1"
    grep -q '^continuing after step' "$W.out"
}
on "$W/by-one.csv" "$MSA" -- && on "$W/by-three.csv" mpirun -q -n 3 "$MPI" -- && near "$W/by-one.csv" "$W/by-three.csv"
check $? "... whole: one process and three ranks go on from it with the same losses"
# No room for the state: the first says so, and none waits for it. (Messages by TCP: shared memory is a file as well.)
cat > "$W/one-writes-little" << 'END2'
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -ne 0 ] || ulimit -f 8
exec "$@"
END2
refuses "cannot write" "no room for the state" env OMPI_MCA_btl=self,tcp mpirun -q -n 2 sh "$W/one-writes-little" "$MPI" --
finish
