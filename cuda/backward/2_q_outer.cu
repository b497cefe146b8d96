/**
 * @file 2_q_outer.cu
 * @brief The gradient of attention on tensor cores by mma.sync, the query in the outer loop.
 *
 * Idea: a CTA owns one query and one group, as in sparse/2_q_outer.cu, and writes its dQ once; four warps deal
 * the keys among them in slices of 16. Products are turned around, keys by heads, so that P^T and dS^T are
 * left operands of dV += P^T dO and dK += dS^T Q as they are; dS comes back through shared memory for dQ += dS
 * K. dK and dV go to memory by reductions, summed over the G heads before.
 * Bytes, with P pairs (query, group, 16 keys of a block, hidden ones too) and all keys there: 64 dh P of K and
 * V, 128 dh P of reductions; 4 Hq T dh of Q and dO, 4 Hq T dh of dQ; 8 Hq T of LSE and delta, 16 k Hkv T of
 * ids; delta and zeros as in 1_naive.
 * Floor and waste: the reductions, 8 dh bytes for each key of each query and group, where its K and V have 4
 * dh; the memory's atomic units bound it.
 * Estimate: at M3's sizes and 128K tokens 1.1 TB of them and 0.55 TB of K and V, 0.49 s.
 */
#include "../kit/warp_attend.cuh"
#include "../sweep/centre.cuh"

namespace
{

constexpr int warps = 4, threads = 32 * warps;
constexpr int rows = 16;  ///< the heads of a group
constexpr int slice = 16; ///< keys

/// A warp's own: two slices of K and V, dS, and at the end its dQ.
template <int D> union Part {
    struct {
        WarpTile<slice, D> k[2], v[2];
        alignas(16) bf16 ds[slice][rows];
    } at;
    float dq[rows][D + 8];
};

template <int D> struct Smem {
    WarpTile<rows, D> q, dout;
    Part<D> part[warps];
    float lse[rows], delta[rows], excess[warps][rows];
};

/// Adds accumulators of 16 keys by D channels to rows in memory; row(half) is where a thread's row starts.
template <int n, class Row> PTX_INLINE void reduce_rows(const float (&x)[n], float factor, Row row)
{
    const int lane = (int)threadIdx.x % 32;
    for (int half = 0; half < 2; half++) {
        float *const start = row(half);
        for (int i = 2 * half; i < n && start; i += 4) {
            red_add(start + fragment_d(lane, i).col, factor * x[i]);
            red_add(start + fragment_d(lane, i).col + 1, factor * x[i + 1]);
        }
    }
}

/// dQ of the query's rows from the warps' parts, about its centre.
template <int D>
PTX_INLINE void merge(const Smem<D> &m, const Shape &s, const Centres &centres, int i, int r, float *dq)
{
    const int t = (int)threadIdx.x, row = t * rows / threads; // 8 threads a row, 4 channels each
    const float excess = excess_of(m.excess, row);
    for (int c = t % (threads / rows) * 4; c < D && row < s.group; c += 32) {
        float4 y = make_float4(0, 0, 0, 0);
        for (int w = 0; w < warps; w++) {
            const float4 part = ld_shared((const float4 *)&m.part[w].dq[row][c]);
            y = make_float4(y.x + part.x, y.y + part.y, y.z + part.z, y.w + part.w);
        }
        const float4 centre = load_4(centre_of(s, centres, i, r, D) + c);
        y = make_float4(y.x - excess * centre.x, y.y - excess * centre.y, y.z - excess * centre.z,
                        y.w - excess * centre.w);
        const float f = scale<D>;
        store_4(dq + q_at(s, i, r * s.group + row, D) + c, make_float4(f * y.x, f * y.y, f * y.z, f * y.w));
    }
}

/// Of the slice of keys from `first` on: adds dK and dV to memory, dQ to sum, and dS to excess.
template <int D>
PTX_INLINE void add_slice(float (&sum)[D / 2], float (&excess)[rows / 4], Smem<D> &m, int stage,
                          const Shape &s, int first, int position, int r, float *dk, float *dv)
{
    const int lane = (int)threadIdx.x % 32;
    auto &mine = m.part[threadIdx.x / 32].at;
    float p[rows / 2], ds[rows / 2];
    uint32_t left[1][4];
    warp_product<D>(p, mine.k[stage], 0, m.q, 0);
    warp_product<D>(ds, mine.v[stage], 0, m.dout, 0);
    for (int a = 0; a < rows / 2; a++) {
        const Element e = fragment_d(lane, a);
        const bool sees = first + e.row <= position && e.col < s.group;
        p[a] = sees ? ex2(p[a] * scale2<D> - ld_shared(&m.lse[e.col])) : 0;
        ds[a] = p[a] * (ds[a] - ld_shared(&m.delta[e.col]));
    }
    auto row = [&](float *x) {
        return [&s, x, first, lane, r](int half) {
            const int j = first + fragment_row(lane, half);
            return j < s.n_kv ? x + kv_at(s, j, r, D) : nullptr;
        };
    };
    {
        float acc[D / 2] = {};
        pack_weights(left, p);
        warp_values(acc, left, m.dout);
        reduce_rows(acc, 1, row(dv));
    }
    {
        float acc[D / 2] = {};
        pack_weights(left, ds);
        add_columns<rows / 2>(excess, left);
        warp_values(acc, left, m.q);
        reduce_rows(acc, scale<D>, row(dk));
    }
    for (int a = 0; a < rows / 2; a += 2) {
        const Element e = fragment_d(lane, a);
        st_shared((uint32_t *)&mine.ds[e.row][e.col], left[0][a / 2]);
    }
    __syncwarp();
    ldmatrix_x4_trans(left[0], &mine.ds[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    warp_values(sum, left, mine.k[stage]);
}

template <int D>
__global__ void __launch_bounds__(threads)
    q_outer(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *ids, const bf16 *dout,
            const float *lse, const float *delta, Centres centres, float *dq, float *dk, float *dv)
{
    s = actual(s);
    Smem<D> &m = shared<Smem<D>>();
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    const int i = (int)blockIdx.x, r = (int)blockIdx.y, position = s.prefix + i;
    if (i >= s.n_q)
        return;
    auto &mine = m.part[warp].at;
    const int id =
        ids && lane < s.topk ? ld_global(ids + row_at(s, i, r) * s.topk + lane) : -1; // one in each lane
    const int per_block = s.block / slice, chosen = __popc(warp_ballot(id >= 0)) * per_block;
    const int slices = ids ? chosen : position / slice + 1;
    auto first_key = [&](int x) {
        return ids ? shfl(id, x / per_block) * s.block + x % per_block * slice : x * slice;
    };
    auto fetch = [&](int x) {
        const int first = first_key(x), stage = x / warps % 2;
        auto key = [&](const bf16 *kv) {
            return [&s, kv, first, r](int row) {
                return first + row < s.n_kv ? kv + kv_at(s, first + row, r, D) : nullptr;
            };
        };
        copy_rows<32>(mine.k[stage], lane, key(k));
        copy_rows<32>(mine.v[stage], lane, key(v));
        cp_async_commit();
    };
    auto head = [&](const bf16 *x) {
        return
            [&s, x, i, r](int row) { return row < s.group ? x + q_at(s, i, r * s.group + row, D) : nullptr; };
    };
    copy_rows<threads>(m.q, t, head(q));
    copy_rows<threads>(m.dout, t, head(dout));
    cp_async_commit();
    if (t < rows) {
        const int64_t row = lse_at(s, i, r * s.group + t);
        st_shared(&m.lse[t], t < s.group ? ld_global(lse + row) * log2_e : 0);
        st_shared(&m.delta[t], t < s.group ? ld_global(delta + row) : 0);
    }
    if (warp < slices)
        fetch(warp);
    cp_async_wait<0>();
    __syncthreads();

    float sum[D / 2] = {}, excess[rows / 4] = {};
    for (int n = warp; n < slices; n += warps) {
        cp_async_wait<0>();
        __syncwarp(); // slice n is there, and all lanes are done with the one before
        if (n + warps < slices)
            fetch(n + warps);
        const int first = first_key(n), stage = n / warps % 2;
        add_slice(sum, excess, m, stage, s, first, position, r, dk, dv);
    }
    store_columns<rows / 2>(m.excess[warp], excess);
    __syncwarp(); // all lanes are done with the last slice
    for (int half = 0; half < 2; half++)
        for (int j = 2 * half; j < D / 2; j += 4)
            st_shared((float2 *)&m.part[warp].dq[fragment_row(lane, half)][fragment_d(lane, j).col],
                      make_float2(sum[j], sum[j + 1]));
    __syncthreads();
    merge(m, s, centres, i, r, dq);
}

size_t workspace(const Call &c)
{
    return query_scratch(c).bytes;
}

msa_status run(const Call &c)
{
    if (c.a.loss)
        return MSA_ERR_UNSUPPORTED;
    clear_gradients(c);
    if (c.s.n_q > 0)
        with_int<64, 128>(c.d_head, [&](auto d) {
            const QueryScratch w = query_scratch(c);
            launch_deltas<d.value>(c, w.delta);
            launch_centres<d.value>(c, c.a.k, c.s.n_kv_heads, w.centres);
            LAUNCH((q_outer<d.value>), dim3((unsigned)c.s.n_q, (unsigned)c.s.n_kv_heads), dim3(threads),
                   sizeof(Smem<d.value>), c.stream, c.s, c.a.q, c.a.k, c.a.v, c.a.ids, c.a.dout, c.a.lse,
                   w.delta, w.centres, c.a.dq, c.a.dk, c.a.dv);
        });
    return MSA_OK;
}

} // namespace

ENTRY(backward, q_outer, run, workspace);
