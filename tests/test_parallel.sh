#!/usr/bin/env bash
# Commands whose keys are dealt to ranks, threads of one process and processes under mpirun: the same ids as one process, an
# output that is as good, bytes as the model says, one line for bad input, nothing half-written where a rank dies.
source "$(dirname "$0")/support/tap.sh"
source tests/support/npy.sh
V=$PWD/data/vectors

if ! command -v perl > /dev/null; then
    skip "commands on ranks" "no perl here, which makes the tensors"
    finish
fi
# Small integers: scores are exact, and whole blocks tie.
tensor() { # tensor NAME SEED SHAPE
    perl -e 'srand shift; my $n = 1; $n *= $_ for split /, */, shift; print pack "f<*", map { int(rand 7) - 3 } 1 .. $n' "$2" "$3" |
        npy "$W/$1.npy" '<f4' "($3)"
}
tensor q 1 '150, 4, 16' && tensor qi 2 '150, 2, 8' && tensor k 3 '213, 2, 16' && tensor v 4 '213, 2, 16' && tensor ki 5 '213, 8'
in=(--q "$W/q.npy" --k "$W/k.npy" --v "$W/v.npy")
index=(--qi "$W/qi.npy" --ki "$W/ki.npy" --block 8 --topk 4)
# Four sequences, each with keys before its queries, the second without any; a packed call, and a batch with padding.
le32 0 40 40 100 150 | npy "$W/cu-q.npy" '<i4' '(5,)' && le32 0 70 90 153 213 | npy "$W/cu-kv.npy" '<i4' '(5,)'
le32 40 0 55 1 | npy "$W/len-q.npy" '<i4' '(4,)' && le32 61 20 60 60 | npy "$W/len-kv.npy" '<i4' '(4,)'
packed=(--cu-q "$W/cu-q.npy" --cu-kv "$W/cu-kv.npy")
padded=("${packed[@]}" --len-q "$W/len-q.npy" --len-kv "$W/len-kv.npy")
# Three requests, the second of which is not there; pages are half a block.
tensor step-q 6 '3, 2, 4, 16' && tensor step-qi 7 '3, 2, 2, 8' && tensor k-pages 8 '30, 2, 4, 16' && tensor v-pages 9 '30, 2, 4, 16'
tensor ki-pages 10 '30, 4, 8'
le32 7 3 28 11 0 21 9 2 14 5 -1 -1 -1 -1 -1 -1 $(yes -- -1 | head -n 16) 1 4 6 8 10 12 13 15 16 17 18 19 20 22 23 24 |
    npy "$W/table.npy" '<i4' '(3, 16)'
le32 37 0 61 | npy "$W/lens.npy" '<i4' '(3,)'
step=(--q "$W/step-q.npy" --qi "$W/step-qi.npy" --k-pages "$W/k-pages.npy" --v-pages "$W/v-pages.npy" --ki-pages "$W/ki-pages.npy"
    --page-table "$W/table.npy" --lens "$W/lens.npy" --block 8 --topk 3)
"$MSA" forward "${in[@]}" "${index[@]}" --backend ref --out "$W/forward" > "$W.out" 2> "$W.err" &&
    "$MSA" decode "${step[@]}" --backend ref --out "$W/decode" > "$W.out" 2> "$W.err" &&
    "$MSA" dense "${in[@]}" --backend ref --out "$W/dense" > "$W.out" 2> "$W.err"
check $? "one process"
for kind in packed padded; do
    [[ $kind == packed ]] && seqs=("${packed[@]}") || seqs=("${padded[@]}")
    "$MSA" forward "${in[@]}" "${index[@]}" "${seqs[@]}" --backend ref --out "$W/$kind-forward" > "$W.out" 2> "$W.err" &&
        "$MSA" dense "${in[@]}" "${seqs[@]}" --backend ref --out "$W/$kind-dense" > "$W.out" 2> "$W.err"
    check $? "... $kind sequences"
done

# near FILE FILE [BOUND]: floats within 1.6e-5 of each other, infinities where they are. Logits are up to 36 and values up to 3,
# so that 2^-24 (3 + 2 (40 + log 7)) 3 = 1.6e-5 is what merging may move O by, in the worst case.
near() {
    perl -e 'sub floats { open my $f, "<:raw", shift or die; local $/; substr(<$f>, 128) }
        my @a = unpack "f<*", floats(shift); my @b = unpack "f<*", floats(shift);
        my $most = shift // 1.6e-5;
        exit 1 if @a != @b || !@a;
        for (0 .. $#a) { exit 1 unless $a[$_] == $b[$_] || abs($a[$_] - $b[$_]) <= $most }' "$1" "$2" "${@:3}"
}
# on WHAT RANKS PROGRAM...: the three commands by that program, both ways, against one process
on() {
    local what=$1 ranks=$2 call command backend move
    shift 2
    for call in forward decode dense packed-forward packed-dense padded-forward padded-dense; do
        command=${call#*-}
        case $command in
        forward) args=("${in[@]}" "${index[@]}") ;;
        decode) args=("${step[@]}") ;;
        dense) args=("${in[@]}") ;;
        esac
        case $call in
        packed-*) args+=("${packed[@]}") ;;
        padded-*) args+=("${padded[@]}") ;;
        esac
        for move in queries keys; do
            backend=$([[ $command == forward ]] && echo fast || echo ref)
            rm -rf "$W/found"
            "$@" $command "${args[@]}" --backend $backend --move $move --out "$W/found" > "$W.out" 2> "$W.err" && [[ ! -s $W.err ]] &&
                { [[ $command == dense ]] || cmp -s "$W/$call/ids.npy" "$W/found/ids.npy"; } &&
                near "$W/$call/o.npy" "$W/found/o.npy" && near "$W/$call/lse.npy" "$W/found/lse.npy" &&
                awk '/^sent/ { seen = $2 + 0 == $7 + 0 && ('"$ranks"' == 1 || $2 > 0) } END { exit !seen }' "$W.out" &&
                grep -q "^$ranks rank$([[ $ranks == 1 ]] || echo s), $move travel" "$W.out"
            check $? "$call on $ranks $what, $move travel"
        done
    done
}
# The program's own, with the threads of one process.
threads() {
    local ranks=$1
    shift
    "$MSA" "$@" --ranks "$ranks"
}
for ranks in 1 2 3 4 7; do
    on threads $ranks threads $ranks
done
# Gradients, sparse and of the warmup: rows to the bit, sums of ranks' parts within float32's rounding; the loss as printed.
tensor dout 11 '150, 4, 16'
gradients() { # gradients WHAT PROGRAM...
    local what=$1 support name ok
    shift
    for support in "" --full-support padded; do
        args=("${in[@]}" "${index[@]}" --dout "$W/dout.npy" --kl-weight 0.5 --backend ref)
        case $support in
        padded) args+=("${padded[@]}") ;;
        *) args+=($support) ;;
        esac
        [[ -e $W/backward$support ]] || "$MSA" backward "${args[@]}" --out "$W/backward$support" > "$W/backward$support.kl" 2> "$W.err"
        rm -rf "$W/found"
        "$@" backward "${args[@]}" --out "$W/found" > "$W.out" 2> "$W.err" && [[ ! -s $W.err ]] &&
            [[ $(sed -n 's/^kl \(.\{10\}\).*/\1/p' "$W.out") == $(sed -n 's/^kl \(.\{10\}\).*/\1/p' "$W/backward$support.kl") ]] &&
            awk '/^sent/ { seen = $2 + 0 == $7 + 0 && $2 > 0 } END { exit !seen }' "$W.out"
        ok=$?
        for name in dq dk dv dqi dki; do
            near "$W/backward$support/$name.npy" "$W/found/$name.npy" || ok=1
        done
        check $ok "backward $support on $what"
    done
}
gradients "3 threads" threads 3
gradients "4 threads" threads 4
threads 3 backward "${args[@]}" --move queries --out "$W/found" > "$W.out" 2> "$W.err" &&
    grep -q '^3 ranks, queries travel, and keys for the gradients' "$W.out"
check $? "the report of gradients says that they move keys, where queries travel too"
# What ranks read is bytes of files, whatever those hold: K of 8 a number, V of 2, all rows once.
payload "$W/k.npy" | perl -e 'local $/; print pack "d<*", unpack "f<*", <STDIN>' | npy "$W/k-8.npy" '<f8' '(213, 2, 16)'
payload "$W/v.npy" | perl -e 'local $/; print map { substr $_, 2 } unpack "(a4)*", <STDIN>' | npy "$W/v-2.npy" '<V2' '(213, 2, 16)'
rm -rf "$W/found"
threads 3 dense --q "$W/q.npy" --k "$W/k-8.npy" --v "$W/v-2.npy" --backend ref --move queries --out "$W/found" > "$W.out" 2> "$W.err" &&
    near "$W/dense/o.npy" "$W/found/o.npy" &&
    awk 'NF > 6 && $1 ~ /^[0-2]$/ { n += $6 } END { exit n != 150 * 64 * 4 + 213 * 32 * (8 + 2) }' "$W.out"
check $? "the bytes that ranks read are those of files of float64 and bf16"
# One query, which one rank is the home of: the other has nothing to do but to move keys, and waits.
zeros $((256 * 64)) | npy "$W/one-q.npy" '<f4' '(1, 256, 64)'
zeros $((8192 * 64)) | npy "$W/one-k.npy" '<f4' '(8192, 1, 64)'
threads 2 dense --q "$W/one-q.npy" --k "$W/one-k.npy" --v "$W/one-k.npy" --backend ref --move keys --out "$W/found" > "$W.out" 2> "$W.err" &&
    awk '$1 == 0 && NF > 6 { worked = $4 } $1 == 1 && NF > 6 { waited = $5 } END { exit !(waited > worked / 2) }' "$W.out"
check $? "who has nothing to do waits for the others"
# Keys of 8 bits screen, and what they leave open is settled in full: the ids of one process, and the bytes of full keys.
tensor far-q 19 '9, 4, 16' && tensor far-qi 20 '9, 2, 8' && tensor far-k 21 '500, 2, 16' && tensor far-v 22 '500, 2, 16' && tensor far-ki 23 '500, 8'
far=(--q "$W/far-q.npy" --k "$W/far-k.npy" --v "$W/far-v.npy" --qi "$W/far-qi.npy" --ki "$W/far-ki.npy" --block 8 --topk 4)
"$MSA" forward "${far[@]}" --backend ref --out "$W/far" > "$W.out" 2> "$W.err"
for move in queries keys; do
    rm -rf "$W/found"
    threads 3 forward "${far[@]}" --index-keys int8 --move $move --out "$W/found" > "$W.out" 2> "$W.err" &&
        cmp -s "$W/far/ids.npy" "$W/found/ids.npy" && near "$W/far/o.npy" "$W/found/o.npy" &&
        awk '/^sent/ { seen = $2 + 0 == $7 + 0 && $2 > 0 } END { exit !seen }' "$W.out" &&
        if [[ $move == keys ]]; then
            grep -q '^ran index/screened' "$W.out"
        else # of 62 blocks an owner has 20, and 9 queries of 2 groups ask 3 of them
            awk '/^owners scored/ { seen = $3 > 0 && $3 < $5 && $(NF - 3) <= $(NF - 1) && $(NF - 1) > 0 } END { exit !seen }' "$W.out"
        fi
    check $? "forward with 8-bit keys on 3 ranks, $move travel"
done
rm -rf "$W/found"
threads 2 decode "${step[@]}" --index-keys int8 --out "$W/found" > "$W.out" 2> "$W.err" && cmp -s "$W/decode/ids.npy" "$W/found/ids.npy" &&
    grep -q '^owners scored' "$W.out"
check $? "a step with 8-bit keys on 2 ranks"
le32 0 0 0 | npy "$W/nobody.npy" '<i4' '(3,)'
nobody=("${step[@]}") # in any place of the batch
nobody[13]="$W/nobody.npy"
"$MSA" decode "${nobody[@]}" --out "$W/nobody" > "$W.out" 2> "$W.err"
for move in queries keys; do
    rm -rf "$W/found"
    "$MSA" decode "${nobody[@]}" --ranks 3 --move $move --out "$W/found" > "$W.out" 2> "$W.err" && diff -r "$W/nobody" "$W/found" > "$W.out"
    check $? "a batch without requests, $move travel"
done
"$MSA" decode "${step[@]}" --ranks 2 --out "$W/found" > "$W.out" 2> "$W.err" && grep -q '^ran dense_decode/[a-z]* (fast)$' "$W.out"
check $? "the cheaper way is taken: a step moves queries"
"$MSA" forward "${in[@]}" "${index[@]}" --ranks 2 --out "$W/found" > "$W.out" 2> "$W.err" && grep -q '^ran index/' "$W.out"
check $? "... and a long chunk keys"

# Kernels of cuda/ where the keys lie, on the engine: of threads, who share it, or of processes. Small integers are bf16.
engine=$("$MSA" kernels | grep -c simt)
if [[ $engine -gt 0 ]]; then
    tensor q64 12 '40, 4, 64' && tensor qi64 13 '40, 2, 64' && tensor k64 14 '150, 2, 64' && tensor v64 15 '150, 2, 64' && tensor ki64 16 '150, 64'
    wide=(--q "$W/q64.npy" --k "$W/k64.npy" --v "$W/v64.npy" --qi "$W/qi64.npy" --ki "$W/ki64.npy" --block 32 --topk 2)
    tensor q-step64 19 '3, 2, 4, 64' && tensor qi-step64 20 '3, 2, 2, 64' && tensor k-pages64 21 '12, 2, 32, 64'
    tensor v-pages64 22 '12, 2, 32, 64' && tensor ki-pages64 23 '12, 32, 64'
    le32 3 7 1 -1 -1 -1 -1 -1 11 0 2 4 | npy "$W/table64.npy" '<i4' '(3, 4)'
    le32 70 0 117 | npy "$W/lens64.npy" '<i4' '(3,)'
    wide_step=(--q "$W/q-step64.npy" --qi "$W/qi-step64.npy" --k-pages "$W/k-pages64.npy" --v-pages "$W/v-pages64.npy"
        --ki-pages "$W/ki-pages64.npy" --page-table "$W/table64.npy" --lens "$W/lens64.npy" --topk 2)
    "$MSA" forward "${wide[@]}" --backend ref --out "$W/wide" > "$W.out" 2> "$W.err" &&
        "$MSA" decode "${wide_step[@]}" --backend ref --out "$W/wide-step" > "$W.out" 2> "$W.err"
    check $? "one process, of widths that kernels take"
    tensor far-k64 24 '2000, 2, 64' && tensor far-v64 25 '2000, 2, 64' && tensor far-ki64 26 '2000, 64'
    tensor far-q64 27 '5, 4, 64' && tensor far-qi64 28 '5, 2, 64'
    screened=(--q "$W/far-q64.npy" --k "$W/far-k64.npy" --v "$W/far-v64.npy" --qi "$W/far-qi64.npy" --ki "$W/far-ki64.npy" --block 32 --topk 3)
    "$MSA" forward "${screened[@]}" --backend ref --out "$W/screened" > "$W.out" 2> "$W.err"
    check $? "... and of more blocks"
    tensor dout64 29 '40, 4, 64'
    "$MSA" backward "${wide[@]}" --dout "$W/dout64.npy" --backend simt --out "$W/wide-backward" > "$W.out" 2> "$W.err"
    check $? "... and its gradients"
fi
# on_device BACKEND WHAT PROGRAM...: the ids of the reference, O as bf16 weights and parts leave it (of values up to 3), bytes
# as the model says
on_device() {
    local backend=$1 what=$2 move name
    shift 2
    if [[ $engine -eq 0 ]]; then
        skip "kernels of cuda/, $what" "no C++ compiler was here"
        return
    fi
    for move in keys queries; do
        for name in wide wide-step; do
            args=(forward "${wide[@]}")
            [[ $name == wide ]] || args=(decode "${wide_step[@]}")
            rm -rf "$W/found"
            "$@" "${args[@]}" --backend "$backend" --move $move --out "$W/found" > "$W.out" 2> "$W.err" && [[ ! -s $W.err ]] &&
                cmp -s "$W/$name/ids.npy" "$W/found/ids.npy" && grep -qE "^ran (sparse|dense_decode)/[a-z_]+ \($backend\)" "$W.out" &&
                near "$W/$name/o.npy" "$W/found/o.npy" 0.05 && near "$W/$name/lse.npy" "$W/found/lse.npy" 1e-4 &&
                awk '/^sent/ { seen = $2 + 0 == $7 + 0 } END { exit !seen }' "$W.out"
            check $? "kernels of cuda/, $what, ${args[0]}, $move travel"
        done
    done
    rm -rf "$W/found"
    "$@" forward "${screened[@]}" --backend "$backend" --index-keys int8 --move queries --out "$W/found" > "$W.out" 2> "$W.err" &&
        cmp -s "$W/screened/ids.npy" "$W/found/ids.npy" &&
        awk '/^sent/ { seen = $2 + 0 == $7 + 0 } /^owners scored/ { fewer = $3 > 0 && 2 * $3 < $5 } END { exit !(seen && fewer) }' "$W.out"
    check $? "kernels of cuda/, $what, owners screen by 8-bit keys"
    rm -rf "$W/found" # rows as they come from one engine, sums within float32's rounding; from a GPU as bf16 leaves them
    local ok=0 most=$([[ $backend == simt ]] && echo 1.6e-5 || echo 0.1)
    "$@" backward "${wide[@]}" --dout "$W/dout64.npy" --backend "$backend" --move keys --out "$W/found" > "$W.out" 2> "$W.err" &&
        awk '/^sent/ { seen = $2 + 0 == $7 + 0 } END { exit !seen }' "$W.out" || ok=1
    for name in dq dqi; do
        [[ $backend != simt ]] || cmp -s "$W/wide-backward/$name.npy" "$W/found/$name.npy" || ok=1
    done
    for name in dq dqi dk dv dki; do
        near "$W/wide-backward/$name.npy" "$W/found/$name.npy" $most || ok=1
    done
    check $ok "kernels of cuda/, $what, gradients"
}
on_device simt "on the engine, 3 threads" threads 3

refuses() { # refuses WORD NAME COMMAND...
    local word=$1 name=$2
    shift 2
    rm -rf "$W/none"
    "$@" --out "$W/none" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && ! -e $W/none && ! -s $W.out && $(wc -l < "$W.err") -eq 1 ]] && grep -qF -- "$word" "$W.err"
    check $? "$name: one line"
}
refuses "--move:" "an unknown way" "$MSA" forward "${in[@]}" "${index[@]}" --ranks 2 --move values
refuses "--move:" "a way without ranks" "$MSA" dense "${in[@]}" --move keys
refuses "--backend: expected ref, fast or simt where ranks are threads, found 'cuda'" "threads for a GPU" "$MSA" forward "${in[@]}" "${index[@]}" \
    --ranks 2 --backend cuda
refuses "--ids" "ranks with given ids" "$MSA" forward "${in[@]}" "${index[@]:0:6}" --ids "$W/forward/ids.npy" --ranks 2
refuses "--index-keys:" "ranks with keys rounded to 8 bits" "$MSA" decode "${step[@]}" --ranks 2 --index-keys fp8

# ---- Processes ------------------------------------------------------------------------------------------

MPI=$(dirname "$MSA")/msa-mpi
if [[ ! -x $MPI ]] || ! command -v mpirun > /dev/null; then
    skip "commands under mpirun" "no $(basename "$MPI") or no mpirun here: MPI (libopenmpi-dev) was not found"
    finish
fi
[[ $(id -u) -ne 0 ]] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_base_warn_component_unused=0 OMP_NUM_THREADS=1
processes() {
    local ranks=$1
    shift
    mpirun -q -n "$ranks" "$MPI" "$@"
}
for ranks in $([[ -n ${FULL:-} ]] && echo 1 2 3 4 7 || echo 1 4); do
    on processes $ranks processes $ranks
done
gradients "2 processes" processes 2
processes 2 forward "${in[@]}" "${index[@]}" --backend ref --out "$W/found" > "$W.out" 2> "$W.err" &&
    cmp -s "$W/forward/o.npy" "$W/found/o.npy" && (cd "$W/found" && sha256sum --quiet -c forward.sha256)
check $? "keys that travel leave no other bits; one rank writes all of it"
# K and V of 128 MB each, of which 4 ranks have 32 each; all but the first have too little memory for one of the two.
cat > "$W/others-have-little" << 'END2'
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -eq 0 ] || ulimit -v 420000
exec "$@"
END2
zeros 512 | npy "$W/big-q.npy" '<f4' '(1, 8, 64)' && npy "$W/big-k.npy" '<f4' '(65536, 8, 64)' < /dev/null &&
    truncate -s $((128 + 65536 * 8 * 64 * 4)) "$W/big-k.npy"
big=(--q "$W/big-q.npy" --k "$W/big-k.npy" --v "$W/big-k.npy" --backend ref --move queries --out "$W/found")
rm -rf "$W/found"
if ldd "$MPI" | grep -q lib.san; then
    skip "keys that no rank has room for" "sanitizers need more address space"
else
    mpirun -q -n 4 sh "$W/others-have-little" "$MPI" dense "${big[@]}" > "$W.out" 2> "$W.err" &&
        awk 'NF > 6 && $1 ~ /^[0-3]$/ { n += $6 == 67108864 + ($1 == 0) * 2048 } END { exit n != 4 }' "$W.out"
    check $? "keys that no rank has room for: each reads its own, and no more"
fi
[[ $engine -eq 0 ]] || refuses "expected sizes that the kernels of simt take on ranks, found G 2, dh 16" "sizes for no kernel of a device" \
    processes 3 forward "${in[@]}" "${index[@]}" --backend simt
refuses "k.npy" "a file that no rank has" processes 3 forward --q "$W/q.npy" --k "$W/none/k.npy" --v "$W/v.npy" "${index[@]}"
refuses "--ranks:" "ranks under mpirun" processes 2 dense "${in[@]}" --ranks 2
processes 2 cost > "$W.out" 2> "$W.err"
[[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 ]] && grep -q 'expected one process, found 2' "$W.err"
check $? "a command that cannot be several"
processes 1 cost --ranks 4 --n 1M > "$W.out" 2> "$W.err" && [[ ! -s $W.err ]] && "$MSA" cost --ranks 4 --n 1M | cmp -s - "$W.out"
check $? "... is one process"
on_device simt "on the engine, 2 processes" processes 2
gpus=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU')
if ! "$MSA" kernels | cut -f 2 | grep -qw cuda; then
    skip "kernels of cuda/ on GPUs, over NCCL" "$MSA was built without nvcc: make cuda"
else
    if ldd "$MSA" | grep -q nccl; then false; fi
    check $? "the program that is one process needs no NCCL"
    if [[ $gpus -eq 0 ]]; then
        skip "kernels of cuda/ on GPUs, over NCCL" "no GPU here"
        refuses "--backend cuda:" "processes without a GPU" processes 2 forward "${wide[@]}" --backend cuda
    else
        on_device cuda "$gpus processes, a GPU each" processes "$gpus"
    fi
fi
# A file system that is full for the one that writes: of 8 KiB a file here, and O has 38. (Messages by TCP: shared memory is a
# file as well.)
cat > "$W/one-writes-little" << 'END2'
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -ne 0 ] || ulimit -f 8
exec "$@"
END2
refuses "cannot write" "no room for the output" env OMPI_MCA_btl=self,tcp mpirun -q -n 2 sh "$W/one-writes-little" "$MPI" dense "${in[@]}"
# Only one of them misses a file: that one says so, and none hangs.
cat > "$W/one-fails" << 'END2'
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -ne 2 ] || set -- "$@" --block 0
exec "$@"
END2
refuses "--block:" "one of three ranks fails, not the first" mpirun -q -n 3 sh "$W/one-fails" "$MPI" forward "${in[@]}" "${index[@]:0:4}"
# A machine may have a file of its own: other sizes, other numbers, other options.
cat > "$W/one-differs" << 'END2'
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -ne 2 ] || { shift $#; eval "set -- $OTHER"; }
exec "$@"
END2
differs() { # differs NAME COMMAND... OTHER: rank 2 of 3 runs the last one
    local what=$1
    shift
    OTHER="'$MPI' ${*: -1} --out '$W/none'" refuses "rank 2 of 3: expected the tensors" "one of three ranks has $what" \
        mpirun -q -n 3 sh "$W/one-differs" "$MPI" "${@:1:$#-1}"
}
le32 37 0 60 | npy "$W/lens-other.npy" '<i4' '(3,)'
tensor q-other 17 '150, 4, 16' && tensor q-fewer 18 '100, 4, 16'
differs "another q" dense "${in[@]}" "dense ${in[*]/%q.npy/q-other.npy}"
differs "fewer queries" dense "${in[@]}" "dense ${in[*]/%q.npy/q-fewer.npy}"
differs "another way" dense "${in[@]}" --move keys "dense ${in[*]} --move queries"
differs "other blocks" forward "${in[@]}" "${index[@]}" "forward ${in[*]} ${index[*]:0:4} --block 16 --topk 4"
differs "another back end" dense "${in[@]}" "dense ${in[*]} --backend ref"
differs "another kernel" forward "${in[@]}" "${index[@]}" "forward ${in[*]} ${index[*]} --kernel sparse/naive"
differs "another length" decode "${step[@]}" "decode ${step[*]/%lens.npy/lens-other.npy}"
cat > "$W/one-command-differs" << 'END2'
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -ne "$ODD" ] || { shift $#; eval "set -- '$MPI' $OTHER"; }
exec "$@"
END2
for odd in '0 version' '2 version' '1 help' '1 train' '2 decode'; do
    MPI=$MPI ODD=${odd% *} OTHER=${odd#* } refuses "expected one command, found '" "rank $odd, the others dense" \
        timeout 60 mpirun -q -n 3 sh "$W/one-command-differs" "$MPI" dense "${in[@]}"
done
cat > "$W/one-dies" << 'END2'
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -ne 1 ] || kill -9 $$
exec "$@"
END2
# Open MPI copies from process to process, and says "Read -1" (ESRCH) if one dies while it does.
ends() { # ends NAME LINE PROGRAM...: some status, this line and no other of ours, nothing written
    local what=$1 line=$2
    shift 2
    rm -rf "$W/none"
    "$@" --out "$W/none" > "$W.out" 2> "$W.err"
    [[ $? -ne 0 && ! -e $W/none && ! -s $W.out && $(grep -v '^Read -1, expected [0-9]*, errno = 3$' "$W.err") == "$line" ]]
    check $? "$what: the others end, nothing is written"
}
ends "one of three ranks is killed before it joins" "" mpirun -q -n 3 sh "$W/one-dies" "$MPI" forward "${in[@]}" "${index[@]}"
# Later, in the middle of many seconds of work: it has opened the last of its files, so all have joined.
cat > "$W/one-dies-later" << 'END2'
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -ne "$WHO" ] || (until ls -l /proc/$$/fd 2> /dev/null | grep -q one-k; do sleep 0.05; done; sleep 0.5; kill -9 $$) &
exec "$@"
END2
zeros $((8192 * 512)) | npy "$W/long-q.npy" '<f4' '(8192, 8, 64)'
long=(dense --q "$W/long-q.npy" --k "$W/one-k.npy" --v "$W/one-k.npy" --backend ref)
for WHO in 0 2; do
    export WHO
    ends "rank $WHO of three is killed at work, another says so" "msa dense: rank $WHO of 3 has died" mpirun -q -n 3 sh "$W/one-dies-later" \
        "$MPI" "${long[@]}"
done
ends "mpirun is stopped, nobody has died" "" timeout --foreground -s TERM 2 mpirun -q -n 3 "$MPI" "${long[@]}"
# Ranks have memory to read what is their own, and not for all keys: of those that cannot go on one says why, and no other that it has died.
cat > "$W/all-have-little" << 'END2'
ulimit -v 420000
exec "$@"
END2
if ldd "$MPI" | grep -q lib.san; then
    skip "three ranks have too little memory" "sanitizers need more address space"
else
    mpirun -q -n 3 sh "$W/all-have-little" "$MPI" dense "${big[@]:0:8}" --move keys --out "$W/none" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && ! -e $W/none && ! -s $W.out && $(wc -l < "$W.err") -eq 1 ]] && grep -q '^msa dense: rank [0-2] of 3: expected memory' "$W.err"
    check $? "three ranks have too little memory: one line"
fi
# What rank 0 prints goes to mpirun. Where that is a full device, nobody but mpirun can know; a full device of its own is an error.
cat > "$W/prints-to-full" << 'END2'
exec "$@" > /dev/full
END2
rm -rf "$W/none"
mpirun -q -n 2 sh "$W/prints-to-full" "$MPI" dense "${in[@]}" --out "$W/none" > "$W.out" 2> "$W.err"
[[ $? -eq 2 && ! -e $W/none && $(< "$W.err") == "msa dense: standard output: expected to write there, found it closed or full" ]]
check $? "a full device for what the first rank prints: one line, nothing written"
# A slow rank, which the others wait for: it stops again and again, for twice as long as it runs.
cat > "$W/one-is-slow" << 'END2'
if [ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -eq 1 ]; then
    (while kill -STOP $$; do sleep 0.02; kill -CONT $$; sleep 0.01; done) 2> /dev/null &
fi
exec "$@"
END2
slow() { mpirun -q -n 3 sh "$W/one-is-slow" "$MPI" "$@"; }
rm -rf "$W/found"
slow forward "${in[@]}" "${index[@]}" --backend ref --move keys --out "$W/found" > "$W.out" 2> "$W.err" && [[ ! -s $W.err ]] &&
    cmp -s "$W/forward/o.npy" "$W/found/o.npy" && cmp -s "$W/forward/ids.npy" "$W/found/ids.npy"
check $? "one of three ranks is slow"
finish
