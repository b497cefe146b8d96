/**
 * @file screen.cu
 * @brief Which of a rank's own blocks a row's 8-bit codes cannot rule out: before kernels.cu scores the rest in full.
 *
 * Idea: as index/5_screened.cu, for rows that many sequences share and blocks whose scores have a place in memory. Codes of
 * own blocks lie in the order of `page`, so that they stream without a table. A row's k - 1 best lower bounds say what an
 * upper one may not be below. Full keys of a block are loaded where some row of a tile has not ruled it out: by the same
 * products, so that the candidates are what they would be.
 * Bytes: di and 12 a block and 128 rows, 8 of bounds a block and row, written and read twice.
 * Floor: a step's is di S / R, half of its full index keys; what is settled comes on top.
 * Waste: bounds in memory; a tile's rows ask together, so that of a chunk of unlike queries most blocks are loaded.
 */
#include "../index/screen.cuh"
#include "../kit/selection.cuh"
#include "kernels.h"

namespace
{

/// What it reads and leaves, beside tiles and rows.
struct Ruling {
    const float *scale, *reach, *error; ///< of own blocks
    float2 *bounds;                     ///< [rows,stride] lower, upper
    float *tau;                         ///< [rows]
    uint32_t *asked;                    ///< [tiles,stride]
    int64_t stride;
};

template <int D, int Block> struct ScreenPages {
    static constexpr int stages = (64 << 10) / (int)sizeof(CodeTile<Block, D>);
    CodeTile<64, D> q[PARALLEL_TILE / 64];
    CodeTile<Block, D> k[stages];
    RowNumbers numbers[PARALLEL_TILE];
    uint64_t full[stages], empty[stages];
};

/// The bounds of its blocks, the first of which is block `own` of all that the rank has.
template <int D, int Block>
PTX_INLINE void bound_rows(ScreenPages<D, Block> &m, const Span &span, int own, const Ruling &to)
{
    const int part = (int)threadIdx.x / 128, lane = (int)threadIdx.x % 4;
    int32_t x[Block / 2];
    for (int n = 0; n < span.n_tiles; n++) {
        issue_codes<Block, D>(x, m.q[part].x, wait_stage(m, n).x);
        wgmma_wait<0>();
        wgmma_pin(x);
        release_stage(m, n);
        const Numbers numbers = {ld_global(to.scale + own + n), ld_global(to.reach + own + n),
                                 ld_global(to.error + own + n)};
        for (int half = 0; half < 2; half++) {
            const int row = 64 * part + fragment_d((int)threadIdx.x % 128, 2 * half).row;
            const Bounds bound = bounds<D>(ld_shared(&m.numbers[row]), numbers, best_product<Block>(x, half));
            if (lane == 0 && span.row0 + row < span.end)
                st_global(to.bounds + (span.row0 + row) * to.stride + span.first + n,
                          float2{bound.lower, bound.upper});
        }
    }
}

template <int D, int Block>
__global__ void __launch_bounds__(stream_threads, 1)
    screen_pages(const __grid_constant__ CUtensorMap codes, int at, const bf16 *qi,
                 const parallel_tile *tiles, Ruling to)
{
    ScreenPages<D, Block> &m = shared<ScreenPages<D, Block>>();
    const int4 tile = ld_global((const int4 *)tiles + blockIdx.x);
    const int first = (int)((int64_t)tile.w * blockIdx.y / gridDim.y),
              end = (int)((int64_t)tile.w * (blockIdx.y + 1) / gridDim.y);
    const Span span = {tile.x, tile.x + tile.y, first, end - first};
    if (first == end)
        return;
    for (int n = first + (int)threadIdx.x; n < end; n += stream_threads)
        st_global(to.asked + blockIdx.x * to.stride + n, 0u);
    prefetch_maps(codes);
    ring_init(m);
    if (threadIdx.x < consumer_threads) {
        make_queries<D, 16>(m, span, qi);
        bound_rows(m, span, tile.z + first, to);
    } else if (elect_one()) {
        for (int n = 0; n < span.n_tiles; n++) {
            const int stage = n % m.stages;
            mbarrier_wait(&m.empty[stage], n / m.stages % 2 ^ 1); // all consumer warps have released it
            mbarrier_arrive_expect(&m.full[stage], sizeof m.k[stage]);
            load_kv(m.k[stage], &codes, &m.full[stage], 0, at + (tile.z + first + n) * Block);
        }
    }
}

/// A CTA a tile, a warp a row.
__global__ void __launch_bounds__(128) rule_out(int heads, int topk, const parallel_tile *tiles,
                                                const parallel_limit *limits, Ruling r, msa_screening *done)
{
    const int4 tile = ld_global((const int4 *)tiles + blockIdx.x);
    const int lane = (int)threadIdx.x % 32;
    Shape s = {};
    s.topk = topk;
    for (int row = tile.x + (int)threadIdx.x / 32; row < tile.x + tile.y; row += 4) {
        const int blocks = ld_global(&limits[row / heads].blocks);
        const float2 *bound = r.bounds + row * r.stride;
        WarpList best = warp_list(topk, 0);
        offer_all(best, 0, 32, blocks, [&](int j) { return rank_key(ld_global(bound + j).x, j); });
        const float tau = best.threshold == free_entry ? minus_infinity() : score_of(best.threshold);
        int settled = 0;
        for (int first = 0; first < blocks; first += 32) {
            const int j = first + lane;
            const bool open = j < blocks && !(ld_global(bound + j).y < tau);
            if (open)
                atomicOr(r.asked + blockIdx.x * r.stride + j, 1u);
            settled += __popc(warp_ballot(open));
        }
        if (lane == 0) {
            st_global(r.tau + row, tau);
            count_row(s, blocks, settled, done);
        }
        __syncwarp();
    }
}

msa_status screen(const parallel_score *a, const parallel_limit *limits, msa_screening *done)
{
    msa_status status = MSA_OK;
    if (a->n_tiles == 0)
        return MSA_OK;
    const Ruling to = {a->scale, a->reach, a->error, (float2 *)a->bounds, a->tau, a->asked, a->stride};
    const int64_t shares = a->n_tiles < device_sms() ? device_sms() / a->n_tiles : 1,
                  most = ceil_div(a->stride, (int64_t)16);
    const dim3 grid((unsigned)a->n_tiles, (unsigned)(shares < most ? shares : most));
    begin_launches();
    with_int<64, 128>(a->s->d_index, [&](auto d) {
        with_int<32, 64, 128>(a->s->block, [&](auto b) {
            CUtensorMap codes;
            int at;
            status = codes_map<d.value>(&codes, &at, a->codes, a->n_own * b.value, b.value);
            if (status == MSA_OK)
                LAUNCH((screen_pages<d.value, b.value>), grid, dim3(stream_threads),
                       sizeof(ScreenPages<d.value, b.value>), nullptr, codes, at, (const bf16 *)a->qi,
                       a->tiles, to);
        });
    });
    if (status == MSA_OK)
        LAUNCH(rule_out, dim3((unsigned)a->n_tiles), dim3(128), 0, nullptr, a->s->n_kv_heads, a->s->topk,
               a->tiles, limits, to, done);
    return status != MSA_OK ? status : launched_well() ? MSA_OK : MSA_ERR_DEVICE;
}

} // namespace

#ifdef __CUDACC__
extern "C" msa_status cuda_screen(const parallel_score *a, const parallel_limit *limits, msa_screening *done)
#else
extern "C" msa_status simt_screen(const parallel_score *a, const parallel_limit *limits, msa_screening *done)
#endif
{
    return screen(a, limits, done);
}
