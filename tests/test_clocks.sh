#!/usr/bin/env bash
# The clock budget of cuda/clocks.awk, on a few recorded instructions of index/fused whose clocks are counted by hand; what was
# promised, of the clocks that cuda/clocks.csv stores; with FULL=1, a compiler and a disassembler, the kernels' own.
source "$(dirname "$0")/support/tap.sh"
root=$PWD
mkdir -p "$W/cuda" && cd "$W" || exit 1
printf '%s\n' 'products' '// [insert]' 'insertion' '// [insert]' > cuda/a.cu

# Two lines an instruction, as nvdisasm -hex prints them. The last two bits of information: 0x...e2 holds the next one
# up for 1 clock, e4 2, c8 4, ea 5; 000e.. sets a barrier, 001f.. waits for it.
cat > code <<'SASS'
.text._Z5other:
        /*0000*/                   EXIT ;                                /* 0x000000000000794d */
                                                                         /* 0x000fea0003800000 */
.text._Z1k:
.L_x_1:
	//## File "/a/cuda/a.cu", line 1
        /*0000*/                   HGMMA.64x128x16.F32.BF16 R88, gdesc[UR8], R88 ;  /* 0x01e00000085879f0 */
                                                                         /* 0x000fe20008701858 */
        /*0010*/                   FMNMX R22, R89, R22, !PT ;            /* 0x000000165916b209 */
                                                                         /* 0x000fe40007800000 */
        /*0020*/                   SHFL.BFLY PT, R18, R19, 0x2, 0x1f ;   /* 0x0c401f0013127f89 */
                                                                         /* 0x000e2400000e0000 */
	//## File "/a/cuda/b.cuh", line 9 inlined at "/a/cuda/a.cu", line 3
	//## File "/a/cuda/a.cu", line 3
        /*0030*/                   LDS.128 R20, [R17+0x28400] ;          /* 0x0284000011147984 */
                                                                         /* 0x000e280000000c00 */
        /*0040*/                   VIMNMX3.U32 R9, R21, 0xffffffff, R23, PT ;  /* 0xffffffff1509780f */
                                                                         /* 0x001fc80003800017 */
	//## File "/a/cuda/a.cu", line 1
        /*0050*/               @P0 BRA `(.L_x_1) ;                       /* 0x0000000000500947 */
                                                                         /* 0x000fea0003800000 */
        /*0060*/                   EXIT ;                                /* 0x000000000000794d */
                                                                         /* 0x000fea0003800000 */
        /*0070*/               @P0 BRA `(.L_x_1) ;                       /* 0x0000000000500947 */
                                                                         /* 0x000fea0003800000 */
	//## File "/a/cuda/a.cu", line 3
        /*0080*/                   WARPSYNC.COLLECTIVE R6, `(.L_x_1) ;   /* 0x0000000006087348 */
                                                                         /* 0x000fea0003c00000 */
        /*0090*/                   SHFL.BFLY PT, R18, R19, 0x2, 0x1f ;   /* 0x0c401f0013127f89 */
                                                                         /* 0x000e2400000e0000 */
        /*00a0*/                   BRA `(.L_x_1) ;                       /* 0x0000000000500947 */
                                                                         /* 0x000fea0003800000 */
$__internal_0_$division:
        /*00b0*/                   FMNMX R22, R89, R22, !PT ;            /* 0x000000165916b209 */
                                                                         /* 0x000fe40007800000 */
.text._Z1c:
	//## File "/a/cuda/a.cu", line 3
        /*0000*/                   MEMBAR.ALL.GPU ;                      /* 0x0000000000007992 */
                                                                         /* 0x000fe20000008000 */
        /*0010*/                   UCGABAR_ARV ;                         /* 0x00000000000079c7 */
                                                                         /* 0x000fe40008000000 */
        /*0020*/                   UCGABAR_WAIT ;                        /* 0x0000000000007dc7 */
                                                                         /* 0x000fe20008000000 */
SASS
# Two warpgroups. Tensor cores: 64 clocks of a product for each. Issue: 4 instructions, 2 of the insertion. Shared memory:
# 48 clocks for a product's operands. What follows the end is a shuffle done again, and what a division calls, and not counted. Alone: 1 + 2 + 2 + 5, and 30 + 4 for the insertion, which waits for its load; half
# of these 44 is hidden, and a turn takes 64 + 22.
table() { # table ISSUE [FUNCTION [TAG [INSTRUCTIONS]]]
    cat << DEF
latency LDS 30
latency MEMBAR 100
latency UCGABAR_WAIT 50
latency other 20
latency read 12
rate mufu 8
rate shared 128
rate L2 24
part c a _Z1c a.cu:insert 1 L2 3 152
loop k a ${2:-_Z1k} HGMMA 2 2400 L2 a.cu:${3:-insert} 1 1 0.5 tensor,turn 128 $1 0 96 100 86
part k:insert a _Z1k a.cu:insert 1 L2 ${4:-2} 34
DEF
}
judge() { # judge ARGUMENTS OF table: what clocks.awk says
    table "$@" > t.def
    awk -f "$root/cuda/clocks.awk" -v object=a t.def - < code > out
}

judge 12 && grep -qE '^k +4 +0 +128 +12 +0 +96 +100 +86 +tensor +ok$' out
check $? "a loop's clocks are those counted by hand"
grep -qE '^k:insert +2 instructions \(2\), alone +34 clocks \(34\)$' out
check $? "... and those of a section, by itself and in the loop"

grep -qE '^c +3 instructions \(3\), alone +152 clocks \(152\)$' out
check $? "... and of a fence and a cluster's barrier, which take as long as is known of them"

table 12 | sed 's/^latency LDS 30/latency LDS 30\nlatency LDS:L2 41/' > t.def
awk -f "$root/cuda/clocks.awk" -v object=a t.def - < code | grep -q '^k:insert .*alone *45 clocks (34)  OVER: clocks$'
check $? "... whose loads take as long as the memory that it names"

! judge 11 && grep -q 'OVER: issue$' out
check $? "a resource above its design fails by name"

! judge 12 _Z1k insert 1 && grep -q '^k:insert .*OVER: instructions$' out
check $? "... and a section"

! judge 12 missing && grep -q '^clocks: a: no function has missing$' out
check $? "a function that is not there fails"

! judge 12 _Z1k elsewhere && grep -q 'clocks: cuda/a.cu: expected \[elsewhere\] in pairs$' out
check $? "... and a section without marks"

table 12 > t.def && [[ $(awk -f "$root/cuda/clocks.awk" -v object=a -v csv=1 t.def - < code) == $'k,128,12,0,96,2400,L2,86,4\nk:insert,0,0,0,0,0,-,34,2\nc,0,0,0,0,0,-,152,3' ]]
check $? "the table of the estimate, loops and sections"

operands() { # operands TEXT: what clocks.awk says of the loop around most instructions that begin so
    table 12 | sed "s/ HGMMA / $1 /" > t.def
    awk -f "$root/cuda/clocks.awk" -v object=a -v csv=1 t.def - < code | head -n 1
}
[[ $(operands 'HGMMA.*,.R88') == "k,128,12,0,96,2400,L2,86,4" && $(operands 'HGMMA.*,.R89') != k,128,12,* ]]
check $? "a loop is found by an instruction with its operands"

cd "$root" || exit 1
# What of its CTAs fits on an SM: of 12 warps with 168 registers a thread, 5376 a warp, one; of 4 with 72, 2304 a warp, 7;
# and of 100000 bytes and 1024 that the system takes two.
mkdir -p "$W/report/cuda" "$W/bin"
touch "$W/report/cuda/a.gpu.o"
for kernel in '_Z1kv 168' '_Z1mv 71'; do
    printf "ptxas info : Compiling entry function '%s' for 'sm_90a'\n 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info : Used %s registers, used 1 barriers\n" $kernel
done > "$W/report/cuda/a.gpu.o.log"
cat > "$W/bin/cuobjdump" << 'END'
#!/bin/sh
[ "$1" = -elf ] || { printf 'Function : _Z1kv\n HGMMA\nFunction : _Z1mv\n' && exit; }
printf '.nv.info._Z1kv\n Attribute: EIATTR_MAX_THREADS\n Format: x\n Value: 0x180 0x1 0x1\n'
printf '.nv.info._Z1mv\n Attribute: EIATTR_OTHER\n Value: 0x1\n Attribute: EIATTR_MAX_THREADS\n Format: x\n Value: 0x80 0x1 0x1\n'
END
printf '#!/bin/sh\nprintf "head\\n%%s/k,2,3,4,5,6,7,8,100000\\n" "$2" > "$4"\n' > "$W/report/msa"
touch "$W/bin/nvdisasm" && chmod +x "$W/bin"/* "$W/report/msa"
CUOBJDUMP=$W/bin/cuobjdump cuda/report.sh "$W/report" > "$W.out" 2> "$W.err"
grep -qE '^a (_Z1kv|k) +168 +1 +0 +1 +1 ' "$W.out" && grep -qE '^a (_Z1mv|m) +71 +7 +0 +1 +0 ' "$W.out" && grep -qE '^  topk/k +100000 +2$' "$W.out"
check $? "make cuda-report says how many CTAs fit on an SM by threads and registers, and by shared memory"

# ---- What was promised of the kernels, by cuda/clocks.csv ------------------------------------------------------------

# A resource's clocks are those of an H200, whose memory is the fastest; shared memory is memory, too.
broken() { # broken < CSV: what of the promises it does not keep
    awk -F, '
        FILENAME != "-" { split($0, word, " "); if (word[1] == "rate") rate[word[2]] = word[3]; next }
        NF != 9 { print "a line of 9 fields, found " $0; next }
        $1 == "loop" { for (i = 2; i <= NF; i++) column[i] = $i; next }
        { seen[$1]; for (i = 2; i <= NF; i++) value[$1, column[i]] = $i }
        function bound(name, kinds, n, i, x, most, which) { # what takes longest
            n = split("tensor issue mufu shared memory turn", kinds, " ")
            for (i = 1; i <= n; i++) {
                x = kinds[i] == "memory" ? value[name, "bytes"] / rate[value[name, "from"]] : value[name, kinds[i]]
                if (x > most) { most = x; which = kinds[i] }
            }
            return which
        }
        function promise(name, kept, text) { if (!(name in seen)) print name ": no line"; else if (!kept) print name ": " text }
        END {
            rate["-"] = 1
            promise("index/fused:insert", value["index/fused:insert", "turn"] <= 150, "an insertion takes at most 150 clocks")
            for (n = split("32K 128K 1M", length_of, " "); n > 0; n--)
                promise("index/fused:" length_of[n], bound("index/fused:" length_of[n]) == "tensor", "products take longest")
            promise("decode/swapped", bound("decode/swapped") == "memory", "memory takes longest")
            promise("decode/swapped:screen", bound("decode/swapped:screen") == "memory", "of 8-bit keys memory takes longest")
            split("choose rank values send merge", part, " ") # of the last launch of a step: a us until it may begin, the first load
            last = 1755 + 600
            for (n = 5; n > 0; n--) last += value["decode/swapped:" part[n], "turn"]
            last += 2 * value["decode/swapped:attend", "turn"] # two steps of 64 KB, which come at 64 bytes a clock meanwhile
            promise("decode/swapped:merge", last < 5 * 1755 && value["decode/swapped:attend", "turn"] >= 1024, "the last launch takes less than 5 us")
            promise("topk/threshold", value["topk/threshold", "instructions"] < 600, "less than 600 instructions for 4 KB of scores")
            promise("topk/threshold", bound("topk/threshold") == "memory", "memory takes longest")
            promise("backward/hopper:kl", bound("backward/hopper:kl") ~ /tensor|shared|memory/, "products or memory take longest")
        }' cuda/clocks.def -
}
broken < cuda/clocks.csv > "$W.out" && [[ ! -s $W.out ]]
check $? "the stored clocks keep what was promised"
while IFS='|' read -r name change found; do
    sed -E "/^${name/\//\\/},/ s/$change/" cuda/clocks.csv | broken > "$W.out"
    ! cmp -s <(sed -E "/^${name/\//\\/},/ s/$change/" cuda/clocks.csv) cuda/clocks.csv && grep -q "^$name: $found" "$W.out" && [[ $(wc -l < "$W.out") -eq 1 ]]
    check $? "... and $name would be missed: $found"
done << 'END'
index/fused:insert|-,[0-9]*,/-,151,|an insertion takes
index/fused:32K|,2048,[0-9]*/,2048,2049|products take
index/fused:128K|L2,[0-9]*/L2,2050|products take
index/fused:1M|,2048,/,600,|products take
decode/swapped|HBM,[0-9]*/HBM,1900|memory takes
decode/swapped:screen|HBM,[0-9]*/HBM,950|of 8-bit keys
decode/swapped:merge|-,[0-9]*,/-,860,|the last launch takes
topk/threshold|[0-9]*$/600|less than 600
topk/threshold|,0,[0-9]*,/,0,6400,|memory takes
backward/hopper:kl|,2688,[0-9]*/,2688,3700|products or memory
END
sed '/^index.fused:insert/d' cuda/clocks.csv | broken | grep -q '^index/fused:insert: no line$'
check $? "... and a line that is gone"
[[ $(cut -d, -f 1 cuda/clocks.csv | sed 1d | sort) == "$(awk '$1 == "loop" || $1 == "part" {print $2}' cuda/clocks.def | sort)" ]]
check $? "the stored clocks are of the loops and sections that cuda/clocks.def judges"

# ---- Whether that is what the machine code says -----------------------------------------------------------------------

tools=${CUOBJDUMP:-$(command -v cuobjdump || true)}
if [[ -z ${FULL:-} ]]; then
    skip "the kernels' own clocks" "FULL=1 compiles them"
elif [[ -z $tools ]] || ! NVCC=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)} || [[ ! -x $NVCC ]]; then
    skip "the kernels' own clocks" "no nvcc or cuobjdump here"
else
    export NVCC CUOBJDUMP=$tools
    for object in $(awk '$1 == "loop" || $1 == "part" {print $3}' cuda/clocks.def | sort -u); do
        mkdir -p "$W/full/cuda/${object%/*}" && cuda/nvcc.sh "cuda/$object.cu" "$W/full/cuda/$object.gpu.o" || bad=1
    done
    [[ -z ${bad:-} ]] && cuda/clocks.sh "$W/full" > "$W.out" && ! compgen -G "$W/full/cuda/*/*.dropped"
    check $? "the kernels' own clocks are within their design, and none is spoiled"
    version=$("$NVCC" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
    if [[ $version == 13.0 ]]; then
        diff <(sort cuda/clocks.csv) <(cuda/clocks.sh "$W/full" csv | sort) > "$W.out"
        check $? "... and those of cuda/clocks.csv"
    else
        skip "... and those of cuda/clocks.csv" "these are of nvcc 13.0, here is $version"
    fi
fi
finish
