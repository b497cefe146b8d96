/**
 * @file 2_hopper.cu
 * @brief The gradient of dense attention by the sweep of backward/4_hopper.cu: the better baseline.
 *
 * Idea: 1_kv_outer's task; a CTA owns a key block of a group, and all queries from the first that sees it come
 * past.
 * Bytes: those of 1_kv_outer.cu.
 * Floor: at M3's sizes and 128K tokens 704 TFLOP, 0.9 s at the 770 TFLOP/s of a large product.
 * Estimate: there 1.0 s and more, since shared memory asks for 2900 clocks a tile beside 2560 of products.
 * FlashAttention-3 reports 1.17 s on an H800.
 * Waste: what 4_hopper.cu wastes.
 */
#include "../../sweep/task.cuh"

static msa_status run(const Call &c)
{
    return sweep_all_keys(c, ON_SIDE(backward, hopper_sweep));
}

ENTRY(dense_backward, hopper, run, dense_sweep_bytes);
