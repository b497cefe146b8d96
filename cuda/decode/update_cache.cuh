/**
 * @file update_cache.cuh
 * @brief The first launch of a step: lengths are checked, rejected tokens leave the pages, the newest go
 * there, and the tickets of the last launch go to zero. The next launch may start meanwhile, and waits before
 * it reads any of these.
 *
 * A ticket counts the parts of a row of attention that are done; who draws the last one merges them.
 */
#ifndef MSA_UPDATE_CACHE_CUH
#define MSA_UPDATE_CACHE_CUH

#include "decode.cuh"
#include "e4m3.cuh"

constexpr int update_threads = 128;

struct UpdateSmem {
    float amax[update_threads / 32];
};

/// `bytes` bytes, a multiple of 16.
PTX_INLINE void copy_row(void *to, const void *from, int bytes)
{
    for (int c = (int)threadIdx.x; c < bytes / 16; c += update_threads)
        st_global((uint4 *)to + c, ld_global((const uint4 *)from + c));
}

PTX_INLINE void clear_row(void *to, int bytes)
{
    for (int c = (int)threadIdx.x; c < bytes / 16; c += update_threads)
        st_global((uint4 *)to + c, make_uint4(0, 0, 0, 0));
}

/// The codes of a piece whose last key has come, n numbers, and their scale: msa_e4m3_block().
PTX_INLINE void complete_piece(UpdateSmem &m, const bf16 *keys, int n, uint8_t *codes, float *scale)
{
    const int t = (int)threadIdx.x;
    float amax = 0;
    __syncthreads(); // the key is there
    for (int c = t; c < n; c += update_threads) {
        const float x = to_float(ld_global(keys + c));
        amax = fmaxf(amax, x < 0 ? -x : x);
    }
    amax = warp_top(amax);
    if (t % 32 == 0)
        st_shared(&m.amax[t / 32], amax);
    __syncthreads();
    for (int w = 0; w < update_threads / 32; w++)
        amax = fmaxf(amax, ld_shared(&m.amax[w]));
    const float step = scale_e4m3(amax);
    for (int c = t; c < n; c += update_threads)
        st_global(codes + c, (uint8_t)encode_e4m3(to_float(ld_global(keys + c)) / step));
    if (t == 0)
        st_global(scale, step);
}

/// Where a step's tokens go, and what goes before they come.
struct Store {
    Pages p;
    NewTokens fresh;
    bf16 *k, *v, *ki;
    int width, di; ///< numbers of a token in k and v, and in ki
};

/// Key j of request n goes, and with it the codes of its piece, if it has some.
PTX_INLINE void roll_back(const Store &a, int n, int j)
{
    const int g = piece_of(a.p, n, j / a.p.piece);
    const int64_t row = (int64_t)g * a.p.piece + j % a.p.piece;
    clear_row(a.k + row * a.width, a.width * 2);
    clear_row(a.v + row * a.width, a.width * 2);
    if (a.ki)
        clear_row(a.ki + row * a.di, a.di * 2);
    if (a.p.ki8) {
        clear_row(a.p.ki8 + (int64_t)g * a.p.piece * a.di, a.p.piece * a.di);
        if (threadIdx.x == 0)
            st_global(a.p.scale + g, 0.0f);
    }
}

/// Key j of request n comes, from row `from` of the fresh ones.
PTX_INLINE void append(const Store &a, int n, int j, int64_t from)
{
    const int g = piece_of(a.p, n, j / a.p.piece), place = j % a.p.piece;
    const int64_t first = (int64_t)g * a.p.piece, row = first + place;
    copy_row(a.k + row * a.width, a.fresh.k + from * a.width, a.width * 2);
    copy_row(a.v + row * a.width, a.fresh.v + from * a.width, a.width * 2);
    if (a.fresh.ki)
        copy_row(a.ki + row * a.di, a.fresh.ki + from * a.di, a.di * 2);
    if (a.fresh.ki && a.p.ki8 && place + 1 == a.p.piece)
        complete_piece(shared<UpdateSmem>(), a.ki + first * a.di, a.p.piece * a.di, a.p.ki8 + first * a.di,
                       a.p.scale + g);
}

/// A CTA a request. (Told to expect one on an SM, ptxas does not spill to make room for more.)
static __global__ void __launch_bounds__(update_threads, 1)
    update_cache(Shape largest, Store a, uint32_t *tickets, int n_tickets)
{
    const int n = (int)blockIdx.x, threads = update_threads * (int)gridDim.x;
    grid_launch_dependents();
    for (int c = n * update_threads + (int)threadIdx.x; c < n_tickets; c += threads)
        st_global(tickets + c, 0u);
    const Shape s = checked_request(largest, a.p, n);
    if (!a.fresh.k && !a.fresh.rejected)
        return;
    const int rejected = a.fresh.rejected && s.n_q > 0 ? ld_global(a.fresh.rejected + n) : 0;
    if (!in_range(a.p, rejected >= 0 && rejected <= largest.n_kv - s.prefix, "what is taken back had room"))
        return;
    for (int i = 0; i < rejected; i++)
        roll_back(a, n, s.prefix + i);
    __syncthreads();
    for (int i = 0; i < s.n_q && a.fresh.k; i++)
        append(a, n, s.prefix + i, (int64_t)n * largest.n_q + i);
}

inline void launch_update_cache(const Call &c, uint32_t *tickets, int n_tickets)
{
    const Store store = {
        c.pages, c.fresh, (bf16 *)c.a.k, (bf16 *)c.a.v, (bf16 *)c.a.ki, c.s.n_kv_heads * c.d_head, c.d_index};
    LAUNCH(update_cache, dim3((unsigned)c.batch), dim3(update_threads), sizeof(UpdateSmem), c.stream, c.s,
           store, tickets, n_tickets);
}

#endif
