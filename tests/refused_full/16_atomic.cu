/* wants: not yet: (bytes written|kernels launched): expected at most */
/* The Index Branch in two kernels: all scores to memory, then back for the selection. */
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

__global__ void __launch_bounds__(threads) score(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    const int64_t item = (int64_t)blockIdx.x * threads + threadIdx.x, row = item % n_rows(s),
                  b = item / n_rows(s);
    if (b >= s.n_scores || b >= position_of(s, row) / s.block)
        return;
    atomicExch(scores + row * s.n_scores + b,
              best_product(qi + row * width, ki + b * s.block * width, s.block));
}

__global__ void __launch_bounds__(threads) choose(Shape s, const float *scores, int32_t *ids)
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
        const uint64_t key = rank_key(ld_global(scores + row * s.n_scores + b), b);
        if (key > list[entries - 1])
            insert(list, key);
    }
    write_ids(ids + row_at(s, row / s.n_kv_heads, (int)(row % s.n_kv_heads)) * s.topk, list, s.topk);
}

size_t workspace(const Call &c)
{
    return (size_t)(n_rows(c.s) * c.s.n_scores) * sizeof(float);
}

msa_status run(const Call &c)
{
    if (c.s.topk > entries)
        return MSA_ERR_UNSUPPORTED;
    float *scores = (float *)c.work;
    const int64_t rows = n_rows(c.s);
    LAUNCH(score, dim3((unsigned)ceil_div(rows * c.s.n_scores, (int64_t)threads)), dim3(threads), 0, c.stream,
           c.s, c.a.qi, c.a.ki, scores);
    LAUNCH(choose, dim3((unsigned)ceil_div(rows, (int64_t)threads)), dim3(threads), 0, c.stream, c.s, scores,
           c.a.ids);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, workspace);
