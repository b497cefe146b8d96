/**
 * @file 3_swapped.cu
 * @brief One step of generation on tensor cores, with the index product's operands swapped, for a whole batch
 *        in three launches chained by programmatic dependent launch.
 *
 * What it does: (1) new tokens go into their pages (update_cache.cuh). (2) (score.cuh) wgmma's M = 64 rows are keys
 * and its N columns are a request's T Hkv index queries, rounded up to 8, 16, 32 or 64. Keys come by TMA, a
 * piece at a time (a page, or a block of it), in stages of 128 through a ring; the largest row of each block
 * is a maximum over accumulators, lanes and warps, and after every 32 blocks the warps offer those to lists
 * of the best, a list a column. All stages of all requests form one line, which is cut into equal pieces, one
 * for each SM; what a piece has of one request is a segment, and leaves k - 1 candidates a row, never scores.
 * (3) Every block of threads that attends to a row first selects from its segments' candidates (any of the
 * best k
 * - 1 of all is among the best k - 1 of its segment), then takes its part of the chosen tokens, and the last
 * one merges (attend.cuh).
 *
 * Why better: with queries as M, T = 1 and 4 groups would use 4 rows of 64; as N they use 4 columns of 8.
 * A stage costs 16 products of about 16 clocks each (reading the keys from shared memory), its 32 KB take
 * about 2300 clocks of memory's time (3.35 TB/s over 132 SMs at 1.8 GHz). Scores never leave the SM. Equal
 * pieces keep all SMs busy to the end whatever the lengths in the batch are. While one launch ends the next
 * has started: it waits only before it reads what the one before stores.
 *
 * 8-bit index keys (E4M3) halve the bytes. A stage of 16 KB comes as it is in memory; the consumers write its
 * keys as bf16, which is exact, to where wgmma reads them, 128 threads 128 keys: about 1150 clocks of
 * memory's time, in which shared memory moves 16 + 32 + 32 KB, 640 clocks. Products add up in float32 as
 * ever, and a warp multiplies its maxima, each of one piece, by the piece's scale.
 *
 * Its floor: the step's bytes, 2 di N + 2 Hkv dh 2 k Bk a request (contract, section 4): at S = 1M and M3's
 * sizes 272 MB, 0.08 ms at 3.35 TB/s, at batch 8 0.65 ms; with 8-bit keys 138 MB, 0.04 and 0.33 ms. Index
 * keys are read once for every 64 rows of selection; all else is under 1% of that at T = 1.
 *
 * Estimates, not measured, at the full rate of an H800 (3.35 TB/s) and an H200 (4.8 TB/s), in ms, beside
 * dense_decode's bytes at the same rate:
 *
 *     S = 1M      bf16 keys      8-bit keys     dense
 *     batch 1     0.081 0.057    0.041 0.029    0.641 0.447
 *     batch 8     0.651 0.454    0.331 0.231    5.128 3.579
 *
 * What is not reading has to fit into what is left: against dense attention at 0.9 of the rate, 0.712 ms, 7x
 * is 0.102 ms, and reading 272 MB at 0.9 takes 0.090: 11 us for the launches, the first stage of the ring,
 * selection and attention. At batch 8 and 7.6x there are 26.
 *
 * What was given up: four launches one after the other, in which a block of threads for each row selected and
 * a warp for each head merged, small grids that wait for each other (the last launch now does both); splits
 * of each request on its own, which leave SMs idle where lengths differ; a barrier between the maxima of two
 * stages, which two buffers in turn make needless.
 *
 * What it wastes: each block of threads of a row repeats its selection, at batch 1 of 132 x 15 candidates;
 * the lists grow one entry at a time, k (1 + ln(n / k)) times a row and segment of n blocks, which the ring
 * hides only as long as it is full; G < 16 heads pad 16 rows; P is rounded to bf16.
 *
 * Predicted, of one tile of up to 64 rows (P = ceil(T Hkv / 64) tiles do the same again), with N = 128
 * ceil(last Bk / 128) keys to score of a request (last: its last query's local block; 0 if k = 1), X segments
 * of it, n = selected(i) tokens in c parts, bytes beside lengths (4 a lane that reads one) and page ids:
 *  - (2) loads 2 di (N + X columns) by TMA (N (di + 4 / Bk) for the keys if they are 8-bit), less where
 *    the last request's queries end before the columns do; stores 8 X (k - 1) a row;
 *  - (3) loads 8 c X (k - 1), stores 4 k a row; loads 2 dh G c + 4 dh n a row; a head stores (8 + 4 dh) c,
 *    loads (16 + 4 dh) c, and stores O and LSE.
 */
#include "attend.cuh"
#include "update_cache.cuh"
#include "score.cuh"

namespace
{

/* ---- (3) Selection and attention ---------------------------------------------------------------------- */

template <int D> struct LastSmem {
    AttendSmem<D> attend;
    Line line;
};

/// The row's ids, from the candidates of its request's segments; all threads call it.
template <int D>
PTX_INLINE void select(LastSmem<D> &m, const Job &job, const Shape &s, int query, int r, int max_shares)
{
    const int n = query / job.largest.n_q, i = query % job.largest.n_q;
    const int row = i * s.n_kv_heads + r, each = s.topk - 1;
    const int total = ld_shared(&m.line.first[job.batch]), first = ld_shared(&m.line.first[n]),
              end = ld_shared(&m.line.first[n + 1]), shares = shares_of(total, max_shares);
    const int share = end > first ? share_of(first, total, shares) : 0;
    const int segments = end > first ? share_of(end - 1, total, shares) + 1 - share : 0;
    const uint64_t *mine = job.candidates + ((int64_t)(share + n) * job.rows + row) * each;
    select_by_block(
        m.attend.lists, s.topk, local_block(s, i), segments * each,
        [&](int c) { return ld_global(mine + (int64_t)(c / each) * job.rows * each + c % each); },
        [&](int slot, int32_t id) { st_shared(&m.attend.ids[slot], id); });
    __syncthreads();
}

template <int D, class Out>
__global__ void __launch_bounds__(attend_threads)
    attend(Job job, int shares, const bf16 *q, const bf16 *k, const bf16 *v, Parts parts, uint32_t *tickets,
           int32_t *ids, Out *o, float *lse)
{
    LastSmem<D> &m = shared<LastSmem<D>>();
    const int query = (int)blockIdx.z, r = (int)blockIdx.y, t = (int)threadIdx.x;
    const int n = query / job.largest.n_q, i = query % job.largest.n_q;
    const Shape s = request(job.largest, job.pages, n);
    const Part part = part_of(selected(s, i), (int)blockIdx.x, parts.count);
    if (t < 32)
        lay_line(m.line, job.largest, job.pages, job.batch);
    __syncthreads();
    grid_wait();
    if (i >= s.n_q && blockIdx.x == 0)
        pad_row(s, query, r, D, ids, o, lse);
    if (i >= s.n_q || part.first >= part.n)
        return;
    select(m, job, s, query, r, shares);
    if (blockIdx.x == 0 && t < s.topk)
        st_global(ids + row_at(s, query, r) * s.topk + t, ld_shared(&m.attend.ids[t]));
    const int piece = job.pages.piece, each = s.block / piece;
    attend_part(m.attend, s, part, piece, r, q + q_at(s, query, r * s.group, D), k, v, [&](int g) {
        return piece_of(job.pages, n, ld_shared(&m.attend.ids[g / each]) * each + g % each);
    });
    finish_part(m.attend, s, part, query, r, parts, tickets + (int64_t)query * s.n_kv_heads + r, o, lse);
}

/* ---- The launches ----------------------------------------------------------------------------------- */

struct Scratch {
    Job job;
    int columns, tiles, shares; ///< columns: wgmma's N
    Parts parts;
    uint32_t *tickets;
    size_t bytes;
};

Scratch layout(const Call &c)
{
    const Shape &s = c.s;
    const int64_t queries = (int64_t)c.batch * s.n_q,
                  stages = ceil_div(competing_blocks(s) * s.block, stage_keys);
    Scratch w;
    w.job = {s, c.pages, c.batch, s.n_q * s.n_kv_heads, nullptr};
    w.columns = w.job.rows <= 8 ? 8 : w.job.rows <= 16 ? 16 : w.job.rows <= 32 ? 32 : 64;
    w.tiles = w.job.rows > 0 ? ceil_div(w.job.rows, w.columns) : 1; // a request without queries plans too
    w.shares = (int)std::min<int64_t>(c.batch * stages, w.tiles < sms() ? sms() / w.tiles : 1);
    w.parts.count = parts_of(c.batch * w.job.rows, smaller(s.n_kv, s.topk * s.block));
    Carve carve = {(uintptr_t)c.work};
    w.job.candidates = carve.take<uint64_t>((int64_t)(w.shares + c.batch) * w.job.rows * (s.topk - 1));
    w.parts.ml = carve.take<float2>(queries * s.n_heads * w.parts.count);
    w.parts.o = carve.take<float>(queries * s.n_heads * w.parts.count * c.d_head);
    w.tickets = carve.take<uint32_t>(queries * s.n_kv_heads);
    w.bytes = carve.used;
    return w;
}

size_t workspace(const Call &c)
{
    return layout(c).bytes;
}

/// `n` rows of di channels; a copy takes 64 channels of `box` rows.
bool encode(CUtensorMap *map, const bf16 *rows, int64_t n, int di, int box)
{
    const uint64_t dim[] = {(uint64_t)di, (uint64_t)n}, pitch[] = {di * sizeof(bf16)};
    const uint32_t size[] = {64, (uint32_t)box};
    return !encode_tensor_map(map, TensorType::bf16, 2, (void *)rows, dim, pitch, size, TensorSwizzle::b128);
}

msa_status launch_score(const Call &c, const Scratch &w)
{
    const Shape &s = c.s;
    const bool fp8 = c.pages.ki8 != nullptr;
    const int64_t keys_there =
        c.pages.table ? (int64_t)c.pages.n_pages * c.pages.pieces * c.pages.piece : s.n_kv;
    CUtensorMap queries, keys = {};
    if (!encode(&queries, c.a.qi, (int64_t)c.batch * w.job.rows, c.d_index, w.columns) ||
        (!fp8 && !encode(&keys, c.a.ki, keys_there, c.d_index, c.pages.piece)))
        return MSA_ERR_DEVICE;
    with_int<64, 128>(c.d_index, [&](auto di) {
        with_int<8, 16, 32, 64>(w.columns, [&](auto n) {
            with_int<0, 1>(fp8, [&](auto e4m3) {
                LAUNCH_DEPENDENT((score<di.value, n.value, e4m3.value>),
                                 dim3((unsigned)w.shares, (unsigned)w.tiles), dim3(consumers + 32),
                                 sizeof(ScoreSmem<di.value, n.value, e4m3.value>), c.stream, queries, keys,
                                 w.job);
            });
        });
    });
    return MSA_OK;
}

msa_status run(const Call &c)
{
    const Shape &s = c.s;
    if (!supported(c))
        return MSA_ERR_UNSUPPORTED;
    const Scratch w = layout(c);
    const dim3 grid((unsigned)w.parts.count, (unsigned)s.n_kv_heads, (unsigned)(c.batch * s.n_q));
    launch_update_cache(c, w.tickets, c.batch * w.job.rows);
    const msa_status status = w.shares > 0 ? launch_score(c, w) : MSA_OK;
    if (status != MSA_OK)
        return status;
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_output(c, [&](auto *o) {
            LAUNCH_DEPENDENT((attend<d.value, std::remove_pointer_t<decltype(o)>>), grid,
                             dim3(attend_threads), sizeof(LastSmem<d.value>), c.stream, w.job, w.shares,
                             c.a.q, c.a.k, c.a.v, w.parts, w.tickets, c.a.ids, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(decode, swapped, run, workspace);
