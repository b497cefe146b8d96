/**
 * @file decode.cuh
 * @brief What the rungs of decode share: their limits, where a request's keys lie, the tokens of a selection,
 *        float32 dot products, and the merge of partial attention.
 *
 * One step of generation has T <= 16 queries a request, the newest tokens. A row of selection is (query i,
 * group r), number i Hkv + r, as index queries lie in memory. Only blocks before the local one compete and all
 * of their tokens are visible, so that no rung masks a score; the local block is the last of its row, so that
 * the visible tokens of a selection are the first selected() of its blocks' tokens.
 *
 * A paged call is a batch of requests that a dimension of the grid counts. Grids depend on the largest shape
 * only: how many queries and keys a request has, every CTA reads, and checks, on the device, so that a CUDA
 * graph of the step stays right as requests grow. A call without pages is one request whose page table is b ->
 * b.
 */
#ifndef MSA_DECODE_CUH
#define MSA_DECODE_CUH

#include "../kit/selection.cuh"

constexpr int max_queries = MSA_STEP_QUERIES, max_requests = MSA_STEP_REQUESTS;
constexpr int max_group = 16, max_blocks = 32, max_sms = 132;
/// Tokens: the rows of one product of mma.sync, whose maxima one scale multiplies.
constexpr int min_piece = 16;

MSA_BOTH_SIDES constexpr int smaller(int a, int b)
{
    return a < b ? a : b;
}

inline bool supported(const Call &c)
{
    const Shape &s = c.s;
    return s.n_q <= max_queries && s.group <= max_group && s.block <= 128 && c.batch <= max_requests &&
           c.pages.piece % min_piece == 0;
}

/// SMs of the device: what work is shared out among.
inline int sms()
{
    const int n = device_sms();
    return n > 0 ? smaller(n, max_sms) : max_sms;
}

/* ---- Requests ---------------------------------------------------------------------------------------- */

/// Whether what was read is in range; if not, somebody hears of it. A store, so only after grid_wait().
PTX_INLINE bool in_range(const Pages &p, bool good, const char *what SITE)
{
    if (!good && p.status)
        atomicMax(p.status, (int32_t)MSA_ERR_PAGES);
    engine_require(good || p.status, what PASS_SITE);
    return good;
}

PTX_INLINE void check_page(const Pages &p, bool good SITE)
{
    in_range(p, good, "a page id is one of P" PASS_SITE);
}

/// Makes request n of the largest there may be; without queries it has no keys either. False: a length is out
/// of range, and it has no queries.
PTX_INLINE bool set_lengths(Shape &s, const Pages &p, int n SITE)
{
    const int max_kv = s.n_kv, max_q = s.n_q;
    if (p.lens)
        s.n_kv = ld_global(p.lens + n PASS_SITE);
    if (p.len_q)
        s.n_q = ld_global(p.len_q + n PASS_SITE);
    if (p.table && !p.len_q && s.n_kv == 0)
        s.n_q = 0;
    const bool good = s.n_q >= 0 && s.n_q <= max_q && s.n_kv >= s.n_q && s.n_kv <= max_kv;
    if (!good || s.n_q == 0)
        s.n_q = s.n_kv = 0;
    s.prefix = s.n_kv - s.n_q;
    return good;
}
/// Request n as a sequence, for the first launch of a step, which says what is out of range, and for the
/// others.
PTX_INLINE Shape checked_request(Shape s, const Pages &p, int n SITE)
{
    in_range(p, set_lengths(s, p, n PASS_SITE),
             "a length is at least the number of queries and at most what there is room for" PASS_SITE);
    return s;
}
PTX_INLINE Shape request(Shape s, const Pages &p, int n SITE)
{
    set_lengths(s, p, n PASS_SITE);
    return s;
}

/// Piece g of a request: which one of its pages has it, and which one it is there.
struct Place {
    int page, piece;
};
/// 2^32 / pieces, rounded down: a division that may be made early, for one where it would be waited for.
PTX_INLINE uint32_t per_piece(const Pages &p)
{
    return p.table ? ~0u / (uint32_t)p.pieces : 0;
}
PTX_INLINE Place place_of(const Pages &p, int g, uint32_t reciprocal)
{
    const int page = (int)((uint64_t)(uint32_t)g * reciprocal >> 32), piece = g - page * p.pieces;
    const bool next = piece >= p.pieces; // at most one too few
    return {page + next, next ? piece - p.pieces : piece};
}
/// That page, as the table says; 0 without a table.
PTX_INLINE int page_at(const Pages &p, int n, int page SITE)
{
    return p.table ? ld_global(p.table + (int64_t)n * p.max_pages + page PASS_SITE) : 0;
}
/// Where piece g lies, which is number `place` of that page: the number of pieces in front of it. Where the page does not
/// exist, page 0 has to do, and `good` becomes false.
PTX_INLINE int piece_in(const Pages &p, int page, int g, int place, bool &good)
{
    if (!p.table)
        return g;
    if (page < 0 || page >= p.n_pages)
        page = 0, good = false;
    return page * p.pieces + place;
}
PTX_INLINE int find_piece(const Pages &p, int n, int g, bool &good SITE)
{
    if (!p.table)
        return g;
    return piece_in(p, page_at(p, n, g / p.pieces PASS_SITE), g, g % p.pieces, good);
}
PTX_INLINE int piece_of(const Pages &p, int n, int g SITE)
{
    bool good = true;
    const int piece = find_piece(p, n, g, good PASS_SITE);
    check_page(p, good PASS_SITE);
    return piece;
}
/// The row of K, V or index keys that holds key j of request n.
PTX_INLINE int64_t key_row(const Pages &p, int n, int j SITE)
{
    return (int64_t)piece_of(p, n, j / p.piece PASS_SITE) * p.piece + j % p.piece;
}

/// O and LSE of a head row of a query that is padding, by `threads` threads: 0 and -inf.
template <class Out> PTX_INLINE void pad_head(int64_t row, int d, int threads, Out *o, float *lse)
{
    const int t = (int)threadIdx.x % threads;
    for (int c = t; c < d; c += threads)
        store(o + row * d + c, 0.0f);
    if (lse && t == 0)
        st_global(lse + row, minus_infinity());
}
/// All of a group's, and its ids, if there are some, by the whole CTA.
template <class Out>
PTX_INLINE void pad_row(const Shape &s, int query, int r, int d, int32_t *ids, Out *o, float *lse)
{
    for (int h = r * s.group; h < (r + 1) * s.group; h++)
        pad_head(lse_at(s, query, h), d, (int)blockDim.x, o, lse);
    if (ids && (int)threadIdx.x < s.topk)
        st_global(ids + row_at(s, query, r) * s.topk + threadIdx.x, -1);
}

/// Blocks that compete for the last query, and so all whose scores are needed: none if k = 1.
MSA_BOTH_SIDES constexpr int competing_blocks(const Shape &s)
{
    return s.topk > 1 && s.n_kv > 0 ? (s.n_kv - 1) / s.block : 0;
}

/// Visible tokens of the blocks that query i selects.
MSA_BOTH_SIDES constexpr int selected(const Shape &s, int i)
{
    const int p = s.prefix + i, local = p / s.block, before = smaller(local, s.topk - 1);
    return before * s.block + p % s.block + 1;
}

/* ---- Float32 arithmetic on bf16 ------------------------------------------------------------------- */

/// Eight neighbouring channels: 16 bytes.
PTX_INLINE void unpack_8(float (&x)[8], uint4 v)
{
    const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
    for (int a = 0; a < 8; a++)
        x[a] = float_of(a % 2 ? pair[a / 2] & 0xffff0000u : pair[a / 2] << 16);
}
/// dot + eight products; q is shared memory.
PTX_INLINE float dot_8(float dot, const float *q, const float (&x)[8] SITE)
{
    for (int half = 0; half < 2; half++) {
        const float4 y = ld_shared((const float4 *)q + half PASS_SITE);
        dot += y.x * x[4 * half] + y.y * x[4 * half + 1] + y.z * x[4 * half + 2] + y.w * x[4 * half + 3];
    }
    return dot;
}
/// n channels, 8 a thread, from global memory to float32 in shared memory.
PTX_INLINE void load_floats(float *to, const bf16 *from, int n, int threads)
{
    for (int c = 8 * (int)threadIdx.x; c < n; c += 8 * threads) {
        float x[8];
        unpack_8(x, ld_global((const uint4 *)(from + c)));
        st_shared((float4 *)(to + c), make_float4(x[0], x[1], x[2], x[3]));
        st_shared((float4 *)(to + c + 4), make_float4(x[4], x[5], x[6], x[7]));
    }
}

PTX_INLINE float warp_top(float x)
{
    for (int with = 16; with > 0; with /= 2)
        x = fmaxf(x, shfl_xor(x, with));
    return x;
}
PTX_INLINE float warp_sum(float x)
{
    for (int with = 16; with > 0; with /= 2)
        x += shfl_xor(x, with);
    return x;
}

/* ---- Partial attention ------------------------------------------------------------------------------- */

/// Softmax over a part of a row's tokens, not divided: the maximum m and sum l of its weights 2^(x - m), and
/// the values so weighted. Part a of head row i Hq + h is number (i Hq + h) count + a.
struct Parts {
    float2 *ml;
    float *o;
    int count; ///< parts that a row may have
};
constexpr int max_parts = max_sms;

/// O and LSE of a group's head rows, number `row` and on, from their n parts each, by so many warps. Each has some of the
/// heads, and weighs their parts by as many lanes a head as there are; then a lane adds up 16 bytes of each, of eight
/// parts at a time, which come together. The first eight are on their way meanwhile.
// [merge]
template <int D, int warps, class Out>
PTX_INLINE void merge_group(const Parts &parts, int64_t row, int group, int n,
                            float2 (&weight)[max_group][max_parts], Out *o, float *lse)
{
    constexpr int heads = max_group / warps, lanes = 32 / heads; // of a warp; of a head
    constexpr int wide = D / 4, turns = heads * wide / 32, together = 8;
    const int lane = (int)threadIdx.x % 32, first = (int)threadIdx.x / 32 * heads,
              mine = first + lane / lanes;
    const float4 *const from = (const float4 *)(parts.o + row * parts.count * D) + lane % wide;
    const auto head = [&](int turn) { return first + (32 * turn + lane) / wide; };
    float4 x[together][turns], sum[turns] = {};
    const auto load = [&](int a) {
        UNROLL
        for (int i = 0; i < together * turns; i++) {
            const int h = head(i % turns), part = a + i / turns;
            x[i / turns][i % turns] =
                ld_global_if(part < n && h < group, from + (h * parts.count + part) * wide);
        }
    };
    load(0);

    // [merge_parts]
    float m = minus_infinity(), l = 0;
    ROLLED
    for (int a = lane % lanes; a < n && mine < group; a += lanes) {
        const float2 part = ld_global(parts.ml + (row + mine) * parts.count + a);
        st_shared(&weight[mine][a], part);
        m = fmaxf(m, part.x);
    }
    for (int with = 1; with < lanes; with *= 2)
        m = fmaxf(m, shfl_xor(m, with));
    ROLLED
    for (int a = lane % lanes; a < n && mine < group; a += lanes) {
        const float2 part = ld_shared(&weight[mine][a]);
        const float w = ex2(part.x - m);
        st_shared(&weight[mine][a].x, w);
        l += w * part.y;
    }
    for (int with = 1; with < lanes; with *= 2)
        l += shfl_xor(l, with);
    const float inverse = 1 / l;
    __syncwarp();

    ROLLED
    for (int a = 0;;) {
        UNROLL
        for (int i = 0; i < together * turns; i++) {
            const int h = head(i % turns), part = a + i / turns;
            const float w = part < n && h < group ? ld_shared(&weight[h][part].x) : 0;
            const float4 y = x[i / turns][i % turns];
            float4 &z = sum[i % turns];
            z = make_float4(z.x + w * y.x, z.y + w * y.y, z.z + w * y.z, z.w + w * y.w);
        }
        a += together;
        if (a >= n)
            break;
        load(a);
    }
    // [merge_parts]
    for (int turn = 0; turn < turns; turn++) {
        const int h = head(turn);
        const float factor = shfl(inverse, lanes * (h - first));
        const float4 z = sum[turn];
        if (h < group)
            store_4(o + (row + h) * D + lane % wide * 4,
                    make_float4(z.x * factor, z.y * factor, z.z * factor, z.w * factor));
    }
    if (lse && lane % lanes == 0 && mine < group)
        st_global(lse + row + mine, lse_of(m, l));
}
// [merge]

#endif
