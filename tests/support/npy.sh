# Sourced by the test scripts: arrays from numbers and bytes.
npy() { # npy FILE DESCR SHAPE [ORDER]: a version 1.0 file of 128 bytes of head and what stands on stdin
    {
        printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "{'descr': '$2', 'fortran_order': ${4:-False}, 'shape': $3, }"
        cat
    } >"$1"
}
le32() { # le32 INTEGER...: little-endian
    local i
    for i; do
        i=$((i & 0xffffffff))
        printf "$(printf '\\x%02x' $((i & 255)) $((i >> 8 & 255)) $((i >> 16 & 255)) $((i >> 24)))"
    done
}
zeros() { head -c $((4 * $1)) /dev/zero; }
payload() { tail -c +129 "$1"; } # of a file with 128 bytes of head
