/**
 * @file begin.cuh
 * @brief The first launch of a step: the newest tokens go into the pages, and the tickets of the last launch
 *        to zero. The next launch may start meanwhile, and waits before it reads either.
 *
 * A ticket counts the parts of a row of attention that are done; who draws the last one merges them.
 */
#ifndef MSA_BEGIN_CUH
#define MSA_BEGIN_CUH

#include "decode.cuh"
#include "e4m3.cuh"

constexpr int begin_threads = 128;

struct BeginSmem {
    float most[begin_threads / 32];
};

/// `bytes` bytes, a multiple of 16.
PTX_INLINE void copy_row(void *to, const void *from, int bytes)
{
    for (int c = (int)threadIdx.x; c < bytes / 16; c += begin_threads)
        st_global((uint4 *)to + c, ld_global((const uint4 *)from + c));
}

/// Appends a key of d channels to a page that has n already. If it is too large for the page's scale, that
/// grows and the n are rounded again.
PTX_INLINE void append_e4m3(BeginSmem &m, uint8_t *page, float *page_scale, int n, const bf16 *key, int d)
{
    const int t = (int)threadIdx.x;
    const float x = t < d ? to_float(ld_global(key + t)) : 0, top = warp_top(x < 0 ? -x : x);
    if (t % 32 == 0)
        st_shared(&m.most[t / 32], top);
    __syncthreads();
    float most = 0;
    for (int w = 0; w < begin_threads / 32; w++)
        most = fmaxf(most, ld_shared(&m.most[w]));
    const float own = scale_e4m3(most), old = n > 0 ? ld_global(page_scale) : own;
    const float scale = fmaxf(own, old);
    for (int c = t; c < n * d && scale > old; c += begin_threads) {
        const float y = decode_e4m3(ld_global(page + c)) * (old / scale);
        st_global(page + c, (uint8_t)encode_e4m3(y));
    }
    if (t < d)
        st_global(page + n * d + t, (uint8_t)encode_e4m3(x / scale));
    __syncthreads(); // all have read the old scale
    if (t == 0)
        st_global(page_scale, scale);
    __syncthreads();
}

/// A block of threads a request. (Told to expect one on an SM, ptxas does not spill to make room for more.)
static __global__ void __launch_bounds__(begin_threads, 1)
    begin(Shape largest, Pages p, NewTokens fresh, Arrays a, int d, int di, uint32_t *tickets, int n_tickets)
{
    const int n = (int)blockIdx.x, threads = begin_threads * (int)gridDim.x;
    grid_launch_dependents();
    for (int c = n * begin_threads + (int)threadIdx.x; c < n_tickets; c += threads)
        st_global(tickets + c, 0u);
    if (!fresh.k)
        return;
    const Shape s = request(largest, p, n);
    for (int i = 0; i < s.n_q; i++) {
        const int j = s.prefix + i, page = page_of(p, n, j / s.block), place = j % s.block;
        const int64_t from = (int64_t)n * s.n_q + i, to = (int64_t)page * s.block + place;
        const int64_t width = (int64_t)s.n_kv_heads * d;
        copy_row((bf16 *)a.k + to * width, fresh.k + from * width, (int)width * 2);
        copy_row((bf16 *)a.v + to * width, fresh.v + from * width, (int)width * 2);
        if (fresh.ki && p.ki8)
            append_e4m3(shared<BeginSmem>(), p.ki8 + (to - place) * di, p.scale + page, place,
                        fresh.ki + from * di, di);
        else if (fresh.ki)
            copy_row((bf16 *)a.ki + to * di, fresh.ki + from * di, di * 2);
    }
}

inline void launch_begin(const Call &c, uint32_t *tickets, int n_tickets)
{
    LAUNCH(begin, dim3((unsigned)c.batch), dim3(begin_threads), sizeof(BeginSmem), c.stream, c.s, c.pages,
           c.fresh, c.a, c.d_head, c.d_index, tickets, n_tickets);
}

#endif
