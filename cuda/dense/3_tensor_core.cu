/**
 * @file 3_tensor_core.cu
 * @brief Dense causal GQA on tensor cores by mma.sync: a warp owns 16 rows of Q.
 *
 * Idea: a warp keeps its rows of Q, S and O in registers, and P too, since the accumulators of S lie as the
 * left operand of P V has to. A tile of 64 rows packs 64 / G queries times the G heads that share their keys,
 * and tile j + 1 arrives by cp.async while tile j is worked on.
 * Bytes: Q and O once; of K and V, each 64 / G queries read what they see, in whole tiles of 64 keys.
 * Floor: 4 Hq dh operations a visible pair at mma.sync's rate, about two thirds of wgmma's. Shared memory is
 * nearer: each warp reads all of K and V for its 16 rows, at half of the tensor cores' peak.
 * Waste: a third of the tensor cores; shared memory; the tensor cores again while a warp takes exponentials,
 * unless another warp has products to do. Design notes: chapter 12.
 */
#include "../kit/warp_attend.cuh"

namespace
{

constexpr int threads = 128, tile_rows = 64, tile_keys = 64;

template <int D> struct Smem {
    WarpTile<tile_rows, D> q;
    WarpTile<tile_keys, D> k[2], v[2];
};

template <int D, class Out>
__global__ void __launch_bounds__(threads)
    tensor_core(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, Out *o, float *lse)
{
    s = actual(s);
    Smem<D> &smem = shared<Smem<D>>();
    const int t = (int)threadIdx.x, r = (int)blockIdx.y, n_queries = tile_rows / s.group;
    const int first = n_queries * (int)(gridDim.x - 1 - blockIdx.x); // query; long tiles first
    if (first >= s.n_q)
        return;
    // Row x of the tile is a query and a head, or none. Its O and LSE are number `at` of their arrays.
    auto at = [&](int row) {
        const int i = first + row / s.group;
        return row < n_queries * s.group && i < s.n_q ? lse_at(s, i, r * s.group + row % s.group) : -1;
    };
    auto fetch = [&](int j) { // the tile from key j on
        const int stage = j / tile_keys % 2;
        auto key = [&](const bf16 *x) {
            return
                [&s, x, j, r](int row) { return j + row < s.n_kv ? x + kv_at(s, j + row, r, D) : nullptr; };
        };
        copy_rows<threads>(smem.k[stage], t, key(k));
        copy_rows<threads>(smem.v[stage], t, key(v));
        cp_async_commit();
    };
    copy_rows<threads>(smem.q, t, [&](int row) { return at(row) < 0 ? nullptr : q + at(row) * D; });
    fetch(0);
    const int row = t / 32 * 16, lane = t % 32;
    int last[2]; // key that the thread's rows see
    for (int half = 0; half < 2; half++)
        last[half] = s.prefix + first + (row + fragment_row(lane, half)) / s.group;
    const int full = s.prefix + first + 1; // keys that all rows see
    const int end = full + n_queries - 1 < s.n_kv ? full + n_queries - 1 : s.n_kv;

    uint32_t rows[D / 16][4], p[tile_keys / 16][4];
    float acc[D / 2] = {}, x[tile_keys / 2], keep[2];
    Softmax softmax = softmax_init();
    for (int j = 0; j < end; j += tile_keys) {
        const int stage = j / tile_keys % 2;
        cp_async_wait<0>();
        __syncthreads(); // tile j is there, and all are done with tile j - 1
        if (j == 0)
            load_queries(rows, smem.q, row);
        // [warp_step]
        if (j + tile_keys < end)
            fetch(j + tile_keys); // into the stage of tile j - 1, while j is multiplied
        warp_scores(x, rows, smem.k[stage]);
        auto visible = [&](int half, int column) { return j + column <= last[half]; };
        if (j + tile_keys > full)
            softmax_step<true>(softmax, x, keep, scale2<D>, visible);
        else
            softmax_step<false>(softmax, x, keep, scale2<D>, visible);
        rescale(acc, keep);
        pack_weights(p, x);
        warp_values(acc, p, smem.v[stage]);
        // [warp_step]
    }
    float inverse[2], z[2];
    softmax_finish(softmax, inverse, z);
    int64_t out[2];
    for (int half = 0; half < 2; half++) {
        out[half] = at(row + fragment_row(lane, half));
        if (lse && lane % 4 == 0 && out[half] >= 0)
            st_global(lse + out[half], z[half]);
    }
    write_rows<Out>(acc, inverse, [&](int half) { return out[half] < 0 ? nullptr : o + out[half] * D; });
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div(c.s.n_q, tile_rows / c.s.group), (unsigned)c.s.n_kv_heads);
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_output(c, [&](auto *o) {
            LAUNCH((tensor_core<d.value, std::remove_pointer_t<decltype(o)>>), grid, dim3(threads),
                   sizeof(Smem<d.value>), c.stream, c.s, c.a.q, c.a.k, c.a.v, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(dense, tensor_core, run, no_workspace);
