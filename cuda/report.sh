#!/bin/sh
# What ptxas made of every kernel, after `make cuda`: cuda/report.sh BUILD
# Registers, spills and barriers come from its log; where cuobjdump and nvdisasm are found (the toolkit has
# them, and so does the wheel of Python's triton: CUOBJDUMP=path) the machine code is searched for
#   HGMMA wgmma, IGMMA of integers too    UTMALDG tensor copies    UBLKCP other bulk copies    LDGSTS cp.async    HMMA mma.sync
#   LDL/STL spilled or indexed registers
#   ctas    how many of its CTAs fit on an SM by their threads and registers
# Shared memory is asked for at launch, so it comes from a run of each kernel on the engine, and bounds them too.
set -u
build=$1
: "${CUOBJDUMP:=$(command -v cuobjdump || echo)}"
[ -x "$CUOBJDUMP" ] && PATH=$(dirname "$CUOBJDUMP"):$PATH && command -v nvdisasm > /dev/null || CUOBJDUMP=

# From ptxas -v for sm_90a: NAME registers spill-bytes barriers
compiled() {
    awk '/Compiling entry function/ {hopper = /sm_90a/; split($0, a, "\047"); name = a[2]}
         hopper && /spill stores/ {spill = $5 + $9}
         hopper && /Used [0-9]+ registers/ {
             match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
             bars = "0"; if (match($0, /used [0-9]+ barriers/)) bars = substr($0, RSTART + 5, RLENGTH - 14)
             print name, registers, spill, bars}' "$1"
}
# From the machine code: NAME counts
instructions() {
    [ -n "$CUOBJDUMP" ] || return
    "$CUOBJDUMP" -sass -arch sm_90a "$1" | awk '
        /Function :/ {name = $NF}
        / [HI]GMMA/ {n[name, 1]++} / UTMALDG/ {n[name, 2]++} / UBLKCP/ {n[name, 3]++} / LDGSTS/ {n[name, 4]++}
        / HMMA/ {n[name, 5]++} / LDL/ {n[name, 6]++} / STL/ {n[name, 7]++} {seen[name]}
        END {for (f in seen) if (f != "") print f, n[f,1]+0, n[f,2]+0, n[f,3]+0, n[f,4]+0, n[f,5]+0, n[f,6]+0, n[f,7]+0}'
}

# How many threads a CTA may have, by its launch bounds, from the object: NAME 0x180
threads() {
    [ -n "$CUOBJDUMP" ] || return
    "$CUOBJDUMP" -elf -arch sm_90a "$1" | awk '/^\.nv\.info\./ {name = substr($1, 10)} /EIATTR_MAX_THREADS/ {wanted = 1}
        wanted && /Value:/ {print name, $2; wanted = 0}'
}
# CTAs of so many threads and registers: of 65536 registers, which a warp takes by 256; 64 warps; 32 CTAs.
fitting() { # fitting THREADS REGISTERS
    warps=$((($1 + 31) / 32)) each=$((($2 * 32 + 255) / 256 * 256))
    n=$((65536 / (warps * each))) by_warps=$((64 / warps))
    [ "$n" -le "$by_warps" ] || n=$by_warps
    [ "$n" -le 32 ] || n=32
    echo "$n"
}

printf '%-64s %5s %5s %4s %4s %6s %7s %6s %6s %5s %4s %4s\n' kernel regs ctas spill bars HGMMA UTMALDG UBLKCP LDGSTS HMMA LDL STL
find "$build/cuda" -name '*.gpu.o' | sort | while read -r object; do
    counts=$(mktemp) sizes=$(mktemp)
    instructions "$object" > "$counts"
    threads "$object" > "$sizes"
    compiled "$object.log" | while read -r name registers spill bars; do
        file=${object#"$build/cuda/"}
        short=$(c++filt "$name" 2> /dev/null | sed -E 's/\(anonymous namespace\):://g; s/^void //; s/\(.*//; s/__nv_bfloat16/bf16/g')
        size=$(awk -v f="$name" '$1 == f {print $2}' "$sizes")
        # shellcheck disable=SC2046
        printf '%-64s %5s %5s %4s %4s %6s %7s %6s %6s %5s %4s %4s\n' "${file%.gpu.o} $short" "$registers" \
            "$([ -n "$size" ] && fitting "$((size))" "$registers" || echo -)" "$spill" "$bars" \
            $(awk -v f="$name" '$1 == f {print $2, $3, $4, $5, $6, $7, $8; found = 1} END {if (!found) print "- - - - - - -"}' "$counts")
    done
    rm -f "$counts" "$sizes"
done

echo
echo "shared memory per CTA, bytes, and how many fit on an SM by it (width 128, blocks of 128, k 4):"
for stage in dense index topk reverse sparse prefill decode dense_decode backward dense_backward kl; do
    table=$(mktemp)
    "$build/msa" count "$stage" --csv "$table" > /dev/null || exit 1
    awk -F, 'NR > 1 {n = int(233472 / ($9 + 1024)); printf "  %-24s %6s %3d\n", $1, $9, n < 32 ? n : 32}' "$table"
    rm -f "$table"
done
