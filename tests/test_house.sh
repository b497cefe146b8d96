#!/usr/bin/env bash
# The house itself: includes go down the stairs, files and functions stay short, and so do lists of parameters.
source "$(dirname "$0")/support/tap.sh"

# ---- Includes: what a room may look into besides itself; ref looks into none, cli into all -----------------------

cat > "$W/stairs" << 'END'
ref
io ref
picture io ref
fast ref
cuda ref
cuda/host cuda ref
table fast cuda/host cuda ref
judge table fast cuda/host cuda ref
parallel fast ref
cuda/parallel parallel fast cuda/host cuda ref
model parallel fast io ref
checkpoint fast io ref
bench judge table fast cuda/host cuda ref
cli bench judge table model parallel checkpoint fast picture io cuda/parallel cuda/host cuda ref
END
up() { # up DIRECTORY: its includes that point up the stairs
    (cd "$1" && find ref cuda -name '*.[ch]' -o -path 'cuda/*' -name '*.c*' | sort | xargs awk -v stairs="$W/stairs" '
        function room(path) { # the header of the kernels is the interface of all of cuda
            if (path == "cuda/host/msa_cuda.h") return "cuda"
            if (path ~ /^cuda\/host\//) return "cuda/host"
            if (path ~ /^cuda\/parallel\//) return "cuda/parallel" # above all of them
            if (path ~ /^cuda\//) return "cuda"
            return path ~ /^ref\/[a-z]+\// ? substr(path, 5, index(substr(path, 5), "/") - 1) : "ref"
        }
        BEGIN { while ((getline line < stairs) > 0) { n = split(line, word, " "); for (i = 1; i <= n; i++) may[word[1], word[i]] = 1 } }
        /^ *# *include "/ {
            to = $0; sub(/^[^"]*"/, "", to); sub(/".*/, "", to)
            from = FILENAME; sub(/\/[^\/]*$/, "", from)
            if (to ~ /\.inc$/) next # what a build makes
            while (to ~ /^\.\.\//) { to = substr(to, 4); if (!sub(/\/[^\/]*$/, "", from)) from = "" }
            to = from == "" ? to : from "/" to
            if (!((room(FILENAME), room(to)) in may)) print FILENAME " includes " to
        }')
}
quiet() { # quiet COMMAND...: it prints nothing; what it prints is shown
    "$@" > "$W.out" 2>&1
    [[ ! -s $W.out ]]
}
quiet up .
check $? "includes point down: cli, bench, judge, fast and cuda/host, ref; model on fast"
mkdir -p "$W/copy/ref/judge" "$W/copy/ref/bench" "$W/copy/cuda/kit"
echo '#include "../cli/cli.h"' > "$W/copy/ref/bench/a.c"
echo '#include "../bench/a.h"' > "$W/copy/ref/judge/b.h"
echo '#include "judge/b.h"' > "$W/copy/ref/c.c"
echo '#include "../host/plan.h"' > "$W/copy/cuda/kit/d.cuh"
[[ $(up "$W/copy" | wc -l) -eq 4 ]]
check $? "... and one that points up is found"

# Rooms of kernels: no two include each other, whether at once or by way of a third.
circle() { # circle DIRECTORY: of its stages' rooms and what these share; a room inside another is that one's
    (cd "$1" && grep -rE '^#include "(\.\./)+[a-z]+/' cuda | sed -nE 's,^cuda/([a-z]+)/.*"(\.\./)+([a-z]+)/.*,\1 \3,p' |
        grep -vE '\<(kit|host|simt|ref)\>' | awk '$1 != $2' | tsort 2>&1 > /dev/null)
}
quiet circle .
check $? "no room of kernels is included by one that it includes"
mkdir -p "$W/copy/cuda/kl" "$W/copy/cuda/sweep"
echo '#include "../sweep/b.cuh"' > "$W/copy/cuda/kl/1_a.cu"
echo '#include "../kl/c.cuh"' > "$W/copy/cuda/sweep/b.cuh"
[[ -n $(circle "$W/copy") ]]
check $? "... and a circle is found"

# ---- Lengths ---------------------------------------------------------------------------------------------

# Lists: an instruction, an option or an entry after the other.
LISTS='cuda/kit/ptx.cuh'
sources() { find ref cuda book/{answers,examples,exercises,figures,lab,site} data .ci -type f | grep -E '\.(c|h|cu|cuh|cpp|def|py|sh|awk|mk)$|^.ci/' | sort; }
long_files() { sources | grep -vxF "$LISTS" | xargs wc -l | awk '$2 != "total" && $1 > 450 {print $2 " has " $1 " lines"}'; }
quiet long_files
check $? "no file outside tests has more than 450 lines, but lists"

# Functions begin with a brace in the first column. Of each: file, lines, parameters, whether a kernel's, name.
functions() {
    perl -e '
        for my $file (@ARGV) {
            open my $in, "<", $file or die "$file: $!";
            my @line = <$in>;
            for my $at (1 .. $#line) {
                next if $line[$at] !~ /^\{\s*$/;
                my ($first, $end, $head) = ($at, $at, "");
                $head = "$line[$first] $head" while --$first >= 0 && $line[$first] !~ m{^\s*$|^[#\}\{]|;\s*$|\*/\s*$|^//};
                next if $head =~ /^\s*(namespace|typedef|struct|enum|union|extern)\b[^(]*$/;
                $end++ while $end < $#line && $line[$end] !~ /^\}/;
                my $kernel = $head =~ s/__global__|__launch_bounds__\([^)]*\)//g ? "kernel" : "function";
                next if $head !~ /([\w:~]+)\s*\((.*)\)/s;
                my ($name, $list) = ($1, $2);
                1 while $list =~ s/\([^()]*\)|<[^<>]*>//;
                print join(" ", $file, $end - $at + 1, $list =~ /^\s*(void)?\s*$/ ? 0 : 1 + ($list =~ tr/,//), $kernel, $name), "\n";
            }
        }' "$@"
}
if ! command -v perl > /dev/null; then
    skip "lengths of functions" "no perl here"
    finish
fi
mapfile -t files < <(sources | grep -E '\.(c|h|cu|cuh|cpp)$')
functions "${files[@]}" > "$W/functions"
[[ $(wc -l < "$W/functions") -gt 2000 ]]
check $? "the scan finds the functions: $(wc -l < "$W/functions")"
quiet awk '$2 > 70 {print $1 ": " $5 " has " $2 " lines"}' "$W/functions"
check $? "none has more than 70 lines"

# ---- Parameters: of the public interface, of what others define, and of a table's kernels they are settled ---------

{
    grep -ohE '\bmsa_\w+' ref/msa.h ref/msa_index8.h ref/msa_layer.h ref/msa_quality.h cuda/host/msa_cuda.h
    sed -nE 's/^(KERNEL|BEST).\w+, \w+, (\w+),.*/\2/p' ref/fast/kernels.def
    printf '%s\n' cblas_sgemm encode_tiled # of BLAS, of the CUDA driver
} > "$W/settled"
awk '$3 > 10 && $4 == "function" {print $5 ": " $3 " parameters, in " $1}' "$W/functions" | grep -vwFf "$W/settled" > "$W/many"
[[ $(cut -d: -f1 "$W/many" | sort -u | wc -l) -le 5 ]] || { cp "$W/many" "$W.out" && false; }
check $? "at most five functions have more than 10 parameters"
finish
