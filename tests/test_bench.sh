#!/usr/bin/env bash
# msa bench on tiny shapes: it judges, times and judges again, writes what it is to write, and refuses bad input in
# one line, with exit status 2 and nothing written.
source "$(dirname "$0")/support/tap.sh"
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
S='T=40 S=70 heads=4:2 width=64:64 block=32 topk=2'

runs() { # runs STATUS NAME ARGUMENT...: exits so, silent on stderr
    local want=$1 name=$2
    shift 2
    "$MSA" bench --no-ceilings "$@" > "$W.out" 2> "$W.err"
    [[ $? -eq $want && ! -s $W.err ]]
    check $? "$name"
}
says() { # says PATTERN: on stdout of the last run
    grep -qE -- "$1" "$W.out"
    check $? "... and prints $1"
}
refuses() { # refuses PATTERN NAME ARGUMENT...: one line on stderr, exit status 2, nothing written
    local pattern=$1 name=$2
    shift 2
    "$MSA" bench "$@" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && -z $(ls "$W") ]] && grep -qF -- "$pattern" "$W.err"
    check $? "refused: $name"
}
has() { # has BACKEND: whether this build has it
    "$MSA" kernels | cut -f 2 | grep -qw "$1"
}

has_json=0
if "$MSA" bench --no-ceilings topk/reference --shape "$S" --seconds 0.01 --json "$W/results.json" > "$W.out" 2> "$W.err"; then
    has_json=1
    rm "$W/results.json"
fi

# ---- What it is for --------------------------------------------------------------------------------------

for stage in dense index sparse backward kl; do
    runs 0 "$stage of fast" "$stage/tiles" --shape "$S" --seconds 0.02
    says "^$stage/tiles \(fast\) before timing: ok, .* 40 of 40 queries judged; seed 1$"
    says "^$stage/tiles \(fast\) after timing: ok"
    says "^$stage/tiles +fast .* yes$"
done
runs 0 "dense_backward of fast" dense_backward/ruled --shape "$S" --seconds 0.02
says '^dense_backward/ruled \(fast\) after timing: ok'
for stage in topk reverse; do
    runs 0 "$stage, which fast leaves to the reference" "$stage" --shape "$S" --seconds 0.02
    says "^$stage/reference +ref .* yes$"
done
runs 0 "log-sum-exps, another selection and seed" sparse/tiles index dense decode --lse --distribution structured --seed 5 \
    --shape "$S" --seconds 0.02
says '^sparse/tiles \(fast\) after timing: ok, .*; seed 5$'
for stage in backward kl; do
    runs 0 "$stage, all of fast's" "$stage" --shape "$S" --seconds 0.02
    for kernel in tiles blocks ruled; do
        says "^$stage/$kernel +fast .* yes$"
    done
done
runs 0 "steps of generation with keys in bf16" decode dense_decode --bf16-keys --shape 'T=1 S=500 heads=4:2 width=16:8 block=8 topk=2' \
    --seconds 0.02
says '^decode/streams \(fast\) after timing: ok'
says '^dense_decode/streams \(fast\) after timing: ok'
refuses "--bf16-keys: expected decode" "keys in bf16 for a kernel that reads none" dense --bf16-keys --shape "$S"
for shape in 'T=6 S=90 heads=4:2 width=16:8 block=8 topk=3 seqs=3' 'T=26 S=51 heads=4:2 width=16:8 block=8 topk=2 seqs=4'; do
    runs 0 "packed sequences: $shape" dense index topk reverse sparse/ruled prefill decode backward dense_backward kl --shape "$shape" --seconds 0.02
    rows=$(grep -cE '^[a-z_]+/[a-z_]+ +(fast|ref) ' "$W.out")
    [[ $rows -ge 14 && $(grep -cE '^[a-z_]+/[a-z_]+ +(fast|ref) .* yes$' "$W.out") -eq $rows ]]
    check $? "... and all of them hold"
done
for kind in random hot local structured; do
    runs 0 "ids: $kind" sparse reverse --distribution $kind --shape "$S" --seconds 0.02
done
if has simt; then
    runs 0 "the engine" dense/naive topk --backend simt --shape 'T=9 S=40 heads=2:1 width=64:64 block=32 topk=2' \
        --seconds 0.02
    says '^dense/naive +simt .* - +yes  \(the engine.s time, not a GPU.s\)$'
    STEPS='T=2 S=200 heads=2:1 width=64:64 block=32 topk=2 seqs=2'
    runs 0 "a batch of steps over pages" decode/swapped dense_decode --backend simt --shape "$STEPS" --seconds 0.02
    runs 0 "8-bit index keys" decode --backend simt --index-keys fp8 --shape "$STEPS" --seconds 0.02
    says '^decode/split \(simt\) does not take this shape, or no 8-bit index keys'
    says '^decode/swapped \(simt\) after timing: ok'
    runs 0 "index keys screened by an 8-bit copy, on the engine" decode prefill/auto --backend simt --index-keys int8 --shape "$STEPS" --seconds 0.02
    says '^decode/split \(simt\) does not take this shape, or no 8-bit index keys'
    for kernel in decode/swapped prefill/auto; do
        says "^$kernel \(simt\) after timing: ok"
    done
    [[ $(grep -cE '^  its 8-bit copy +simt  int8 +[0-9.e+-]+ ms to make it, once and before$' "$W.out") -eq 2 &&
        $(grep -cE '^  screened by 8 bits: [0-9]+ of [1-9][0-9]* blocks settled, [0-9]+ of [1-9][0-9]* rows in full$' "$W.out") -eq 2 ]]
    check $? "... whose making is timed apart, and what it left to be settled"
    runs 0 "gradients" dense_backward backward/deterministic kl/kv_outer --backend simt --shape "$S" --seconds 0.01
    says '^dense_backward/kv_outer \(simt\) after timing: ok'
    runs 0 "backward with the KL loss in its sweep" backward/q_outer backward/kv_outer --kl --backend simt --shape "$S" --seconds 0.01
    says '^backward/q_outer \(simt\) does not take this shape, or no KL loss in its sweep'
    says '^backward/kv_outer \(simt\) after timing: ok'
    says '^backward/kv_outer\+kl +simt .* yes'
    refuses "--index-keys" "an unknown kind of keys" decode --backend simt --index-keys int4
    refuses "--json" "the engine's times in a file" topk --backend simt --json "$W/x.json"
else
    skip "the engine" "this build has none"
fi

runs 0 "index keys screened by an 8-bit copy" index/amx_screened prefill/amx decode/amx dense --index-keys int8 --shape 'T=4 S=600 heads=4:2 width=16:16 block=16 topk=4' --seconds 0.02
says '^dense/tiles \(fast\) does not take this shape, or no 8-bit index keys'
for kernel in index/amx_screened prefill/amx decode/amx; do
    says "^$kernel \(fast\) after timing: ok"
done
refuses "--index-keys: expected bf16, fp8 or int8" "an unknown kind of keys on the CPU" decode --index-keys int4

# ---- The ladder ------------------------------------------------------------------------------------------

runs 0 "all kernels of a stage, drawn" sparse --shape "$S" --seconds 0.01 --picture "$W/ladder.svg"
for kernel in naive threaded blocked tiles blocks lanes ruled amx_queries amx_blocks amx; do
    says "^sparse/$kernel +fast +$([[ $kernel == amx* ]] && echo bf16 || echo f32) .* yes$"
    grep -q "sparse/$kernel" "$W/ladder.svg"
    check $? "... with a bar for $kernel"
done
rm "$W/ladder.svg"
refuses "--picture: expected kernels" "a picture of kernels without a rate" topk --shape "$S" --seconds 0.01 --picture "$W/x.svg"

# ---- The file --------------------------------------------------------------------------------------------

if [[ $has_json -eq 1 ]]; then
    runs 0 "a file of results" dense/tiles sparse/ruled topk decode/streams --shape "$S" --seconds 0.05 --json "$W/results.json"
    "$MSA" bench decode/amx --index-keys int8 --shape 'T=1 S=2000 heads=4:2 width=16:16 block=16 topk=4' --seconds 0.02 --json "$W/screened.json" > "$W.out" 2> "$W.err" &&
        grep -q '"index_dtype": "int8"' "$W/screened.json" && grep -q '"settled_share": 0\.[0-9]' "$W/screened.json" &&
        grep -q '"fell_back_share": 0' "$W/screened.json" && grep -q '"copy_ms": [0-9]' "$W/screened.json" &&
        "$MSA" results "$W/screened.json" | grep -q 'amx, screened by int8'
    check $? "what screening left to settle, in the file and in its table"
    rm -f "$W/screened.json"
    "$MSA" bench dense --shape "$S" --seconds 0.05 --json "$W/types.json" --picture "$W/types.svg" > "$W.out" 2> "$W.err"
    check $? "what the machine can do"
    says 'float32 product [0-9.]+ TFLOP/s; bf16 product [0-9.]+ TFLOP/s, in registers [0-9.]+( \(no tiles here\))?; copy [0-9.e+]+ GB/s; read [0-9.e+]+ GB/s$'
    says '^dense/tiles +fast +f32 .* yes$'
    says '^dense/amx +fast +bf16 .* yes$'
    grep -q "dense/tiles" "$W/types.svg" && [[ $(grep -oE "% of (f32|bf16)'s" "$W/types.svg" | sort -u | wc -l) -eq 2 ]]
    check $? "... and draws it, each kernel's share of its own type's product"
    grep -qE '"tiles": (true|false)' "$W/types.json" && [[ $(grep -cE '"matmul_f32_gflops": [0-9]|"(matmul|register)_bf16_tflops": [0-9]|"dtype": "(f32|bf16)"' "$W/types.json") -eq 5 ]]
    check $? "... the file says of which type, and whether on tiles"
    awk '/matmul_f32/ {sub(/: [^,]*/, ": null")} /matmul_bf16/ {sub(/: [^,]*/, ": 1e-9")} {print}' "$W/types.json" > "$W/other.json"
    "$MSA" results "$W/other.json" > "$W.out" 2> "$W.err"
    [[ $(grep -cE '^\*\*dense.*, (float32|bf16( without tiles)?)$' "$W.out") -eq 2 ]] && grep -qE '^\| amx .* [1-9][0-9]{3,} % \|' "$W.out" &&
        [[ $(grep '^| tiles ' "$W.out" | tr -cd % | wc -c) -le 1 ]]
    check $? "... float32 and bf16 stand in tables of their own, each beside its own product"
    sed -e '/"dtype"/d' -e '/"tiles": /d' -e '/_bf16_tflops/d' "$W/types.json" > "$W/other.json"
    "$MSA" results "$W/other.json" > "$W.out" 2> "$W.err" && [[ $(grep -cE '^\*\*dense.*, (float32|bf16)$' "$W.out") -eq 2 ]]
    check $? "... even where an older file does not say it"
    rm "$W"/types.* "$W/other.json"
    [[ $(ls "$W") == results.json ]]
    check $? "... and nothing else is written"
    "$MSA" results "$W/results.json" > "$W.out" 2> "$W.err" && [[ $(grep -c '^\*\*' "$W.out") -eq 4 && $(grep -c '| random |' "$W.out") -eq 1 ]]
    check $? "... with the fields of a file of results, which become tables"
    [[ $(grep -c '"verified": true' "$W/results.json") -eq 4 && $(grep -c '"stage"' "$W/results.json") -eq 4 ]]
    check $? "... four verified results"
    grep -qF "msa bench --no-ceilings dense/tiles sparse/ruled topk decode/streams --shape '$S' --seconds 0.05 --json" "$W/results.json"
    check $? "... and the command line"
    "$MSA" results "$W/results.json" --roofline "$W/roof.svg" > "$W.out" 2> "$W.err" && grep -q '<svg' "$W/roof.svg"
    check $? "... and a picture"
    "$MSA" results "$W/results.json" --speedup "$W/speedup.svg" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -e $W/speedup.svg ]]
    check $? "... but none of a prefill that was not timed"
    sed 's/"stage": "sparse"/"stage": "prefill"/' "$W/results.json" > "$W/prefill.json"
    "$MSA" results "$W/prefill.json" --speedup "$W/speedup.svg" > "$W.out" 2> "$W.err" && grep -q 'paper, H800' "$W/speedup.svg"
    check $? "... and of one that was, beside the paper's"
    if [[ -w /dev/full ]]; then
        echo old > "$W/old.svg"
        "$MSA" results "$W/prefill.json" --speedup "$W/old.svg" --roofline "$W/new.svg" > /dev/full 2> "$W.err"
        [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && $(cat "$W/old.svg") == old && ! -e $W/new.svg ]]
        check $? "where the tables do not arrive, a line says so and no picture is written"
    fi
    cp "$W/prefill.json" "$W/kept.json"
    "$MSA" results "$W/kept.json" --roofline "$W/kept.json" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -s $W.out ]] && cmp -s "$W/prefill.json" "$W/kept.json"
    check $? "a picture in place of the results that it is of is refused"
    sed 's/"verified": true/"verified": false/' "$W/prefill.json" > "$W/wrong.json"
    "$MSA" results "$W/wrong.json" --speedup "$W/none.svg" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && ! -e $W/none.svg ]]
    check $? "... but none of results whose verdict failed"
    "$MSA" results "$W/prefill.json" --speedup "$W/no/such/folder.svg" 2>&1 | grep -q -- '^msa results: --speedup '
    check $? "... or cannot be written, and says of which option"
    odd=$(printf 'odd-\377.json')
    "$MSA" bench --no-ceilings topk --shape "$S" --seconds 0.01 --json "$W/$odd" > "$W.out" 2> "$W.err" && "$MSA" results "$W/$odd" > "$W.out"
    check $? "a file whose name is no text is one that msa results reads"
    rm -f "$W/roof.svg" "$W/speedup.svg" "$W/old.svg" "$W/$odd" "$W/prefill.json" "$W/kept.json" "$W/wrong.json"
    sed -i 's/"repeats": [0-9]*/"repeats": 2/' "$W/results.json"
    for bad in "$W/results.json" "$W/none.json" README.md; do
        "$MSA" results "$bad" > "$W.out" 2> "$W.err"
        [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -s $W.out ]]
        check $? "msa results refuses ${bad##*/}"
    done
    rm "$W/results.json"
else
    refuses "jansson" "--json without jansson" topk --shape "$S" --json "$W/x.json"
fi

# ---- What make bench-cpu would run -----------------------------------------------------------------------

mkdir "$W/plan"
cat > "$W/plan/msa" << END
#!/bin/sh
case \$1 in
help) echo --json ;;
bench) echo "\$@" >> "$W/plan/runs" ;;
esac
END
chmod +x "$W/plan/msa"
NAMES="16k 32k 64k gradients-16k decode-1m decode-1m-bf16 decode-8x1m-bf16 chunk-1m ladder peers-16k peers-64k peers-chunk-1m" \
    MSA=$W/plan/msa PYTHON=false data/bench/cpu.sh "$W/plan/files" > "$W.out" 2> "$W.err"
[[ $? -eq 0 && ! -s $W.err && $(grep -c '^peers-.*: skipped: no Python with PyTorch' "$W.out") -eq 3 ]]
check $? "make bench-cpu, with nothing behind it; without PyTorch it says so, in a line each"
bad=
for tokens in 16384 32768 65536; do
    grep -qE "^bench dense index .*sparse/ruled .*sparse/amx .*prefill --backend fast --shape T=$tokens S=$tokens heads=16:1 .*" "$W/plan/runs" || bad+=" $tokens"
done
grep -qE '^bench index sparse/ruled sparse/amx prefill .*--shape T=4096 S=1048576 ' "$W/plan/runs" || bad+=" chunk"
for shape in 'T=1 S=1048576 heads=64:4 ' 'T=8 S=8388608 seqs=8 '; do
    grep -qE "^bench decode dense_decode .*--shape $shape.*--bf16-keys" "$W/plan/runs" || bad+=" decode/$shape"
done
for kernel in backward/ruled backward/amx dense_backward kl/ruled kl/amx; do
    grep -qE "^bench .*$kernel .*--shape T=16384 S=16384 heads=16:1 " "$W/plan/runs" || bad+=" $kernel"
done
[[ -z $bad ]]
check $? "... float32 and bf16 at 16K to 64K, the chunk, decode of 1 and 8 requests, gradients$bad"
for name in $(sed -e 's/^bench //' -e 's/ --backend .*//' "$W/plan/runs" | tr ' ' '\n' | sort -u); do
    "$MSA" kernels | awk -F '\t' '$2 ~ /fast/ {print $1; sub(/\/.*/, "", $1); print $1}' | grep -qx "$name" || bad+=" $name"
done
[[ -z $bad ]]
check $? "... by names that are in the table$bad"
rm -r "$W/plan"
echo earlier > "$W/ranks.txt"
no_ranks() { # no_ranks VARIABLE=VALUE EXPECTED [FILE]: refused in one line at once, and an earlier file is kept
    local name=${1%%=*} file=${3-$W/ranks.txt}
    timeout 20 env "$1" data/bench/ranks.sh "$file" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && ! -s $W.out && $(wc -l < "$W.err") -eq 1 && $(ls "$W") == ranks.txt && $(< "$W/ranks.txt") == earlier ]] &&
        grep -qF -- "ranks: $name: expected $2, found '${1#*=}'" "$W.err"
    check $? "two ranks against two threads: $1"
}
for bad in N=-5 N=0 N=1K PAIRS=0 PAIRS=x KEYS=0 KEYS=abc REQUESTS=-1 REQUESTS=010 FEW=0 MANY=1e3; do
    no_ranks $bad "an integer from 1 to 999999999"
done
no_ranks KEYS=1000 "a multiple of 128"
no_ranks KEYS=100 "a multiple of 128"
FEW=3 no_ranks MANY=3 "more steps than the 3 of FEW"
FEW=3 no_ranks MANY=2 "more steps than the 3 of FEW"
for bad in bogus '*' ' '; do
    no_ranks "NAMES=$bad" "some of forward, decode and train"
done
no_ranks ON=../x "small letters, digits and -"
mkfifo "$W.fifo"
no_ranks FILE="$W.fifo" "a file, or nothing yet" "$W.fifo"
rm "$W.fifo"
no_ranks FILE="$W" "a file, or nothing yet" "$W"
no_ranks FILE=--help "a file's name, or nothing (the head of this script says what can be chosen)" --help
# FILE is relative to where one stands.
(cd "$W" && N=256 KEYS=512 REQUESTS=2 PAIRS=2 NAMES="forward decode" "$OLDPWD/data/bench/ranks.sh" ranks.txt) > "$W.out" 2> "$W.err"
measured=$?
if grep -q '^ranks: skipped' "$W.out"; then
    skip "two ranks against two threads" "no msa-mpi or no mpirun here"
else
    [[ $measured -eq 0 && ! -s $W.err && $(grep -cE 'two threads [0-9.]+ ms, two ranks [0-9.]+ ms, ratio [0-9.]+ \([0-9.]+ to [0-9.]+ of 2 pairs\)$' "$W/ranks.txt") -eq 3 ]]
    check $? "two ranks against two threads, forward both ways and decode"
    echo earlier > "$W/ranks.txt"
    no_ranks FILE="$W/ranks.txt/x" "a place where it can be written" "$W/ranks.txt/x"
    # A measurement that fails: what the program says of it, once (and once of its version), and the earlier file.
    printf '#!/bin/sh\necho "msa: none" >&2\nexit 2\n' > "$W.msa" && chmod +x "$W.msa"
    MSA=$W.msa KEYS=512 PAIRS=2 NAMES=decode data/bench/ranks.sh "$W/ranks.txt" > "$W.out" 2> "$W.err"
    [[ $? -eq 1 && $(sort "$W.err" | uniq -c) =~ ^\ *2\ msa:\ none$ && $(ls "$W") == ranks.txt && $(< "$W/ranks.txt") == earlier ]] &&
        grep -qx "decode of 1 x 512 keys: failed" "$W.out"
    check $? "... one that fails leaves the earlier file"
    rm "$W.msa"
fi
rm -f "$W/ranks.txt"

# ---- What there is no time for ---------------------------------------------------------------------------

runs 0 "a shape that all kernels of a stage have time for" sparse/naive sparse/lanes --shape 'T=512 S=512 heads=2:1' --seconds 0.02
says '^sparse/naive +fast .* yes$'
! grep -q skipped "$W.out"
check $? "... skips none"
# The reference takes a second or more, topk a millisecond.
runs 0 "one that the slowest has not" dense/reference topk/reference --backend ref --limit 2 --seconds 0.02 \
    --shape 'T=1024 S=1024 heads=16:1 width=128:128'
says '^dense/reference \(ref\): about [0-9.e+]+ s a run; skipped: six are more than --limit$'
says '^topk/reference +ref .* yes$'

# ---- Bad input -------------------------------------------------------------------------------------------

refuses "'frobnicate'" "an unknown name" frobnicate
refuses "'topk/frobnicate'" "an unknown kernel" topk/reference topk/frobnicate
refuses "'topk/reference'" "a kernel of another back end" topk/reference --backend fast
for backend in x '' gpu FAST; do
    refuses "--backend: expected" "--backend '$backend'" --backend "$backend"
done
has cuda || refuses "--backend: expected" "a back end that this build has not" --backend cuda
for kind in x '' learned Random; do
    refuses "--distribution: expected" "--distribution '$kind'" --distribution "$kind"
done
for shape in x '' 'T=0' 'T=5 S=4' 'T=-4' 'heads=4:3' 'topk=0' 'T=8 S=8 seqs=3' 'T=4x' 'width=64'; do
    refuses "--shape: expected" "--shape '$shape'" topk --shape "$shape"
done
for seconds in 0 -1 x '' 1e9 nan; do
    refuses "--seconds: expected" "--seconds '$seconds'" topk --seconds "$seconds"
done
for seed in -1 x 1.5 ''; do
    refuses "--seed: expected" "--seed '$seed'" topk --seed "$seed"
done
refuses "--limit" "no kernel that the limit has time for" sparse/naive --shape 'T=512 S=512 heads=2:1' --limit 0.001
refuses "--json" "a file in no folder" topk --shape "$S" --json "$W/no/such/folder.json"
refuses "--frobnicate" "an unknown option" --frobnicate
if has simt; then
    refuses "(k <= 32)" "a shape that the kernel does not take" topk/warp --backend simt --shape 'T=40 S=40 block=1 topk=33'
fi
finish
