#!/usr/bin/env bash
# The instruction layer cuda/kit/ptx.cuh: the only file with inline assembly but ref/fast/amx.h, and, where nvcc is found, every
# function of it compiled for sm_90a without a warning, a spill, or a mistake that ptxas had to repair (C75xx).
source "$(dirname "$0")/support/tap.sh"
: "${NVCC:=$(command -v nvcc)}"

grep -rnE '\b(asm|__asm|__asm__)\b' --include='*.[ch]' --include='*.c[up]*' --include='*.h[hp]*' ref cuda tests book 2> /dev/null |
    grep -vE '^(cuda/kit/ptx.cuh|ref/fast/amx.h):|^tests/refused_full/|^[^:]*:[0-9]*:[^;]*__asm__\("_Z[A-Za-z0-9_]*"\);$' > "$W.out" # what must be refused; names for the linker
[[ ! -s $W.out ]]
check $? "no inline assembly outside cuda/kit/ptx.cuh and ref/fast/amx.h"

grep -qE '\basm volatile\(' cuda/kit/ptx.cuh
check $? "... and that search would find it"

! grep -rnE '\b(PTX|CPU)\(' cuda --include='*.cu*' | grep -v '^cuda/kit/' > "$W.out"
[[ ! -s $W.out ]] && grep -qE '\bCPU\(' cuda/kit/launch.cuh
check $? "no kernel has a body for the GPU and one for the engine: what differs is a function of cuda/kit"

# Every function of ptx.cuh and launch.cuh is used in the kernel below.
: > "$W.err"
sed -nE 's/^(template <.*> )?PTX_(INLINE|NAMED) .*[ *&]([a-z0-9_]+)\((.*)/\3/p' cuda/kit/ptx.cuh | sort -u > "$W/functions"
while read -r f; do
    grep -qE "\b$f\b" tests/device/every_instruction.cu || echo "$f" >> "$W.err"
done < "$W/functions"
[[ $(wc -l < "$W/functions") -gt 60 && ! -s $W.err ]]
check $? "a kernel uses each of the $(wc -l < "$W/functions") functions"

# ... and, but for the timeline's, which are none on a GPU, judged by instructions.cu.
: > "$W.err"
while read -r f; do
    [[ $f == timeline_* ]] || grep -qE "\b$f\b" tests/device/instructions.cu || echo "$f" >> "$W.err"
done < "$W/functions"
[[ ! -s $W.err ]]
check $? "tests/device/instructions.cu tries each of them"

if ! command -v "${CXX:-c++}" > /dev/null; then
    skip "the CPU engine" "no C++ compiler here"
    finish
fi
# What a GPU gets of every function, as it was read against the PTX ISA: a compiler does not know whether it is the
# right instruction, and without a GPU nothing else does. So a change has to be made in both places.
grep -vE '^#(include|define (PTX|CPU)\()' cuda/kit/ptx.cuh |
    "${CXX:-c++}" -E -P -x c++ -D__CUDACC__ '-DPTX(...)=PTX_BEGIN __VA_ARGS__ PTX_END' '-DCPU(...)=' - 2> "$W.err" |
    tr -s ' \n' ' ' | sed -E 's/" "//g; s/PTX_BEGIN ?/\n@ /g' | sed -nE 's/^@ (.*[^ ]) ?PTX_END.*/\1/p' > "$W/ptx"
diff <(tr -d ' ' < tests/device/ptx.txt) <(tr -d ' ' < "$W/ptx") > "$W.out"
check $? "the $(wc -l < tests/device/ptx.txt) bodies for a GPU are those of tests/device/ptx.txt"
"${CXX:-c++}" -std=c++17 -Wall -Wextra -Wno-psabi -Werror -I. -x c++ -fsyntax-only tests/device/every_instruction.cu > "$W.out" 2>&1
check $? "the same file compiles for the CPU"

if [[ -n $NVCC ]]; then
    "$NVCC" -std=c++17 -gencode arch=compute_90a,code=sm_90a -O3 -Werror all-warnings -Xptxas -v -I. -c tests/device/every_instruction.cu -o "$W/a.o" > "$W.out" 2>&1
    check $? "it compiles for sm_90a without a warning"
    grep -q 'Compiling entry function' "$W.out" && ! grep -E 'spill' "$W.out" | grep -qvE ' 0 bytes spill stores, 0 bytes spill loads'
    check $? "... without spills"
    ! grep -qE 'C75[0-9][0-9]' "$W.out"
    check $? "... and ptxas had nothing to repair"
else
    skip "it compiles for sm_90a" "no nvcc here"
fi
finish
