#!/bin/bash
# The program from outside: what it writes for good input, and that it refuses bad input in one line, with
# exit status 2 and nothing written. TAP on stdout; MSA names the program.
source "$(dirname "$0")/support/tap.sh"
source tests/support/npy.sh
source tests/support/published.sh
V=$PWD/data/vectors

# ---- Good input ------------------------------------------------------------------------------------

runs() { # runs STATUS NAME ARGUMENT...: exits so, silent on stderr
    local want=$1 name=$2
    shift 2
    "$MSA" "$@" >"$W.out" 2>"$W.err"
    [ $? -eq "$want" ] && [ ! -s "$W.err" ]
    check $? "$name"
}

converts() { # converts STATUS NAME PATTERN ARGUMENT...: exits so, one line on stderr, which says that
    local want=$1 name=$2 pattern=$3
    shift 3
    "$MSA" "$@" >"$W.out" 2>"$W.err"
    [ $? -eq "$want" ] && [ "$(wc -l <"$W.err")" -eq 1 ] && grep -qE -- "$pattern" "$W.err"
    check $? "$name: $pattern"
}

says() { # says PATTERN: on stdout of the last run
    grep -qE -- "$1" "$W.out"
    check $? "... and prints $1"
}

same_file() { # same_file FILE FILE
    cmp -s "$1" "$2"
    check $? "... and writes $(basename "$1") as in data/vectors"
}

wrote() { # wrote DIR COMMAND NAME...: these and nothing else, and the sums that say so
    local dir=$1 sums=$2.sha256
    shift 2
    [ "$(ls -A "$dir" | tr '\n' ' ')" = "$(printf '%s\n' "$@" "$sums" | sort | tr '\n' ' ')" ] &&
        [ "$(cd "$dir" && sha256sum -c "$sums" 2>&1 | sort)" = "$(printf '%s: OK\n' "$@" | sort)" ]
    check $? "... and writes $* and $sums only"
}

inputs() { # inputs CASE: sets $in and $size to the options of that test vector
    local json
    json=$(cat "$V/$1/case.json")
    in=(--q "$V/$1/q.npy" --k "$V/$1/k.npy" --v "$V/$1/v.npy" --qi "$V/$1/qi.npy" --ki "$V/$1/ki.npy")
    size=(--block "$(expr "$json" : '.*"block": \([0-9]*\)')" --topk "$(expr "$json" : '.*"topk": \([0-9]*\)')")
    kl=$(expr "$json" : '.*"kl": \([-+.e0-9]*\)')
}

close_to() { # close_to A B: within 1e-9, relative
    awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(d <= 1e-9 * (b < 0 ? -b : b) + 1e-12) }'
}

for case in "$V"/*/; do
    case=$(basename "$case")
    inputs "$case"
    runs 0 "forward: $case" forward --backend ref "${in[@]}" "${size[@]}" --scores --out "$W/f"
    wrote "$W/f" forward ids.npy o.npy lse.npy index_lse.npy scores.npy
    same_file "$W/f/ids.npy" "$V/$case/ids.npy"
    judge=(--qi "$V/$case/qi.npy" --ki "$V/$case/ki.npy" "${size[@]}")
    main=("${in[@]:0:6}")
    runs 0 "verify: its own output for $case" verify --ids "$W/f/ids.npy" --o "$W/f/o.npy" "${main[@]}" "${judge[@]}" \
        --tolerance 1e-6
    says '^ok$'
    runs 0 "backward: $case" backward --backend ref "${in[@]}" --dout "$V/$case/dout.npy" "${size[@]}" --out "$W/b"
    wrote "$W/b" backward dq.npy dk.npy dv.npy dqi.npy dki.npy
    close_to "$(sed -n 's/^kl \([-+.e0-9]*\)$/\1/p' "$W.out")" "$kl"
    check $? "... and prints the loss $kl"
    [ "$(grep -c '^kl ' "$W.out")" = 1 ]
    check $? "... on the only line that begins with kl"
    rm -rf "$W/f" "$W/b"
done

inputs dense
runs 0 "dense" dense --backend ref "${in[@]:0:6}" --out "$W/d"
wrote "$W/d" dense o.npy lse.npy
says '^ran dense/reference \(ref\)$'
runs 0 "verify: with every block selected MSA is dense attention" verify --ids "$V/dense/ids.npy" "${in[@]}" --block 8 \
    --o "$W/d/o.npy" --tolerance 1e-6
runs 0 "verify: dense attention without ids" verify --o "$W/d/o.npy" "${in[@]:0:6}"
says '^output +ok, precision float32'
runs 0 "dense: a kernel by its name alone" dense "${in[@]:0:6}" --kernel reference --out "$W/d"
runs 0 "backward: full support" backward --backend ref "${in[@]}" --dout "$V/dense/dout.npy" --full-support --kl-weight 0 --out "$W/d/b"
says "^kl ${kl:0:8}"

inputs prefix
runs 0 "forward: the fast back end without being asked" forward "${in[@]}" "${size[@]}" --out "$W/fast"
says '^ran sparse/[a-z]+ \(fast\)$'
runs 1 "verify: MSA is not dense attention" verify --o "$W/fast/o.npy" "${in[@]:0:6}"
says '^output +FAILED'
runs 0 "verify: the fast back end" verify --ids "$W/fast/ids.npy" --o "$W/fast/o.npy" "${in[@]}" --block 8
# The same call as two sequences of a packed one; and with rows behind each that are padding.
twice() { # twice NAME DESCR SHAPE [ZEROS]: what stands in the vector, and so many zeros behind it, two times
    { payload "$V/prefix/$1.npy" && zeros ${4:-0} && payload "$V/prefix/$1.npy" && zeros ${4:-0}; } | npy "$W/${5:-}2$1.npy" "$2" "$3"
}
twice q '<f4' '(26, 4, 16)' && twice k '<f4' '(90, 2, 16)' && twice v '<f4' '(90, 2, 16)' && twice qi '<f4' '(26, 2, 8)'
twice ki '<f4' '(90, 8)' && le32 0 13 26 | npy "$W/2cu-q.npy" '<i4' '(3,)' && le32 0 45 90 | npy "$W/2cu-kv.npy" '<i4' '(3,)'
two=(--q "$W/2q.npy" --k "$W/2k.npy" --v "$W/2v.npy" --qi "$W/2qi.npy" --ki "$W/2ki.npy")
seqs=(--cu-q "$W/2cu-q.npy" --cu-kv "$W/2cu-kv.npy")
holds_twice() { # holds_twice NAME: of o and lse what the vector has two times
    { payload "$V/prefix/$1.npy" && payload "$V/prefix/$1.npy"; } | cmp -s - <(payload "$W/two/$1.npy")
    check $? "... $1 of both as in data/vectors"
}
runs 0 "forward: two sequences" forward --backend ref "${two[@]}" "${size[@]}" "${seqs[@]}" --out "$W/two"
holds_twice o && holds_twice lse
for half in 1 157; do for i in 1 2; do payload "$V/prefix/ids.npy" | tail -c +$half | head -c 156; done; done | cmp -s - <(payload "$W/two/ids.npy")
check $? "... and ids"
runs 0 "forward: two sequences, their ids given" forward --backend ref "${two[@]}" "${size[@]}" "${seqs[@]}" --ids "$W/two/ids.npy" --out "$W/again"
same_file "$W/two/o.npy" "$W/again/o.npy"
runs 0 "verify: two sequences" verify --ids "$W/two/ids.npy" --o "$W/two/o.npy" "${two[@]}" "${seqs[@]}" --block 8
"$MSA" verify --ids "$W/two/ids.npy" "${two[@]:6}" --block 8 >"$W.out" 2>"$W.err"
[ $? -eq 1 ]
check $? "verify: ... not those of one"
twice q '<f4' '(30, 4, 16)' 128 padded && twice qi '<f4' '(30, 2, 8)' 32 padded
le32 0 15 30 | npy "$W/padded2cu-q.npy" '<i4' '(3,)' && le32 13 13 | npy "$W/2len-q.npy" '<i4' '(2,)'
runs 0 "forward: two padded sequences" forward --backend ref --q "$W/padded2q.npy" --qi "$W/padded2qi.npy" "${two[@]:2:4}" \
    "${two[@]:8}" "${size[@]}" --cu-q "$W/padded2cu-q.npy" --cu-kv "$W/2cu-kv.npy" --len-q "$W/2len-q.npy" --out "$W/two"
{ payload "$V/prefix/o.npy" && zeros 128 && payload "$V/prefix/o.npy" && zeros 128; } | cmp -s - <(payload "$W/two/o.npy")
check $? "... whose rows are 0 in O"
if "$MSA" kernels | grep -q simt; then # its fastest index kernel keeps no scores
    inputs m3heads
    "$MSA" forward "${in[@]}" --topk 4 --block 32 --backend simt --kernel index/fused --scores --out "$W/simt" 2>&1 |
        grep -q -- "--kernel: expected an index kernel that writes scores"
    check $? "forward: a kernel that writes no scores is refused for that"
    "$MSA" forward "${in[@]}" --topk 4 --block 16 --backend simt --out "$W/simt" 2>&1 |
        grep -q -- "--backend: expected an index kernel that takes di 128, block 16, k 4, found index/fused (di 64 or 128, block 32"
    check $? "forward: sizes that no kernel of a back end takes are refused for that"
    "$MSA" dense --q "$V/prefix/q.npy" --k "$V/prefix/k.npy" --v "$V/prefix/v.npy" --backend simt --out "$W/simt" 2>&1 |
        grep -q "expected a shape that it takes (dh 64 or 128, Hq/Hkv <= 16), found dh 16, Hq/Hkv 2"
    check $? "dense: the sizes that a kernel takes, and those found"
    # Two sequences, of which the second has a row for a query and none for keys.
    le32 0 1 2 | npy "$W/cu-q.npy" '<i4' '(3,)' && le32 0 60 60 | npy "$W/cu-kv.npy" '<i4' '(3,)' && le32 1 0 | npy "$W/len-q.npy" '<i4' '(2,)'
    for command in "forward --out" "backward --kl-weight 0 --dout $V/m3heads/q.npy --out"; do
        runs 0 "${command%% *}: a sequence without room for keys, on the engine" $command "$W/empty" "${in[@]}" --topk 4 --block 32 --backend simt \
            --cu-q "$W/cu-q.npy" --cu-kv "$W/cu-kv.npy" --len-q "$W/len-q.npy"
    done
    for x in o dq; do
        zeros 8192 | cmp -s - <(payload "$W/empty/$x.npy" | tail -c 32768)
        check $? "... its $x is 0"
    done
    runs 0 "forward: scores on the engine" forward "${in[@]}" --topk 4 --block 32 --backend simt --scores --out "$W/simt"
    says '^ran index/[a-z]+ \(simt\)$'
    runs 0 "forward: index keys screened by 8 bits" forward "${in[@]}" --topk 4 --block 32 --backend simt --index-keys int8 --out "$W/eight"
    says '^ran index/screened \(simt\)$'
    runs 0 "forward: the same in 16" forward "${in[@]}" --topk 4 --block 32 --backend simt --out "$W/simt"
    cmp -s "$W/eight/ids.npy" "$W/simt/ids.npy" && cmp -s "$W/eight/o.npy" "$W/simt/o.npy"
    check $? "... the same ids and outputs"
    piece() { payload "$V/m3heads/$1.npy" | head -c $((4 * $2)); } # 96 tokens, 2 KV heads of 64, in 3 pages of a block
    piece q 512 | npy "$W/8-q.npy" '<f4' '(1, 1, 8, 64)'
    piece k 12288 | npy "$W/8-k.npy" '<f4' '(3, 2, 32, 64)'
    piece v 12288 | npy "$W/8-v.npy" '<f4' '(3, 2, 32, 64)'
    piece qi 128 | npy "$W/8-qi.npy" '<f4' '(1, 1, 2, 64)'
    piece ki 6144 | npy "$W/8-ki.npy" '<f4' '(3, 32, 64)'
    le32 1 2 0 | npy "$W/8-table.npy" '<i4' '(1, 3)'
    le32 96 | npy "$W/8-lens.npy" '<i4' '(1,)'
    eight=(--q "$W/8-q.npy" --k-pages "$W/8-k.npy" --v-pages "$W/8-v.npy" --qi "$W/8-qi.npy" --ki-pages "$W/8-ki.npy"
        --page-table "$W/8-table.npy" --lens "$W/8-lens.npy" --topk 2 --backend simt)
    runs 0 "decode: index keys screened by 8 bits" decode "${eight[@]}" --index-keys int8 --out "$W/eight"
    says '^screened by 8 bits: [2-4] of 4 blocks settled, [0-2] of 2 rows in full$'
    runs 0 "decode: the same in 16" decode "${eight[@]}" --out "$W/simt"
    cmp -s "$W/eight/ids.npy" "$W/simt/ids.npy" && cmp -s "$W/eight/o.npy" "$W/simt/o.npy"
    check $? "... the same ids and outputs"
    piece q 512 | npy "$W/8-q.npy" '<f4' '(1, 8, 64)'
    piece k 12288 | npy "$W/8-k.npy" '<f4' '(96, 2, 64)'
    piece v 12288 | npy "$W/8-v.npy" '<f4' '(96, 2, 64)'
    piece qi 128 | npy "$W/8-qi.npy" '<f4' '(1, 2, 64)'
    piece ki 6144 | npy "$W/8-ki.npy" '<f4' '(96, 64)'
    for backend in simt fast; do
        runs 0 "forward: what is screened, on $backend" forward --q "$W/8-q.npy" --k "$W/8-k.npy" --v "$W/8-v.npy" --qi "$W/8-qi.npy" \
            --ki "$W/8-ki.npy" --topk 2 --block 32 --backend $backend --index-keys int8 --out "$W/eight"
        says '^screened by 8 bits: [2-4] of 4 blocks settled, [0-2] of 2 rows in full$'
    done
    runs 0 "check: with an 8-bit copy" check decode/swapped decode/split --backend simt --index-keys int8 --shape 'T=1 S=100 heads=4:2 width=64:64 block=32 topk=2'
    ! grep -q '^decode/split' "$W.out" && grep -Eq '^decode/swapped .* ok .*  [2-6] of 6 blocks settled, [0-2] of 2 rows in full$' "$W.out"
    check $? "... only kernels that screen, and what they settled"
    OMP_NUM_THREADS=100000 runs 0 "forward: more threads than there can be" forward "${in[@]}" --topk 4 --block 32 --backend simt --out "$W/simt"
    inputs prefix
fi
runs 0 "forward: kernels by name" forward "${in[@]}" "${size[@]}" --kernel topk/reference --kernel index/reference \
    --out "$W/named"
says '^ran topk/reference \(ref\)$'
same_file "$W/named/ids.npy" "$V/prefix/ids.npy"
runs 0 "forward: given ids" forward "${in[@]}" --block 8 --ids "$V/prefix/ids.npy" --out "$W/given"
says '^ids from .*ids.npy$'
same_file "$W/given/o.npy" "$W/named/o.npy"
same_file "$W/given/index_lse.npy" "$W/named/index_lse.npy"
runs 0 "recall" recall "${in[@]:0:4}" "${in[@]:6}" "${size[@]}" --seed 3
says '^index +0\.[0-9]+ +0\.[0-9]+$'
says '^random, seed 3 +0\.[0-9]+ +0\.[0-9]+$'
# Two sequences, cut elsewhere so that they differ, have the mean of both; padding is not counted.
rows() { # rows NAME DESCR FIRST N WIDTH SHAPE: some of $W/2NAME.npy
    payload "$W/2$1.npy" | tail -c +$(($3 * $5 * 4 + 1)) | head -c $(($4 * $5 * 4)) | npy "$W/part$1.npy" "$2" "$6"
}
part() { # part FIRST_KEY KEYS FIRST_QUERY: of that sequence alone
    rows q '<f4' $3 13 64 '(13, 4, 16)' && rows qi '<f4' $3 13 16 '(13, 2, 8)' && rows k '<f4' $1 $2 32 "($2, 2, 16)" && rows ki '<f4' $1 $2 8 "($2, 8)"
    "$MSA" recall --q "$W/partq.npy" --k "$W/partk.npy" --qi "$W/partqi.npy" --ki "$W/partki.npy" "${size[@]}" --fp8 2>> "$W.err"
}
part 0 50 0 > "$W/part-one" && part 50 40 13 > "$W/part-two" && le32 0 50 90 | npy "$W/unequal.npy" '<i4' '(3,)'
runs 0 "recall: two sequences" recall "${two[@]:0:4}" "${two[@]:6}" "${size[@]}" --cu-q "$W/2cu-q.npy" --cu-kv "$W/unequal.npy" --fp8
awk '/^index/ { row[FILENAME, ++line[FILENAME]] = $(NF - 1); row[FILENAME, line[FILENAME], 2] = $NF } /^averages/ { n[FILENAME] = $4 }
    END { a = ARGV[1]; b = ARGV[2]; both = ARGV[3]; bad = n[a] + n[b] != n[both] || !n[a] || !n[b]
        for (i = 1; i <= 3; i++) {
            d = (n[a] * row[a, i] + n[b] * row[b, i]) / n[both] - row[both, i]; e = (n[a] * row[a, i, 2] + n[b] * row[b, i, 2]) / n[both] - row[both, i, 2]
            bad = bad || d * d > 1e-8 || e * e > 1e-8 || !row[both, i] || !row[both, i, 2] }
        exit bad }' "$W/part-one" "$W/part-two" "$W.out"
check $? "... the mean of both, by three kinds of index keys"
sed /^random/d "$W.out" > "$W/both"
runs 0 "recall: two padded sequences" recall --q "$W/padded2q.npy" --qi "$W/padded2qi.npy" --k "$W/2k.npy" --ki "$W/2ki.npy" "${size[@]}" \
    --cu-q "$W/padded2cu-q.npy" --cu-kv "$W/unequal.npy" --len-q "$W/2len-q.npy" --fp8
sed /^random/d "$W.out" | cmp -s - "$W/both"
check $? "... as without padding"
unequal=("${two[@]}" "${size[@]}" --cu-q "$W/2cu-q.npy" --cu-kv "$W/unequal.npy")
runs 0 "forward: two sequences cut elsewhere" forward --backend ref "${unequal[@]}" --out "$W/unequal"
runs 0 "recall: two sequences, their ids given" recall "${two[@]:0:4}" --ids "$W/unequal/ids.npy" --block 8 "${unequal[@]: -4}"
says "^given ids  *$(sed -n 's/^index  *\(0\.[0-9]*  *0\.[0-9]*\)$/\1/p' "$W/both")"
runs 0 "recall: 8-bit index keys" recall "${in[@]:0:4}" "${in[@]:6}" "${size[@]}" --fp8
grep -qE '^index keys of 8 bits \(E4M3\) +0\.[0-9]{4} +0\.[0-9]{4}$' "$W.out" && grep -q '^8 bits choose the blocks that 16 bits choose in [0-9.]*% of the pairs' "$W.out"
check $? "... and how often they agree with bf16"
runs 0 "recall: given ids" recall "${in[@]:0:4}" --block 8 --ids "$V/prefix/ids.npy"
runs 0 "recall: nothing to measure" recall "${in[@]:0:4}" "${in[@]:6}"
says '^no query has more than 16 visible blocks'

runs 0 "cost" cost --csv "$W/cost.csv"
for row in '32K +6\.40 +20% +5\.33 +8\.0 +7\.11 +6\.19 +4\.8' '64K +10\.67 +33% +6\.40 +10\.7 +12\.80 +11\.28 +7\.4' \
    '128K +16\.00 +50% +7\.11 +12\.8 +21\.33 +19\.19 +10\.1' '256K +21\.33 +67% +7\.53 +14\.2 +32\.00 +29\.52 +12\.4' \
    '512K +25\.60 +80% +7\.76 +15\.1 +42\.67 +40\.40 +14\.0' '1M +28\.44 +89% +7\.88 +15\.5 +51\.20 +49\.54 +14\.9'; do
    says "^ +$row\$"
done
[ "$(wc -l <"$W/cost.csv")" -eq 7 ]
check $? "... and writes six lengths and a head to the CSV"
awk -F , 'NF != 14 { bad = 1 } NR == 7 { bad = bad || $13 / 5636096 < 0.999999 || $13 / 5636096 > 1.000001 } END { exit bad }' "$W/cost.csv"
check $? "... with the bytes that are settled"
runs 0 "cost: lengths and sizes of one's own" cost --n 1000,4K --heads 8 --kv-heads 2 --topk 4
says '^ +1000 '
runs 0 "cost: between machines" cost --ranks 4 --n 1M --chunk 1,1M --link 25 --csv "$W/ranks.csv"
says '^ +1M +1 +1\.61 GB +24\.8 kB +1\.81 GB +1\.71 GB .* 3\.49 GB +queries '
says '^ +1M +1M .* keys '
says '^MSA: queries travel cheaper in chunks of up to 0\.'
awk -F , 'NF != 11 { bad = 1 } $2 == 1 && ($6 != 3 * 2304 * 1048576 / 4 || $9 != $6 || $11 != 3328 * 1048576) { bad = 1 } END { exit bad || NR != 3 }' "$W/ranks.csv"
check $? "... with the bytes in the CSV"

runs 0 "kernels" kernels
awk -F '\t' 'NF != 4 || $1 !~ "^[a-z_]+/[a-z0-9_]+$" { bad = 1 } END { exit bad || NR < 6 }' "$W.out"
check $? "... and prints STAGE/NAME, back ends, constraints, idea"
runs 0 "check: one kernel, one shape" check topk/reference --seed 7 --shape 'T=13 S=45 heads=4:2 width=16:8 block=8 topk=3'
says 'seed=7 +ok'
runs 0 "check: packed sequences by their name" check topk --shape \
    'T=26 S=51 heads=4:2 width=16:8 block=8 topk=2 seqs=4'
runs 0 "version" version
says '^msa [0-9]+\.[0-9]+\.[0-9]+$'
runs 0 "help" help
for command in $(sed -n 's/^  \([a-z]*\) .*/\1/p' "$W.out"); do
    runs 0 "help $command" help "$command"
    says "^usage: msa $command"
done

# ---- Other implementations' ids --------------------------------------------------------------------

ids() { # ids FILE SHAPE ID...
    local file=$1 shape=$2
    shift 2
    le32 "$@" | npy "$file" '<i4' "$shape"
}

# Two groups, three queries, six keys in blocks of one. Scores of blocks 0..5: 3 1 4 1 5 9 for group 0 and
# their negatives for group 1.
le32 $((0x40400000)) $((0x3f800000)) $((0x40800000)) $((0x3f800000)) $((0x40a00000)) $((0x41100000)) |
    npy "$W/ki.npy" '<f4' '(6, 1)'
le32 $((0x3f800000)) $((0xbf800000)) $((0x3f800000)) $((0xbf800000)) $((0x3f800000)) $((0xbf800000)) |
    npy "$W/qi.npy" '<f4' '(3, 2, 1)'
verify=(verify --qi "$W/qi.npy" --ki "$W/ki.npy" --block 1)
right_0=(0 2 3 0 2 4 2 4 5) right_1=(0 1 3 1 3 4 1 3 5)

ids "$W/a.npy" '(2, 3, 3)' "${right_0[@]}" "${right_1[@]}"
runs 0 "verify: ascending ids" "${verify[@]}" --ids "$W/a.npy"
says '^layout +\[Hkv,T,k\]'
says '^order +ascending; local block last$'
ids "$W/a.npy" '(3, 2, 3)' 0 2 3 0 1 3 0 2 4 1 3 4 2 4 5 1 3 5
runs 0 "verify: token-major ids" "${verify[@]}" --ids "$W/a.npy"
says '^layout +\[T,Hkv,k\]'
runs 0 "verify: token-major ids, as said" "${verify[@]}" --ids "$W/a.npy" --layout thk
ids "$W/a.npy" '(2, 3, 3)' 3 2 0 4 2 0 5 4 2 3 1 0 4 1 3 5 1 3
runs 0 "verify: ids by score, local first" "${verify[@]}" --ids "$W/a.npy"
says '^order +falling score; local block first$'
ids "$W/a.npy" '(2, 3, 3)' 2 0 3 2 0 4 4 2 5 1 0 3 1 3 4 1 3 5
runs 0 "verify: ids by score, local last" "${verify[@]}" --ids "$W/a.npy"
says 'local block last$'
ids "$W/a.npy" '(2, 3, 4)' 0 1 2 3 4 3 2 0 5 0 4 2 0 1 2 3 4 0 3 1 5 1 0 3
runs 0 "verify: ids in any order, the higher of two equal blocks" "${verify[@]}" --ids "$W/a.npy"
says '1 swapped for an equal score'
ids "$W/a.npy" '(2, 3, 8)' 0 1 2 3 -1 -1 -1 -1 0 1 2 3 4 -1 -1 -1 0 1 2 3 4 5 -1 -1 \
    3 2 1 0 -1 -1 -1 -1 4 3 2 1 0 -1 -1 -1 5 4 3 2 1 0 -1 -1
runs 0 "verify: -1 after the valid ids" "${verify[@]}" --ids "$W/a.npy"

le32 $((0x3f800000)) $((0xbf800000)) $((0x3f800000)) $((0xbf800000)) | npy "$W/square.npy" '<f4' '(2, 2, 1)'
ids "$W/a.npy" '(2, 2, 3)' 0 2 4 1 3 4 2 4 5 1 3 5
runs 0 "verify: token-major ids where T = Hkv" verify --qi "$W/square.npy" --ki "$W/ki.npy" --block 1 --ids "$W/a.npy"
says '^layout +\[T,Hkv,k\] \(the sizes allow both'
runs 1 "verify: the same under the wrong name" verify --qi "$W/square.npy" --ki "$W/ki.npy" --block 1 --ids "$W/a.npy" \
    --layout htk

wrong() { # wrong NAME ID...: rows for group 0; group 1 is right
    local name=$1
    shift
    ids "$W/a.npy" '(2, 3, 3)' "$@" "${right_1[@]}"
    runs 1 "verify: $name" "${verify[@]}" --ids "$W/a.npy"
    says '^FAILED$'
}
wrong "a worse block" 0 1 3 0 2 4 2 4 5
says '^  group 0, query 0: expected 0 2 3, found 0 1 3$'
wrong "the local block is missing" 0 2 3 0 2 3 2 4 5
wrong "a future block" 0 2 4 0 2 4 2 4 5
wrong "a block twice" 0 2 3 2 2 4 2 4 5
wrong "too few ids" 0 2 3 0 4 -1 2 4 5
wrong "an id behind -1" 0 2 3 0 -1 4 2 4 5
wrong "a negative id" 0 2 3 0 -2 4 2 4 5
wrong "an id far outside" 0 2 3 0 2147483647 4 2 4 5
ids "$W/a.npy" '(2, 3, 3)' "${right_1[@]}" "${right_0[@]}"
runs 1 "verify: the groups exchanged" "${verify[@]}" --ids "$W/a.npy"

inputs prefix
zeros $((13 * 4 * 16)) | npy "$W/o.npy" '<f4' '(13, 4, 16)'
runs 1 "verify: an output of zeros" verify --ids "$V/prefix/ids.npy" "${in[@]}" --block 8 --o "$W/o.npy"
says '^output +FAILED'
runs 1 "verify: an output of zeros within 1%" verify --ids "$V/prefix/ids.npy" "${in[@]}" --block 8 --o "$W/o.npy" \
    --tolerance 0.01
runs 0 "verify: an output of zeros within 100%" verify --ids "$V/prefix/ids.npy" "${in[@]}" --block 8 --o "$W/o.npy" \
    --tolerance 1

"$MSA" forward "${in[@]}" --block 8 --topk 3 --backend ref --out "$W/exact" > "$W.out" 2> "$W.err"
printf '\x00\x00\x40\x40' | dd of="$W/exact/o.npy" bs=1 seek=$((10 + $(od -An -tu2 -j8 -N2 "$W/exact/o.npy"))) conv=notrunc 2> "$W.err" # 3
runs 1 "verify: one wrong number" verify --ids "$W/exact/ids.npy" "${in[@]}" --block 8 --o "$W/exact/o.npy"
says '^output +FAILED, of none; nearest is precision float32, .* found 3, .*\(1 such\)'

# ---- Steps of generation over pages ------------------------------------------------------------------

# The 45 keys of a vector in six pages of [Hkv,8,dh] in the order 4 0 5 1 2 3, of 7; what nobody wrote is zero.
slices() { # slices FILE BYTES HEADS: those of each page
    local page block head token
    for page in 0 1 2 3 4 5 6; do
        block=$(expr substr 134502 $((page + 1)) 1) # page 6 has none, and shows what block 2 is
        for head in $(seq 0 $(($3 - 1))); do
            for token in 0 1 2 3 4 5 6 7; do
                if [ $page -lt 6 ] && [ $((8 * block + token)) -lt 45 ]; then
                    dd if="$1" bs=1 skip=$((128 + ((8 * block + token) * $3 + head) * $2)) count="$2" status=none
                else
                    zeros $(($2 / 4))
                fi
            done
        done
    done
}
inputs prefix
for x in k v; do
    slices "$V/prefix/$x.npy" 64 2 | npy "$W/$x-pages.npy" '<f4' '(7, 2, 8, 16)'
done
slices "$V/prefix/ki.npy" 32 1 | npy "$W/ki-pages.npy" '<f4' '(7, 8, 8)'
for x in q:'4, 16' qi:'2, 8'; do # both requests ask the same, of 45 keys and of the first 30
    { payload "$V/prefix/${x%%:*}.npy"; payload "$V/prefix/${x%%:*}.npy"; } |
        npy "$W/step-${x%%:*}.npy" '<f4' "(2, 13, ${x#*:})"
done
le32 4 0 5 1 2 3 -1 4 0 5 1 -1 -1 -1 | npy "$W/table.npy" '<i4' '(2, 7)'
le32 45 30 | npy "$W/lens.npy" '<i4' '(2,)'
step=(--q "$W/step-q.npy" --k-pages "$W/k-pages.npy" --v-pages "$W/v-pages.npy" --qi "$W/step-qi.npy"
    --ki-pages "$W/ki-pages.npy" --page-table "$W/table.npy" --lens "$W/lens.npy" --topk 3)
runs 0 "decode: two requests that share pages" decode --backend ref "${step[@]}" --out "$W/step"
wrote "$W/step" decode ids.npy o.npy lse.npy
says '^ran decode/reference \(ref\)$'
head -c 128 "$W/step/ids.npy" | grep -q "'shape': (2, 2, 13, 3)" && head -c 128 "$W/step/o.npy" | grep -q "'shape': (2, 13, 4, 16)" &&
    head -c 128 "$W/step/lse.npy" | grep -q "'shape': (2, 13, 4)"
check $? "... of shapes [Hkv,R,Tq,k], [R,Tq,Hq,dh] and [R,Tq,Hq]"
for x in k v; do
    head -c $((128 + 30 * 128)) "$V/prefix/$x.npy" | payload /dev/stdin | npy "$W/first-$x.npy" '<f4' '(30, 2, 16)'
done
head -c $((128 + 30 * 32)) "$V/prefix/ki.npy" | payload /dev/stdin | npy "$W/first-ki.npy" '<f4' '(30, 8)'
runs 0 "forward: the first request" forward --backend ref "${in[@]}" "${size[@]}" --out "$W/first"
runs 0 "forward: the second request" forward --backend ref "${in[@]:0:2}" "${in[@]:6:2}" "${size[@]}" --k "$W/first-k.npy" \
    --v "$W/first-v.npy" --ki "$W/first-ki.npy" --out "$W/second"
for x in o lse; do
    cmp -s <(payload "$W/step/$x.npy") <(payload "$W/first/$x.npy"; payload "$W/second/$x.npy")
    check $? "decode: $x.npy is that of msa forward, bit for bit"
done
group() { payload "$1/ids.npy" | tail -c +$((1 + $2 * 156)) | head -c 156; } # 13 rows of 3
cmp -s <(payload "$W/step/ids.npy") <(group "$W/first" 0; group "$W/second" 0; group "$W/first" 1; group "$W/second" 1)
check $? "decode: ids.npy is that of msa forward"
for tokens in 4 16; do # a page of 8 tokens is two blocks of 4, and half a block of 16
    for kernel in decode/reference decode/streams; do
        runs 0 "$kernel: blocks of $tokens tokens in pages of 8" decode "${step[@]}" --block $tokens --kernel ${kernel#*/} --out "$W/step"
        runs 0 "forward: blocks of $tokens" forward "${in[@]}" --block $tokens --topk 3 --backend ref --out "$W/sized"
        cmp -s <(group "$W/step" 0; group "$W/step" 2) <(group "$W/sized" 0; group "$W/sized" 1)
        check $? "... ids.npy is that of msa forward"
    done
done
le32 45 0 | npy "$W/idle.npy" '<i4' '(2,)'
idle=("${step[@]}")
idle[13]="$W/idle.npy" # after --lens
nowhere() { printf '\377%.0s' $(seq $1); } # so many bytes of ids that are -1
for backend in ref fast; do
    runs 0 "decode on $backend: a request without tokens" decode "${idle[@]}" --backend $backend --out "$W/idle"
    cmp -s <(payload "$W/idle/ids.npy") <(group "$W/first" 0; nowhere 156; group "$W/first" 1; nowhere 156) &&
        cmp -s <(payload "$W/idle/o.npy" | tail -c 3328) <(zeros 832) &&
        payload "$W/idle/lse.npy" | tail -c 208 | od -An -v -tx4 -w4 | sort -u | grep -qx ' ff800000'
    check $? "... its ids are -1, its output 0, its log-sum-exp -inf"
done
runs 0 "decode: a kernel by its name alone, of the fast back end" decode "${step[@]}" --backend fast --out "$W/step"
says '^ran decode/[a-z]+ \(fast\)$'
cmp -s <(payload "$W/step/ids.npy") <(group "$W/first" 0; group "$W/second" 0; group "$W/first" 1; group "$W/second" 1)
check $? "... and chooses the same blocks"
with_nan() { # with_nan FROM TO INDEX...: the array, NaN at these places
    local i
    cp "$1" "$2"
    for i in "${@:3}"; do le32 $((0x7fc00000)) | dd of="$2" bs=1 seek=$((128 + 4 * i)) conv=notrunc status=none; done
}
torn=("${step[@]}") # NaN in page 6, which nobody has, and behind the 45 tokens of the first request, in page 3
with_nan "$W/k-pages.npy" "$W/torn-k.npy" 880 1536 && torn[3]="$W/torn-k.npy"
with_nan "$W/v-pages.npy" "$W/torn-v.npy" 880 1536 && torn[5]="$W/torn-v.npy"
with_nan "$W/ki-pages.npy" "$W/torn-ki.npy" 248 384 && torn[9]="$W/torn-ki.npy"
for kind in 'ref f32' 'ref fp8' 'fast f32' 'fast fp8'; do
    how=(--backend ${kind% *} --index-keys ${kind#* })
    runs 0 "decode on $kind: as they are" decode "${step[@]}" "${how[@]}" --out "$W/step"
    runs 0 "decode on $kind: what nobody wrote into the pages" decode "${torn[@]}" "${how[@]}" --out "$W/torn"
    diff -r "$W/step" "$W/torn" >"$W.out"
    check $? "... changes nothing"
done
runs 0 "decode: 8-bit index keys" decode "${step[@]}" --index-keys fp8 --kernel reference --out "$W/step"
says '^8-bit index keys choose the blocks of 16-bit ones for [01]\.[0-9]{4} of 38 \(query, group\) pairs, [01]\.[0-9]{4} of all ids; score recall 0\.[0-9]{4}, with 16 bits 0\.[0-9]{4}$'
runs 0 "decode: more blocks to choose than there are" decode "${step[@]:0:14}" --index-keys fp8 --out "$W/step"
says '^8-bit index keys: no query has more than 16 visible blocks'
rm -rf "$W/step" "$W/first" "$W/second"

# ---- Bad input -------------------------------------------------------------------------------------

refuses() { # refuses WORD NAME ARGUMENT...: status 2, one line on stderr that holds WORD, nothing else anywhere
    local word=$1 name=$2 before after
    shift 2
    before=$(find "$W" | sort)
    "$MSA" "$@" >"$W.out" 2>"$W.err"
    local status=$?
    after=$(find "$W" | sort)
    [ $status -eq 2 ] && [ "$(wc -l <"$W.err")" -eq 1 ] && grep -qF -- "$word" "$W.err" && [ ! -s "$W.out" ] &&
        [ "$before" = "$after" ]
    check $? "$name: exit 2, one line that names $word"
}

refuses "expected a command" "no command"
refuses "'frobnicate'" "unknown command" frobnicate
refuses "'frobnicate'" "help for an unknown command" help frobnicate
refuses "'--frobnicate'" "help with an unknown option" help --frobnicate
refuses "'x'" "version with a word" version x
refuses "'--x'" "kernels with an option" kernels --x

inputs prefix
good=("${in[@]}" "${size[@]}" --out "$W/out")
without() { # without OPTION: sets $rest to good without it
    rest=()
    local skip=0 a
    for a in "${good[@]}"; do
        [ "$a" = "$1" ] && skip=2
        [ $skip -gt 0 ] && skip=$((skip - 1)) || rest+=("$a")
    done
}
for option in --q --k --v --qi --ki --out; do
    without $option
    refuses "$option:" "forward without $option" forward "${rest[@]}"
    refuses "$option:" "forward with $option twice" forward "${good[@]}" $option "$W/x"
    refuses "$option:" "forward with $option and no value" forward "${rest[@]}" $option
    refuses "$option:" "forward with an option for the value of $option" forward $option "${rest[@]}"
done
refuses "'--frobnicate'" "unknown option" forward "${good[@]}" --frobnicate
refuses "'stray'" "stray word" forward "${good[@]}" stray
refuses "'--topk=3'" "option and value in one word" forward "${in[@]}" --out "$W/out" --topk=3
refuses "''" "empty word" forward "${good[@]}" ''
refuses "'-'" "a lone dash" forward "${good[@]}" -
refuses "--scores:" "flag twice" forward "${good[@]}" --scores --scores
packed=(forward "${two[@]}" --out "$W/out")
le32 0 13 27 | npy "$W/far.npy" '<i4' '(3,)' && le32 0 20 10 26 | npy "$W/falls.npy" '<i4' '(4,)' && le32 0 9 9 90 | npy "$W/three.npy" '<i4' '(4,)'
le32 0 13 26 | npy "$W/few.npy" '<i4' '(3,)' && le32 0 9 90 | npy "$W/short.npy" '<i4' '(3,)' && le32 14 -1 | npy "$W/lengths.npy" '<i4' '(2,)'
refuses "--cu-q: expected it with --cu-kv" "places of queries alone" "${packed[@]}" --cu-q "$W/few.npy"
refuses "--cu-kv: expected it with --cu-q" "places of keys alone" "${packed[@]}" --cu-kv "$W/short.npy"
refuses "--len-kv: expected it with --cu-q" "lengths alone" "${packed[@]}" --len-kv "$W/lengths.npy"
refuses "far.npy: expected places that rise from 0 to 26, found 27 at [2]" "places past the end" "${packed[@]}" "${seqs[@]:2}" --cu-q "$W/far.npy"
refuses "falls.npy: expected places that rise from 0 to 26, found 10 at [2]" "places that fall" "${packed[@]}" --cu-q "$W/falls.npy" --cu-kv "$W/three.npy"
refuses "three.npy: expected [R+1] with R+1 = 3" "other numbers of sequences" "${packed[@]}" --cu-q "$W/few.npy" --cu-kv "$W/three.npy"
refuses "lengths.npy: expected at [0] a length from 0 to 13, found 14" "a length without room" "${packed[@]}" "${seqs[@]}" --len-q "$W/lengths.npy"
refuses "2q.npy: sequence 0: expected at most as many queries as" "more queries than keys" "${packed[@]}" --cu-q "$W/few.npy" --cu-kv "$W/short.npy"
refuses "few.npy: expected one place more than there are lengths" "lengths of other sequences" "${packed[@]}" --cu-q "$W/few.npy" \
    --cu-kv "$W/short.npy" --len-q "$W/few.npy"

for option in --block --topk; do
    without $option
    for value in 0 -1 x '' ' ' 1.5 3x 0x10 1e3 99999999999999999999 2147483648 nan; do
        refuses "$option:" "$option '$value'" forward "${rest[@]}" $option "$value"
    done
done

# A file that is wrong, in the place of each good one.
with() { # with OPTION FILE: sets $rest to good with another file
    without "$1"
    rest+=("$1" "$2")
}
bad_file() { # bad_file NAME [WORD]: $W/bad.npy in the place of --q and of --ki
    with --q "$W/bad.npy"
    refuses "${2:-bad.npy}" "--q: $1" forward "${rest[@]}"
    with --ki "$W/bad.npy"
    refuses "bad.npy" "--ki: $1" forward "${rest[@]}"
}
with --q "$W/absent.npy"
refuses "absent.npy" "--q: no such file" forward "${rest[@]}"
with --q ''
refuses "''" "--q: an empty name" forward "${rest[@]}"
with --q "$V"
refuses "$V" "--q: a directory" forward "${rest[@]}"
with --q /dev/null
refuses "/dev/null" "--q: a device" forward "${rest[@]}"
mkfifo "$W/pipe"
with --q "$W/pipe"
refuses "pipe" "--q: a pipe that nobody writes to" forward "${rest[@]}"
with --q "$W/two
lines.npy"
refuses "two?lines.npy" "--q: a name with a line break" forward "${rest[@]}"
with --q "$W/$(printf 'caf\303\251-\302\2331m-\377').npy" # U+009B begins an escape code as ESC [ does; 377 is no UTF-8
refuses "$(printf 'caf\303\251-??1m-?.npy')" "--q: a name that would control the terminal" forward "${rest[@]}"
with --q "$W/$(printf '%0300d' 0).npy"
refuses "0000.npy" "--q: a name that is too long" forward "${rest[@]}"

: >"$W/bad.npy"
bad_file "an empty file"
head -c 7 "$V/prefix/q.npy" >"$W/bad.npy"
bad_file "only the magic"
head -c 100 "$V/prefix/q.npy" >"$W/bad.npy"
bad_file "half a header"
head -c -1 "$V/prefix/q.npy" >"$W/bad.npy"
bad_file "a byte short"
{ cat "$V/prefix/q.npy"; printf x; } >"$W/bad.npy"
bad_file "a byte too long"
head -c 4000 /dev/zero >"$W/bad.npy"
bad_file "zeros"
echo "1.0, 2.0, 3.0" >"$W/bad.npy"
bad_file "a text"
for descr in '>f4' '<i4' '<u4' '|b1' '<c8' '|O' ''; do
    zeros $((13 * 4 * 16)) | npy "$W/bad.npy" "$descr" '(13, 4, 16)'
    bad_file "dtype '$descr'" "found dtype '$descr'"
done
zeros $((13 * 4 * 16)) | npy "$W/bad.npy" '<f8' '(13, 4, 16)'
bad_file "half the bytes that float64 takes" "truncated: shape (13, 4, 16) takes 6656 bytes"
zeros $((13 * 4 * 16)) | npy "$W/bad.npy" '<f4' '(13, 4, 16)' True
bad_file "Fortran order" "ortran"
for shape in '()' '(832,)' '(13, 64)' '(13, 4, 4, 4)' '(13, 4, 16' '(-13, 4, 16)' '13' '(13.0, 4, 16)' '(1,1,1,1,1,1,1,1,832)'; do
    zeros 832 | npy "$W/bad.npy" '<f4' "$shape"
    bad_file "shape $shape"
done
for shape in '(0, 4, 16)' '(13, 0, 16)' '(13, 4, 0)'; do
    npy "$W/bad.npy" '<f4' "$shape" </dev/null
    bad_file "shape $shape"
done
for shape in '(4294967296, 4294967296, 16)' '(9223372036854775807, 9223372036854775807, 9223372036854775807)' \
    '(99999999999999999999, 1, 1)' '(4611686018427387904, 4, 1)' '(0, 9223372036854775807, 9223372036854775807)'; do
    npy "$W/bad.npy" '<f4' "$shape" </dev/null
    bad_file "shape $shape"
done
for bits in 7fc00000 7f800000 ff800000; do
    { zeros 831; le32 $((0x$bits)); } | npy "$W/bad.npy" '<f4' '(13, 4, 16)'
    with --q "$W/bad.npy"
    refuses "bad.npy" "--q: a value of bits $bits" forward "${rest[@]}"
done

# Files that do not agree with each other.
disagrees() { # disagrees OPTION SHAPE: zeros of that shape
    local count
    count=$(($(tr -d '() ' <<<"$2" | tr ',' '*')))
    zeros "$count" | npy "$W/bad.npy" '<f4' "$2"
    with "$1" "$W/bad.npy"
    refuses "bad.npy" "$1 of shape $2" forward "${rest[@]}"
}
disagrees --q '(13, 3, 16)'
disagrees --q '(13, 4, 8)'
disagrees --q '(46, 4, 16)'
disagrees --k '(45, 2, 8)'
disagrees --k '(12, 2, 16)'
disagrees --v '(44, 2, 16)'
disagrees --v '(45, 1, 16)'
disagrees --v '(45, 2, 15)'
disagrees --qi '(12, 2, 8)'
disagrees --qi '(13, 4, 8)'
disagrees --qi '(13, 2, 16)'
disagrees --ki '(44, 8)'
disagrees --ki '(45, 16)'
zeros 64 | npy "$W/three.npy" '<f4' '(4, 4, 4)'
zeros 48 | npy "$W/two.npy" '<f4' '(3, 4, 4)'
refuses "three.npy" "dense: more queries than keys" dense --q "$W/three.npy" --k "$W/two.npy" --v "$W/two.npy" \
    --out "$W/out"

# Ids.
some_ids() { # some_ids NAME WORD ID...: the first row; the others are right
    local name=$1 word=$2
    shift 2
    {
        head -c 128 "$V/prefix/ids.npy"
        le32 "$@"
        tail -c +$((129 + 4 * $#)) "$V/prefix/ids.npy"
    } >"$W/bad.npy"
    refuses "$word" "--ids: $name" forward "${in[@]}" --block 8 --out "$W/out" --ids "$W/bad.npy"
}
some_ids "a future block" bad.npy 0 1 5
some_ids "a block twice" bad.npy 1 1 4
some_ids "none" bad.npy -1 -1 -1
some_ids "an id behind -1" bad.npy 1 -1 4
some_ids "a negative id" bad.npy -2 1 4
some_ids "an id far outside" bad.npy 0 1 2147483647
refuses "--topk:" "--ids of another width than --topk" forward "${in[@]}" --block 8 --topk 4 --out "$W/out" \
    --ids "$V/prefix/ids.npy"
refuses "q.npy" "--ids: floats" forward "${in[@]}" --block 8 --out "$W/out" --ids "$V/prefix/q.npy"
refuses "ties/ids.npy" "--ids: of another call" forward "${in[@]}" --block 8 --out "$W/out" --ids "$V/ties/ids.npy"
refuses "topk/reference" "--ids and a selection kernel" forward "${in[@]}" --block 8 --out "$W/out" \
    --ids "$V/prefix/ids.npy" --kernel topk/reference

# Kernels and back ends.
for kernel in x sparse sparse/ sparse/frobnicate frobnicate/reference /reference 'sparse/reference ' dense/reference; do
    refuses "'$kernel'" "--kernel '$kernel'" forward "${good[@]}" --kernel "$kernel"
done
refuses "--kernel:" "two kernels for a stage" forward "${good[@]}" --kernel sparse/reference --kernel sparse/reference
refuses "'index/reference'" "dense: a kernel of another stage" dense "${in[@]:0:6}" --kernel index/reference --out "$W/out"
for backend in x '' gpu simt/ REF; do
    refuses "--backend: expected" "--backend '$backend'" forward "${good[@]}" --backend "$backend"
done
refuses "'frobnicate'" "check: unknown name" check frobnicate
refuses "'topk/frobnicate'" "check: unknown kernel" check topk/reference topk/frobnicate
for shape in x '' 'T=4' 'T=4 S=4 heads=4:2 width=8:8 block=2 topk=0' 'T=5 S=4 heads=4:2 width=8:8 block=2 topk=1' \
    'T=4 S=4 heads=4:3 width=8:8 block=2 topk=1' 'T=4 S=4 heads=4:2 width=8:8 block=2 topk=1 seqs=2' \
    'T=-4 S=4 heads=4:2 width=8:8 block=2 topk=1' 'T=4 S=4 heads=4:2 width=8:8 block=2 topk=1 x' \
    'T=9999999 S=9999999 heads=64:4 width=128:128 block=1 topk=1' \
    'T=4 S=4 heads=4:2 width=8:8 block=99999999 topk=1' 'T=4 T=4 S=4 heads=4:2 width=8:8 block=2 topk=1'; do
    refuses "--shape:" "check: --shape '$shape'" check topk --shape "$shape"
done
for seed in -1 x 1.5 ''; do
    refuses "--seed:" "check: --seed '$seed'" check topk --seed "$seed"
done

# Where to write.
echo precious >"$W/file"
place() { # place NAME WORD DIR: for every command that writes tensors
    local command
    for command in forward backward dense; do
        local args=("${in[@]:0:6}")
        [ $command = dense ] || args+=("${in[@]:6}")
        [ $command = backward ] && args+=(--dout "$V/prefix/dout.npy")
        refuses "$2" "$command: --out is $1" $command "${args[@]}" --out "$3"
    done
}
place "a file" "--out" "$W/file"
place "below a file" "--out" "$W/file/out"
place "far below a file" "--out" "$W/file/a/out"
place "in no directory" "--out" "$W/absent/out"
place "an empty name" "--out" ""
place "a device" "--out" /dev/null
place "a name that is too long" "--out" "$W/$(printf '%05000d' 0)"
[ "$(cat "$W/file")" = precious ]
check $? "the file is as it was"
mkdir -p "$W/taken/o.npy"
refuses "o.npy" "dense: a directory in the place of o.npy" dense "${in[@]:0:6}" --out "$W/taken"
mkdir "$W/theirs" && cp "$V/prefix/o.npy" "$W/theirs"
refuses "theirs/o.npy: cannot write: expected no file of that name" "dense: an o.npy that is not of an earlier result" dense "${in[@]:0:6}" \
    --out "$W/theirs"
ln -s file "$W/link.csv" # /dev/stdout is one, too
refuses "--csv $W/link.csv: expected a file, or nothing yet, found a symbolic link" "cost: --csv is a link" cost --csv "$W/link.csv"
mkdir "$W/linked" && ln -s ../file "$W/linked/lse.npy"
refuses "lse.npy: expected a file, or nothing yet, found a symbolic link" "dense: a link in the place of lse.npy" dense "${in[@]:0:6}" \
    --out "$W/linked"
if [ "$(id -u)" -ne 0 ]; then
    mkdir "$W/locked"
    chmod 555 "$W/locked"
    place "in a directory that one may not write" "--out" "$W/locked/out"
    place "a directory that one may not write" "--out" "$W/locked"
else
    n=$((n + 1))
    echo "ok $n - directories that one may not write # SKIP root may write everywhere"
fi
refuses "--csv" "cost: --csv below a file" cost --csv "$W/file/x.csv"
refuses "--csv" "cost: --csv is a directory" cost --csv "$W"
if [ -w /dev/full ]; then
    echo old >"$W/full.csv"
    "$MSA" cost --csv "$W/full.csv" >/dev/full 2>"$W.err"
    [ $? -eq 2 ] && [ "$(wc -l <"$W.err")" -eq 1 ] && [ "$(cat "$W/full.csv")" = old ]
    check $? "a full standard output: exit 2, one line, the old file"
    for command in "check topk" "bench topk sparse"; do # which would take a minute
        timeout 10 "$MSA" $command >/dev/full 2>"$W.err"
        [ $? -eq 2 ] && [ "$(wc -l <"$W.err")" -eq 1 ]
        check $? "$command: stops where nobody reads what it prints"
    done
fi
zeros $((65536 * 8)) | npy "$W/wide.npy" '<f4' '(65536, 8, 1)'
zeros 65536 | npy "$W/narrow.npy" '<f4' '(65536, 1)'
refuses "memory" "more ids than any memory holds" forward --q "$W/wide.npy" --k "$W/wide.npy" --v "$W/wide.npy" \
    --qi "$W/wide.npy" --ki "$W/narrow.npy" --topk 1048576 --out "$W/out"

# The other commands.
gradient=("${in[@]}" "${size[@]}" --out "$W/out")
refuses "--dout:" "backward without --dout" backward "${gradient[@]}"
refuses "k.npy" "backward: --dout of another shape" backward "${gradient[@]}" --dout "$V/prefix/k.npy"
for weight in -1 x '' nan inf 1e99 1e10; do
    refuses "--kl-weight:" "backward: --kl-weight '$weight'" backward "${gradient[@]}" --dout "$V/prefix/dout.npy" \
        --kl-weight "$weight"
done
refuses "--full-support:" "backward: --full-support and --ids" backward "${in[@]}" --dout "$V/prefix/dout.npy" \
    --full-support --ids "$V/prefix/ids.npy" --out "$W/out"
refuses "'sparse/reference'" "backward: --full-support and a sparse kernel" backward "${gradient[@]}" \
    --dout "$V/prefix/dout.npy" --full-support --kernel sparse/reference
if "$MSA" kernels | grep -q '^backward/naive.*simt'; then # dO V is beyond float32, and 0 times that is 0 in the reference alone
    many() { # many WORD: 2048 times
        local i
        le32 "$1" > "$W/word"
        for ((i = 0; i < 11; i++)); do cat "$W/word" "$W/word" > "$W/words" && mv "$W/words" "$W/word"; done
        cat "$W/word"
    }
    for x in q k; do zeros 4096 | npy "$W/huge-$x.npy" '<f4' '(64, 1, 64)'; done
    { many 0x7db48e52 && many 0xfdb48e52; } | npy "$W/huge-v.npy" '<f4' '(64, 1, 64)'   # 3e37 and -3e37
    { many 0x5d5e0b6b && many 0x5d5e0b6b; } | npy "$W/huge-dout.npy" '<f4' '(64, 1, 64)' # 1e18
    zeros 4096 | npy "$W/huge-ki.npy" '<f4' '(64, 64)'
    huge=(backward --q "$W/huge-q.npy" --k "$W/huge-k.npy" --v "$W/huge-v.npy" --qi "$W/huge-q.npy" --ki "$W/huge-ki.npy" --dout "$W/huge-dout.npy"
        --block 32 --topk 2)
    "$MSA" "${huge[@]}" --backend simt --out "$W/huge" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -e $W/huge ]] && grep -q 'dq.npy at \[0, 0, 0\]: expected a number, found nan' "$W.err"
    check $? "backward: a number that the engine's kernels cannot hold is no result"
    runs 0 "... and the reference's is one" "${huge[@]}" --backend ref --out "$W/huge"
fi
refuses "'--qi'" "dense with --qi" dense "${in[@]}" --out "$W/out"
refuses "--qi:" "recall without --qi" recall "${in[@]:0:4}"
refuses "--ki:" "recall without --ki" recall "${in[@]:0:4}" --qi "$V/prefix/qi.npy"
refuses "--fp8:" "recall --fp8 without index keys" recall "${in[@]:0:4}" --ids "$V/prefix/ids.npy" --fp8
refuses "'--out'" "recall with --out" recall "${in[@]:0:4}" "${in[@]:6}" --out "$W/out"
for lengths in 0 -1 x '' , 1K, ,1K 1k 1KK 1.5M 1G 99999999999999999999 2000000M '1K 2K'; do
    refuses "--n:" "cost: --n '$lengths'" cost --n "$lengths"
done
refuses "--chunk:" "cost: --chunk 0" cost --ranks 2 --chunk 0
refuses "--ranks:" "cost: one rank" cost --ranks 1
refuses "--link: expected it with --ranks, found it alone" "cost: --link without --ranks" cost --link 50
refuses "--chunk: expected it with --ranks, found it alone" "cost: --chunk without --ranks" cost --chunk 64 --n 1K
refuses "--chunk: expected one of at most the 1024 tokens of --n, found '4K,2K'" "cost: no chunk that fits" cost --ranks 4 --n 512,1K \
    --chunk 4K,2K --csv "$W/none.csv"
refuses "--heads:" "cost: heads that do not divide" cost --heads 7 --kv-heads 2
refuses "--topk:" "cost: --topk 0" cost --topk 0

# Steps of generation.
place_of() { # place_of OPTION FILE: sets $rest to a good step with another file
    rest=(--out "$W/out")
    local a=0
    while [ $a -lt ${#step[@]} ]; do
        [ "${step[$a]}" = "$1" ] && rest+=("$1" "$2") || rest+=("${step[$a]}" "${step[$((a + 1))]}")
        a=$((a + 2))
    done
}
bad_step() { # bad_step OPTION NAME WORD SHAPE [INTEGER...]: integers, or zeros of type float32
    local option=$1 name=$2 word=$3 shape=$4 count
    shift 4
    count=$(($(tr -d '() ' <<<"${shape%,)}" | tr ',' '*')))
    if [ $# -gt 0 ]; then le32 "$@" | npy "$W/bad.npy" '<i4' "$shape"; else zeros "$count" | npy "$W/bad.npy" '<f4' "$shape"; fi
    place_of "$option" "$W/bad.npy"
    refuses "$word" "decode: $name" decode "${rest[@]}"
}
refuses "--lens:" "decode without --lens" decode "${step[@]:0:12}" --out "$W/out"
refuses "--out:" "decode without --out" decode "${step[@]}"
place_of --page-table "$W/absent.npy"
refuses "absent.npy" "decode: no such table" decode "${rest[@]}"
bad_step --page-table "a page past the last" "bad.npy: expected in [0,2] a page from 0 to 6, found 7" '(2, 7)' 4 0 7 1 2 3 -1 4 0 5 1 -1 -1 -1
bad_step --page-table "no page where a token lies" "bad.npy: request 1: expected the 4 pages that its 30 tokens of $W/lens.npy take, found 3 and then -1" '(2, 7)' 4 0 5 1 2 3 -1 4 0 5 -1 -1 -1 -1
bad_step --page-table "a page far off" "found -2147483648" '(2, 7)' 4 0 5 1 2 -2147483648 -1 4 0 5 1 -1 -1 -1
bad_step --page-table "a row too few" "bad.npy" '(1, 7)' 4 0 5 1 2 3 -1
bad_step --page-table "rows shorter than a request" "lens.npy: request 0: expected at most the 40 tokens that fit into a row of $W/bad.npy, found 45: they take 6 pages of 8, and a row has 5" '(2, 5)' 4 0 5 1 2 4 0 5 1 -1
bad_step --page-table "no room for the new tokens" "bad.npy" '(2, 1)' 4 4
bad_step --page-table "a table of floats" "found dtype '<f4'" '(2, 7)'
bad_step --page-table "a table of one dimension" "bad.npy" '(7,)' 4 0 5 1 2 3 -1
bad_step --lens "shorter than its new tokens" "bad.npy: request 1: expected 0 tokens, or 13 new ones and those before, found 12" '(2,)' 45 12
bad_step --lens "longer than its row of the table" "found 57" '(2,)' 57 30
bad_step --lens "a negative length" "found -1" '(2,)' 45 -1
bad_step --lens "lengths that reach a missing page" "table.npy: request 0: expected the 7 pages that its 49 tokens" '(2,)' 49 30
bad_step --lens "a length too many" "bad.npy" '(3,)' 45 30 30
bad_step --lens "lengths of floats" "found dtype '<f4'" '(2,)'
bad_step --q "queries without requests" "bad.npy" '(13, 4, 16)'
bad_step --q "heads that do not divide" "bad.npy: expected a multiple of the 2 heads" '(2, 13, 3, 16)'
bad_step --q "another width" "bad.npy" '(2, 13, 4, 8)'
bad_step --qi "fewer index queries" "bad.npy" '(2, 12, 2, 8)'
bad_step --k-pages "tokens before heads" "bad.npy" '(7, 8, 2, 16)'
bad_step --v-pages "a page too few" "bad.npy" '(6, 2, 8, 16)'
bad_step --ki-pages "pages of another size" "bad.npy" '(7, 16, 8)'
bad_step --ki-pages "no pages" "bad.npy" '(0, 8, 8)'
for x in k:832:'[0, 0]' v:963:'[1, 3]' ki:225:'[1]'; do # in the last token of the first request
    IFS=: read -r name at place <<<"$x"
    with_nan "$W/$name-pages.npy" "$W/bad.npy" "$at"
    place_of --$name-pages "$W/bad.npy"
    refuses "bad.npy: page 3, token 4: nan at $place" "decode: not a number in $name" decode "${rest[@]}"
done
refuses "--index-keys:" "decode: an unknown kind of keys" decode "${step[@]}" --index-keys int4 --out "$W/out"
refuses "--index-keys int8: expected a kernel on a device" "decode: a kernel that does not screen" decode "${step[@]}" --backend ref --index-keys int8 --out "$W/out"
refuses "'index/reference'" "decode: a kernel of another stage" decode "${step[@]}" --kernel index/reference --out "$W/out"
refuses "'decode/frobnicate'" "decode: an unknown kernel" decode "${step[@]}" --kernel frobnicate --out "$W/out"
refuses "--backend" "decode: an unknown back end" decode "${step[@]}" --backend gpu --out "$W/out"
refuses "--topk:" "decode: --topk 0" decode "${step[@]:0:14}" --topk 0 --out "$W/out"
refuses "--block: expected a multiple of the 8 tokens of a page" "decode: a block of a page and a half" decode "${step[@]}" --block 12 --out "$W/out"
refuses "--out" "decode: --out is a file" decode "${step[@]}" --out "$W/file"
refuses "--index-keys int8: expected a back end with index/screened, found ref" "forward: 8 bits on ref" \
    forward "${in[@]}" --backend ref --index-keys int8 --out "$W/out"
refuses "--index-keys int8: expected to choose blocks and no more, found --scores" "forward: scores of what is screened" \
    forward "${in[@]}" --index-keys int8 --scores --out "$W/out"
refuses "--index-keys: expected full or int8, found 'int4'" "forward: an unknown kind of keys" forward "${in[@]}" --index-keys int4 --out "$W/out"
refuses "--index-keys: expected bf16 or int8, found 'int4'" "check: an unknown kind of keys" check --index-keys int4
if "$MSA" kernels | grep -q '^decode/swapped.*simt'; then
    refuses "--index-keys int8: expected a kernel on a device" "check: none that screens" check decode/split --index-keys int8
    refuses "decode/swapped" "decode: sizes that the kernel does not take" decode "${step[@]}" --backend simt --out "$W/out"
    refuses "--index-keys fp8:" "decode: a kernel without 8-bit keys" decode "${step[@]}" --kernel naive --backend simt --index-keys fp8 \
        --out "$W/out"
fi

theirs=("${verify[@]}" --ids "$W/a.npy")
refuses "--ids: expected this option, or --o" "verify without --ids" "${verify[@]}"
refuses "--qi: expected --ids with it" "verify: index queries of dense attention" verify --o "$W/o.npy" "${in[@]}"
refuses "--topk: expected --ids with it" "verify: k of dense attention" verify --o "$W/o.npy" "${in[@]:0:6}" --topk 4
refuses "--v: expected this option with --o" "verify: dense attention without values" verify --o "$W/o.npy" "${in[@]:0:4}"
refuses "--ki: expected this option with --ids" "verify: ids without index keys" verify --ids "$W/a.npy" --qi "$W/qi.npy"
refuses "--layout:" "verify: unknown layout" "${theirs[@]}" --layout tkh
refuses "a.npy" "verify: ids of the other layout" "${theirs[@]}" --layout thk
refuses "--q:" "verify: --o without --q" "${theirs[@]}" --o "$W/o.npy"
refuses "three.npy" "verify: --o of another call" verify --ids "$V/prefix/ids.npy" "${in[@]}" --block 8 \
    --o "$W/three.npy"
refuses "qi.npy" "verify: ids that are floats" "${verify[@]}" --ids "$W/qi.npy"
refuses "a.npy" "verify: ids of another width than --topk" "${theirs[@]}" --topk 4
for shape in '(2, 4, 3)' '(3, 3, 2)' '(1, 6, 3)'; do
    ids "$W/a.npy" "$shape" $(seq "$(($(tr -d '() ' <<<"$shape" | tr ',' '*')))")
    refuses "a.npy" "verify: ids of shape $shape" "${theirs[@]}"
done
npy "$W/a.npy" '<i4' '(2, 3, 0)' </dev/null
refuses "a.npy" "verify: no ids" "${theirs[@]}"
npy "$W/a.npy" '<i8' '(2, 3, 1)' < <(le32 0 0 0 0 0 0 0 0 0 0 0 1)
refuses "the int64 at [1, 2, 0] is beyond the range of int32" "verify: an id of 2^32" "${theirs[@]}"
npy "$W/a.npy" '<u4' '(2, 3, 1)' < <(zeros 6)
refuses "found dtype '<u4'" "verify: unsigned ids" "${theirs[@]}"
for tolerance in -1 x nan 2; do
    refuses "--tolerance:" "verify: --tolerance $tolerance" "${theirs[@]}" --tolerance "$tolerance"
done

# ---- What a verdict says -----------------------------------------------------------------------------

inputs prefix
# NaN is a wrong output, not a wrong file.
o_with() { # o_with BITS: the right output but for element [5,2,7]
    {
        head -c $((128 + 4 * (5 * 64 + 2 * 16 + 7))) "$V/prefix/o.npy"
        le32 $((0x$1))
        tail -c +$((129 + 4 * (5 * 64 + 2 * 16 + 8))) "$V/prefix/o.npy"
    } >"$W/o.npy"
}
whole=(verify --ids "$V/prefix/ids.npy" "${in[@]}" --block 8)
for bits in 7fc00000:nan 7f800000:inf ff800000:-inf; do
    o_with "${bits%:*}"
    runs 1 "verify: an output with ${bits#*:}" "${whole[@]}" --o "$W/o.npy"
    says "^output +FAILED at every precision; o\\[5,2,7\\]: expected [-0-9.e]+, found ${bits#*:}, "
    says '^ids +ok'
done
runs 0 "verify: a class that is met" "${whole[@]}" --o "$V/prefix/o.npy" --precision float32
says '^output +ok, precision float32 \(float32 arithmetic\)'
runs 0 "verify: a wider class" "${whole[@]}" --o "$V/prefix/o.npy" --precision bf16-output
says '^  it meets precision float32 '
o_with 40800000
runs 1 "verify: one wrong element" "${whole[@]}" --o "$W/o.npy" --precision bf16-logits
says '^output +FAILED, not of precision bf16-logits, [0-9.]+ times its budget; o\[5,2,7\]: expected [-0-9.e]+, found 4, '
refuses "--precision: expected one of float32, " "verify: an unknown class" "${whole[@]}" --o "$W/o.npy" --precision bf16
refuses "--o: expected this option with --precision" "verify: a class of no output" "${whole[@]}" --precision float32
refuses "--o: expected this option with --tolerance" "verify: a tolerance of no output" "${whole[@]}" --tolerance 0.1
refuses "--precision:" "verify: a class and a tolerance" "${whole[@]}" --o "$W/o.npy" --precision float32 --tolerance 0.1

# Where it fails, verify says which tensor a kernel that takes bf16 would not have seen as it is.
runs 1 "verify: the same again" "${whole[@]}" --o "$W/o.npy" --precision bf16-logits
grep -q '^note' "$W.out"
[ $? -eq 1 ]
check $? "... and nothing of bf16, since all tensors are"
le32 $((0x40400001)) $((0x3f800000)) $((0x40800000)) $((0x3f800000)) $((0x40a00000)) $((0x41100000)) |
    npy "$W/fine.npy" '<f4' '(6, 1)'
ids "$W/a.npy" '(2, 3, 3)' "${right_1[@]}" "${right_0[@]}"
runs 1 "verify: a tensor that is not bf16" verify --qi "$W/qi.npy" --ki "$W/fine.npy" --block 1 --ids "$W/a.npy"
says '^note +.*fine.npy holds more than bf16 does'

# Scores of blocks 0 1 2 3: 1 + e, 1, 2 and the local one. With e = 2^-23 the first two differ by no more than
# rounding may swap, 2 * 2^-24 * 1, with e = 2^-22 by more.
near() { # near BITS GROUPS TOKENS: ones for every query
    le32 $((0x$1)) $((0x3f800000)) $((0x40000000)) $((0x3f000000)) | npy "$W/near.npy" '<f4' '(4, 1)'
    for _ in $(seq "$2"); do le32 $((0x3f800000)); done | npy "$W/one.npy" '<f4' "(1, $2, 1)"
    near=(verify --ki "$W/near.npy" --qi "$W/one.npy" --block 1 --ids "$W/a.npy")
}
near 3f800001 1
ids "$W/a.npy" '(1, 1, 3)' 1 2 3
runs 0 "verify: a near-tie" "${near[@]}"
says '0 swapped for an equal score, 1 for one within float32 rounding'
ids "$W/a.npy" '(1, 1, 4)' 2 1 0 3
runs 0 "verify: falling but for a near-tie" "${near[@]}"
says '^order +falling score; local block last$'
near 3f800001 2
ids "$W/a.npy" '(2, 1, 3)' 1 2 3 1 2 3
runs 1 "verify: more near-ties than one in a thousand" "${near[@]}"
near 3f800002 1
ids "$W/a.npy" '(1, 1, 3)' 1 2 3
runs 1 "verify: twice as far apart is no tie" "${near[@]}"
ids "$W/a.npy" '(1, 1, 4)' 2 1 0 3
runs 0 "verify: neither order" "${near[@]}"
says '^order +neither ascending nor by score; local block last$'

# ---- Tensors of other types -------------------------------------------------------------------------

ids64() { # ids64 FILE SHAPE ID...: as torch.topk gives them
    local file=$1 shape=$2 i
    shift 2
    for i; do le32 "$i" $((i >> 31)); done | npy "$file" '<i8' "$shape"
}
st() { # st FILE JSON: a safetensors file of this header and what stands on stdin
    {
        le32 ${#2} 0
        printf '%s' "$2"
        cat
    } >"$1"
}
# 3 1 4 1 5 9 again, as float16, bfloat16 and float64.
le32 $((0x3c004200)) $((0x3c004400)) $((0x48804500)) | npy "$W/half.npy" '<f2' '(6, 1)'
le32 $((0x3f804040)) $((0x3f804080)) $((0x411040a0)) | npy "$W/brain.npy" '<V2' '(6, 1)'
le32 0 $((0x40080000)) 0 $((0x3ff00000)) 0 $((0x40100000)) 0 $((0x3ff00000)) 0 $((0x40140000)) 0 $((0x40220000)) |
    npy "$W/double.npy" '<f8' '(6, 1)'
ids "$W/a.npy" '(2, 3, 3)' "${right_0[@]}" "${right_1[@]}"
theirs=(verify --qi "$W/qi.npy" --block 1 --ids "$W/a.npy" --ki)
converts 0 "verify" 'half.npy: float16 read as float32$' "${theirs[@]}" "$W/half.npy"
converts 0 "verify" 'brain.npy: <V2, as which ml_dtypes saves bfloat16, read as float32$' "${theirs[@]}" "$W/brain.npy"
converts 0 "verify" 'double.npy: float64 read as float32$' "${theirs[@]}" "$W/double.npy"
ids64 "$W/a.npy" '(2, 3, 4)' 0 1 2 3 4 3 2 0 5 0 4 2 0 1 2 3 4 0 3 1 5 1 0 3
converts 0 "verify: in any order" 'a.npy: int64 read as int32$' "${theirs[@]}" "$W/ki.npy"
ids64 "$W/a.npy" '(2, 3, 8)' 0 1 2 3 -1 -1 -1 -1 0 1 2 3 4 -1 -1 -1 0 1 2 3 4 5 -1 -1 \
    3 2 1 0 -1 -1 -1 -1 4 3 2 1 0 -1 -1 -1 5 4 3 2 1 0 -1 -1
converts 0 "verify: -1 after the valid ids" 'int64 read as int32$' "${theirs[@]}" "$W/ki.npy"

# forward and recall take ids in any order too. The tiny tensors serve for both branches.
{ payload "$W/ki.npy"; payload "$W/ki.npy"; } | npy "$W/kv.npy" '<f4' '(6, 2, 1)'
tiny=(--q "$W/qi.npy" --k "$W/kv.npy" --block 1)
ids "$W/a.npy" '(2, 3, 3)' "${right_0[@]}" "${right_1[@]}"
runs 0 "forward: ascending ids" forward "${tiny[@]}" --v "$W/kv.npy" --qi "$W/qi.npy" --ki "$W/ki.npy" --ids "$W/a.npy" --out "$W/sorted"
runs 0 "recall: ascending ids" recall "${tiny[@]}" --ids "$W/a.npy"
cp "$W.out" "$W/recall"
ids64 "$W/a.npy" '(2, 3, 3)' 3 2 0 4 2 0 5 4 2 3 1 0 4 1 3 5 1 3
converts 0 "forward: ids by score" 'a.npy: int64 read as int32, rows sorted$' forward "${tiny[@]}" --v "$W/kv.npy" --qi "$W/qi.npy" \
    --ki "$W/ki.npy" --ids "$W/a.npy" --out "$W/unsorted"
for x in ids o lse index_lse; do
    cmp -s "$W/sorted/$x.npy" "$W/unsorted/$x.npy"
    check $? "... and writes the same $x.npy"
done
converts 0 "recall: ids by score" 'rows sorted$' recall "${tiny[@]}" --ids "$W/a.npy"
cmp -s "$W.out" "$W/recall"
check $? "... and prints the same"

# One file of tensors of several types, a shard of a model say; the last is of a type that nobody reads.
if has_models; then
    { payload "$W/half.npy"; payload "$W/brain.npy"; payload "$W/qi.npy"; payload "$W/a.npy"; printf 'xyz'; } |
        st "$W/all.safetensors" '{"ki":{"dtype":"F16","shape":[6,1],"data_offsets":[0,12]},"layer:0.ki":{"dtype":"BF16","shape":[6,1],"data_offsets":[12,24]},"qi":{"dtype":"F32","shape":[3,2,1],"data_offsets":[24,48]},"ids":{"dtype":"I64","shape":[2,3,3],"data_offsets":[48,192]},"x":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[192,195]}}'
    all=$W/all.safetensors
    converts 0 "verify: a tensor of a file" "all.safetensors: tensor 'layer:0.ki': bfloat16 read as float32\$" verify --qi "$all:qi" \
        --ki "$all:layer:0.ki" --block 1 --ids "$W/sorted/ids.npy"
    converts 0 "verify: another" "all.safetensors: tensor 'ids': int64 read as int32\$" verify --qi "$all:qi" --ki "$W/ki.npy" --block 1 \
        --ids "$all:ids"
    refuses "all.safetensors: tensor 'x': expected float32, or float64, float16 or bfloat16 to convert, found dtype 'F8_E4M3'" \
        "a tensor of another type" verify --qi "$all:qi" --ki "$all:x" --block 1 --ids "$all:ids"
    refuses "found 'k'; it has ki, layer:0.ki, qi, ids, x" "a tensor that is not there" verify --qi "$all:qi" --ki "$all:k" --block 1 \
        --ids "$all:ids"
    refuses "as in FILE:NAME" "a file of tensors without a name" verify --qi "$all" --ki "$all:ki" --block 1 --ids "$all:ids"
    refuses "tensor 'qi': expected 2 dimensions, found 3" "a refusal is one line" verify --qi "$all:qi" --ki "$all:qi" --block 1 --ids "$all:ids"

    # A checkpoint of MiniMax-M3, whose second layer is sparse.
    mkdir "$W/m3"
    printf '%s' "$m3_nested" >"$W/m3/config.json"
    printf '%s' "$m3_index" >"$W/m3/model.safetensors.index.json"
    refuses "m3/a.safetensors: cannot read: No such file or directory" "a checkpoint without its shard" layer --checkpoint "$W/m3" --layer 1 \
        --hidden "$W/qi.npy" --out "$W/none"
    runs 0 "inspect without the shard" inspect "$W/m3"
    says '^1 file, 18 tensors \(18 in files that are not here\): 0 parameters'
    safetensors_seed "$m3_header" "$m3_bytes" >"$W/m3/a.safetensors"
    runs 0 "inspect" inspect "$W/m3"
    says '^minimax_m3_vl: 2 layers, 1 sparse and 1 dense$'
    says '^geometry: d_model 2, 1 query heads and 1 KV heads of 2 \(G 1\), index heads of 2, block 128, top 16$'
    says '^rotation: 2 of 2 channels \(rotary_dim\), base 5e\+06; norms: eps 1e-06, gains 1 \+ w$'
    says '^1 file, 18 tensors: 56 parameters, 112 bytes, BF16$'
    says $'^0\tdense\t20\t40\tBF16\t22\t44\tBF16$'
    says $'^1\tsparse\t32\t64\tBF16\t34\t68\tBF16$'
    refuses "expected one directory with config.json and safetensors, found 0 names" "inspect of nothing" inspect
    refuses "/config.json: cannot read: No such file or directory" "inspect of no checkpoint" inspect "$W"
    zeros 6 | npy "$W/hidden.npy" '<f4' '(3, 2)'
    layer=(layer --checkpoint "$W/m3" --hidden "$W/hidden.npy")
    runs 0 "layer: dense" "${layer[@]}" --layer 0 --out "$W/dense"
    says '^layer 0 \(dense\): model.layers.0.self_attn.q_proj.weight, no input norm$'
    wrote "$W/dense" layer k.npy lse.npy o.npy q.npy v.npy y.npy
    runs 0 "layer: sparse, with maps" "${layer[@]}" --layer 1 --residual --dump --out "$W/sparse"
    says '^rotation: 2 of 2 channels \(rotary_dim\), float32 angles; index: 2 channels$'
    [ -s "$W/sparse/index.html" ] && grep -qa 'layer 1 of m3' "$W"/sparse/layer01_group0.p*
    check $? "... and its maps have the layer's name"
    refuses "--layer: expected this option, found none" "layer without a number" "${layer[@]}" --out "$W/none"
    printf '%s' "${m3_nested/\"index_n_heads\":1/\"index_n_heads\":2}" >"$W/m3/config.json"
    refuses "index heads: expected as many as num_key_value_heads, 1, found 2" "a selector of another kind" "${layer[@]}" --layer 1 --out "$W/none"
    runs 0 "... whose dense layers run" "${layer[@]}" --layer 0 --out "$W/dense2"
    runs 0 "... and which inspect lists" inspect "$W/m3"
    says '^sparse layers do not run here: .*index heads: expected as many'
else
    skip "tensors of safetensors files" "no jansson here"
    skip "checkpoints" "no jansson here"
fi

finish
