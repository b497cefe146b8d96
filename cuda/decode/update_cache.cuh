/**
 * @file update_cache.cuh
 * @brief The first launch of a step, or a part of it: lengths are checked, rejected tokens leave the pages, the newest
 * go there, pieces that they complete get their codes, and the counters of later launches go to zero. The next launch
 * may start meanwhile, and waits before it reads any of these.
 *
 * A counter is of a row: the blocks that are settled, or, of dense attention, the tickets of the parts that are done, of
 * which who draws the last one merges them.
 */
#ifndef MSA_UPDATE_CACHE_CUH
#define MSA_UPDATE_CACHE_CUH

#include "../index/codes.cuh"
#include "decode.cuh"
#include "e4m3.cuh"

constexpr int update_threads = 128;

template <int threads> struct UpdateSmem {
    float amax[threads / 32];
    BlockNumbers<threads / 32> block;
};

/// `bytes` bytes, a multiple of 16.
template <int threads> PTX_INLINE void copy_row(void *to, const void *from, int bytes)
{
    for (int c = (int)threadIdx.x; c < bytes / 16; c += threads)
        st_global((uint4 *)to + c, ld_global((const uint4 *)from + c));
}

template <int threads> PTX_INLINE void clear_row(void *to, int bytes)
{
    for (int c = (int)threadIdx.x; c < bytes / 16; c += threads)
        st_global((uint4 *)to + c, make_uint4(0, 0, 0, 0));
}

/// The codes of a piece whose last key has come, n numbers, and their scale: msa_e4m3_block().
template <int threads>
PTX_INLINE void complete_piece(UpdateSmem<threads> &m, const bf16 *keys, int n, uint8_t *codes, float *scale)
{
    const int t = (int)threadIdx.x;
    float amax = 0;
    for (int c = t; c < n; c += threads) {
        const float x = to_float(ld_global(keys + c)), size = x < 0 ? -x : x;
        amax = fmaxf(amax, size <= -lowest ? size : -minus_infinity());
    }
    amax = warp_top(amax);
    if (t % 32 == 0)
        st_shared(&m.amax[t / 32], amax);
    __syncthreads();
    for (int w = 0; w < threads / 32; w++)
        amax = fmaxf(amax, ld_shared(&m.amax[w]));
    const float step = scale_e4m3(amax);
    for (int c = t; c < n; c += threads)
        st_global(codes + c, (uint8_t)encode_e4m3(to_float(ld_global(keys + c)) / step));
    if (t == 0)
        st_global(scale, step);
}

/// Where a step's tokens go, and what goes before they come.
struct Store {
    Pages p;
    NewTokens fresh;
    Copy8 copy;
    bf16 *k, *v, *ki;
    int width, di; ///< numbers of a token in k and v, and in ki
};

/// Key j of request n goes, and with it the codes of its piece, if it has some.
template <int threads> PTX_INLINE void roll_back(const Store &a, int n, int j)
{
    const int g = piece_of(a.p, n, j / a.p.piece);
    const int64_t first = (int64_t)g * a.p.piece, row = first + j % a.p.piece;
    clear_row<threads>(a.k + row * a.width, a.width * 2);
    clear_row<threads>(a.v + row * a.width, a.width * 2);
    if (a.ki)
        clear_row<threads>(a.ki + row * a.di, a.di * 2);
    if (a.p.ki8) {
        clear_row<threads>(a.p.ki8 + first * a.di, a.p.piece * a.di);
        if (threadIdx.x == 0)
            st_global(a.p.scale + g, 0.0f);
    }
    if (a.copy.codes) {
        clear_row<threads>(a.copy.codes + first * a.di, a.p.piece * a.di);
        if (threadIdx.x == 0)
            for (float *of : {a.copy.scale, a.copy.reach, a.copy.error, a.copy.least})
                if (of)
                    st_global(of + g, 0.0f);
    }
}

/// Key j of request n comes, from row `from` of the fresh ones.
template <int threads>
PTX_INLINE void append(UpdateSmem<threads> &m, const Store &a, int n, int j, int64_t from)
{
    const int g = piece_of(a.p, n, j / a.p.piece), place = j % a.p.piece, di = a.di;
    const int64_t first = (int64_t)g * a.p.piece, row = first + place;
    copy_row<threads>(a.k + row * a.width, a.fresh.k + from * a.width, a.width * 2);
    copy_row<threads>(a.v + row * a.width, a.fresh.v + from * a.width, a.width * 2);
    if (a.fresh.ki)
        copy_row<threads>(a.ki + row * di, a.fresh.ki + from * di, di * 2);
    if (!a.fresh.ki || place + 1 < a.p.piece || (!a.p.ki8 && !a.copy.codes))
        return;
    const bf16 *keys = a.ki + first * di;
    __syncthreads(); // the key is there
    if (a.p.ki8)
        complete_piece(m, keys, a.p.piece * di, a.p.ki8 + first * di, a.p.scale + g);
    if (a.copy.codes && di == 64)
        make_codes<64>(m.block, keys, a.p.piece, a.copy.codes + first * di, a.copy, g);
    else if (a.copy.codes)
        make_codes<128>(m.block, keys, a.p.piece, a.copy.codes + first * di, a.copy, g);
}

/// Request n, by a CTA.
template <int threads>
PTX_INLINE void update_request(UpdateSmem<threads> &m, const Shape &largest, const Store &a, int n)
{
    const Shape s = checked_request(largest, a.p, n);
    if (!a.fresh.k && !a.fresh.rejected)
        return;
    const int rejected = a.fresh.rejected && s.n_q > 0 ? ld_global(a.fresh.rejected + n) : 0;
    if (!in_range(a.p, rejected >= 0 && rejected <= largest.n_kv - s.prefix, "what is taken back had room"))
        return;
    for (int i = 0; i < rejected; i++)
        roll_back<threads>(a, n, s.prefix + i);
    __syncthreads();
    for (int i = 0; i < s.n_q && a.fresh.k; i++)
        append(m, a, n, s.prefix + i, (int64_t)n * largest.n_q + i);
}
/// CTA `cta` of `ctas` takes its share of what goes to zero.
template <int threads> PTX_INLINE void clear_counters(uint32_t *counters, int n_counters, int cta, int ctas)
{
    for (int c = cta * threads + (int)threadIdx.x; c < n_counters; c += ctas * threads)
        st_global(counters + c, 0u);
}

/// A CTA a request. (Told to expect one on an SM, ptxas does not spill to make room for more.)
static __global__ void __launch_bounds__(update_threads, 1)
    update_cache(Shape largest, Store a, uint32_t *counters, int n_counters)
{
    grid_launch_dependents();
    clear_counters<update_threads>(counters, n_counters, (int)blockIdx.x, (int)gridDim.x);
    update_request(shared<UpdateSmem<update_threads>>(), largest, a, (int)blockIdx.x);
}

inline Store store_of(const Call &c)
{
    return {c.pages,       c.fresh,        c.a.copy, (bf16 *)c.a.k, (bf16 *)c.a.v,
            (bf16 *)c.a.ki, c.s.n_kv_heads * c.d_head, c.d_index};
}
inline void launch_update_cache(const Call &c, uint32_t *counters, int n_counters)
{
    LAUNCH(update_cache, dim3((unsigned)c.batch), dim3(update_threads), sizeof(UpdateSmem<update_threads>),
           c.stream, c.s, store_of(c), counters, n_counters);
}

#endif
