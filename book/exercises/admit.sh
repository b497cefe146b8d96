#!/usr/bin/env bash
# What an answer may name: admit.sh SOURCE OBJECT OUT, in the project's root, after SOURCE was compiled to OBJECT.
# An answer computes. It may call what its task gives it, what the stub and the solution call, mathematics, malloc and
# printf, and a kernel the engine's instructions; it may include what those include. OUT is OBJECT with all its own
# names local, so that it cannot take another function's place, and with nothing that runs before it is called.
# OUT.refused says what was asked for that an answer may not have; it is empty where there is none.
set -u
export LC_ALL=C
source=$1 object=$2 out=$3 built=${2%/*}

LIBRARY='malloc|calloc|realloc|free|memcpy|memmove|memset|memcmp|qsort|abs|labs|abort|__assert_fail|row|dot_product|__stack_chk_fail'
LIBRARY+='|printf|fprintf|puts|putchar|putc|fputs|fputc|fwrite|fflush|stdout|stderr'
LIBRARY+='|(exp|exp2|expm1|log|log2|log10|log1p|sqrt|cbrt|pow|fabs|fmax|fmin|fma|floor|ceil|round|lround|llround|rint'
LIBRARY+='|lrint|trunc|fmod|ldexp|scalbn|frexp|modf|hypot|sin|cos|tan|sinh|cosh|tanh|asin|acos|atan|atan2|copysign'
LIBRARY+='|logb|ilogb|nextafter|fdim|erf|erfc|nan)[fl]?'
# What compilers call on their own.
COMPILER='_GLOBAL_OFFSET_TABLE_|__(asan|ubsan|tsan)_.*|__popcount[ds]i2|_Unwind_Resume|__gxx_personality_v0'
COMPILER+='|operator (new|delete)\(.*|vtable for __cxxabiv1::.*|TLS init function for .*|std::(terminate|__throw_).*'
COMPILER+='|(thread|block)Idx|(block|grid)Dim'
# The engine's instructions, and what LAUNCH needs; not what counts or declares.
ENGINE='simt::(run|options|yield|require|touch_(global|shared|atomic)|check_stored|leaves_array|shared_(base|address)|sync_threads|bar_.*'
ENGINE+='|fence_memory|release_at|acquire_at|atomic_at|spins|shuffle|reduce|elect|ldmatrix|stmatrix|mma|mbarrier_.*|bulk_.*|tma_.*|cp_async.*|fence_proxy_async(_global)?|wgmma.*'
ENGINE+='|setmaxnreg|grid_wait|launch_dependents|timeline_(role|mark)|cluster_.*)(\(.*)?'
# Words that get around the compiler, looked for after the preprocessor, so that no macro hides them.
WORDS='asm|__asm|__asm__|__attribute|__attribute__|gnu|clang|_Thread_local|__thread|thread_local|__builtin_(return|frame)_address'

undefined() { nm -uC "$1" | sed -E 's/^ +[Uwv] //'; }
headers() { tr -s ' \\\n' '\n' <"${1%.o}.d" | grep -E '\.[a-z]+$' | grep -vF "/${2##*/}" | sort -u; }

# Its own lines as the preprocessor leaves them.
own_text() {
    $PREPROCESS "$source" 2>/dev/null |
        awk -v own="$source" '/^# [0-9]+ "/ {split($0, part, "\""); mine = part[2] == own; next} mine'
}

why() { # the first reason to refuse it
    local found name
    found=$(own_text | grep -oE "\b($WORDS)\b|#pragma +(GCC|clang) .*" | head -n 1)
    [[ -z $found ]] || { echo "it says '$found': an answer is plain code" && return; }
    found=$(headers "$object" "$source" | grep -vxF "$(headers "$built/stub.o" stub.; headers "$built/solution.o" solution.)" | head -n 1)
    [[ -z $found ]] || { echo "it includes $found: an answer may include what the stub includes, and the C library" && return; }
    while read -r name; do
        [[ $name =~ ^($LIBRARY|$COMPILER)$ || ($source == *.cu && $name =~ ^$ENGINE$) ]] && continue
        { undefined "$built/stub.o"; undefined "$built/solution.o"; } | grep -qxF "$name" && continue
        echo "it uses $name: an answer may call what its task gives it, mathematics, malloc and printf" && return
    done < <(undefined "$object")
    name=$(nm "$object" | awk '$2 == "i" {print $3; exit}')
    [[ -z $name ]] || echo "$name would be called before the program begins"
}

why >"$out.refused"
make_local=()
while read -r name; do make_local+=(--keep-global-symbol="$name"); done < <(nm -g --defined-only "$built/stub.o" | awk '$2 ~ /[TDRB]/ {print $3}')
renamed='malloc=answer_malloc calloc=answer_calloc realloc=answer_realloc'
[[ $source != *.cu ]] || renamed='memcpy=access_memcpy memmove=access_memmove memset=access_memset
    _ZN4simt12touch_globalEPKvjbNS_4SiteES1_=access_touch_global _ZN4simt12touch_sharedEPKvjbNS_4SiteE=access_touch_shared
    _ZN4simt11shared_baseEmNS_4SiteE=access_shared_base'
early=()
for name in init_array fini_array preinit_array ctors dtors; do early+=(-R ".$name*" -R ".rela.$name*"); done
renamed+=' abort=answer_abort __assert_fail=answer_assert'
"${LD:-ld}" -r --force-group-allocation "$object" -o "$out.whole" &&
    "${OBJCOPY:-objcopy}" --wildcard "${make_local[@]}" $(printf -- '--redefine-sym %s ' $renamed) "${early[@]}" "$out.whole" "$out"
