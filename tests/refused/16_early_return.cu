/* wants: divergent barrier: __syncthreads.. after thread [0-9]+ has exited */
/* The Index Branch in one kernel: 64 rows share each block of keys; a score is offered to the list in registers and forgotten. */
#include "../../../cuda/index/rows.cuh"
#include "../../../cuda/kit/selection.cuh"

namespace
{

constexpr int width = 64, block = 32, threads = 64, entries = 8; // entries of the list: k <= 8
constexpr int chunks = width / 8;                                // of 16 bytes

struct Smem {
    bf16x8 tile[block][chunks]; // keys of a block
};

/// The best product of an index query with the keys of the tile.
PTX_INLINE float best_product(const bf16x8 (&q)[chunks], const Smem &m)
{
    float maximum = minus_infinity();
    for (int j = 0; j < block; j++) {
        float dot = 0;
        for (int c = 0; c < chunks; c++) {
            const bf16x8 k = ld_shared(&m.tile[j][c]); // the same for all threads
            for (int i = 0; i < 8; i++)
                dot += to_float(q[c].x[i]) * to_float(k.x[i]);
        }
        maximum = fmaxf(maximum, dot);
    }
    return maximum;
}

__global__ void __launch_bounds__(threads) fused(Shape s, const bf16 *qi, const bf16 *ki, int32_t *ids)
{
    Smem &m = shared<Smem>();
    const int64_t first = (int64_t)blockIdx.x * threads, row = first + threadIdx.x;
    if (row >= n_rows(s))
        return;
    const bool exists = true;
    const int64_t last = first + threads < n_rows(s) ? first + threads - 1 : n_rows(s) - 1;
    const int local = exists ? position_of(s, row) / block : 0, furthest = position_of(s, last) / block;
    bf16x8 q[chunks];
    for (int c = 0; c < chunks && exists; c++)
        q[c] = ld_global((const bf16x8 *)(qi + row * width) + c);
    uint64_t list[entries];
    UNROLL
    for (int a = 0; a < entries; a++)
        list[a] = first_entry(a, entries, s.topk, local);
    for (int b = 0; b < furthest; b++) { // all threads come to the barriers of all blocks
        __syncthreads();
        for (int i = (int)threadIdx.x; i < block * chunks; i += threads)
            st_shared(&m.tile[i / chunks][i % chunks], ld_global((const bf16x8 *)(ki + (int64_t)b * block * width) + i));
        __syncthreads();
        if (b >= local)
            continue;
        const uint64_t key = rank_key(best_product(q, m), b);
        if (key > list[entries - 1])
            insert(list, key);
    }
    if (exists)
        write_ids(ids + row_at(s, row / s.n_kv_heads, (int)(row % s.n_kv_heads)) * s.topk, list, s.topk);
}

msa_status run(const Call &c)
{
    if (c.s.topk > entries || c.s.block != block)
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(fused, dim3((unsigned)ceil_div(n_rows(c.s), (int64_t)threads)), dim3(threads), sizeof(Smem), c.stream, c.s,
           c.a.qi, c.a.ki, c.a.ids);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
