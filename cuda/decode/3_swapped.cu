/**
 * @file 3_swapped.cu
 * @brief One step of generation on tensor cores, with the index product's operands swapped, for a whole batch
 *        in three launches chained by programmatic dependent launch.
 *
 * Idea: (1) new tokens go into their pages (update_cache.cuh). (2) Keys are the 64 rows of wgmma, a request's
 * T Hkv index queries its columns; the stages of all requests form one line, cut into equal shares, one for
 * each SM, and each share leaves k - 1 candidates a row, never scores (score.cuh). (3) Every CTA that attends
 * to a row first chooses from the candidates (choose_blocks.cuh), then takes its part of the chosen tokens
 * (split_attend.cuh); the CTAs of a row are a cluster, and merge their parts in its shared memory (cluster_merge.cuh).
 * 8-bit index keys are decoded to bf16 in registers.
 * With an 8-bit copy of the keys, from screen_from blocks on: (1) beside that update codes stream by in the
 * keys' place and bound every block's score (screen_blocks.cuh); (2) what the bounds leave open is scored by the
 * same products as ever (settle_blocks.cuh), and (3) selects from that. The ids are the same.
 * Bytes: index keys once for every 64 rows, or codes and what they leave open, 2% of the keys at S = 1M and T = 1; beside
 * the floor's bytes 1% there, with codes 2%. Exactly: chapter 15, design notes.
 * Floor: the step's bytes, 2 di N + 2 Hkv dh 2 k Bk a request: 272 MB at S = 1M and M3's sizes, 138 MB with
 * 8-bit keys, 144 MB exact from 8 bits.
 * Estimate: these bytes at an H800's and an H200's rate are 0.081 and 0.057 ms, with 8-bit keys 0.041 and 0.029, exact
 * from 8 bits 0.043 and 0.030; dense 0.641 and 0.447. Loops and launches: msa timeline --predict, 0.099 and 0.071.
 * Machine code (cuda/clocks.def): a stage takes an H200's memory 1820 clocks and its warps 670, one of codes 910 and
 * 490, of E4M3 keys 910 and 1100. The last launch of one request takes 4.9 us by these counts: 1 until it may begin, 1.1 to
 * choose, 1.9 until keys and values are there, 0.5 for the last product and the cluster's barrier, 0.4 to merge (chapter 15;
 * msa timeline --predict). Parts that went through memory to the last CTA to draw a ticket took 3100 clocks in place of
 * 1330.
 * Waste: each CTA of a row repeats its selection; lists grow one entry at a time, which the ring hides only
 * while it is full; G < 16 heads pad 16 rows; P is rounded to bf16; a row's CTAs are 1, 2, 4 or 8. A stage of 128
 * keys is settled for all its blocks and rows if one asks. What was dropped: chapter 15, design notes.
 */
#include "choose_blocks.cuh"
#include "cluster_merge.cuh"
#include "settle_blocks.cuh"

namespace
{

/* ---- (3) Selection and attention ---------------------------------------------------------------------- */

template <int D> struct LastSmem {
    AttendSmem<D> attend;
    MergeSmem<D> merge;
    ChooseSmem choose;
    Line line;
};

/// Fewer tokens a part would be loaded sooner, by more CTAs: than a cluster may have, where the k blocks have 2048 tokens.
constexpr int part_tokens = 2 * attend_step;

/// A row's candidates: those of its request's segments or, of a step that screens, its settled ones.
PTX_INLINE Lists lists_of(const SharesOf &of, const Job &job, const Screening &x, const Shape &s, int query,
                          int r)
{
    const int n = query / job.largest.n_q, i = query % job.largest.n_q, row = i * s.n_kv_heads + r;
    if (x.copy.codes) {
        const int64_t list = (int64_t)n * job.rows + row;
        const int settled = (int)ld_global(x.n_settled + list);
        if (x.done && blockIdx.x == 0 && threadIdx.x == 0)
            count_row(s, local_block(s, i), settled, x.done);
        return one_list(x.settled + list * x.blocks, settled);
    }
    return {candidates_of(job, of.first, n, row), of.n, s.topk - 1, s.topk - 1, job.rows * (s.topk - 1)};
}

template <int D, class Out>
__global__ void __launch_bounds__(attend_threads, 1)
    attend(Job job, Screening x, int shares, const bf16 *q, const bf16 *k, const bf16 *v, int32_t *ids,
           Out *o, float *lse)
{
    cluster_arrive(); // this CTA has started
    LastSmem<D> &m = shared<LastSmem<D>>();
    const int query = (int)blockIdx.z, r = (int)blockIdx.y, t = (int)threadIdx.x;
    const int n = query / job.largest.n_q, i = query % job.largest.n_q;
    const Shape s = request(job.largest, job.pages, n);
    const Part part = part_of(selected(s, i), (int)blockIdx.x, (int)gridDim.x);
    const bool works = i < s.n_q && part.first < part.n;
    if (t < 32)
        lay_line(m.line, job.largest, job.pages, job.batch);
    expect_pages(job.pages, s, n);
    if (works)
        fetch_queries(m.attend, s, q + q_at(s, query, r * s.group, D));
    const int heads = head_bits(s.group, part);
    const uint32_t reciprocal = per_piece(job.pages);
    __syncthreads();
    const SharesOf of = shares_of_request(m.line, job.batch, shares, n);
    grid_wait(); // candidates and new tokens are there
    if (i >= s.n_q && blockIdx.x == 0)
        pad_row(s, query, r, D, ids, o, lse);
    if (!works)
        return;
    // Every part of a row finds the same blocks.
    const int chosen = choose_blocks(m.choose, s, job.pages, reciprocal, n, local_block(s, i),
                                     lists_of(of, job, x, s, query, r)),
              bits = piece_bits(s, job.pages);
    const Attended<D> sum = attend_part(
        m.attend, s, part, job.pages.piece, r, k, v,
        [&](int g) { return chosen_piece(m.choose, bits, chosen, g); },
        [&] {
            if (blockIdx.x == 0)
                store_chosen(m.choose, s.topk, chosen, ids + row_at(s, query, r) * s.topk);
        });
    cluster_wait(); // and so have the others
    send_part(m.merge, s, heads, sum);
    merge_heads(m.merge, s, heads, part.active, lse_at(s, query, r * s.group), o, lse);
}

/* ---- The launches ----------------------------------------------------------------------------------- */

struct Scratch {
    Job job;
    Screening screening;
    int columns, tiles, shares; ///< columns: wgmma's N
    int cluster;                ///< CTAs of a row of attention
    int n_counts;               ///< of what is settled, of each row: the first launch makes them 0
    size_t bytes;
};

Scratch layout(const Call &c)
{
    const Shape &s = c.s;
    const int64_t queries = (int64_t)c.batch * s.n_q,
                  stages = ceil_div(competing_blocks(s) * s.block, stage_keys);
    Scratch w;
    const bool may = may_screen(c) && !c.pages.ki8;
    w.job = {s, c.pages, c.batch, s.n_q * s.n_kv_heads, nullptr};
    w.screening = {
        may ? c.a.copy : Copy8{}, 0, nullptr, nullptr, nullptr, competing_blocks(s), c.a.screening};
    w.columns = w.job.rows <= 8 ? 8 : w.job.rows <= 16 ? 16 : w.job.rows <= 32 ? 32 : 64;
    w.tiles = w.job.rows > 0 ? ceil_div(w.job.rows, w.columns) : 1; // a request without queries plans too
    w.shares = (int)std::min<int64_t>(c.batch * stages, w.tiles < sms() ? sms() / w.tiles : 1);
    w.cluster = cluster_of(c.batch * w.job.rows, smaller(s.n_kv, s.topk * s.block), part_tokens);
    Carve carve = {(uintptr_t)c.work};
    w.job.candidates = carve.take<uint64_t>((int64_t)(w.shares + c.batch) * w.job.rows * (s.topk - 1));
    w.n_counts = w.screening.copy.codes ? (int)queries * s.n_kv_heads : 0;
    w.screening.n_settled = carve.take_if<uint32_t>(may, queries * s.n_kv_heads);
    w.screening.upper = carve.take_if<float>(may, c.batch * w.job.rows * (int64_t)w.screening.blocks);
    w.screening.settled = carve.take_if<uint64_t>(may, c.batch * w.job.rows * (int64_t)w.screening.blocks);
    w.bytes = carve.used;
    return w;
}

size_t workspace(const Call &c)
{
    return layout(c).bytes;
}

/// Rows of the array of index keys.
int64_t keys_there(const Call &c)
{
    return c.pages.table ? (int64_t)c.pages.n_pages * c.pages.pieces * c.pages.piece : c.s.n_kv;
}

msa_status launch_score(const Call &c, const Scratch &w)
{
    const bool fp8 = c.pages.ki8 != nullptr;
    CUtensorMap queries, keys = {};
    if (rows_map(&queries, c.a.qi, c.d_index, (int64_t)c.batch * w.job.rows, w.columns) != MSA_OK ||
        (!fp8 && rows_map(&keys, c.a.ki, c.d_index, keys_there(c), c.pages.piece) != MSA_OK))
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

/// The first two launches of a step that screens.
msa_status launch_screened(const Call &c, Scratch &w)
{
    CUtensorMap queries, keys, codes;
    if (rows_map(&queries, c.a.qi, c.d_index, (int64_t)c.batch * w.job.rows, w.columns) != MSA_OK ||
        rows_map(&keys, c.a.ki, c.d_index, keys_there(c), c.pages.piece) != MSA_OK)
        return MSA_ERR_DEVICE;
    msa_status status = MSA_OK;
    const dim3 shares((unsigned)w.shares, (unsigned)w.tiles),
        and_updates((unsigned)(w.shares + c.batch), (unsigned)w.tiles);
    with_int<64, 128>(c.d_index, [&](auto di) {
        status =
            codes_map<di.value>(&codes, &w.screening.code_at, c.a.copy.codes, keys_there(c), c.pages.piece);
        if (status != MSA_OK)
            return;
        with_int<4, 8, 16, 32, 64>(w.job.rows <= 4 ? 4 : w.columns, [&](auto n) {
            LAUNCH((screen<di.value, n.value>), and_updates, dim3(screen_threads),
                   sizeof(ScreenSmem<di.value, n.value>), c.stream, codes, w.job, w.screening, c.a.qi,
                   w.shares, store_of(c), w.screening.n_settled, w.n_counts);
        });
        with_int<8, 16, 32, 64>(w.columns, [&](auto n) {
            LAUNCH_DEPENDENT((settle<di.value, n.value>), shares, dim3(screen_threads),
                             sizeof(SettleSmem<di.value, n.value>), c.stream, queries, keys, w.job,
                             w.screening);
        });
    });
    return status;
}

/// Those of one that does not.
msa_status launch_full(const Call &c, const Scratch &w)
{
    launch_update_cache(c, w.screening.n_settled, w.n_counts);
    return w.shares > 0 ? launch_score(c, w) : MSA_OK;
}

msa_status run(const Call &c)
{
    const Shape &s = c.s;
    if (!supported(c))
        return MSA_ERR_UNSUPPORTED;
    Scratch w = layout(c);
    const dim3 grid((unsigned)w.cluster, (unsigned)s.n_kv_heads, (unsigned)(c.batch * s.n_q));
    if (w.shares == 0)
        w.screening.copy.codes = nullptr; // no block competes
    const msa_status status = w.screening.copy.codes ? launch_screened(c, w) : launch_full(c, w);
    if (status != MSA_OK)
        return status;
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_output(c, [&](auto *o) {
            LAUNCH_CLUSTER((attend<d.value, std::remove_pointer_t<decltype(o)>>), (unsigned)w.cluster, grid,
                           dim3(attend_threads), sizeof(LastSmem<d.value>), c.stream, w.job, w.screening,
                           w.shares, c.a.q, c.a.k, c.a.v, c.a.ids, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(decode, swapped, run, workspace);
