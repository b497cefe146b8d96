/**
 * @file 3_auto.cu
 * @brief The whole attention of a layer: the fused index, then sparse/union or sparse/kv_outer, whichever the
 *        selection is better for.
 *
 * What it does: between the two a single CTA measures how much neighbours agree. union8 is the mean size of
 * the union of the blocks of 8 neighbouring queries, from k where they agree to 8 k where they do not; it is
 * taken over 64 evenly spaced samples a group. Both kernels are launched behind a gate that compares it with
 * 2 k: the CTAs of one find it closed and return. So the choice costs no synchronisation with the host, and a
 * CUDA graph can hold it.
 *
 * Why 2 k: per 8 queries of a group at G = 16, dh 128, the union takes two tiles of 64 rows through the
 * blocks of their own 4 queries, about union8 / 1.3 x 2048 clocks of products. KV-outer takes k full tiles of
 * 128 rows, k x 2048, but writes and reads 2 x 8 x 16 k rows of partials, 66 KB k, at 20 (H800: 14) bytes a
 * clock and SM: k x 3300 (4700). They meet at union8 = 2.1 k (3 k). An estimate; the measurement is to
 * replace it.
 *
 * What it wastes: the measurement, 256 samples of 8 k ids by 32 warps, about 5 us; the CTAs that return, 0.3
 * us for each of the 132 SMs' turns: at 1M tokens 0.5 ms of about 1 s.
 */
#include "prefill.cuh"

namespace
{

constexpr int neighbours = 8, samples = 64, warps = 32, max_ids = neighbours * 32;
constexpr uint32_t limit = 2; // times k

/// The samples of a group, and the first query of one.
MSA_BOTH_SIDES inline int n_samples(const Shape &s)
{
    const int all = ceil_div(s.n_q, neighbours);
    return all < samples ? all : samples;
}
PTX_INLINE int sample_at(const Shape &s, int sample)
{
    return (int)((int64_t)ceil_div(s.n_q, neighbours) * sample / n_samples(s)) * neighbours;
}

struct Smem {
    int32_t ids[warps][max_ids];
    uint32_t sum[warps];
};

/// How many different blocks a sample's queries chose, in all lanes.
PTX_INLINE uint32_t size_of_union(const Shape &s, const int32_t *ids, int32_t (&seen)[max_ids], int r, int i)
{
    const int lane = (int)threadIdx.x % 32, left = s.n_q - i,
              n = (left < neighbours ? left : neighbours) * s.topk;
    for (int a = lane; a < n; a += 32)
        st_shared(&seen[a], ld_global(ids + row_at(s, i, r) * s.topk + a));
    __syncwarp();
    uint32_t first = 0; // of its kind
    for (int a = lane; a < n; a += 32) {
        const int id = ld_shared(&seen[a]);
        bool again = id < 0;
        for (int b = 0; b < a / s.topk * s.topk && !again; b++) // within a query ids differ
            again = ld_shared(&seen[b]) == id;
        first += !again;
    }
    __syncwarp();
    for (int with = 1; with < 32; with *= 2)
        first += shfl_xor(first, with);
    return first;
}

__global__ void __launch_bounds__(32 * warps, 1) overlap(Shape s, const int32_t *ids, uint32_t *sum)
{
    Smem &m = shared<Smem>();
    const int warp = (int)threadIdx.x / 32;
    uint32_t mine = 0;
    for (int a = warp; a < n_samples(s) * s.n_kv_heads; a += warps)
        mine += size_of_union(s, ids, m.ids[warp], a % s.n_kv_heads, sample_at(s, a / s.n_kv_heads));
    if (threadIdx.x % 32 == 0)
        st_shared(&m.sum[warp], mine);
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    mine = 0;
    for (int a = 0; a < warps; a++)
        mine += ld_shared(&m.sum[a]);
    st_global(sum, mine);
}

constexpr size_t head = 128; ///< of the workspace: the sum

size_t workspace(const Call &c)
{
    return head + layer_workspace(c, ON_SIDE(sparse, kv_outer));
}

msa_status run(const Call &c)
{
    uint32_t *sum = (uint32_t *)c.work;
    Call part = c;
    part.work = (char *)c.work + head;
    msa_status status = choose_blocks(part);
    if (status != MSA_OK)
        return status;
    part = main_branch(part);
    LAUNCH(overlap, dim3(1), dim3(32 * warps), sizeof(Smem), c.stream, c.s, part.a.ids, sum);
    part.s.gate = {sum, limit * (uint32_t)(n_samples(c.s) * c.s.n_kv_heads * c.s.topk), false};
    status = ON_SIDE(sparse, union).run(part);
    part.s.gate.above = true;
    return status == MSA_OK ? ON_SIDE(sparse, kv_outer).run(part) : status;
}

} // namespace

ENTRY(prefill, auto, run, workspace);
