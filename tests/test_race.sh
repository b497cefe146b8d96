#!/usr/bin/env bash
# The CPU engine under ThreadSanitizer: races of plain C++ accesses between threads of a block are found, with
# the right file and line, and right kernels stay silent. Only the kernels are instrumented; the engine is a
# shared library beside them (cuda/simt/tsan.h says why), which make test-race has built.
source "$(dirname "$0")/support/tap.sh"
B=${B:-build} CXX=${CXX:-c++}
FLAGS=(-std=c++17 -Wall -Wextra -Wno-psabi -Wno-unknown-pragmas -g -I.)

if ! echo 'int main() {}' | "$CXX" -fsanitize=thread -x c++ - -o "$W/probe" > "$W.out" 2>&1 || ! "$W/probe" > "$W.out" 2>&1; then
    skip "races of plain accesses" "no ThreadSanitizer here"
    finish
fi

"$CXX" "${FLAGS[@]}" -O1 -fsanitize=thread -x c++ tests/device/race.cu -x none "$B/race/libsimt.so" -Wl,-rpath,"$PWD/$B/race" \
    -o "$W/race" > "$W.out" 2>&1
check $? "kernels with ThreadSanitizer, the engine without"

echo called_from_lib:libsimt.so > "$W/suppressions"
race() {
    TSAN_OPTIONS="suppressions=$W/suppressions" "$W/race" "$1" > "$W.out" 2>&1
}
for kernel in $(sed -nE 's/.*__global__ void (right_[a-z_]*).*/\1/p' tests/device/race.cu); do
    race "$kernel" && [[ ! -s $W.out ]]
    check $? "silent: $kernel"
done
for kernel in $(sed -nE 's|.*// BLAME: ([a-z_]+)$|\1|p' tests/device/race.cu | sort -u); do
    race "$kernel"
    missing=0
    for line in $(sed -n "/BLAME: $kernel\$/=" tests/device/race.cu); do
        grep -q "tests/device/race.cu:$line" "$W.out" || missing=1
    done
    grep -q 'data race' "$W.out" && [[ $missing -eq 0 ]]
    check $? "reported, with both lines: $kernel"
done
finish
