/**
 * @file softmax.cuh
 * @brief Online softmax on the accumulators of tensor cores, and what comes after it: P as the next
 *        product's operand, O to memory.
 *
 * The accumulators of a tile of N keys are one flat array, float s[N / 2], in the order of fragment_d(): that
 * of a wgmma, or of N / 8 mma.sync one after the other. A thread holds parts of two rows, 8 apart: `half` 0
 * is the upper, 1 the lower. Four neighbouring lanes, a quad, hold a row together; a warp runs all of this
 * converged.
 *
 * Everything is in base 2: x = s scale log2(e), P = 2^(x - m). P is multiplied by V unnormalised.
 */
#ifndef MSA_SOFTMAX_CUH
#define MSA_SOFTMAX_CUH

#include "kernel.cuh"

/// Rows a thread's half lies in: 0..15 of a warp's tile for a lane, 0..63 of a warpgroup's for its thread.
PTX_INLINE int fragment_row(int thread, int half)
{
    return fragment_d(thread, 2 * half).row;
}

/// What is known of a thread's two rows so far.
struct Softmax {
    float m[2]; ///< the largest x, the same in the quad
    float l[2]; ///< this thread's part of the sum of 2^(x - m), of P before it is rounded
};

PTX_INLINE Softmax softmax_init()
{
    return {{lowest, lowest}, {0, 0}};
}

/// The largest of a row's products in the quad; what the row does not see becomes -inf, if `masked`.
template <bool masked, int n, class Visible>
PTX_INLINE float softmax_top(float (&s)[n], int half, Visible visible)
{
    const int lane = (int)threadIdx.x % 32;
    float top = minus_infinity();
    for (int i = 2 * half; i < n; i += i % 2 ? 3 : 1) { // 0 1 4 5 8 9 or 2 3 6 7 10 11
        if (masked && !visible(half, fragment_d(lane, i).col))
            s[i] = minus_infinity();
        top = fmaxf(top, s[i]);
    }
    top = fmaxf(top, shfl_xor(top, 1));
    return fmaxf(top, shfl_xor(top, 2));
}
/// A row's products become weights, whose largest product so far is `top`. What was summed up before keeps so much.
template <int n>
PTX_INLINE float softmax_weigh(Softmax &state, float (&s)[n], int half, float top, float scale)
{
    const float m = fmaxf(state.m[half], top * scale);
    float sum = 0;
    for (int i = 2 * half; i < n; i += i % 2 ? 3 : 1) {
        s[i] = ex2(s[i] * scale - m);
        sum += s[i];
    }
    const float keep = ex2(state.m[half] - m);
    state.l[half] = state.l[half] * keep + sum;
    state.m[half] = m;
    return keep;
}
/// Takes in one tile: s comes as products and goes as P. What was summed up before has to be multiplied by
/// `keep`: see rescale(). If `masked`, visible(half, column) says what the row sees of the tile; a row may
/// see nothing, of this tile or of all so far.
template <bool masked, int n, class Visible>
PTX_INLINE void softmax_step(Softmax &state, float (&s)[n], float (&keep)[2], float scale, Visible visible)
{
    timeline_mark("softmax", 8 * n); // a quarter of the SM takes 4 exponentials a clock
    for (int half = 0; half < 2; half++)
        keep[half] = softmax_weigh(state, s, half, softmax_top<masked>(s, half, visible), scale);
}

/// O so far, relative to the maximum so far.
template <int n> PTX_INLINE void rescale(float (&o)[n], const float (&keep)[2])
{
    for (int i = 0; i < n; i++)
        o[i] *= keep[i / 2 % 2];
}

/// P in bf16 as the left operand of P V: the fragments of D and A agree, so nothing moves between threads.
/// p[step] are the keys 16 step .. 16 step + 15.
// [pack_weights]
template <int n> PTX_INLINE void pack_weights(uint32_t (&p)[n / 8][4], const float (&s)[n])
{
    for (int i = 0; i < n / 2; i++)
        p[i / 4][i % 4] = pack_bf16(s[2 * i], s[2 * i + 1]);
}
// [pack_weights]

/// The quad's parts of the sum.
PTX_INLINE float softmax_sum(const Softmax &state, int half)
{
    float l = state.l[half];
    l += shfl_xor(l, 1);
    return l + shfl_xor(l, 2);
}
/// After the last tile of a row: 1 / l by which to multiply O, and the natural logarithm of the row's sum of
/// exponentials. Both O and LSE are NaN for a row that saw nothing but logits of -inf.
PTX_INLINE void softmax_finish(const Softmax &state, float (&inverse)[2], float (&lse)[2])
{
    for (int half = 0; half < 2; half++) {
        const float l = softmax_sum(state, half);
        inverse[half] = 1 / l;
        lse[half] = lse_of(state.m[half], l);
    }
}
/// The same where this was a part of the row, to be weighed against others by its LSE: 0 and -inf for a part
/// that saw nothing, or nothing but -inf. NaN stays.
PTX_INLINE void softmax_finish_part(const Softmax &state, float (&inverse)[2], float (&lse)[2])
{
    for (int half = 0; half < 2; half++) {
        const float l = softmax_sum(state, half);
        inverse[half] = l == 0 ? 0 : 1 / l;
        lse[half] = state.m[half] * ln_2 + logf(l);
    }
}

/// Writes accumulators of n / 2 columns, times `factor`. row(half) is where the row starts, NULL for none. A
/// thread holds two columns of every 8; two lanes trade, so that each holds four columns of every other 8.
template <class Out, int n, class Row>
PTX_INLINE void write_rows(const float (&o)[n], const float (&factor)[2], Row row)
{
    const int lane = (int)threadIdx.x % 32, odd = lane % 2;
    for (int half = 0; half < 2; half++) {
        Out *const start = row(half);
        for (int i = 2 * half; i < n; i += 8) { // o[i], o[i+1] and, 8 columns on, o[i+4], o[i+5]
            const float a = shfl_xor(odd ? o[i] : o[i + 4], 1), b = shfl_xor(odd ? o[i + 1] : o[i + 5], 1);
            const float f = factor[half];
            const float4 x = odd ? make_float4(a * f, b * f, o[i + 4] * f, o[i + 5] * f)
                                 : make_float4(o[i] * f, o[i + 1] * f, a * f, b * f);
            if (start)
                store_4(start + 8 * (i / 4 + odd) + lane % 4 / 2 * 4, x);
        }
    }
}

#endif
