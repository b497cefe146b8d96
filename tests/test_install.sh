#!/usr/bin/env bash
# What `make install` installs: libraries that show msa_* only and that C and C++ programs link, static and
# shared, whatever their own functions are called; the same for the kernels; msa.py. The prefix has a space and quotes.
source "$(dirname "$0")/support/tap.sh"
B=${B:-build} CC=${CC:-cc} CXX=${CXX:-c++}
P="$W/a \"prefix\" of o'ne's" san=$(sed -n 's/.*\(-fsanitize=[^ ]*\).*/\1/p' "$B/flags")
read -r -a CC <<< "$CC $san"
read -r -a CXX <<< "$CXX -std=c++17 $san"

install_to() { make --no-print-directory "$1" DEPS=0 B="$B" "${@:2}" > "$W.out" 2> "$W.err"; }
install_to install PREFIX="$P" && [[ -x $P/bin/msa && -s $P/include/msa.h && -s $P/lib/libmsa.a && -s $P/lib/python/msa/__init__.py ]]
check $? "make install into a prefix with a space and quotes"
version=$("$P/bin/msa" version) version=${version#msa }
[[ $(readlink "$P/lib/libmsa.so") == "libmsa.so.$version" ]] && readelf -d "$P/lib/libmsa.so" | grep -q "soname: \[libmsa.so.${version%.*}\]" && [[ -s $P/lib/libmsa.so.${version%.*} ]]
check $? "libmsa.so.$version, loaded as libmsa.so.${version%.*}"
has_kernels=$([[ -s $B/libmsa_cuda.so ]] && echo 1)
${MAKE:-make} --no-print-directory -n DEPS=0 B="$B" -W ref/cost.c -W ref/cli/main.c build "$B/sideless/msa" > "$W.out" 2> "$W.err"
[[ $(grep -cE -- " -o $B/[^ ]+\\.new && mv $B/[^ ]+\\.new $B/(libmsa\\.so|msa|sideless/msa)$" "$W.out") -eq 3 ]]
check $? "a build replaces library and programs when they are whole: scripts may run meanwhile"

names() { nm -g --defined-only "$@" 2> /dev/null | awk 'NF == 3 { print $3 }' | sort -u; }
names "$B"/ref/*.o "$B"/ref/fast/*.o | grep -v '^msa_\|^__\|[.$]' | sed 's/.*/OURS(&)/' > "$W/names.inc"
[[ $(wc -l < "$W/names.inc") -gt 50 ]]
check $? "a caller has $(wc -l < "$W/names.inc") functions named like the library's"
for library in "$P"/lib/*.a; do
    if ! command -v objcopy > /dev/null; then
        skip "${library##*/} shows nothing but msa_*" "no objcopy here"
        continue
    fi
    names "$library" | grep -v '^msa_' > "$W.out"
    [[ ! -s $W.out && $(names "$library" | wc -l) -gt 5 ]]
    check $? "${library##*/} shows nothing but msa_*"
done
for library in "$P"/lib/*.so; do
    nm -D --defined-only "$library" | awk '{ print $3 }' | grep -v '^msa_' > "$W.out"
    [[ ! -s $W.out ]]
    check $? "${library##*/} shows nothing but msa_*"
done

# flags PACKAGE OPTION...: what pkg-config says, into the array flags; a shell reads it.
flags() { eval "flags=($(PKG_CONFIG_PATH=$P/lib/pkgconfig pkg-config "${@:2}" "$1"))"; }
static() { # static PACKAGE: its libraries as files, what else they need from pkg-config
    flags "$1" --static --cflags --libs
    local i
    for i in "${!flags[@]}"; do [[ ${flags[i]} != -lmsa* ]] || flags[i]=$P/lib/lib${flags[i]#-l}.a; done
}
builds_and_runs() { # builds_and_runs NAME WANTED COMPILER...: with `flags`
    "${@:3}" -Wall -Wextra -I"$W" "${flags[@]}" -o "$W/program" 2> "$W.err" && LD_LIBRARY_PATH=$P/lib "$W/program" > "$W.out" 2>> "$W.err" && grep -qx "$2" "$W.out"
    check $? "$1"
}
both_ways() { # both_ways SOURCE PACKAGE WANTED: C and C++, shared and static
    flags "$2" --cflags --libs
    builds_and_runs "${1##*/} in C, shared" "$3" "${CC[@]}" -std=c11 -Wpedantic -rdynamic "$1"
    builds_and_runs "${1##*/} in C++, shared" "$3" "${CXX[@]}" -rdynamic -x c++ "$1" -x none
    static "$2"
    builds_and_runs "${1##*/} in C, static" "$3" "${CC[@]}" -std=c11 "$1"
    builds_and_runs "${1##*/} in C++, static" "$3" "${CXX[@]}" -x c++ "$1" -x none
}
if command -v pkg-config > /dev/null; then
    both_ways tests/install/caller.c msa "reference and fast path agree"
    if [[ $has_kernels ]]; then
        both_ways tests/install/kernels.c msa_cuda "reference and kernel agree"
    else
        skip "msa_cuda.h" "no C++ compiler here"
    fi
else
    skip "programs that link the libraries" "no pkg-config here"
fi

PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import numpy' 2> /dev/null; then
    skip "the installed Python package" "no Python with NumPy here"
elif [[ $san ]]; then
    skip "the installed Python package" "Python does not load a library with sanitizers"
else
    (cd "$W" && PYTHONPATH=$P/lib/python PYTHONDONTWRITEBYTECODE=1 "$PYTHON" -c '
import msa, numpy as np
q = np.ones((5, 2, 8), np.float32)
print(msa.__file__, msa._lib._name, msa.dense(q, q, q)[0].sum())' > "$W.out" 2> "$W.err")
    grep -qxF "$P/lib/python/msa/__init__.py $P/lib/libmsa.so 80.0" "$W.out"
    check $? "the Python package finds the libmsa.so above it"
fi

install_to uninstall PREFIX="$P" && [[ -z $(find "$P" ! -type d) ]]
check $? "make uninstall leaves no file"
install_to install DESTDIR="$W/staged in" PREFIX=/opt/msa && [[ -s "$W/staged in/opt/msa/lib/libmsa.so" ]] && grep -qx 'prefix=/opt/msa' "$W/staged in/opt/msa/lib/pkgconfig/msa.pc"
check $? "DESTDIR goes before the prefix, and not into msa.pc"
finish
