/* wants: scores.*: expected .*, found .*, on normal inputs */
/* Block scores on tensor cores, a warp per 8 index queries and block of 32 keys: keys are rows; tiles that nobody sees
 * are left out. */
#include "../../../cuda/index/rows.cuh"

namespace
{

constexpr int width = 64, rows = 8, keys = 32; // channels; index queries and keys of a warp

/// Two neighbouring channels as mma.sync takes them; those of a vector that does not exist are zeros.
PTX_INLINE uint32_t pair(const bf16 *x, int64_t vector, int64_t n_vectors, int c)
{
    return vector < n_vectors ? ld_global((const uint32_t *)(x + vector * width + c)) : 0;
}

/// d = the products of 16 keys from key0 on, the rows of d, and 8 index queries from row0 on, its columns.
PTX_INLINE void product(float (&d)[4], const Shape &s, const bf16 *qi, const bf16 *ki, int64_t row0, int64_t key0)
{
    const int lane = (int)threadIdx.x;
    for (int c = 0; c < width; c += 16) {
        uint32_t a[4], b[2];
        for (int i = 0; i < 4; i++) {
            const Element e = fragment_a(lane, 2 * i);
            a[i] = pair(ki, key0 + e.row, s.n_kv, c + e.col);
        }
        for (int i = 0; i < 2; i++) {
            const Element e = fragment_b(lane, 2 * i);
            b[i] = pair(qi, row0 + e.col, n_rows(s), c + e.row);
        }
        mma_m16n8k16(d, a, b);
    }
}

__global__ void __launch_bounds__(32) tensor_tiles(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    const int64_t b = blockIdx.x % s.n_scores, row0 = blockIdx.x / s.n_scores * rows;
    const int64_t end = row0 + rows < n_rows(s) ? row0 + rows : n_rows(s);
    const int lane = (int)threadIdx.x, last = position_of(s, end - 1); // the last key that any of the queries sees
    float maximum[2] = {minus_infinity(), minus_infinity()};           // of columns 2 (lane % 4) and the next
    for (int64_t key0 = b * keys; key0 < (b + 1) * keys && key0 <= last; key0 += 16) {
        float d[4] = {};
        product(d, s, qi, ki, row0, key0);
        for (int i = 0; i < 4; i++) {
            const Element e = fragment_d(lane, i);
            if (key0 + e.row <= position_of(s, row0 + e.col))
                maximum[i % 2] = fmaxf(maximum[i % 2], d[i]);
        }
    }
    for (int column = 0; column < 2; column++) {
        const int64_t row = row0 + 2 * (lane % 4) + column;
        for (int with = 1; with < 4; with *= 2)
            maximum[column] = fmaxf(maximum[column], shfl_xor(maximum[column], with));
        if (lane < 4 && row < end)
            st_global(scores + row_scores_at(s, row) + b, maximum[column] * scale<width>);
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
