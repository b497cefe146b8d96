#!/usr/bin/env bash
# What an answer may name: admit.sh SOURCE OBJECT OUT, in the project's root, after SOURCE was compiled to OBJECT.
# An answer computes. It may call what its task gives it, what the stub and the solution call, mathematics, malloc and
# printf, and a kernel the engine's instructions; it may include what those include. OUT is OBJECT with all its own
# names local, so that it cannot take another function's place, and with nothing that runs before it is called.
# OUT.refused says what was asked for that an answer may not have; it is empty where there is none.
set -u
export LC_ALL=C
source=$1 object=$2 out=$3 built=${2%/*}
task=book/exercises/${built##*/}

LIBRARY='malloc|calloc|realloc|free|memcpy|memmove|memset|memcmp|abs|labs|abort|__assert_fail|row|dot_product|__stack_chk_fail'
LIBRARY+='|printf|puts|putchar|stdout'
LIBRARY+='|(exp|exp2|expm1|log|log2|log10|log1p|sqrt|cbrt|pow|fabs|fmax|fmin|fma|floor|ceil|round|lround|llround|rint'
LIBRARY+='|lrint|trunc|fmod|ldexp|scalbn|hypot|sin|cos|tan|sinh|cosh|tanh|asin|acos|atan|atan2|copysign'
LIBRARY+='|logb|ilogb|nextafter|fdim|erf|erfc|nan)[fl]?'
# What writes or reads memory where nobody sees it, and a kernel has no use for. (sincos is what a compiler makes of sin
# and cos.)
BLIND='sincos[fl]?|qsort|fprintf|putc|fputs|fputc|fwrite|fflush|stderr|(frexp|modf)[fl]?'
# What compilers call on their own.
COMPILER='_GLOBAL_OFFSET_TABLE_|__(asan|ubsan|tsan)_.*|__popcount[ds]i2|_Unwind_Resume|__gxx_personality_v0'
COMPILER+='|operator (new|delete)\(.*|vtable for __cxxabiv1::.*|TLS init function for .*|std::(terminate|__throw_).*'
COMPILER+='|(thread|block)Idx|(block|grid)Dim'
# The engine's instructions, and what LAUNCH needs; not what counts or declares.
ENGINE='simt::(run|options|yield|require|touch_(global|shared|atomic)|check_stored|leaves_array|shared_(base|address)|sync_threads|bar_.*'
ENGINE+='|fence_memory|release_at|acquire_at|atomic_at|spins|shuffle|reduce|elect|ldmatrix|stmatrix|mma|mbarrier_.*|bulk_.*|tma_.*|cp_async.*|fence_proxy_async(_global)?|wgmma.*'
ENGINE+='|setmaxnreg|grid_wait|launch_dependents)(\(.*)?'
case $source in *.cu) MAY="$LIBRARY|$COMPILER|$ENGINE" ;; *) MAY="$LIBRARY|$COMPILER|$BLIND" ;; esac
# Words that get around the compiler, looked for after the preprocessor, so that no macro hides them: others than
# plain code; instructions by name; memory functions that are no calls; what the helpers of a kernel tell the engine.
WORDS='\b(asm|__asm|__asm__|__attribute|__attribute__|(__)?(gnu|clang)(__)?|_Thread_local|__thread|thread_local)\b'
WORDS+='|\b__builtin_(return|frame|apply|longjmp|setjmp|ia32|aarch64|neon|sve|str|stp|bcmp|bcopy|bzero|_*mem)\w*'
WORDS+='|\b__atomic_(clear|test_and_set)\b|\batomic_flag\w*|\b_mm[0-9]*_\w+|\bv(ld|st)[0-9]\w*|\btouch_(global|shared|atomic)\b|#pragma +(GCC|clang) .*|#line'

undefined() { nm -uC "$1" | sed -E 's/^ +[Uwv] //'; }
# The files that its own lines, or those of what it includes, name; not the C library's.
included() { tr -s ' \\\n' '\n' <"${1%.o}.d" | grep -v ':$' | grep -vxF "$2" | sort -u; }
# What the solution calls and includes; in a class's copy, which has none, a list of that (book/class/uses.sh).
solution() { # solution include|call
    if [[ -e $task/uses ]]; then sed -n "s/^$1 //p" "$task/uses"
    elif [[ $1 == call ]]; then undefined "$built/solution.o"
    else included "$built/solution.o" "$task/solution.${source##*.}"; fi
}

# The lines of its own as the preprocessor leaves them. Those of a file that it includes lie between a mark that ends
# with 1 and one with 2; what #line says counts for nothing, and marks of the answer's own are what compilers warn of.
# What takes memory functions for no calls (exercises.mk) is its own too, wherever it stands.
own_text() {
    { $PREPROCESS "$source" 2>&1 >&3 | sed -n 's/.*style of line directive.*/#line/p'; } 3>&1 |
        awk '/^# [0-9]+ "/ {sub(/.*"/, ""); depth += /^ 1/; depth -= /^ 2/; next} depth <= 0 || /__builtin_mem(cpy|move|cmp|set)/'
}

# The first call that takes a value from behind a pointer, or puts one there, in the compiler's own listing of OBJECT:
# ThreadSanitizer sees assignments only. LAUNCH hands a kernel its arguments so.
by_value() {
    [[ -e $object.gimple ]] || return
    grep -vE '^ *\[[^]]*/simt/simt\.h:' "$object.gimple" | sed -E 's/^ *\[([^]]*:[0-9]+):[0-9]+\]/\1\t/; s/\[[^]]*:[0-9]+:[0-9]+\] ?//g' |
        awk -F '\t' -v memory='([*(]*[*]|MEM[ [<]|[A-Za-z_0-9.]+([(]D[)])?->)' '
            $2 ~ "[(,] ?" memory && $2 ~ /[);]$/ && $2 ~ /^( [^=]* =)? [A-Za-z_][A-Za-z_0-9:.<>~ ]* [(]/ || $2 ~ "^ " memory "[^=]* = [A-Za-z_][A-Za-z_0-9:.<>~]* [(]" {
                sub(/.*\//, "", $1); print $1; exit }'
}

# What the answer says where its compiler says NAME: strcmp may stand for strncmp, strchr for strpbrk.
as_written() { # as_written NAME
    local word
    case $1 in
    "typeinfo for "* | __cxa_[!g]* | __dynamic_cast) word='C++ exceptions or types at run time' ;;
    __cxa_guard_*) word='a static variable that is set up when it is met' ;;
    str*) word=$(own_text | grep -owE 'str(n?(case)?cmp|n?c(at|py)|r?chr|str|len|pbrk|c?spn)' | head -n 1) ;;
    esac
    echo "${word:-$1}"
}

why() { # the first reason to refuse it
    local found name
    found=$(own_text | grep -oE "$WORDS" | head -n 1)
    [[ -z $found ]] || { echo "it says '$found': an answer is plain code" && return; }
    found=$(included "$object" "$source" | grep -vxF "$(included "$built/stub.o" "$task/stub.${source##*.}"; solution include)" | head -n 1)
    [[ -z $found ]] || { echo "it includes $found: an answer may include what the stub includes, and the C library" && return; }
    while read -r name; do
        [[ $name =~ ^($MAY)$ ]] && continue
        { undefined "$built/stub.o"; solution call; } | grep -qxF "$name" && continue
        echo "it uses $(as_written "$name"): an answer may call what its task gives it, mathematics, malloc and printf" && return
    done < <(undefined "$object")
    found=$(by_value)
    [[ -z $found ]] || { echo "at $found it passes by value what lies behind a pointer, and nobody counts that: read it into a variable" && return; }
    name=$(nm "$object" | awk '$2 == "i" {print $3; exit}')
    [[ -z $name ]] || { echo "$name would be called before the program begins" && return; }
    while read -r name; do
        nm -g --defined-only "$object" | grep -qw "$name" || { echo "it has no '$name', which its task asks for" && return; }
    done < <(asked_for)
}
asked_for() { nm -g --defined-only "$built/stub.o" | awk '$2 ~ /[TDRB]/ {print $3}'; }

why >"$out.refused"
make_local=()
while read -r name; do make_local+=(--keep-global-symbol="$name"); done < <(asked_for)
renamed=
[[ $source != *.cu ]] || renamed='memcpy=access_memcpy memmove=access_memmove memset=access_memset memcmp=access_memcmp printf=access_printf
    _ZN4simt12touch_globalEPKvjbNS_4SiteES1_=access_touch_global _ZN4simt12touch_sharedEPKvjbNS_4SiteE=access_touch_shared
    _ZN4simt11shared_baseEmNS_4SiteE=access_shared_base _ZN4simt3runERKNS_6LaunchE=access_run'
early=()
for name in init_array fini_array preinit_array ctors dtors; do early+=(-R ".$name*" -R ".rela.$name*"); done
renamed+=' abort=answer_abort __assert_fail=answer_assert'
"${LD:-ld}" -r --force-group-allocation "$object" -o "$out.whole" &&
    "${OBJCOPY:-objcopy}" --wildcard "${make_local[@]}" $(printf -- '--redefine-sym %s ' $renamed) "${early[@]}" "$out.whole" "$out"
