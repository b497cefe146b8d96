/* wants: tensor multiply-adds */
/* Block scores, a warp per 16 index queries and block of 32 keys, on tensor cores. */
#include "../../../cuda/index/rows.cuh"

namespace
{

constexpr int width = 64, rows = 16, keys = 32; // channels; queries and keys of a warp

/// Two neighbouring channels of a vector; zeros, if there is no such vector.
PTX_INLINE uint32_t pair(const bf16 *x, int64_t vector, int64_t n_vectors, int c)
{
    return vector < n_vectors ? ld_global((const uint32_t *)(x + vector * width + c)) : 0;
}

/// d = the products of 16 queries from row0 on with 8 keys from key0 on, in the places of fragment_d().
PTX_INLINE void product(float (&d)[4], const Shape &s, const bf16 *qi, const bf16 *ki, int64_t row0, int64_t key0)
{
    const int lane = (int)threadIdx.x;
    for (int c = 0; c < width; c += 16) {
        uint32_t a[4], b[2];
        for (int i = 0; i < 4; i++) {
            const Element e = fragment_a(lane, 2 * i); // query e.row, channels e.col and the next
            a[i] = pair(qi, row0 + e.row, n_rows(s), c + e.col);
        }
        for (int i = 0; i < 2; i++) {
            const Element e = fragment_b(lane, 2 * i); // channels e.row and the next, key e.col
            b[i] = pair(ki, key0 + e.col, s.n_kv, c + e.row);
        }
        mma_m16n8k16(d, a, b);
    }
}

/// A product channel by channel.
PTX_INLINE float plain(const Shape &s, const bf16 *qi, const bf16 *ki, int64_t row, int64_t key)
{
    float dot = 0;
    for (int c = 0; c < width && row < n_rows(s) && key < s.n_kv; c++)
        dot += to_float(ld_global(qi + row * width + c)) * to_float(ld_global(ki + key * width + c));
    return dot;
}

__global__ void __launch_bounds__(32) tensor_tiles(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    const int64_t b = blockIdx.x % s.n_scores, row0 = blockIdx.x / s.n_scores * rows;
    const int lane = (int)threadIdx.x;
    float maximum[2] = {minus_infinity(), minus_infinity()}; // of rows lane / 4 and lane / 4 + 8
    for (int64_t key0 = b * keys; key0 < (b + 1) * keys; key0 += 8) {
        float d[4] = {};
        if (key0 == b * keys)
            product(d, s, qi, ki, row0, key0);
        for (int i = 0; i < 4 && key0 > b * keys; i++)
            d[i] = plain(s, qi, ki, row0 + fragment_d(lane, i).row, key0 + fragment_d(lane, i).col);
        for (int i = 0; i < 4; i++) {
            const Element e = fragment_d(lane, i);
            if (key0 + e.col <= position_of(s, row0 + e.row))
                maximum[i / 2] = fmaxf(maximum[i / 2], d[i]);
        }
    }
    for (int half = 0; half < 2; half++) {
        const int64_t row = row0 + lane / 4 + 8 * half;
        for (int with = 1; with < 4; with *= 2)
            maximum[half] = fmaxf(maximum[half], shfl_xor(maximum[half], with));
        if (lane % 4 == 0 && row < n_rows(s))
            st_global(scores + row_scores_at(s, row) + b, maximum[half] * scale<width>);
    }
}

msa_status run(const Call &c)
{
    if (!only_scores(c) || c.s.block != keys)
        return MSA_ERR_UNSUPPORTED;
    const int64_t row_tiles = ceil_div(n_rows(c.s), (int64_t)rows);
    LAUNCH(tensor_tiles, dim3((unsigned)(row_tiles * c.s.n_scores)), dim3(32), 0, c.stream, c.s, c.a.qi, c.a.ki,
           c.a.scores);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
