/**
 * @file 1_kv_outer.cu
 * @brief The gradient of dense attention: the baseline that MSA's backward pass is compared with.
 *
 * Idea: the sweep of backward/3_kv_outer.cu with every visible key as support. A CTA owns a key block of a
 * group, and all queries from the first that sees it come past; the longest, block 0, start first. Bytes of a
 * chunk of T queries with P pairs (query, group, block with a visible key) and U tokens in the blocks of all
 * groups: 6 Hq T dh + 4 Hq T for delta (O in bf16: 4 Hq T dh + 4 Hq T); for the centre of each query and
 * group, the mean of n keys (up to 16), (2 n + 2) d + 4, and 4 P for who has one; read 4 dh U of K and V, 4 G
 * dh P of Q and dO, 8 G P of LSE and delta; reduced 4 G dh P of dQ; read and written 16 dh U of dK and dV;
 * zeros 4 Hq T dh + 8 Hkv S dh once.
 * Floor: 10 Hq dh operations a visible pair: at M3's sizes and 128K tokens 704 TFLOP, 1.1 s at mma.sync's 650
 * TFLOP/s.
 * Estimate: there 2.1 s, as operands come from shared memory at half that rate. FlashAttention-3 reports 1.17
 * s on an H800; ratios are taken against the best dense backward pass of a run, this one or a library's.
 * Waste: what 3_kv_outer.cu wastes.
 */
#include "../../sweep/task.cuh"

static msa_status run(const Call &c)
{
    return sweep_all_keys(c, ON_SIDE(backward, sweep));
}

ENTRY(dense_backward, kv_outer, run, dense_sweep_bytes);
