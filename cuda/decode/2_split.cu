/**
 * @file 2_split.cu
 * @brief One step of generation in four kernels, each split so that all SMs have work.
 *
 * Idea: (1) a CTA scores 128 keys for all queries and groups, which it reads once, 16 bytes a thread and in a
 * row, into shared memory; a thread owns a key and goes through the queries, four at a time. (2) A CTA of 16
 * warps selects a row. (3) A CTA attends to one selected block of one (query, group), whose G heads share its
 * keys and values. (4) A CTA merges the parts of a group's heads.
 * Bytes: index keys once for up to 64 rows, K and V once for the heads of a group; exactly: chapter 15, design
 * notes.
 * Floor: the step's bytes, or from about 18 rows on the CUDA cores: T Hkv di S multiply-adds at 128 a clock
 * and SM.
 * Estimate: at S = 1M and M3's sizes 0.084 ms of bytes, and of products 0.017 ms at T = 1, 0.28 ms at T = 16,
 * and four launches that wait for each other.
 * Waste: tensor cores; every 128 keys the queries are fetched and unpacked again (3% of the keys' bytes at 4
 * rows, half at 64); what a CTA waits for is hidden only by the others on its SM.
 */
#include "decode.cuh"

namespace
{

constexpr int warps = 4, threads = 32 * warps, chunk = 128; // keys that a CTA scores

/// Rows of K, V or index keys in shared memory; 16 bytes more than they need, so that lanes that read a row
/// each use all banks.
template <int D> struct Rows {
    alignas(16) bf16 row[128][D + 8];
};

/// `n` rows from global memory, source(row) being where one is there.
template <int D, class Source> PTX_INLINE void load_rows(Rows<D> &to, int n, Source source)
{
    for (int c = (int)threadIdx.x; c < n * (D / 8); c += threads) {
        const int row = c / (D / 8), column = c % (D / 8) * 8;
        st_shared((uint4 *)&to.row[row][column], ld_global((const uint4 *)(source(row) + column)));
    }
}

/* ---- (1) Scores -------------------------------------------------------------------------------------- */

template <int DI, int rows> struct ScoreSmem {
    alignas(16) float q[rows][DI];
    Rows<DI> keys;
    float top[warps][rows];
};

/// Of the blocks that compete this one scores chunk / Bk. scores [batch][T Hkv][pitch].
template <int DI, int rows>
__global__ void __launch_bounds__(threads)
    score(Shape largest, Pages pages, const bf16 *qi, const bf16 *ki, float *scores, int pitch)
{
    ScoreSmem<DI, rows> &m = shared<ScoreSmem<DI, rows>>();
    const int n = (int)blockIdx.z, t = (int)threadIdx.x, key0 = (int)blockIdx.x * chunk;
    const Shape s = request(largest, pages, n);
    const int all = largest.n_q * s.n_kv_heads, row0 = (int)blockIdx.y * rows, last = competing_blocks(s);
    const int here = smaller(rows, s.n_q * s.n_kv_heads - row0);
    const int keys = smaller(chunk, last * s.block - key0);
    if (keys <= 0 || here <= 0)
        return;
    load_floats(m.q[0], qi + ((int64_t)n * all + row0) * DI, here * DI, threads);
    for (int c = here * DI + t; c < ceil_div(here, 4) * 4 * DI; c += threads)
        st_shared(m.q[0] + c, 0.0f);
    load_rows(m.keys, keys, [&](int row) { return ki + key_row(pages, n, key0 + row) * DI; });
    __syncthreads();

    for (int row = 0; row < here; row += 4) {
        float dot[4] = {};
        for (int c = 0; c < DI && t < keys; c += 8) {
            float x[8];
            unpack_8(x, ld_shared((const uint4 *)&m.keys.row[t][c]));
            for (int a = 0; a < 4; a++)
                dot[a] = dot_8(dot[a], &m.q[row + a][c], x);
        }
        for (int a = 0; a < 4; a++) {
            const float top = warp_top(dot[a]);
            if (t % 32 == 0)
                st_shared(&m.top[t / 32][row + a], top);
        }
    }
    __syncthreads();

    const int blocks = chunk / s.block, warps_of_block = warps / blocks;
    for (int a = t; a < here * blocks; a += threads) {
        const int row = a / blocks, in_chunk = a % blocks, b = (int)blockIdx.x * blocks + in_chunk;
        float top = minus_infinity();
        for (int w = 0; w < warps_of_block; w++)
            top = fmaxf(top, ld_shared(&m.top[in_chunk * warps_of_block + w][row]));
        if (b < last)
            st_global(scores + ((int64_t)n * all + row0 + row) * pitch + b, top);
    }
}

/* ---- (2) Selection ----------------------------------------------------------------------------------- */

constexpr int select_warps = 16;
struct SelectSmem {
    uint64_t lists[select_warps][32];
};

__global__ void __launch_bounds__(32 * select_warps)
    select(Shape largest, Pages pages, const float *scores, int32_t *ids, int pitch)
{
    const int n = (int)blockIdx.y, i = (int)blockIdx.x / largest.n_kv_heads,
              r = (int)blockIdx.x % largest.n_kv_heads;
    const Shape s = checked_request(largest, pages, n);
    const int query = n * largest.n_q + i, local = i < s.n_q ? local_block(s, i) : -1;
    const float *my_scores = scores + ((int64_t)query * s.n_kv_heads + r) * pitch;
    int32_t *my_ids = ids + row_at(s, query, r) * s.topk;
    if (local < 0) { // padding
        if ((int)threadIdx.x < s.topk)
            st_global(my_ids + threadIdx.x, -1);
        return;
    }
    select_by_block(
        shared<SelectSmem>().lists, s.topk, local, smaller(local, competing_blocks(s)),
        [&](int b) { return rank_key(ld_global(my_scores + b), b); },
        [&](int slot, int32_t id) { st_global(my_ids + slot, id); });
}

/* ---- (3) Attention to one block ------------------------------------------------------------------------ */

template <int D> struct AttendSmem {
    alignas(16) float q[max_group][D];
    Rows<D> rows; ///< keys, then values
    float p[max_group][128];
    int64_t key[128]; ///< where the block's tokens lie
};

/// Logits of `n` tokens, then their weights; a head's maximum and sum go to its part.
template <int D> PTX_INLINE void weigh(AttendSmem<D> &m, const Shape &s, int n, float2 *ml, int pitch)
{
    const int t = (int)threadIdx.x, lane = t % 32;
    for (int a = t; a < s.group * s.block; a += threads) {
        const int h = a / s.block, token = a % s.block; // a warp has one head
        float dot = 0;
        for (int c = 0; c < D && token < n; c += 8) {
            float x[8];
            unpack_8(x, ld_shared((const uint4 *)&m.rows.row[token][c]));
            dot = dot_8(dot, &m.q[h][c], x);
        }
        st_shared(&m.p[h][token], token < n ? dot * scale2<D> : minus_infinity());
    }
    __syncthreads();
    for (int h = t / 32; h < s.group; h += warps) {
        float top = lowest, sum = 0;
        for (int a = lane; a < s.block; a += 32)
            top = fmaxf(top, ld_shared(&m.p[h][a]));
        top = warp_top(top);
        for (int a = lane; a < s.block; a += 32) {
            const float p = ex2(ld_shared(&m.p[h][a]) - top);
            st_shared(&m.p[h][a], p);
            sum += p;
        }
        sum = warp_sum(sum);
        if (lane == 0)
            st_global(ml + h * pitch, make_float2(top, sum));
    }
}

template <int D>
__global__ void __launch_bounds__(threads) attend(Shape largest, Pages pages, const bf16 *q, const bf16 *k,
                                                  const bf16 *v, const int32_t *ids, Parts parts)
{
    AttendSmem<D> &m = shared<AttendSmem<D>>();
    const int slot = (int)blockIdx.x, r = (int)blockIdx.y, query = (int)blockIdx.z, t = (int)threadIdx.x;
    const int number = query / largest.n_q, i = query % largest.n_q;
    const Shape s = request(largest, pages, number);
    const int n = smaller(s.block, selected(s, i) - slot * s.block); // the last block ends early
    if (i >= s.n_q || n <= 0)
        return;
    const int id = ld_global(ids + row_at(s, query, r) * s.topk + slot);
    if (t < n)
        st_shared(&m.key[t], key_row(pages, number, id * s.block + t));
    __syncthreads();
    auto row_of = [&](int row) { return kv_at(s, ld_shared(&m.key[row]), r, D); };
    const int64_t part = lse_at(s, query, r * s.group) * parts.count + slot;
    load_floats(m.q[0], q + q_at(s, query, r * s.group, D), s.group * D, threads);
    load_rows(m.rows, n, [&](int row) { return k + row_of(row); });
    __syncthreads();
    weigh(m, s, n, parts.ml + part, parts.count);
    load_rows(m.rows, n, [&](int row) { return v + row_of(row); });
    __syncthreads();

    // A thread has two channels of every `step`-th head.
    constexpr int step = 2 * threads / D;
    const int c = t % (D / 2) * 2, h0 = t / (D / 2);
    float acc[max_group / step][2] = {};
    for (int a = 0; a < n; a++) {
        const uint32_t pair = ld_shared((const uint32_t *)&m.rows.row[a][c]);
        float x[8];
        unpack_8(x, make_uint4(pair, 0, 0, 0));
        for (int g = 0; g < max_group / step; g++)
            if (h0 + g * step < s.group) {
                const float p = ld_shared(&m.p[h0 + g * step][a]);
                acc[g][0] += p * x[0];
                acc[g][1] += p * x[1];
            }
    }
    for (int g = 0; g < max_group / step; g++)
        if (h0 + g * step < s.group)
            st_global((float2 *)(parts.o + (part + (h0 + g * step) * parts.count) * D + c),
                      make_float2(acc[g][0], acc[g][1]));
}

/* ---- (4) Merge ------------------------------------------------------------------------------------- */

struct MergeSmem {
    float2 weight[max_group][max_parts];
};

/// A CTA a group of a query.
template <int D, class Out>
__global__ void __launch_bounds__(threads) merge(Shape largest, Pages pages, Parts parts, Out *o, float *lse)
{
    const int r = (int)blockIdx.x, query = (int)blockIdx.y, i = query % largest.n_q;
    const Shape s = request(largest, pages, query / largest.n_q);
    if (i < s.n_q)
        merge_group<D, warps>(parts, lse_at(s, query, r * s.group), s.group,
                              ceil_div(selected(s, i), s.block), shared<MergeSmem>().weight, o, lse);
    else
        pad_row(s, query, r, D, nullptr, o, lse);
}

/* ---- The launches ------------------------------------------------------------------------------------- */

struct Scratch {
    float *scores;
    Parts parts;
    size_t bytes;
};

Scratch layout(const Call &c)
{
    const Shape &s = c.s;
    const int64_t queries = (int64_t)c.batch * s.n_q, heads = queries * s.n_heads;
    Carve carve = {(uintptr_t)c.work};
    Scratch w;
    w.scores = carve.take<float>(queries * s.n_kv_heads * competing_blocks(s));
    w.parts.ml = carve.take<float2>(heads * s.topk);
    w.parts.o = carve.take<float>(heads * s.topk * c.d_head);
    w.parts.count = s.topk;
    w.bytes = carve.used;
    return w;
}

size_t workspace(const Call &c)
{
    return layout(c).bytes;
}

msa_status run(const Call &c)
{
    const Shape &s = c.s;
    if (!supported(c) || c.pages.ki8 || c.fresh.k || c.fresh.rejected)
        return MSA_ERR_UNSUPPORTED;
    const Scratch w = layout(c);
    const int rows = s.n_q * s.n_kv_heads, max_competing = competing_blocks(s);
    const unsigned batch = (unsigned)c.batch, queries = batch * (unsigned)s.n_q;
    if (max_competing > 0)
        with_int<64, 128>(c.d_index, [&](auto di) {
            with_int<8, 64>(rows <= 8 ? 8 : 64, [&](auto tile) {
                const dim3 grid((unsigned)ceil_div(max_competing * s.block, chunk),
                                (unsigned)ceil_div(rows, tile.value), batch);
                LAUNCH((score<di.value, tile.value>), grid, dim3(threads),
                       sizeof(ScoreSmem<di.value, tile.value>), c.stream, s, c.pages, c.a.qi, c.a.ki,
                       w.scores, max_competing);
            });
        });
    LAUNCH(select, dim3((unsigned)rows, batch), dim3(32 * select_warps), sizeof(SelectSmem), c.stream, s,
           c.pages, w.scores, c.a.ids, max_competing);
    with_int<64, 128>(c.d_head, [&](auto d) {
        LAUNCH((attend<d.value>), dim3((unsigned)s.topk, (unsigned)s.n_kv_heads, queries), dim3(threads),
               sizeof(AttendSmem<d.value>), c.stream, s, c.pages, c.a.q, c.a.k, c.a.v, c.a.ids, w.parts);
        with_output(c, [&](auto *o) {
            LAUNCH((merge<d.value, std::remove_pointer_t<decltype(o)>>),
                   dim3((unsigned)s.n_kv_heads, queries), dim3(threads), sizeof(MergeSmem), c.stream, s,
                   c.pages, w.parts, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(decode, split, run, workspace);
