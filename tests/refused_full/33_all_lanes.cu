/* wants: over-arrival: 1 at an mbarrier that expects 0 more */
/* Block scores, a warp per index query and block: the copy unit fetches the keys, and one thread asks for them. */
#include "../../../cuda/index/rows.cuh"

namespace
{

constexpr int width = 64, block = 32; // channels of a key, keys of a tile

struct alignas(4) Pair {
    bf16 x, y;
};

struct Smem {
    alignas(128) Pair tile[block][width / 2]; // [key][channel pair]
    uint64_t full;
};

/* [load] */
/// Brings the first `keys` keys from `from` on into the tile. One thread's work.
PTX_INLINE void load(Smem &m, const bf16 *from, int keys)
{
    const uint32_t bytes = (uint32_t)keys * width * sizeof(bf16);
    mbarrier_arrive_expect(&m.full, bytes);
    bulk_load(m.tile, from, bytes, &m.full);
}
/* [load] */

/// The largest product of a query with the first n keys of the tile; all lanes know it.
PTX_INLINE float best_product(const Pair &q, const Pair (&tile)[block][width / 2], int n)
{
    float maximum = minus_infinity();
    for (int j = 0; j < block && j < n; j++) {
        const Pair k = ld_shared(&tile[j][threadIdx.x % 32]);
        float dot = to_float(q.x) * to_float(k.x) + to_float(q.y) * to_float(k.y);
        for (int with = 1; with < 32; with *= 2)
            dot += shfl_xor(dot, with);
        maximum = fmaxf(maximum, dot);
    }
    return maximum;
}

__global__ void __launch_bounds__(32) one_block(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    Smem &m = shared<Smem>();
    const int lane = (int)threadIdx.x, b = (int)(blockIdx.x % s.n_scores);
    const int64_t row = blockIdx.x / s.n_scores;
    const int keys = s.n_kv - b * block < block ? s.n_kv - b * block : block; // the last block is shorter
    if (lane == 0) {
        mbarrier_init(&m.full, 1); // a phase ends with one arrival, and with the bytes that it announced
        fence_mbarrier_init();
    }
    __syncwarp();
    {
        load(m, ki + (int64_t)b * block * width, keys);
    }
    __syncwarp(); // the others know of the mbarrier from here on
    mbarrier_wait(&m.full, 0); // and of the tile from here on
    const Pair q = ld_global((const Pair *)(qi + row * width) + lane);
    const float maximum = best_product(q, m.tile, position_of(s, row) + 1 - b * block);
    if (lane == 0)
        st_global(scores + row_scores_at(s, row) + b, maximum * scale<width>);
}

msa_status run(const Call &c)
{
    if (!only_scores(c) || c.s.block != block)
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(one_block, dim3((unsigned)(n_rows(c.s) * c.s.n_scores)), dim3(32), sizeof(Smem), c.stream, c.s, c.a.qi,
           c.a.ki, c.a.scores);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
