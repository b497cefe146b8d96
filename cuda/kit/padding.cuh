/**
 * @file padding.cuh
 * @brief What is left to do in a padded batch when every kernel looks at what there is alone: checking the
 * lengths, writing the rows between a sequence's last query and its capacity, and the mean over the queries
 * that there are.
 */
#ifndef MSA_PADDING_CUH
#define MSA_PADDING_CUH

#include "kernel.cuh"

namespace
{

constexpr int pad_threads = 256, pad_blocks = 132, max_outputs = 5;

/// An output in words of 4 bytes: word c of row i is x[i * width + c], in each of `groups` parts that are
/// `stride` words apart; in the rows of padding it is `value`.
struct Rows {
    uint32_t *x;
    int64_t width, stride;
    int groups;
    uint32_t value;
};
struct Outputs {
    Rows rows[max_outputs];
    int n;
};

__global__ void __launch_bounds__(pad_threads)
    pad(Shape padded, const __grid_constant__ Outputs outputs, int32_t *status)
{
    const Shape s = actual(padded);
    const Padding &p = padded.padding;
    const int thread = (int)(blockIdx.x * pad_threads + threadIdx.x);
    const bool good =
        (!p.len_q || s.n_q == ld_global(p.len_q)) && (!p.len_kv || s.n_kv == ld_global(p.len_kv));
    if (!good && status && thread == 0 && blockIdx.y == 0)
        atomicMax(status, (int32_t)MSA_ERR_SEQLENS);
    engine_require(good || status, "lengths are in their rooms, no more queries than keys");
    if (outputs.n == 0)
        return;
    const Rows &rows = outputs.rows[blockIdx.y];
    const int64_t end = p.n_q * rows.width;
    for (int r = 0; r < rows.groups; r++)
        for (int64_t c = s.n_q * rows.width + thread; c < end; c += gridDim.x * pad_threads)
            st_global(rows.x + r * rows.stride + c, rows.value);
}

/// What each stage writes.
constexpr unsigned written[] = {
#define A ARRAY_BIT
#define STAGE(NAME, name, idea, in, out, ...) out,
#include "../../ref/stages.def"
#undef A
};

/// What padding is in these arrays: a query that sees nothing.
Outputs outputs_of(const Call &c, msa_stage stage)
{
    constexpr uint32_t zero = 0, minus_infinity = 0xff800000, no_block = ~0u;
    const Shape &s = c.s;
    Outputs out = {};
    auto add = [&](array_id a, void *x, int64_t width, uint32_t value, int groups = 1) {
        if (x && HAS(written[stage], a))
            out.rows[out.n++] = {(uint32_t *)x, width, s.rows * width, groups, value};
    };
    add(ARRAY_O, c.a.o, (int64_t)s.n_heads * c.d_head / (c.out == MSA_BF16 ? 2 : 1), zero);
    add(ARRAY_LSE, c.a.lse, s.n_heads, minus_infinity);
    add(ARRAY_IDS, c.a.ids, s.topk, no_block, s.n_kv_heads);
    add(ARRAY_SCORES, c.a.scores, s.n_scores, minus_infinity, s.n_kv_heads);
    add(ARRAY_INDEX_LSE, c.a.index_lse, 1, minus_infinity, s.n_kv_heads);
    return out; // gradients begin as zeros everywhere
}

/// Enqueues both for one sequence of a call of this stage.
void launch_padding(const Call &c, msa_stage stage, int32_t *status)
{
    const Outputs outputs = outputs_of(c, stage);
    LAUNCH(pad, dim3(pad_blocks, outputs.n > 1 ? (unsigned)outputs.n : 1), dim3(pad_threads), 0, c.stream,
           c.s, outputs, status);
}

/// L_KL and its gradients are means over queries, which the kernels of a sequence take to be all that the
/// call has a capacity for: corrects them to those that there are.
__global__ void __launch_bounds__(pad_threads)
    mean(int64_t capacity, const int32_t *len_q, int n_seqs, float *dqi, int64_t n_qi, float *dki, int64_t n_ki,
         double *loss)
{
    const int64_t first = (int64_t)blockIdx.x * pad_threads + threadIdx.x,
                  step = (int64_t)gridDim.x * pad_threads;
    int64_t n = 0;
    for (int r = 0; r < n_seqs; r++)
        n += ld_global(len_q + r);
    const double factor = n > 0 ? (double)capacity / (double)n : 1;
    for (int64_t c = first; c < n_qi; c += step)
        st_global(dqi + c, ld_global(dqi + c) * (float)factor);
    for (int64_t c = first; c < n_ki; c += step)
        st_global(dki + c, ld_global(dki + c) * (float)factor);
    if (first == 0)
        st_global(loss, ld_global(loss) * factor);
}

/// Enqueues that, after all sequences of the call.
void launch_mean(const msa_shape *s, const msa_arrays *a, cudaStream_t stream)
{
    float *dqi = (float *)a->dqi, *dki = (float *)a->dki;
    LAUNCH(mean, dim3(pad_blocks), dim3(pad_threads), 0, stream, s->n_q, a->len_q, msa_n_seqs(s), dqi,
           dqi ? s->n_q * s->n_kv_heads * s->d_index : 0, dki, dki ? s->n_kv * s->d_index : 0, a->loss);
}

} // namespace

#endif
