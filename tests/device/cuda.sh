#!/usr/bin/env bash
# All that needs a GPU: the instructions of ptx.cuh against the engine, every kernel against the reference, the
# program on tiny shapes, and compute-sanitizer. `make test-cuda` builds for it and runs it; where nvcc, a GPU or a
# tool is missing it says so once and counts what it skipped.
#
# An illegal access spoils its process for every kernel after it: each kernel has a process of its own.
source "$(dirname "$0")/../support/tap.sh"
B=${B:-build}
S='S=70 heads=4:2 width=64:64 block=32 topk=2'
STAGES='dense index topk reverse sparse prefill decode dense_decode backward dense_backward kl'

queries() { # how many a stage gets: decode takes few
    [[ $1 == *decode ]] && echo T=3 || echo T=40
}

# What is missing here: one line, or nothing.
missing() {
    if [[ -n ${NO_CUDA:-} ]]; then
        echo "$NO_CUDA"
    elif ! "$MSA" kernels | cut -f 2 | grep -qw cuda; then
        echo "$MSA was built without nvcc: make cuda"
    else # the program looks for a device and says what it found
        "$MSA" check --backend cuda topk --shape "T=40 $S" 2>&1 > "$W.out" | sed -n 's/^msa check: --backend cuda: expected a GPU, found //p'
    fi
}

why=$(missing)
if [[ -n $why ]]; then
    skip "instructions, kernels, msa check, msa bench and compute-sanitizer on a GPU" "$why"
    finish
fi

export HANG_ENDLESS=600 # seconds of processor time: a kernel that never ends lets the host wait at work

# ---- Test programs: their lines, numbered anew -------------------------------------------------------------

run_program() { # run_program NAME COMMAND...
    local name=$1 line seen=$n plan=0
    shift
    while IFS= read -r line; do
        case $line in
        "not ok "*) n=$((n + 1)) failed=$((failed + 1)) && echo "not ok $n - ${line#* - }" ;;
        "ok "*) n=$((n + 1)) && echo "ok $n - ${line#* - }" ;;
        1..*) plan=${line#1..} ;;
        *) echo "$line" ;;
        esac
    done < <(tests/support/watched.sh "$@" 2>&1)
    [[ $plan -gt 0 && $((n - seen)) -eq $plan ]]
    check $? "$name ran to its end"
}
SEED=${MSA_SEED:-1}
run_program instructions "$B/tests/test_instructions" "$SEED" cuda
for kernel in $("$MSA" kernels | awk -F '\t' '$2 ~ /cuda/ {print $1}') -; do
    run_program "kernel $kernel" env TEST_BACKEND=cuda "$B/tests/test_kernels" "$SEED" "$kernel"
done
run_program "padded batches" env TEST_BACKEND=cuda "$B/tests/test_padding" "$SEED"
run_program "steps of generation, replayed as a CUDA graph" env TEST_BACKEND=cuda "$B/tests/test_decode" "$SEED"
run_program training env TEST_BACKEND=cuda "$B/tests/test_train_kernels" "$SEED"
run_program prefill "$B/tests/test_prefill" "$SEED" cuda

# ---- The program ---------------------------------------------------------------------------------------------

for stage in $STAGES; do
    tests/support/watched.sh "$MSA" check --backend cuda "$stage" > "$W.out" 2> "$W.err" && grep -q '^[1-9][0-9]* ok' "$W.out"
    check $? "msa check --backend cuda $stage: $(tail -n 1 "$W.out")"
done
for stage in $STAGES; do
    "$MSA" bench --backend cuda "$stage" --shape "$(queries "$stage") $S" --seconds 0.02 --no-ceilings > "$W.out" 2> "$W.err"
    check $? "msa bench --backend cuda $stage"
done
"$MSA" bench --backend cuda backward --kl --shape "T=40 $S" --seconds 0.02 --no-ceilings > "$W.out" 2> "$W.err" && grep -q '^backward/deterministic+kl .* yes' "$W.out"
check $? "msa bench --backend cuda backward --kl"

# ---- compute-sanitizer: every stage on a small shape ---------------------------------------------------------
# An access out of bounds fails. What the other tools report is shown and judges nothing: they do not know every order
# that mbarriers and the async proxy make.

SANITIZER=${SANITIZER:-$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)}
sanitize() { # sanitize TOOL NAME COMMAND...
    local tool=$1 name=$2
    shift 2
    tests/support/watched.sh "$SANITIZER" --tool "$tool" --error-exitcode 9 "$@" > "$W.out" 2> "$W.err"
    local status=$?
    if grep -qiE 'not supported|unable to|failed to initialize' "$W.out" && [[ $status -ne 9 ]] && ! grep -q 'ERROR SUMMARY' "$W.out"; then
        skip "$tool: $name" "compute-sanitizer does not run here: $(grep -iEm1 'not supported|unable|failed' "$W.out")"
    elif [[ $status -eq 9 && $tool != memcheck ]]; then
        skip "$tool: $name" "reported, not judged: $(grep -m1 'ERROR SUMMARY' "$W.out" | sed 's/^=* *//')"
    else
        check $status "$tool: $name"
    fi
}
for tool in memcheck racecheck synccheck initcheck; do
    if [[ -z $SANITIZER ]]; then
        skip "$tool" "no compute-sanitizer here"
        continue
    fi
    sanitize $tool "instructions: loads and stores" "$B/tests/test_instructions" "$SEED" cuda "loads and stores"
    sanitize $tool "instructions: mbarrier" "$B/tests/test_instructions" "$SEED" cuda mbarrier
    for stage in $STAGES; do
        sanitize $tool "$stage" "$MSA" check --backend cuda "$stage" --shape "$(queries "$stage") $S"
    done
done
finish
