/* The least work of every stage, and the ceilings of GPUs. */
#include "roofline.h"

#include "../../cuda/host/plan.h"
#include "../judge/selections.h"

/* NVIDIA's data sheets of the SXM boards. 989.4 TFLOP/s dense bf16 are 132 SMs x 2048
 * multiply-adds a clock x 1.83 GHz. H800 and H100 differ in what neither of these shows: the links between
 * GPUs, and float64. */
const roofline_gpu roofline_gpus[ROOFLINE_GPUS] = {{"H800, H100", 989.4e12, 3.35e12},
                                                   {"H200", 989.4e12, 4.8e12}};

/* Sizes as the book's formulas name them. */
typedef struct sizes {
    double t, s, hq, hkv, g, d, di, bk, k, o; /* o: bytes of an element of O */
    double pairs;                             /* (query, group, block chosen) */
    double chosen;                            /* bytes of K and V of blocks that some query chose */
} sizes;

static double count_pairs(const msa_shape *s, const int32_t *ids)
{
    double n = 0;
    for (int64_t i = 0; i < s->n_kv_heads * s->n_q * s->topk; i++)
        n += ids[i] >= 0;
    return n;
}

static sizes sizes_of(const msa_shape *s, msa_dtype out, const int32_t *ids)
{
    sizes z = {(double)s->n_q,
               (double)s->n_kv,
               s->n_heads,
               s->n_kv_heads,
               s->n_heads / s->n_kv_heads,
               s->d_head,
               s->d_index,
               s->block,
               s->topk,
               out == MSA_BF16 ? 2 : 4,
               0,
               0};
    if (ids) {
        const double most = 4 * z.s * z.hkv * z.d;
        z.pairs = count_pairs(s, ids);
        z.chosen = 4 * z.bk * z.d * (double)selection_blocks(s, ids);
        z.chosen = z.chosen < most ? z.chosen : most;
    }
    return z;
}

/* The formulas of the loop orders (chapter 14) and of a token's decoding (cost.c), with the pairs of this selection in
 * place of N k Hkv, which early queries do not reach. */
static roofline_need order_of(const msa_kernel *kernel, const sizes *z)
{
    char name[KERNEL_NAME];
    switch (kernel->stage) {
    case MSA_STAGE_SPARSE:
        if (plan_takes(kernel_name(kernel, name)) & TAKES_KV_OUTER)
            return (roofline_need){.order = "KV-outer",
                                   .order_bytes = 4 * z->hkv * z->s * z->d + 4 * z->g * z->pairs * z->d +
                                                  2 * (z->g * z->pairs + z->hq * z->t) * z->d};
        return (roofline_need){.order = "Q-outer",
                               .order_bytes = 4 * z->hq * z->t * z->d + 4 * z->pairs * z->bk * z->d};
    case MSA_STAGE_PREFILL:
    case MSA_STAGE_DECODE:
        return (roofline_need){.order = "decode",
                               .order_bytes = 2 * z->di * z->s + 4 * z->pairs * z->bk * z->d};
    default:
        return (roofline_need){0};
    }
}

/* What the arrays of a stage say of its products. The index scores all visible pairs, the others go to those that are
 * attended: Q K^T and P V; three more in a gradient, whose forward pass is done again; three of KL's. */
double roofline_fma(msa_stage stage, const msa_shape *s, const int32_t *ids)
{
    const stage_line of = arrays_of(stage);
    const double g = s->n_heads / s->n_kv_heads, d = s->d_head, di = s->d_index;
    const double all = selection_pairs(s, NULL);
    const double attended = ids && HAS(of.in | of.out, ARRAY_IDS) ? selection_pairs(s, ids) : all;
    const double products =
        (HAS(of.in, ARRAY_Q) & HAS(of.in, ARRAY_K)) + HAS(of.in, ARRAY_V) + 3 * HAS(of.in, ARRAY_DOUT);
    const bool scores = HAS(of.in, ARRAY_QI) && HAS(of.out, ARRAY_IDS);
    return attended * (products * g * d + 3 * di * HAS(of.out, ARRAY_DQI)) + scores * all * di;
}

/* Whether its bytes are among the least: log-sum-exps and ids beside scores are left only where somebody asks. */
static bool counts(const msa_arrays *a, stage_line of, array_id i)
{
    if (HAS(of.out, i) && (i == ARRAY_LSE || i == ARRAY_INDEX_LSE))
        return false;
    if (HAS(of.out & of.optional, i) && (i == ARRAY_SCORES || i == ARRAY_IDS))
        return (i == ARRAY_SCORES) == (a->scores != NULL);
    return HAS(of.in | of.out, i);
}

/* Every array once: bf16 inputs, float32 gradients and 4-byte words, O as it is stored; of K and V the blocks that some
 * query chose. */
static double bytes_of(const msa_shape *s, const sizes *z, stage_line of, const msa_arrays *a)
{
    double bytes = 0;
    for (array_id i = 0; i < ARRAY_N; i++) {
        const double element = i == ARRAY_O ? z->o : array_element(i) == ELEMENT_HALF ? 2 : 4;
        if (!counts(a, of, i))
            continue;
        if (HAS(of.in | of.out, ARRAY_IDS) && (i == ARRAY_K || i == ARRAY_V))
            bytes += z->chosen / 2;
        else
            bytes += element * (double)array_count(s, NULL, i);
    }
    return bytes;
}

roofline_need roofline_of(const msa_kernel *kernel, const msa_shape *s, msa_dtype out, const msa_arrays *a)
{
    const int32_t *ids = kernel->stage == MSA_STAGE_PREFILL && a->forced_ids ? a->forced_ids : a->ids;
    const sizes z = sizes_of(s, out, ids);
    roofline_need n = order_of(kernel, &z);
    n.bytes = bytes_of(s, &z, arrays_of(kernel->stage), a);
    n.fma = roofline_fma(kernel->stage, s, ids);
    return n;
}
