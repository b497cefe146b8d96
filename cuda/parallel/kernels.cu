/**
 * @file kernels.cu
 * @brief Choosing blocks where their keys lie on other machines, and putting parts together.
 *
 * Idea: index keys stream past 128 index rows as in index/3_wgmma.cu, but from pages, and no score is masked: a rank is
 * asked for blocks before the local one alone. If tiles of rows are few, CTAs share their blocks. A warp keeps the best
 * k - 1 of a row as rank keys, 8 bytes each, which travel; since they are ordered in full, and a block's score does not
 * depend on where it lies, the winners of any number of ranks are the same.
 * Bytes: index keys once for each 128 rows; a score 8, written and read; candidates 8 (k - 1) R a row.
 * Floor: a step's is its own index keys, 2 di S / R; a chunk's the products, as in index/4_fused.cu.
 * Waste: scores in memory, which index/4_fused.cu and decode/3_swapped.cu spare; a tile of a step is 4 rows of 128 at M3's
 * heads. Nothing is timed.
 */
#include "kernels.h"

#include "../index/stream.cuh"
#include "../kit/selection.cuh"

namespace
{

constexpr int warps = 4, threads = 32 * warps,
              min_share = 8; ///< blocks that are worth loading a tile of rows for

/* ---- Scores ------------------------------------------------------------------------------------------- */

template <int D, int Block> using Smem = Stream<D, Block, PARALLEL_TILE, 64 << 10>;

/// The tile's blocks that this CTA has, of gridDim.y that share them.
PTX_INLINE Span span_of_tile(const int4 &tile)
{
    const int first = (int)((int64_t)tile.w * blockIdx.y / gridDim.y),
              end = (int)((int64_t)tile.w * (blockIdx.y + 1) / gridDim.y);
    return {tile.x, tile.x + tile.y, first, end - first};
}

/// Whether some row of the tile has left the n-th of the CTA's blocks open; NULL: all are.
PTX_INLINE bool is_open(const uint32_t *asked, int n)
{
    return !asked || ld_global(asked + n);
}

/// One thread's work: the rows, then block after block from where its page is.
template <int D, int Block>
PTX_INLINE void produce_pages(Smem<D, Block> &m, const CUtensorMap *rows, const CUtensorMap *keys,
                              const Span &span, const int32_t *page, const uint32_t *asked)
{
    mbarrier_arrive_expect(&m.full_q, sizeof m.q);
    for (int part = 0; part < PARALLEL_TILE / 64; part++)
        load_kv(m.q[part], rows, &m.full_q, 0, span.row0 + 64 * part);
    for (int n = 0, taken = 0; n < span.n_tiles; n++) {
        if (!is_open(asked, n))
            continue;
        const int stage = taken % m.stages, at = ld_global(page + span.first + n);
        mbarrier_wait(&m.empty[stage], taken++ / m.stages % 2 ^ 1); // all consumer warps have released it
        mbarrier_arrive_expect(&m.full[stage], sizeof m.k[stage]);
        load_kv(m.k[stage], keys, &m.full[stage], 0, at * Block);
    }
}

/// The scores of a consumer's 64 rows.
template <int D, int Block>
PTX_INLINE void consume(Smem<D, Block> &m, const Span &span, const uint32_t *asked, float *scores,
                        int64_t stride)
{
    const int part = (int)threadIdx.x / 128, lane = (int)threadIdx.x % 4;
    float x[Block / 2];
    mbarrier_wait(&m.full_q, 0);
    for (int n = 0, taken = 0; n < span.n_tiles; n++) {
        if (!is_open(asked, n))
            continue;
        issue_scores<Block>(x, m.q[part], wait_stage(m, taken));
        wgmma_wait<0>();
        wgmma_pin(x);
        release_stage(m, taken++);
        for (int half = 0; half < 2; half++) {
            const int row = span.row0 + 64 * part + fragment_d((int)threadIdx.x % 128, 2 * half).row;
            const float maximum = row_max<Block>(x, half, Block - 1);
            if (lane == 0 && row < span.end)
                st_global(scores + row * stride + span.first + n, maximum);
        }
    }
}

template <int D, int Block>
__global__ void __launch_bounds__(stream_threads, 2)
    score_pages(const __grid_constant__ CUtensorMap rows, const __grid_constant__ CUtensorMap keys,
                const parallel_tile *tiles, const int32_t *page, const uint32_t *asked, float *scores,
                int64_t stride)
{
    Smem<D, Block> &m = shared<Smem<D, Block>>();
    const int4 tile = ld_global((const int4 *)tiles + blockIdx.x);
    const Span span = span_of_tile(tile);
    if (span.n_tiles == 0)
        return;
    if (asked)
        asked += blockIdx.x * stride + span.first;
    prefetch_maps(rows, keys);
    stream_init(m);
    if (threadIdx.x < consumer_threads)
        consume<D, Block>(m, span, asked, scores, stride);
    else if (elect_one())
        produce_pages<D, Block>(m, &rows, &keys, span, page + tile.z, asked);
}

msa_status score(const parallel_score *a)
{
    CUtensorMap rows, keys;
    const int di = a->s->d_index, block = a->s->block;
    if (a->n_tiles == 0)
        return MSA_OK;
    if (rows_map(&rows, (const bf16 *)a->qi, di, a->rows, 64) != MSA_OK ||
        rows_map(&keys, (const bf16 *)a->ki, di, a->n_pages * block, block) != MSA_OK)
        return MSA_ERR_DEVICE;
    const int64_t two_each = 2 * device_sms(), shares = a->n_tiles < two_each ? two_each / a->n_tiles : 1,
                  most = ceil_div(a->stride, (int64_t)min_share);
    const dim3 grid((unsigned)a->n_tiles, (unsigned)(shares < most ? shares : most));
    begin_launches();
    with_int<64, 128>(di, [&](auto d) {
        with_int<32, 64, 128>(block, [&](auto b) {
            LAUNCH((score_pages<d.value, b.value>), grid, dim3(stream_threads),
                   sizeof(Smem<d.value, b.value>), nullptr, rows, keys, a->tiles, a->page,
                   a->codes ? a->asked : nullptr, a->scores, a->stride);
        });
    });
    return launched_well() ? MSA_OK : MSA_ERR_DEVICE;
}

/* ---- Selection ---------------------------------------------------------------------------------------- */

/// A warp a row. Entries that no candidate takes come first, k - 1 others behind them.
__global__ void __launch_bounds__(threads)
    keep_best(int64_t rows, int heads, int topk, int ranks, const parallel_limit *limits, const float *scores,
              int64_t stride, const float2 *bounds, const float *tau, uint64_t *keys)
{
    const int64_t row = (int64_t)blockIdx.x * warps + threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32, fixed = 33 - topk;
    if (row >= rows)
        return;
    const uint2 limit = ld_global((const uint2 *)limits + row / heads);
    const float least = bounds ? ld_global(tau + row) : 0;
    WarpList list = warp_list(topk, 0);
    offer_all(list, 0, 32, (int)limit.x, [&](int j) {
        if (bounds && ld_global(bounds + row * stride + j).y < least)
            return free_entry; // ruled out, and not scored but for another row
        return rank_key(ld_global(scores + row * stride + j), (int)limit.y + j * ranks);
    });
    if (lane >= fixed)
        st_global(keys + row * (topk - 1) + lane - fixed, list.entry);
}

msa_status find_candidates(const parallel_score *a, int ranks, const parallel_limit *limits, uint64_t *keys)
{
    if (a->rows == 0 || a->s->topk == 1)
        return MSA_OK;
    begin_launches();
    LAUNCH(keep_best, dim3((unsigned)ceil_div(a->rows, (int64_t)warps)), dim3(threads), 0, nullptr, a->rows,
           a->s->n_kv_heads, a->s->topk, ranks, limits, a->scores, a->stride,
           a->codes ? (const float2 *)a->bounds : nullptr, a->tau, keys);
    return launched_well() ? MSA_OK : MSA_ERR_DEVICE;
}

__global__ void __launch_bounds__(threads)
    choose_best(int64_t rows, int heads, int topk, int ranks, const uint64_t *keys, const int32_t *local,
                int32_t *ids)
{
    const int64_t row = (int64_t)blockIdx.x * warps + threadIdx.x / 32;
    const int each = topk - 1;
    if (row >= rows)
        return;
    WarpList list = warp_list(topk, ld_global(local + row / heads));
    offer_all(list, 0, 32, ranks * each,
              [&](int c) { return ld_global(keys + (c / each * rows + row) * each + c % each); });
    write_ids(ids + row * topk, list.entry, topk);
}

msa_status choose(const msa_shape *s, int ranks, int64_t queries, const uint64_t *keys, const int32_t *local,
                  int32_t *ids)
{
    const int64_t rows = queries * s->n_kv_heads;
    if (rows == 0)
        return MSA_OK;
    begin_launches();
    LAUNCH(choose_best, dim3((unsigned)ceil_div(rows, (int64_t)warps)), dim3(threads), 0, nullptr, rows,
           s->n_kv_heads, s->topk, ranks, keys, local, ids);
    return launched_well() ? MSA_OK : MSA_ERR_DEVICE;
}

/* ---- Rows that go elsewhere --------------------------------------------------------------------------- */

__global__ void __launch_bounds__(threads)
    gather_rows(int words, const int32_t *list, const uint32_t *from, uint32_t *to)
{
    const uint32_t *row = from + (int64_t)ld_global(list + blockIdx.x) * words;
    for (int c = (int)threadIdx.x; c < words; c += threads)
        st_global(to + (int64_t)blockIdx.x * words + c, ld_global(row + c));
}

msa_status gather(int64_t n, int words, const int32_t *list, const void *from, void *to)
{
    if (n == 0)
        return MSA_OK;
    begin_launches();
    LAUNCH(gather_rows, dim3((unsigned)n), dim3(threads), 0, nullptr, words, list, (const uint32_t *)from,
           (uint32_t *)to);
    return launched_well() ? MSA_OK : MSA_ERR_DEVICE;
}

/// A CTA a block. A page has its heads outside.
__global__ void __launch_bounds__(threads) move_tokens(const parallel_move *moves, int heads, int words,
                                                       int block, const uint32_t *from, uint32_t *to)
{
    const int32_t *const move = &moves[blockIdx.x].from;
    const int64_t source = ld_global(move), target = ld_global(move + 1);
    const int n = ld_global(move + 2) * heads * words;
    for (int c = (int)threadIdx.x; c < n; c += threads) {
        const int word = c % words, r = c / words % heads, t = c / words / heads;
        const int64_t row = block ? (source * heads + r) * block + t : (source + t) * heads + r;
        st_global(to + ((target + t) * heads + r) * words + word, ld_global(from + row * words + word));
    }
}

msa_status move(int n, const parallel_move *moves, int heads, int d, int block, const void *from, void *to)
{
    if (n == 0)
        return MSA_OK;
    begin_launches();
    LAUNCH(move_tokens, dim3((unsigned)n), dim3(threads), 0, nullptr, moves, heads, d / 2, block,
           (const uint32_t *)from, (uint32_t *)to);
    return launched_well() ? MSA_OK : MSA_ERR_DEVICE;
}

/* ---- Parts that come home ------------------------------------------------------------------------------ */

/// A CTA a row, whose heads it takes one after the other. A single part has the weight 1 and stays as it is.
template <int D>
__global__ void __launch_bounds__(D) merge_parts(int group, const int32_t *first, const int32_t *part,
                                                 const bf16 *o, const float *lse, float *to, float *to_lse)
{
    const int64_t row = blockIdx.x;
    const int begin = ld_global(first + row), end = ld_global(first + row + 1), c = (int)threadIdx.x;
    for (int h = 0; h < group; h++) {
        float top = lowest, sum = 0, x = 0;
        for (int i = begin; i < end; i++)
            top = fmaxf(top, ld_global(lse + (int64_t)ld_global(part + i) * group + h));
        for (int i = begin; i < end; i++) {
            const int64_t head = (int64_t)ld_global(part + i) * group + h;
            const float weight = ex2((ld_global(lse + head) - top) * log2_e);
            sum += weight;
            x += weight * to_float(ld_global(o + head * D + c));
        }
        st_global(to + (row * group + h) * D + c, x / sum);
        if (c == 0)
            st_global(to_lse + row * group + h, top + logf(sum));
    }
}

msa_status merge(const msa_shape *s, int64_t rows, const int32_t *first, const int32_t *part,
                 const uint16_t *o, const float *lse, float *to, float *to_lse)
{
    if (rows == 0)
        return MSA_OK;
    begin_launches();
    with_int<64, 128>(s->d_head, [&](auto d) {
        LAUNCH((merge_parts<d.value>), dim3((unsigned)rows), dim3(d.value), 0, nullptr,
               s->n_heads / s->n_kv_heads, first, part, (const bf16 *)o, lse, to, to_lse);
    });
    return launched_well() ? MSA_OK : MSA_ERR_DEVICE;
}

} // namespace

#ifdef __CUDACC__
extern "C" const parallel_kernels cuda_parallel = {cuda_screen, score, find_candidates, choose, gather,
                                                   merge,       move};
#else
extern "C" const parallel_kernels simt_parallel = {simt_screen, score, find_candidates, choose, gather,
                                                   merge,       move};
#endif
