/**
 * @file 4_fused.cu
 * @brief The whole Index Branch in one kernel: products, block maxima, the selection and, on request, its LSE.
 *
 * Idea: the best k - 1 blocks of a row are kept in shared memory, in no order, while its blocks stream past, and in
 * registers only the score to beat and its slot: so ids leave, and no score is ever written. A consumer owns 128 rows in
 * two halves and looks at the products of one while the tensor cores compute the other's. If rows are few,
 * CTAs share a row's keys, and a second kernel merges their lists.
 * Bytes: 2 di a row, 2 di a key for each 256 rows; 4 k of ids a row, 4 more for the LSE; lists in and out if
 * merged.
 * Floor: 2 di operations a visible key, query and group at wgmma's 4096 a clock and SM; L2: 16 bytes a clock.
 * Estimate: at M3's sizes 80 to 90 % of a large product's rate, at which 128K tokens take 11.4 ms, 1M 0.73 s. An
 * insertion, for 16 rows at once, is 47 instructions and about 146 clocks of a warp (cuda/clocks.def), so that a
 * tile's 2048 clocks of products hide 2.8 of them for each consumer, where a prompt of 32K has 1.84.
 * Waste: diagonal blocks are computed whole; a CTA's start and end, one CTA an SM; blocks of 64 or 32 keys, as
 * in 3_wgmma.
 * Dropped: lists in the order of ids, a row at a time (188 instructions and some 500 clocks for 8 rows); a shuffle of
 * the worst score before its place is known (the branch for k > 17 keeps both from overlapping: 164 clocks); a sum of
 * every block; products under way between blocks (ptxas C7514), or issued by a branch (C7520).
 * Design notes: chapter 13.
 */
#include "fused.cuh"

namespace
{

constexpr int sms = 132;

/// Where CTAs that share rows store their lists, [parts][rows][k] in no order; free entries have id -1.
struct Parts {
    int n;
    float *score;
    int32_t *id;
    float *sum;
};
MSA_BOTH_SIDES inline int64_t part_at(const Shape &s, int part, int row)
{
    return (part * n_rows(s) + row) * s.topk;
}

/// The lists of a lane's row as they are, for the kernel that merges.
template <int Block, bool Lse>
PTX_INLINE void store_lists(const Lists<Lse> &lists, int part, const Rows &own, const Shape &s,
                            const Span &span, const Parts &parts)
{
    const int mine = own_row(own), row = span.row0 + mine;
    const int64_t to = part_at(s, (int)blockIdx.x % parts.n, row);
    if (row >= span.end)
        return;
    auto store = [&](int slot, float score, uint32_t id, float sum) {
        st_global(parts.score + to + slot, score);
        st_global(parts.id + to + slot, (int32_t)id);
        if (Lse)
            st_global(parts.sum + to + slot, sum);
    };
    each_slot(s.topk, [&](int slot, int i) {
        const uint64_t key = key_at(lists, part, i);
        const bool taken = block_of(key) != ~0u;
        if (slot < s.topk - 1)
            store(slot, score_of(key), block_of(key),
                  Lse && taken ? ld_shared(&lists.sum[Lse ? part : 0][Lse ? i : 0][threadIdx.x]) : 0);
    });
    if (threadIdx.x % 2 == 0) {
        const int b = own_position(own) / Block - span.first;
        const Local local = Lse ? ld_shared(&lists.local[Lse ? mine : 0]) : Local{};
        store(s.topk - 1, local.score, b < span.n_tiles && b >= 0 ? (uint32_t)(b + span.first) : ~0u,
              local.sum);
    }
}

template <int D, int Block, bool Lse>
PTX_INLINE void consume(const Shape &s, Smem<D, Block, Lse> &smem, const Span &span, const Parts &parts,
                        int32_t *ids, float *lse)
{
    const int first = (int)threadIdx.x / 128 * 128;
    timeline_role("consumer");
    Rows a0 = rows_init(smem.lists, s, span, first), a1 = rows_init(smem.lists, s, span, first + 64);
    mbarrier_wait(&smem.stream.full_q, 0); // the rows of Qi have landed
    keep_best(s, smem, span, a0, a1);
    if (parts.n > 1) {
        store_lists<Block>(smem.lists, 0, a0, s, span, parts);
        store_lists<Block>(smem.lists, 1, a1, s, span, parts);
    } else {
        write<D, Block>(smem.lists, 0, a0, s, span, ids, lse);
        write<D, Block>(smem.lists, 1, a1, s, span, ids, lse);
    }
}

template <int D, int Block, bool Lse>
__global__ void __launch_bounds__(stream_threads, 1)
    fused(Shape s, const __grid_constant__ CUtensorMap row_map, const __grid_constant__ CUtensorMap key_map,
          Parts parts, int32_t *ids, float *lse)
{
    s = actual(s);
    Smem<D, Block, Lse> &smem = shared<Smem<D, Block, Lse>>();
    const Span span = span_of<rows>(s, parts.n);
    if (span.row0 >= span.end)
        return;
    prefetch_maps(row_map, key_map);
    stream_init(smem.stream);
    if (threadIdx.x < consumer_threads)
        consume(s, smem, span, parts, ids, lse);
    else if (elect_one())
        produce(smem.stream, &row_map, &key_map, span);
    grid_launch_dependents();
}

/* ---- Rows whose keys were shared: their lists become one ----------------------------------------------- */

constexpr int merge_warps = 4;

/// The LSE over the entries that were chosen: the local block, and those not below the list's last.
template <int D>
PTX_INLINE float chosen_lse(const Shape &s, const Parts &parts, int row, int local, uint64_t last)
{
    float maximum = lowest, sum = 0;
    for (int c = (int)threadIdx.x % 32; c < parts.n * s.topk; c += 32) {
        const int64_t from = part_at(s, c / s.topk, row) + c % s.topk;
        const int id = ld_global(parts.id + from);
        const float score = ld_global(parts.score + from);
        if (id < 0 || (id != local && rank_key(score, id) < last))
            continue;
        const float next = fmaxf(maximum, score);
        sum = sum * ex2((maximum - next) * scale2<D>) +
              ld_global(parts.sum + from) * ex2((score - next) * scale2<D>);
        maximum = next;
    }
    for (int with = 1; with < 32; with *= 2) {
        const float other = shfl_xor(maximum, with), next = fmaxf(maximum, other), more = shfl_xor(sum, with);
        sum = sum * ex2((maximum - next) * scale2<D>) + more * ex2((other - next) * scale2<D>);
        maximum = next;
    }
    return lse_of(maximum * scale2<D>, sum);
}

template <int D>
__global__ void __launch_bounds__(32 * merge_warps) merge(Shape s, Parts parts, int32_t *ids, float *lse)
{
    s = actual(s);
    const int64_t row = (int64_t)blockIdx.x * merge_warps + threadIdx.x / 32;
    grid_wait();
    if (row >= n_rows(s))
        return;
    const int local = position_of(s, row) / s.block;
    const int64_t to = row_at(s, row / s.n_kv_heads, (int)(row % s.n_kv_heads));
    WarpList list = warp_list(s.topk, local);
    offer_all(list, 0, 32, parts.n * s.topk, [&](int c) {
        const int64_t from = part_at(s, c / s.topk, (int)row) + c % s.topk;
        const int id = ld_global(parts.id + from);
        return id < 0 || id == local ? free_entry : rank_key(ld_global(parts.score + from), id);
    });
    write_ids(ids + to * s.topk, list.entry, s.topk);
    if (!lse)
        return;
    const float x = chosen_lse<D>(s, parts, (int)row, local, list.threshold);
    if (threadIdx.x % 32 == 0)
        st_global(lse + to, x);
}

/* ---- Host ---------------------------------------------------------------------------------------------- */

/// In how many parts the keys are shared out, by a prediction of the time in units of one block's products. CTAs
/// start in the order of their lengths, so the last one to start is the shortest.
int parts_of(const Shape &s)
{
    // In blocks' products: the least of a part, and what one costs beside.
    const int min_blocks = 8, extra = tuned(MSA_TUNE_index_part_cost);
    const double tiles = (double)ceil_div(n_rows(s), (int64_t)rows), longest = s.n_blocks,
                 shortest = (s.prefix + fmin(rows, (double)n_rows(s)) / s.n_kv_heads) / s.block,
                 work = tiles * (longest + shortest) / 2;
    int best = 1;
    double best_time = 0;
    for (int n = 1; n == 1 || n * min_blocks <= s.n_blocks; n++) {
        const double time = fmax(longest / n, (work + tiles * n * extra) / sms + shortest / n) + extra;
        if (n == 1 || time < best_time)
            best = n, best_time = time;
    }
    return best;
}

Parts layout(const Call &c, size_t *bytes)
{
    Carve carve = {(uintptr_t)c.work};
    Parts parts = {parts_of(c.s), nullptr, nullptr, nullptr};
    const int64_t entries = part_at(c.s, parts.n, 0);
    parts.score = carve.take_if<float>(parts.n > 1, entries);
    parts.sum = carve.take_if<float>(parts.n > 1, entries);
    parts.id = carve.take_if<int32_t>(parts.n > 1, entries);
    *bytes = carve.used;
    return parts;
}

size_t workspace(const Call &c)
{
    size_t bytes;
    layout(c, &bytes);
    return bytes;
}

msa_status run(const Call &c)
{
    CUtensorMap row_map, key_map;
    if (!c.a.ids || c.a.scores)
        return MSA_ERR_UNSUPPORTED;
    const msa_status status = stream_maps(c, &row_map, &key_map);
    if (status != MSA_OK)
        return status;
    size_t bytes;
    const Parts parts = layout(c, &bytes);
    const dim3 grid((unsigned)ceil_div(n_rows(c.s), (int64_t)rows) * parts.n);
    with_int<64, 128>(c.d_index, [&](auto d) {
        with_int<32, 64, 128>(c.s.block, [&](auto block) {
            with_int<0, 1>(c.a.index_lse != nullptr, [&](auto with_lse) {
                LAUNCH((fused<d.value, block.value, with_lse.value>), grid, dim3(stream_threads),
                       sizeof(Smem<d.value, block.value, with_lse.value>), c.stream, c.s, row_map, key_map,
                       parts, c.a.ids, c.a.index_lse);
            });
        });
        if (parts.n > 1)
            LAUNCH_DEPENDENT((merge<d.value>), dim3((unsigned)ceil_div(n_rows(c.s), (int64_t)merge_warps)),
                             dim3(32 * merge_warps), 0, c.stream, c.s, parts, c.a.ids, c.a.index_lse);
    });
    return MSA_OK;
}

} // namespace

ENTRY(index, fused, run, workspace);
