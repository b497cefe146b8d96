/**
 * @file 1_naive.cu
 * @brief One step of generation, a CTA per query and group that does one thing after the other.
 *
 * Idea: CTA (i, r) scores the key blocks before the local one (a warp a block, a lane a key) into the
 * workspace, its first warp selects, and then for each head it takes the logits of the selected tokens (a
 * thread a token), their softmax, and the sum of the values (a thread a channel). Paged, there is one for each
 * request too.
 * Bytes of a row (i, r), with local = p(i) / Bk, c = min(k, local + 1) blocks and n = selected(i) tokens: in 2
 * di + local (2 di Bk + 4) + 4 c + G (2 dh + 4 dh n), out 4 local + 4 k beside O and LSE; terms of `local`
 * only if k > 1. Paged, 4 a thread for the length, 4 local Bk (if k > 1) and 4 c Bk / piece for pages besides.
 * Floor: the step's bytes, 2 di N + 2 Hkv dh 2 k Bk (N = S): 272 MB at S = 1M and M3's sizes.
 * Waste: at T = 1 only Hkv SMs work at all; each group reads the index keys again (1.07 GB there), each head K
 * and V; a lane that reads its own key touches a row of its own, 32 rows a load.
 * Estimate: at S = 1M and M3's sizes 11 ms and more.
 */
#include "decode.cuh"

namespace
{

constexpr int warps = 4, threads = 32 * warps;

struct Smem {
    alignas(16) float q[128]; ///< the index query, then a head's query
    float p[max_blocks * 128];
    float part[warps];
    int32_t piece[max_blocks * 128 / min_piece]; ///< of the selected blocks
};

/// q times a row of keys in global memory.
template <int D> PTX_INLINE float dot_row(const float *q, const bf16 *key)
{
    float dot = 0;
    for (int c = 0; c < D; c += 8) {
        float x[8];
        unpack_8(x, ld_global((const uint4 *)(key + c)));
        dot = dot_8(dot, q + c, x);
    }
    return dot;
}

/// Makes one number of the block's warps' numbers, the same in all threads.
template <class F> PTX_INLINE float combine(Smem &s, float x, F f)
{
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        st_shared(&s.part[threadIdx.x / 32], x);
    __syncthreads();
    float all = ld_shared(&s.part[0]);
    for (int w = 1; w < warps; w++)
        all = f(all, ld_shared(&s.part[w]));
    return all;
}

template <int DI>
PTX_INLINE void score_blocks(const Smem &m, const Shape &s, const Pages &pages, const bf16 *ki, float *scores,
                             int local)
{
    const int n = (int)blockIdx.z, warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    for (int b = warp; b < local; b += warps) {
        float top = minus_infinity();
        for (int j = b * s.block + lane; j < (b + 1) * s.block; j += 32)
            top = fmaxf(top, dot_row<DI>(m.q, ki + key_row(pages, n, j) * DI));
        top = warp_top(top);
        if (lane == 0)
            st_global(scores + b, top);
    }
}

template <int D, class Out>
PTX_INLINE void attend(Smem &m, const Shape &s, int piece, const bf16 *q, const bf16 *k, const bf16 *v, int n,
                       int r, Out *o, float *lse)
{
    const int t = (int)threadIdx.x;
    auto token = [&](int a) {
        return kv_at(s, (int64_t)ld_shared(&m.piece[a / piece]) * piece + a % piece, r, D);
    };
    __syncthreads();
    load_floats(m.q, q, D, threads);
    __syncthreads();

    float top = minus_infinity(), sum = 0;
    for (int a = t; a < n; a += threads) {
        const float x = dot_row<D>(m.q, k + token(a)) * scale2<D>;
        st_shared(&m.p[a], x);
        top = fmaxf(top, x);
    }
    top = combine(m, warp_top(top), [](float a, float b) { return fmaxf(a, b); });
    for (int a = t; a < n; a += threads) {
        const float p = ex2(ld_shared(&m.p[a]) - top);
        st_shared(&m.p[a], p);
        sum += p;
    }
    sum = combine(m, warp_sum(sum), [](float a, float b) { return a + b; });
    for (int c = t; c < D; c += threads) {
        float acc = 0;
        for (int a = 0; a < n; a++)
            acc += ld_shared(&m.p[a]) * to_float(ld_global(v + token(a) + c));
        store(o + c, acc / sum);
    }
    if (lse && t == 0)
        st_global(lse, top * ln_2 + logf(sum));
}

template <int DI, int D, class Out>
__global__ void __launch_bounds__(threads, 4) // without the 4 ptxas takes 40 registers, and spills
    naive(Shape largest, Pages pages, Arrays a, float *scores, Out *o)
{
    Smem &m = shared<Smem>();
    const int n = (int)blockIdx.z, i = (int)blockIdx.x, r = (int)blockIdx.y, t = (int)threadIdx.x;
    const Shape s = checked_request(largest, pages, n);
    const int query = n * largest.n_q + i, local = local_block(s, i);
    if (i >= s.n_q) {
        pad_row(s, query, r, D, a.ids, o, a.lse);
        return;
    }
    float *my_scores = scores + ((int64_t)query * s.n_kv_heads + r) * s.n_blocks;
    int32_t *my_ids = a.ids + row_at(s, query, r) * s.topk;

    load_floats(m.q, a.qi + qi_at(s, query, r, DI), DI, threads);
    __syncthreads();
    const int candidates = s.topk > 1 ? local : 0;
    score_blocks<DI>(m, s, pages, a.ki, my_scores, candidates);
    __syncthreads();
    if (t < 32) {
        WarpList list = warp_list(s.topk, local);
        offer_all(list, 0, 32, candidates, [&](int b) { return rank_key(ld_global(my_scores + b), b); });
        write_ids(my_ids, list.entry, s.topk);
    }
    __syncthreads();
    const int each = s.block / pages.piece;
    for (int c = t; c < ceil_div(selected(s, i), pages.piece); c += threads)
        st_shared(&m.piece[c], piece_of(pages, n, ld_global(my_ids + c / each) * each + c % each));

    for (int h = r * s.group; h < (r + 1) * s.group; h++)
        attend<D>(m, s, pages.piece, a.q + q_at(s, query, h, D), a.k, a.v, selected(s, i), r,
                  o + q_at(s, query, h, D), a.lse ? a.lse + lse_at(s, query, h) : nullptr);
}

float *take_scores(Carve &carve, const Call &c)
{
    return carve.take<float>((int64_t)c.batch * c.s.n_q * c.s.n_kv_heads * c.s.n_blocks);
}

size_t workspace(const Call &c)
{
    Carve carve = {};
    take_scores(carve, c);
    return carve.used;
}

msa_status run(const Call &c)
{
    if (!supported(c) || c.pages.ki8 || c.fresh.k || c.fresh.rejected)
        return MSA_ERR_UNSUPPORTED;
    const dim3 grid((unsigned)c.s.n_q, (unsigned)c.s.n_kv_heads, (unsigned)c.batch);
    Carve carve = {(uintptr_t)c.work};
    float *scores = take_scores(carve, c);
    with_int<64, 128>(c.d_index, [&](auto di) {
        with_int<64, 128>(c.d_head, [&](auto d) {
            with_output(c, [&](auto *o) {
                LAUNCH((naive<di.value, d.value, std::remove_pointer_t<decltype(o)>>), grid, dim3(threads),
                       sizeof(Smem), c.stream, c.s, c.pages, c.a, scores, o);
            });
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(decode, naive, run, workspace);
