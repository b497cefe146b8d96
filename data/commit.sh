#!/bin/sh
# Prints the commit of what computes, with -dirty behind it where a file is not that of the commit. Tables of experiments and
# what is made of them compute nothing: the second row is of the same commit as the first.
commit=$(git rev-parse HEAD 2> /dev/null) || { echo unknown; exit; }
git diff --quiet HEAD -- :/ ':(exclude,top)data/experiments/*.csv' ':(exclude,top)data/experiments/README.md' ':(exclude,top)figures/experiments' &&
    echo "$commit" || echo "$commit-dirty"
