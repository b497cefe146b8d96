#!/usr/bin/env bash
# What is built where a library is missing, built here without OpenBLAS, libpng and jansson: products by plain loops,
# pictures as PPM, refusals that name the package; and the kernels on tiles for processors that this one may not be.
source "$(dirname "$0")/support/tap.sh"
CC=${CC:-cc}
bare() { # bare PROGRAM FILE...: builds and runs a test of these files alone
    $CC -std=c11 -O1 -D_POSIX_C_SOURCE=200809L -Wall -Wextra "${@:2}" tests/"$1".c tests/support/tap.c -lm -o "$W/$1" > "$W.out" 2> "$W.err" &&
        "$W/$1" > "$W.out" 2>> "$W.err"
    check $? "$1 without a library"
}
mapfile -t io < <(ls ref/io/*.c ref/picture/{canvas,colormap,drawing,font,png}.c) # all that needs no library of ours
io+=(tests/support/scratch.c)
bare test_products ref/fast/gemm.c
bare test_io_picture "${io[@]}"
bare test_io_safetensors "${io[@]}"
for arch in x86-64 haswell alderlake icelake-server cooperlake; do # products by loops, by AVX-VNNI, by AVX-512 VNNI, by AVX512-BF16
    if ! echo 'int x;' | $CC -march=$arch -x c -c - -o /dev/null 2> /dev/null; then
        skip "kernels on tiles for $arch" "this compiler does not know it"
        continue
    fi
    $CC -std=c11 -O1 -D_POSIX_C_SOURCE=200809L -fopenmp-simd -Wno-psabi -march=$arch -c ref/fast/index_screened_amx.c -o "$W/$arch.o" > "$W.out" 2>&1
    check $? "kernels on tiles for $arch"
done
finish
