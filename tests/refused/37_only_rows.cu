/* wants: deadlock, nobody can go on: .* thread 64: mbarrier */
/* Block scores: one warp copies keys ahead, two multiply and give each stage back. */
#include "../../../cuda/index/rows.cuh"

namespace
{

constexpr int width = 64, block = 32, consumers = 2, stages = 2;

struct alignas(4) Pair {
    bf16 x, y;
};

struct Smem {
    alignas(128) Pair tile[stages][block][width / 2]; // [stage][key][channel pair]
    uint64_t full[stages], empty[stages];
};

/* [produce] */
/// Tile b goes through stage b % stages, as the b / stages-th tile there. One thread's work.
PTX_INLINE void produce(Smem &m, const Shape &s, const bf16 *ki)
{
    for (int b = 0; b < s.n_scores; b++) {
        const int stage = b % stages, keys = s.n_kv - b * block < block ? s.n_kv - b * block : block;
        const uint32_t bytes = (uint32_t)keys * width * sizeof(bf16);
        mbarrier_wait(&m.empty[stage], b / stages % 2 ^ 1); // at once, where the stage was never filled
        mbarrier_arrive_expect(&m.full[stage], bytes);
        bulk_load(m.tile[stage], ki + (int64_t)b * block * width, bytes, &m.full[stage]);
    }
}
/* [produce] */

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

__global__ void __launch_bounds__(32 * (consumers + 1)) ring(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    Smem &m = shared<Smem>();
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t row = (int64_t)blockIdx.x * consumers + warp;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < stages; stage++) {
            mbarrier_init(&m.full[stage], 1);
            mbarrier_init(&m.empty[stage], consumers); // one arrival a consumer warp
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (warp == consumers) {
        if (lane == 0)
            produce(m, s, ki);
        return;
    }
    const Pair q = row < n_rows(s) ? ld_global((const Pair *)(qi + row * width) + lane) : Pair();
    for (int b = 0; b < s.n_scores; b++) {
        const int stage = b % stages;
        mbarrier_wait(&m.full[stage], b / stages % 2);
        if (row < n_rows(s)) {
            const float maximum = best_product(q, m.tile[stage], position_of(s, row) + 1 - b * block);
            if (lane == 0)
                st_global(scores + row_scores_at(s, row) + b, maximum * scale<width>);
        }
        fence_proxy_async(); // what this thread has read, a copy may overwrite
        __syncwarp();
        if (lane == 0 && row < n_rows(s))
            mbarrier_arrive(&m.empty[stage]);
    }
}

msa_status run(const Call &c)
{
    if (!only_scores(c) || c.s.block != block)
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(ring, dim3((unsigned)ceil_div(n_rows(c.s), (int64_t)consumers)), dim3(32 * (consumers + 1)), sizeof(Smem),
           c.stream, c.s, c.a.qi, c.a.ki, c.a.scores);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
