#!/usr/bin/env bash
# msa count and msa timeline: counts worked out by hand, the same on any number of threads, pictures that are
# pictures, refusals. TAP on stdout; MSA names the program.
source "$(dirname "$0")/support/tap.sh"

runs() { # runs NAME ARGUMENT...
    "$MSA" "${@:2}" >"$W.out" 2>"$W.err" && [[ ! -s $W.err ]]
    check $? "$1"
}
refuses() { # refuses PATTERN ARGUMENT...: one line on stderr, exit status 2, nothing written
    rm -rf "$W/none" && mkdir "$W/none"
    "$MSA" "${@:2}" >"$W.out" 2>"$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -s $W.out && -z $(ls "$W/none") ]] && grep -qE -- "$1" "$W.err"
    check $? "refused: ${*:2}"
}
row() { # row LABEL NUMBER...: a line of the table
    grep -qxE -- " *$1$(printf ' +%s' "${@:2}") *" "$W.out"
    check $? "... $1: ${*:2}"
}

"$MSA" count dense/naive --shape 'T=1 S=1 heads=1:1 width=64:64 block=32 topk=1' >"$W.out" 2>"$W.err"
if grep -q 'without a C++ compiler' "$W.err"; then
    refuses 'without a C\+\+ compiler' count dense/naive
    refuses 'without a C\+\+ compiler' timeline dense/naive --out "$W/none/t.png"
    skip "counts and pictures" "no C++ compiler"
    finish
fi

# ---- Counts by hand ----------------------------------------------------------------------------------

# index/wgmma: 128 rows (one is real) and one block of 32 keys of 64 channels. Two consumers multiply 64 x 32 x
# 64. TMA brings 2 x 64 rows of Qi and 32 of Ki, 128 bytes each; one row of Qi and all of Ki exist. One score.
# Who waits: 256 consumers for Qi and for Ki, the producer for room. Warps at __syncthreads: 9.
runs "index/wgmma, one query" count index/wgmma --shape 'T=1 S=32 heads=1:1 width=64:64 block=32 topk=1'
row 'kernels launched' 1
row 'CTAs' 1
row 'threads' 288
row 'multiply-adds' 262,144
row 'of them useful' '0\.8%'
row 'bytes read' 4,224
row '32-byte sectors read' 132
row 'bytes written' 4
row '32-byte sectors written' 1
row 'TMA copies' 3
row 'bytes of their boxes' 20,480
row 'barriers passed by warps' 9
row 'mbarrier waits of threads' 513
grep -q '^Estimate from counts, not a measurement$' "$W.out"
check $? "... and says that the times are estimates"

# sparse/q_outer: 16 heads x 64 keys x 64 channels, twice, none wasted. Q is 2 KB, K and V 8 KB each, O 2 KB;
# four warps read two ids each. dense/tensor_core pads 16 rows to 64. dense/naive has no tensor work at all.
runs "three kernels, one query" count sparse/q_outer dense/tensor_core dense/naive \
    --shape 'T=1 S=64 heads=16:1 width=64:64 block=32 topk=2'
row 'multiply-adds' 131,072 524,288 -
row 'of them useful' '100\.0%' '25\.0%' -
row 'bytes read' 18,464 18,432 '[0-9,]+'
row 'bytes written' 2,048 2,048 2,048
row "times the loop order's bytes" '1\.00' - -
runs "O in float32" count sparse/q_outer --output f32 --shape 'T=1 S=64 heads=16:1 width=64:64 block=32 topk=2'
row 'bytes written' 4,096

# kv_outer's header says what it moves; the loop order's formula leaves out LSE, ids and the worklist.
runs "a ladder, one kernel a column" count sparse --shape 'T=16 S=256 heads=16:1 width=64:64 block=32 topk=4'
head -n 3 "$W.out" | grep -qE '^ +sparse/naive +sparse/q_outer +sparse/union +sparse/kv_outer'
check $? "... from naive to best"
runs "kernels that do not take the shape" count decode/naive index/naive --shape \
    'T=17 S=64 heads=1:1 width=64:64 block=32 topk=2'
grep -q '^decode/naive does not take this shape' "$W.out"
check $? "... are named, and the others counted"

# ---- The same everywhere -------------------------------------------------------------------------------

all=(dense index topk reverse sparse)
small=(--shape 'T=20 S=200 heads=6:2 width=64:64 block=32 topk=3' --seed 7)
for threads in 1 2; do
    OMP_NUM_THREADS=$threads runs "all stages on $threads threads" count "${all[@]}" "${small[@]}" \
        --csv "$W/$threads.csv"
    cp "$W.out" "$W/$threads.txt"
done
cmp -s "$W/1.csv" "$W/2.csv" && cmp -s "$W/1.txt" "$W/2.txt"
check $? "... count the same"
awk -F, 'NR == 1 { n = NF } NF != n { bad = 1 } END { exit bad || NR < 10 || n < 28 }' "$W/1.csv"
check $? "... and the CSV has a row a kernel"
for kind in hot local structured; do
    runs "distribution $kind" count sparse/union "${small[@]}" --distribution $kind
    grep -q "$kind selection" "$W.out"
    check $? "... and says so"
done

# ---- Pictures ------------------------------------------------------------------------------------------

tiny=(--shape 'T=4 S=600 heads=4:1 width=64:64 block=64 topk=3')
for kernel in dense/hopper sparse/union sparse/kv_outer index/fused; do
    runs "timeline of $kernel as SVG" timeline $kernel "${tiny[@]}" --out "$W/t.svg"
    grep -q '^<svg .*viewBox="0 0 1600 ' "$W/t.svg" && tail -n 1 "$W/t.svg" | grep -qx '</svg>' &&
        grep -q ">$kernel, CTA 0" "$W/t.svg" && grep -q 'not a measurement' "$W/t.svg"
    check $? "... which says what it is"
    grep -q '>consumer<' "$W/t.svg" && grep -q '>producer<' "$W/t.svg" && grep -q 'group of wgmma' "$W/t.svg"
    check $? "... and shows a producer, a consumer and products"
    if command -v python3 >/dev/null; then
        python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$W/t.svg" 2>"$W.err"
        check $? "... in well-formed XML"
    fi
done
runs "timeline as PNG" timeline dense/hopper "${tiny[@]}" --out "$W/t.png" --from 500 --to 3000
if [[ -s $W/t.ppm ]]; then
    skip "the PNG" "this build has no libpng and wrote a PPM"
else
    [[ $(od -An -tx1 -N8 "$W/t.png" | tr -d ' ') == 89504e470d0a1a0a && \
        $((16#$(od -An -tx1 -j16 -N4 "$W/t.png" | tr -d ' '))) -eq 1600 ]] && grep -aq 'Command.msa timeline' "$W/t.png"
    check $? "... 1600 pixels wide, with the command that made it"
fi
runs "the same picture again" timeline dense/hopper "${tiny[@]}" --out "$W/u.svg"
OMP_NUM_THREADS=1 "$MSA" timeline dense/hopper "${tiny[@]}" --out "$W/v.svg" >"$W.out"
cmp -s <(grep -v 'Command:' "$W/u.svg") <(grep -v 'Command:' "$W/v.svg")
check $? "... on one thread"

# ---- Refusals ------------------------------------------------------------------------------------------

refuses 'STAGE/NAME' count
refuses "found 'dense/nothing'" count dense/nothing
refuses "found 'dense/reference'" count dense/reference
refuses '--shape' count dense/naive --shape 'T=2 S=1 heads=1:1 width=64:64 block=32 topk=1'
refuses '--shape' count dense/naive --shape 'queries'
refuses '--shape' count dense/naive --shape 'S=1000000000'
refuses 'expected a shape that it takes' count dense/hopper --shape 'width=16:16'
refuses '--distribution' count sparse/naive --distribution uniform
refuses '--output' count sparse/naive --output f16
refuses '--csv' count sparse/naive --csv "$W/none/no/such/dir.csv"
refuses 'one kernel' timeline sparse --out "$W/none/t.svg"
refuses '--out' timeline sparse/union
# 131072^2 / 2 pairs of 4 rows are 2^20 turns of 256 x 128, of 2048 clocks of products, on 132 SMs at 1.755 GHz.
runs "predicted times" timeline --predict
grep -qE '^index/fused +131072 +H200 +9\.270 +tensor +8\.890 +96% *$' "$W.out"
check $? "... of the fused index, by hand"
# Per query 5 products of 64 heads, 2048 keys and 128 channels, and 3 of 4 groups: 2 (5 64 + 3 4) 2048 128 2^17 operations.
grep -qE '^backward/hopper:kl +131072 +H200 .* 23\.059 +[0-9]+% *$' "$W.out"
check $? "... of gradients with KL's, by hand: no less than msa bench counts"
# (2 128 2^20 + 4 4 128 2048) bytes at 0.9 of 4.8 TB/s are 63 us; 3 launches, and of the last one's table in chapter 15 what
# is not memory's: 7.
grep -qE '^decode/swapped +1048576 +H200 +0\.070 +memory +0\.057 +81% *$' "$W.out" &&
    grep -qE '^decode/swapped:last +1048576 +H200 +0\.006 +memory +0\.001 +15% *$' "$W.out"
check $? "... of a step and of its last launch, by hand"
awk '$2 == 131072 && $3 == "H200" { ms[$1] = $4 }
    END { for (ids in ms) n++; exit !(n == 16 && ms["prefill/auto:random"] - ms["index/fused"] - ms["sparse/kv_outer"] < 0.002 &&
        ms["prefill/auto:random"] - ms["index/fused"] - ms["sparse/kv_outer"] > -0.002 && ms["prefill/auto:structured"] > ms["sparse/union"]) }' "$W.out"
check $? "... and of a layer, the sum of its stages"
if "$MSA" help 2>&1 | grep -q '^ *results'; then
    result='"stage":"index","kernel":"fused","n":131072,"n_q":131072,"batch":1,"n_heads":64,"n_kv_heads":4,"d_head":128,"block":128,"topk":16,"distribution":"random","union8":null,"index_dtype":"bf16","lse":false,"deterministic":null,"ms_median":10,"ms_min":10,"ms_max":10,"repeats":20,"useful_tflops":1,"gbps":1,"verified":true'
    echo "{\"device\":\"NVIDIA H200\",\"driver\":\"580\",\"cuda\":\"13.0\",\"commit\":\"44d146b6691cecb50e85bd59012ce583a0cd1f08\"," \
        "\"date\":\"2026-11-21T19:30:18Z\",\"command\":\"msa bench index\",\"ceilings\":{\"matmul_bf16_tflops\":780,\"copy_gbps\":4300}," \
        "\"results\":[{$result}]}" > "$W/h200.json"
    runs "beside a measurement" timeline --predict "$W/h200.json"
    grep -qE '^index/fused +131072 +H200 .* 10\.000 +-7%$' "$W.out" && grep -q '^error of the model: 7%, the mean of 1 measurements$' "$W.out"
    check $? "... the error of the model is a figure of its own"
    result=$(sed -E 's/"index","kernel":"fused"/"decode","kernel":"swapped"/; s/131072,"n_q":131072,"batch":1/1048576,"n_q":1,"batch":8/; s/"bf16"/"int8"/' <<< "$result")
    sed -E "s|\"results\":.*|\"results\":[{$result}]}|" "$W/h200.json" > "$W/step.json"
    runs "beside another" timeline --predict "$W/step.json"
    [[ $(grep -c ' 10\.000 ' "$W.out") -eq 1 ]] && grep -qE '^decode/swapped:b8-int8 +1048576 +H200 .* 10\.000 +-97%$' "$W.out"
    check $? "... a measured step stands beside the row of its batch and its keys alone"
fi
refuses 'none.json' timeline --predict "$W/none.json"
refuses '\.png or \.svg' timeline sparse/union --out "$W/none/t.gif"
refuses '--cta 99' timeline dense/hopper "${tiny[@]}" --cta 99 --out "$W/none/t.svg"
refuses '--from' timeline dense/hopper "${tiny[@]}" --from 1e9 --out "$W/none/t.svg"
refuses 'declared work' timeline topk/warp "${tiny[@]}" --out "$W/none/t.svg"
finish
