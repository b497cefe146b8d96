#!/bin/sh
# The clock budget of the kernels that cuda/clocks.def names, from the machine code of BUILD: cuda/clocks.sh BUILD [csv]
# It takes cuobjdump and nvdisasm of the toolkit, or of Python's triton (CUOBJDUMP=path). Exits 1 if a kernel takes more
# than its design. With csv it prints what cuda/clocks.csv has.
set -u
build=$1 csv=${2:+1}
: "${CUOBJDUMP:=$(command -v cuobjdump || echo)}"
[ -x "$CUOBJDUMP" ] && PATH=$(dirname "$CUOBJDUMP"):$PATH && command -v nvdisasm > /dev/null || {
    echo "no clock budget: cuobjdump and nvdisasm are not here (CUOBJDUMP=path)" >&2
    exit 0
}
work=$(mktemp -d) status=0
trap 'rm -rf "$work"' EXIT
if [ -n "$csv" ]; then
    echo "loop,tensor,issue,mufu,shared,bytes,from,turn,instructions"
else
    printf '%-26s %5s %5s  %6s %6s %6s %6s %6s %6s  %s\n' "a turn of the loop" instr loads tensor issue mufu shared memory turn longest
fi
for object in $(awk '$1 == "loop" || $1 == "part" {if (!seen[$3]++) print $3}' cuda/clocks.def); do
    file=$(realpath "$build")/cuda/$object.gpu.o
    (cd "$work" && rm -f ./*.cubin && cuobjdump -xelf sm_90a "$file" > /dev/null && nvdisasm -c -gi -hex ./*.cubin) > "$work/code" ||
        { echo "cuda/clocks.sh: cannot disassemble $file" >&2 && status=1 && continue; }
    awk -f cuda/clocks.awk -v object="$object" -v csv="$csv" cuda/clocks.def - < "$work/code" || status=1
done
exit $status
