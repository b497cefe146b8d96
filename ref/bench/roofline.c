/* The least work of every stage, and the ceilings of GPUs. */
#include "roofline.h"

#include "../../cuda/host/plan.h"
#include "../judge/selections.h"

/* NVIDIA's data sheets of the SXM boards. 989.4 TFLOP/s dense bf16 are 132 multiprocessors x 2048
 * multiply-adds a clock x 1.83 GHz. H800 and H100 differ in what neither of these shows: the links between
 * GPUs, and float64. */
const roofline_gpu roofline_gpus[ROOFLINE_GPUS] = {{"H800, H100", 989.4e12, 3.35e12},
                                                   {"H200", 989.4e12, 4.8e12}};

/* Sizes as the contract's formulas name them. */
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

static roofline_need dense(const sizes *z)
{
    return (roofline_need){.bytes = (2 + z->o) * z->t * z->hq * z->d + 4 * z->s * z->hkv * z->d};
}

static roofline_need index_branch(const msa_shape *s, const sizes *z, bool scores)
{
    const double row = 4 * (scores ? (double)msa_n_blocks(s) : z->k);
    return (roofline_need){.bytes = (2 * z->di + row) * z->t * z->hkv + 2 * z->s * z->di};
}

static roofline_need topk(const msa_shape *s, const sizes *z)
{
    return (roofline_need){.bytes = 4 * z->t * z->hkv * ((double)msa_n_blocks(s) + z->k)};
}

static roofline_need reverse(const msa_shape *s, const sizes *z)
{
    const double first = (double)msa_n_seqs(s) * z->hkv * ((double)msa_n_blocks(s) + 1);
    const double items = (double)msa_first_item(s, msa_n_seqs(s));
    return (roofline_need){.bytes = 8 * z->t * z->hkv * z->k + 4 * first + sizeof(msa_item) * items};
}

/* Section 4 with the pairs of this selection in place of N k Hkv, which early queries do not reach. */
static roofline_need sparse(bool kv_outer, const sizes *z)
{
    roofline_need n = {.bytes = (2 + z->o) * z->t * z->hq * z->d + z->chosen + 4 * z->t * z->hkv * z->k};
    n.formula = kv_outer ? "KV-outer" : "Q-outer";
    n.spec = kv_outer ? 4 * z->hkv * z->s * z->d + 4 * z->g * z->pairs * z->d +
                            2 * (z->g * z->pairs + z->hq * z->t) * z->d
                      : 4 * z->hq * z->t * z->d + 4 * z->pairs * z->bk * z->d;
    return n;
}

static roofline_need decode(const sizes *z)
{
    roofline_need n = {.bytes = (2 + z->o) * z->t * z->hq * z->d + 2 * (z->t * z->hkv + z->s) * z->di +
                                z->chosen + 4 * z->t * z->hkv * z->k};
    n.formula = "decode";
    n.spec = 2 * z->di * z->s + 4 * z->pairs * z->bk * z->d;
    return n;
}

double roofline_fma(msa_stage stage, const msa_shape *s, const int32_t *ids)
{
    const double g = s->n_heads / s->n_kv_heads, d = s->d_head, di = s->d_index;
    const double all = selection_pairs(s, NULL), chosen = ids ? selection_pairs(s, ids) : all;
    switch (stage) {
    case MSA_STAGE_DENSE:
    case MSA_STAGE_DENSE_DECODE: /* Q K^T and P V */
        return all * g * 2 * d;
    case MSA_STAGE_INDEX:
        return all * di;
    case MSA_STAGE_SPARSE:
        return chosen * g * 2 * d;
    case MSA_STAGE_PREFILL:
    case MSA_STAGE_DECODE:
        return all * di + chosen * g * 2 * d;
    case MSA_STAGE_BACKWARD:
    case MSA_STAGE_DENSE_BACKWARD: /* five products where the forward pass has two */
        return chosen * g * 5 * d;
    case MSA_STAGE_KL: /* the main scores, and three products of the index */
        return chosen * (g * d + 3 * di);
    default:
        return 0;
    }
}

/* Bytes of bf16 inputs, float32 gradients and 4-byte words, O as it is stored. */
static roofline_need bytes_of(const msa_kernel *kernel, const msa_shape *s, const sizes *z, bool scores)
{
    char name[KERNEL_NAME];
    switch (kernel->stage) {
    case MSA_STAGE_DENSE:
    case MSA_STAGE_DENSE_DECODE:
        return dense(z);
    case MSA_STAGE_INDEX:
        return index_branch(s, z, scores);
    case MSA_STAGE_TOPK:
        return topk(s, z);
    case MSA_STAGE_REVERSE:
        return reverse(s, z);
    case MSA_STAGE_SPARSE:
        return sparse(plan_takes(kernel_name(kernel, name)) & TAKES_KV_OUTER, z);
    case MSA_STAGE_BACKWARD:
    case MSA_STAGE_DENSE_BACKWARD: /* Q, O, dO and dQ, K, V, dK and dV */
        return (roofline_need){.bytes = (8 + z->o) * z->t * z->hq * z->d + z->chosen +
                                        8 * z->s * z->hkv * z->d + 4 * z->t * (z->hq + z->hkv * z->k)};
    case MSA_STAGE_KL:
        return (roofline_need){.bytes = 2 * z->t * z->hq * z->d + z->chosen / 2 + 6 * z->t * z->hkv * z->di +
                                        6 * z->s * z->di + 4 * z->t * (z->hq + z->hkv * (z->k + 1))};
    default:
        return decode(z);
    }
}

roofline_need roofline_of(const msa_kernel *kernel, const msa_shape *s, msa_dtype out, const msa_arrays *a)
{
    const int32_t *ids = kernel->stage == MSA_STAGE_PREFILL && a->forced_ids ? a->forced_ids : a->ids;
    const sizes z = sizes_of(s, out, ids);
    roofline_need n = bytes_of(kernel, s, &z, a->scores != NULL);
    n.fma = roofline_fma(kernel->stage, s, ids);
    return n;
}
