/* wants: 32-byte sectors read: expected at most 4640, found [0-9]+ */
/* The Index Branch in one kernel: a score is offered to the list in registers and forgotten. */
#include "../../../cuda/index/rows.cuh"
#include "../../../cuda/kit/selection.cuh"

namespace
{

constexpr int width = 64, threads = 64, entries = 8; // entries of the list: k <= 8

/// The best product of an index query with the keys of a block that it sees as a whole.
PTX_INLINE float best_product(const bf16 *query, const bf16 *keys, int block)
{
    float maximum = minus_infinity();
    for (int j = 0; j < block; j++) {
        float dot = 0;
        for (int c = 0; c < width; c++)
            dot += to_float(ld_global(query + c)) * to_float(ld_global(keys + j * width + c));
        maximum = fmaxf(maximum, dot);
    }
    return maximum;
}

__global__ void __launch_bounds__(threads) fused(Shape s, const bf16 *qi, const bf16 *ki, int32_t *ids)
{
    const int64_t row = (int64_t)blockIdx.x * threads + threadIdx.x;
    if (row >= n_rows(s))
        return;
    const int local = position_of(s, row) / s.block;
    uint64_t list[entries];
    UNROLL
    for (int a = 0; a < entries; a++)
        list[a] = first_entry(a, entries, s.topk, local);
    for (int b = 0; b < local; b++) {
        const float maximum = best_product(qi + row * width, ki + (int64_t)b * s.block * width, s.block);
        const uint64_t key = rank_key(maximum, b);
        if (key > list[entries - 1])
            insert(list, key);
    }
    write_ids(ids + row_at(s, row / s.n_kv_heads, (int)(row % s.n_kv_heads)) * s.topk, list, s.topk);
}

msa_status run(const Call &c)
{
    if (c.s.topk > entries)
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(fused, dim3((unsigned)ceil_div(n_rows(c.s), (int64_t)threads)), dim3(threads), 0, c.stream, c.s,
           c.a.qi, c.a.ki, c.a.ids);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
