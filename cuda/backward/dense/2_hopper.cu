/**
 * @file 2_hopper.cu
 * @brief The gradient of dense attention by the sweep of backward/4_hopper.cu: the better baseline.
 *
 * What it does: 1_kv_outer's task; a CTA owns a key block of a group, and all queries from the first that
 * sees it come past.
 *
 * Its floor: 704 TFLOP at N = 131072 and M3's sizes take 0.9 s at the 770 TFLOP/s of a large product.
 * Estimate, not measured: shared memory asks for 2900 clocks a tile beside 2560 of products, 1.0 s and more.
 * FlashAttention-3 reports 1.17 s on an H800.
 *
 * Bytes: those of 1_kv_outer.cu.
 *
 * What it wastes: what 4_hopper.cu does.
 */
#include "../sweeps.cuh"

static msa_status run(const Call &c)
{
    return sweep_all_keys(c, ON_SIDE(backward, hopper_sweep));
}

ENTRY(dense_backward, hopper, run, dense_sweep_bytes);
