#!/usr/bin/env bash
# What the solution of an exercise includes and calls, for admit.sh where there is no solution: uses.sh OBJECTS TASK,
# the directories with solution.o and with solution.c.
set -u
export LC_ALL=C
tr -s ' \\\n' '\n' < "$1solution.d" | grep -v ':$' | grep -vE "^$2solution\.cu?$" | sort -u | sed '/^$/d; s/^/include /'
nm -uC "$1solution.o" | sed -E 's/^ +[Uwv] /call /' | grep -vE '^call __(asan|ubsan|tsan)_' | sort -u
