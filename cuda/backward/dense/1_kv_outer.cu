/**
 * @file 1_kv_outer.cu
 * @brief The gradient of dense attention: the baseline that MSA's backward pass is compared with.
 *
 * What it does: the sweep of backward/3_kv_outer.cu with every visible key as support. There are no ids, so
 * nothing is turned around and no item is split: a thread block owns a key block of a group, and all queries
 * from the first that sees it come past. The longest, block 0, start first.
 *
 * Its floor: 10 Hq dh floating-point operations a visible pair, 5 Hq dh N^2 in all: 704 TFLOP at N = 131072
 * and M3's sizes, 1.1 s at mma.sync's 650 TFLOP/s. Estimate, not measured: as the sweep's operands come from
 * shared memory at half that rate, 2.1 s. FlashAttention-3, which multiplies by wgmma, reports 1.17 s on an
 * H800; ratios are taken against the best dense backward pass of a run, this one or a library's.
 *
 * Bytes of a chunk of T queries with P pairs (query, group, block with a visible key) and U tokens in the
 * blocks of all groups: those of 3_kv_outer.cu without its worklist,
 * - 6 Hq T dh + 4 Hq T for delta (O in bf16: 4 Hq T dh + 4 Hq T);
 * - (2 n + 2) d + 4 for the centre of each query and group, the mean of n keys (up to 16), and 4 P for who
 * has one;
 * - read: 4 dh U of K and V, 4 G dh P of Q and dO, 8 G P of LSE and delta;
 * - reduced: 4 G dh P of dQ; read and written: 16 dh U of dK and dV.
 * And zeros: 4 Hq T dh + 8 Hkv S dh once.
 *
 * What it wastes: what 3_kv_outer.cu does.
 */
#include "../sweeps.cuh"

static msa_status run(const Call &c)
{
    return sweep_all_keys(c, ON_SIDE(backward, sweep));
}

ENTRY(dense_backward, kv_outer, run, dense_sweep_bytes);
