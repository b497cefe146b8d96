/**
 * @file 2_tiled.cu
 * @brief Dense causal GQA on CUDA cores, in tiles of 64 queries of a head and 64 keys.
 *
 * Idea: 256 threads share a tile of Q and walk the keys together. A thread has 4 rows x 4 keys of S, and D /
 * 16 columns of the same rows of O, in registers: what it takes from shared memory serves four rows or four
 * keys.
 * Bytes: Q and O once; of K and V, each 64 queries of each head read what they see, in whole tiles.
 * Floor: that of 1_naive. Shared memory is nearer: by the engine's count of passes about 1.7 times as long.
 * Waste: tensor cores, sixteen times as fast; every head of a group reads the same K and V; loads and
 * arithmetic take turns; half of the diagonal tile. 115 KB of shared memory at dh 128: one CTA an SM.
 */
#include "../kit/kernel.cuh"

namespace
{

constexpr int tile = 64, threads = 256; // 16 x 16 threads with 4 rows x 4 keys each
/// Floats at a row's end: the 16 bytes at one column of 8 rows lie in different banks.
constexpr int padding = 4;

template <int D> struct Smem {
    alignas(16) float q[tile][D + padding], k[tile][D + padding], v[tile][D], p[tile][tile + padding];
};

/// Copies rows as floats; source(row) is where one is, NULL for zeros.
template <int D, int pitch, class Source> PTX_INLINE void load_tile(float (&to)[tile][pitch], Source source)
{
    for (int i = (int)threadIdx.x; i < tile * D / 4; i += threads) {
        const int row = i / (D / 4), column = i % (D / 4) * 4;
        const bf16 *from = source(row);
        const bf16x4 a = from ? ld_global((const bf16x4 *)(from + column)) : bf16x4();
        st_shared((float4 *)&to[row][column],
                  make_float4(to_float(a.x[0]), to_float(a.x[1]), to_float(a.x[2]), to_float(a.x[3])));
    }
}

PTX_INLINE float4 load_4(const float &first)
{
    return ld_shared((const float4 *)&first);
}
PTX_INLINE float dot(float4 a, float4 b)
{
    return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}
PTX_INLINE void add_scaled(float4 &sum, float factor, float4 x)
{
    sum = make_float4(sum.x + factor * x.x, sum.y + factor * x.y, sum.z + factor * x.z, sum.w + factor * x.w);
}

/// Largest value and sum over the 16 threads of a row.
PTX_INLINE float row_max(float x)
{
    for (int with = 1; with < 16; with *= 2)
        x = fmaxf(x, shfl_xor(x, with));
    return x;
}
PTX_INLINE float row_sum(float x)
{
    for (int with = 1; with < 16; with *= 2)
        x += shfl_xor(x, with);
    return x;
}

/// From products to P, which goes to shared memory: the 16 threads of a row, half a warp, hold each a part of it.
/// Row i of the thread's sees the keys up to last + i.
template <int D>
PTX_INLINE void weigh(Smem<D> &smem, float (&p)[4][4], float (&m)[4], float (&l)[4], float4 (&acc)[4][D / 64],
                      float scale, int row, int x, int last)
{
    for (int i = 0; i < 4; i++) {
        float top = minus_infinity();
        for (int n = 0; n < 4; n++) {
            const bool visible = x + 16 * n <= last + i;
            p[i][n] = visible ? p[i][n] * scale : minus_infinity();
            top = fmaxf(top, p[i][n]);
        }
        const float next = fmaxf(m[i], row_max(top)), keep = ex2(m[i] - next);
        m[i] = next;
        l[i] *= keep;
        for (int n = 0; n < 4; n++) {
            p[i][n] = ex2(p[i][n] - next);
            l[i] += p[i][n];
            st_shared(&smem.p[row + i][x + 16 * n], p[i][n]);
        }
        for (int c = 0; c < D / 64; c++)
            acc[i][c] =
                make_float4(acc[i][c].x * keep, acc[i][c].y * keep, acc[i][c].z * keep, acc[i][c].w * keep);
    }
}

/// acc += P V of the thread's rows.
template <int D> PTX_INLINE void add_values(float4 (&acc)[4][D / 64], const Smem<D> &smem, int row, int x)
{
    for (int n = 0; n < tile; n += 4) {
        float4 weight[4];
        for (int i = 0; i < 4; i++)
            weight[i] = load_4(smem.p[row + i][n]);
        for (int c = 0; c < D / 64; c++) {
            float4 value[4];
            for (int e = 0; e < 4; e++)
                value[e] = load_4(smem.v[n + e][4 * x + 64 * c]);
            for (int i = 0; i < 4; i++) {
                add_scaled(acc[i][c], weight[i].x, value[0]);
                add_scaled(acc[i][c], weight[i].y, value[1]);
                add_scaled(acc[i][c], weight[i].z, value[2]);
                add_scaled(acc[i][c], weight[i].w, value[3]);
            }
        }
    }
}

template <int D, class Out>
__global__ void __launch_bounds__(threads)
    tiled(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, Out *o, float *lse)
{
    s = actual(s);
    Smem<D> &smem = shared<Smem<D>>();
    const int h = (int)blockIdx.y, r = h / s.group;
    const int first = tile * (int)(gridDim.x - 1 - blockIdx.x); // query; those with most keys start first
    if (first >= s.n_q)
        return;
    const int x = (int)threadIdx.x % 16, row = (int)threadIdx.x / 16 * 4; // keys x + 16 n, rows row .. + 3
    const float scale = log2_e / sqrtf((float)D);
    load_tile<D>(smem.q, [&](int i) { return first + i < s.n_q ? q + q_at(s, first + i, h, D) : nullptr; });

    float m[4], l[4] = {};
    float4 acc[4][D / 64]; // columns 4 x + 64 c .. + 3
    for (int i = 0; i < 4; i++) {
        m[i] = lowest;
        for (int c = 0; c < D / 64; c++)
            acc[i][c] = make_float4(0, 0, 0, 0);
    }
    const int end = s.prefix + first + tile < s.n_kv ? s.prefix + first + tile : s.n_kv;
    for (int j = 0; j < end; j += tile) {
        auto key = [&](const bf16 *from) {
            return
                [&s, from, j, r](int i) { return j + i < s.n_kv ? from + kv_at(s, j + i, r, D) : nullptr; };
        };
        __syncthreads(); // all are done with the last tile
        load_tile<D>(smem.k, key(k));
        load_tile<D>(smem.v, key(v));
        __syncthreads();

        // [outer_product]
        float p[4][4] = {};
        for (int c = 0; c < D; c += 4)
            for (int n = 0; n < 4; n++) {
                const float4 b = load_4(smem.k[x + 16 * n][c]);
                for (int i = 0; i < 4; i++)
                    p[i][n] += dot(load_4(smem.q[row + i][c]), b);
            }
        // [outer_product]
        weigh(smem, p, m, l, acc, scale, row, x, s.prefix + first + row - j);
        __syncwarp(); // a row's P is its own warp's
        add_values(acc, smem, row, x);
    }
    for (int i = 0; i < 4; i++) {
        const float sum = row_sum(l[i]), inverse = 1 / sum;
        if (first + row + i >= s.n_q)
            continue;
        Out *const to = o + q_at(s, first + row + i, h, D) + 4 * x;
        for (int c = 0; c < D / 64; c++)
            store_4(to + 64 * c, make_float4(acc[i][c].x * inverse, acc[i][c].y * inverse,
                                             acc[i][c].z * inverse, acc[i][c].w * inverse));
        if (lse && x == 0)
            st_global(lse + lse_at(s, first + row + i, h), lse_of(m[i], sum));
    }
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div(c.s.n_q, tile), (unsigned)c.s.n_heads);
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_output(c, [&](auto *o) {
            LAUNCH((tiled<d.value, std::remove_pointer_t<decltype(o)>>), grid, dim3(threads),
                   sizeof(Smem<d.value>), c.stream, c.s, c.a.q, c.a.k, c.a.v, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(dense, tiled, run, no_workspace);
