/**
 * @file 2_q_outer.cu
 * @brief Sparse attention on tensor cores by mma.sync, the query in the outer loop.
 *
 * Idea: a CTA owns one query and one group, whose G heads are the 16 rows of mma.sync and share their keys.
 * Four warps deal the query's blocks among them in slices of 16 keys, each with its own softmax and its own
 * two buffers filled by cp.async, so that no warp waits for another until they merge their rows.
 * Bytes, exactly: 2 Hq T dh of Q, as much of O in bf16, 4 Hq T of LSE; 4 dh for each token that exists of each
 * block of each query and group, hidden ones too; 16 k Hkv T of ids, which every warp reads. The paper's
 * Q-outer order.
 * Floor: those bytes, since G = 16 heads make 16 operations a byte; the products take a fifth of that time.
 * Estimate: for 16384 queries at M3's sizes and 2^20 tokens 69.3 GB, 20.7 ms on an H800, 14.4 on an H200 (make
 * chapter N=14).
 * Waste: neighbours that choose the same block fetch it anew each, from L2 at best; 16 - G rows of every
 * product.
 * Dropped: slices of 32 keys; with twice the shared memory one CTA fits on an SM instead of three.
 */
#include "../kit/warp_attend.cuh"

namespace
{

constexpr int warps = 4, threads = 32 * warps;
constexpr int rows = 16;  ///< of one mma.sync: the heads of a group
constexpr int slice = 16; ///< keys

/// A warp's own: two slices of K and V, and at the end its O. Rows of O are 8 longer than D, so that the 8
/// that a warp writes at a time lie in different banks.
template <int D> union Part {
    struct {
        WarpTile<slice, D> k, v;
    } stage[2];
    float o[rows][D + 8];
};

template <int D> struct Smem {
    WarpTile<rows, D> q;
    Part<D> part[warps];
    float lse[warps][rows];
};

/// O and LSE of the row from what its warps have.
template <int D, class Out>
PTX_INLINE void merge(const Smem<D> &smem, const Shape &s, int i, int r, Out *o, float *lse)
{
    // 8 threads a row, 4 columns each
    const int t = (int)threadIdx.x, row = t * rows / threads, column = t % (threads / rows) * 4;
    if (row >= s.group)
        return;
    float top = minus_infinity(), weight[warps], sum = 0;
    for (int w = 0; w < warps; w++)
        top = fmaxf(top, ld_shared(&smem.lse[w][row]));
    for (int w = 0; w < warps; w++)
        sum += weight[w] = ex2((ld_shared(&smem.lse[w][row]) - top) * log2_e);
    for (int c = column; c < D; c += 32) {
        float4 y = make_float4(0, 0, 0, 0);
        for (int w = 0; w < warps; w++) {
            const float4 part = ld_shared((const float4 *)&smem.part[w].o[row][c]);
            const float f = weight[w] / sum;
            y = make_float4(y.x + f * part.x, y.y + f * part.y, y.z + f * part.z, y.w + f * part.w);
        }
        store_4(o + q_at(s, i, r * s.group + row, D) + c, y);
    }
    if (lse && column == 0)
        st_global(lse + lse_at(s, i, r * s.group + row), top + logf(sum));
}

template <int D, class Out>
__global__ void __launch_bounds__(threads)
    q_outer(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *ids, Out *o, float *lse)
{
    s = actual(s);
    Smem<D> &smem = shared<Smem<D>>();
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    const int i = (int)blockIdx.x, r = (int)blockIdx.y, position = s.prefix + i;
    if (i >= s.n_q)
        return;
    Part<D> &mine = smem.part[warp];
    const int id = lane < s.topk ? ld_global(ids + row_at(s, i, r) * s.topk + lane) : -1; // one in each lane
    const uint32_t ends = ~warp_ballot(is_block(s, id)); // the lowest bit: where the row of ids does
    const int per_block = s.block / slice, slices = (ends ? __ffs((int)ends) - 1 : 32) * per_block;
    auto first_key = [&](int x) { return shfl(id, x / per_block) * s.block + x % per_block * slice; };
    auto fetch = [&](int x) {
        const int first = first_key(x), stage = x / warps % 2;
        auto key = [&](const bf16 *kv) {
            return [&s, kv, first, r](int row) {
                return first + row < s.n_kv ? kv + kv_at(s, first + row, r, D) : nullptr;
            };
        };
        copy_rows<32>(mine.stage[stage].k, lane, key(k));
        copy_rows<32>(mine.stage[stage].v, lane, key(v));
        cp_async_commit();
    };
    // Prologue: the heads' rows of Q, and each warp's first slice.
    copy_rows<threads>(
        smem.q, t, [&](int row) { return row < s.group ? q + q_at(s, i, r * s.group + row, D) : nullptr; });
    cp_async_commit();
    if (warp < slices)
        fetch(warp);
    cp_async_wait<0>();
    __syncthreads();
    uint32_t heads[D / 16][4], p[slice / 16][4];
    load_queries(heads, smem.q, 0);

    float acc[D / 2] = {}, x[slice / 2], keep[2];
    Softmax softmax = softmax_init();
    for (int n = warp; n < slices; n += warps) {
        cp_async_wait<0>();
        __syncwarp(); // slice n is there, and all lanes are done with the one before
        if (n + warps < slices)
            fetch(n + warps); // arrives while this one is worked on
        auto &stage = mine.stage[n / warps % 2];
        const int first = first_key(n);
        warp_scores(x, heads, stage.k);
        auto visible = [&](int, int column) { return first + column <= position; };
        if (first + slice - 1 > position)
            softmax_step<true>(softmax, x, keep, scale2<D>, visible);
        else
            softmax_step<false>(softmax, x, keep, scale2<D>, visible);
        rescale(acc, keep);
        pack_weights(p, x);
        warp_values(acc, p, stage.v);
    }

    // Epilogue: each warp leaves O and LSE of its slices, and all merge them by LSE (chapter 3).
    float inverse[2], z[2];
    softmax_finish_part(softmax, inverse, z);
    __syncwarp(); // all lanes are done with the last slice
    for (int half = 0; half < 2; half++) {
        const int row = fragment_row(lane, half);
        if (lane % 4 == 0)
            st_shared(&smem.lse[warp][row], z[half]);
        for (int j = 2 * half; j < D / 2; j += 4)
            st_shared((float2 *)&mine.o[row][fragment_d(lane, j).col],
                      make_float2(acc[j] * inverse[half], acc[j + 1] * inverse[half]));
    }
    __syncthreads();
    merge(smem, s, i, r, o, lse);
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)c.s.n_q, (unsigned)c.s.n_kv_heads);
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_output(c, [&](auto *o) {
            LAUNCH((q_outer<d.value, std::remove_pointer_t<decltype(o)>>), grid, dim3(threads),
                   sizeof(Smem<d.value>), c.stream, c.s, c.a.q, c.a.k, c.a.v, c.a.ids, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(sparse, q_outer, run, no_workspace);
