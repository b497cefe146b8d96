#!/usr/bin/env bash
# Races under ThreadSanitizer in the kernels whose warpgroups meet at barriers, and in those of decode and backward:
# the part of `make test-race` that takes minutes.
exec "${B:-build}/race/kernels" decode/ backward/ dense/hopper sparse/union sparse/kv_outer
