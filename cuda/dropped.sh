#!/bin/sh
# The kernels that are not offered on the GPU: cuda/dropped.sh FILE.o.dropped... prints these files of cuda/nvcc.sh, and a
# line for each kernel that is made of such a one, by the names in its idea (kernels.def).
set -u
awk '
    /^DROPPED/ {print; split($0, part, "\""); why[part[2]] = part[2]}
    /^(KERNEL|BEST)\(/ {split($0, part, "[(,] *"); made_of[part[2] "/" part[3]] = $0}
    END {
        do {
            more = 0
            for (name in made_of)
                for (other in why)
                    if (!(name in why) && made_of[name] ~ "[\" ]" other "[,\" ]") {
                        why[name] = why[other]
                        printf "DROPPED(\"%s\", \"made of %s, which nvcc spoils\")\n", name, why[name]
                        more = 1
                    }
        } while (more)
    }' "$@" cuda/kernels.def
