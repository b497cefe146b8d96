/* A selector that is small enough to train while one waits, and a fixed Main Branch for it to imitate.
 * Every block of tokens has two subjects, out of 8 each. The heads of group 0 look for tokens of the same first
 * subject, those of group 1 for the same second one. The index is one matrix for its queries and one for its keys. */
#ifndef TINY_SELECTOR_H
#define TINY_SELECTOR_H

#include <string.h>

#include "example.h"

#ifndef TINY_DI
#define TINY_DI 8 /* channels of the index; an answer asks for fewer */
#endif
enum { T = 128, BLOCK = 4, K = 4, HQ = 4, HKV = 2, DH = 8, DI = TINY_DI, D = 16, SUBJECTS = 8 };

typedef struct tiny {
    msa_shape shape;
    float x[T * D], q[T * HQ * DH], k[T * HKV * DH]; /* the tokens; the Main Branch made these of them */
    float wiq[D * HKV * DI], wik[D * DI];            /* what is trained */
    float qi[T * HKV * DI], ki[T * DI], dqi[T * HKV * DI], dki[T * DI], dwiq[D * HKV * DI], dwik[D * DI];
    int32_t ids[HKV * T * K];
    void *work;
} tiny;

static inline void tiny_init(tiny *t)
{
    float subject[SUBJECTS * D];
    t->shape = (msa_shape){.n_q = T, .n_kv = T, .n_heads = HQ, .n_kv_heads = HKV, .d_head = DH, .d_index = DI, .block = BLOCK, .topk = K};
    size_t attention = msa_workspace(NULL, &t->shape), recall = msa_recall_workspace(&t->shape);
    t->work = room(1, attention > recall ? attention : recall);
    noise(subject, SUBJECTS * D, 1);
    noise(t->x, T * D, 2);
    unsigned state = 3;
    for (int b = 0; b < T / BLOCK; b++)
        for (int half = 0; half < 2; half++) {
            state = state * 1664525u + 1013904223u;
            const float *word = subject + (state >> 29) * D + half * DH; /* the upper 3 bits: one of 8 */
            for (int j = b * BLOCK; j < (b + 1) * BLOCK; j++)
                for (int c = 0; c < DH; c++)
                    t->x[j * D + half * DH + c] = word[c] + 0.5f * t->x[j * D + half * DH + c];
        }
    for (int i = 0; i < T; i++)
        for (int h = 0; h < HQ; h++) /* two heads a group, one keener than the other */
            for (int c = 0; c < DH; c++)
                t->q[(i * HQ + h) * DH + c] = (h % 2 ? 1.5f : 0.75f) * t->x[i * D + h / 2 * DH + c];
    memcpy(t->k, t->x, sizeof t->k); /* KV head r: channels r DH .. of the token */
    noise(t->wiq, D * HKV * DI, 4);
    noise(t->wik, D * DI, 5);
    for (int a = 0; a < D * HKV * DI; a++)
        t->wiq[a] *= 0.1f;
    for (int a = 0; a < D * DI; a++)
        t->wik[a] *= 0.1f;
}

/* [index] */
/* Qi = X Wiq, Ki = X Wik, and the blocks they choose. */
static inline void tiny_select(tiny *t)
{
    msa_ref_ops.gemm(false, false, T, HKV * DI, D, t->x, t->wiq, 0, t->qi);
    msa_ref_ops.gemm(false, false, T, DI, D, t->x, t->wik, 0, t->ki);
    must(msa_index(&t->shape, t->qi, t->ki, NULL, t->ids, NULL, t->work));
}
/* [index] */

/* [step] */
/* One step down the gradient of L_KL. Returns the loss before it. ids NULL: full support. */
static inline double tiny_step(tiny *t, const int32_t *ids, float rate)
{
    double loss;
    must(msa_kl(&t->shape, t->q, t->k, t->qi, t->ki, ids, NULL, NULL, 1, &loss, t->dqi, t->dki, t->work));
    msa_ref_ops.gemm(true, false, D, HKV * DI, T, t->x, t->dqi, 0, t->dwiq); /* dWiq = X^T dQi: the chain ends here */
    msa_ref_ops.gemm(true, false, D, DI, T, t->x, t->dki, 0, t->dwik);
    for (int a = 0; a < D * HKV * DI; a++)
        t->wiq[a] -= rate * t->dwiq[a];
    for (int a = 0; a < D * DI; a++)
        t->wik[a] -= rate * t->dwik[a];
    return loss;
}
/* [step] */

static inline double tiny_loss(tiny *t, const int32_t *ids)
{
    double loss;
    must(msa_kl(&t->shape, t->q, t->k, t->qi, t->ki, ids, NULL, NULL, 1, &loss, NULL, NULL, t->work));
    return loss;
}

static inline msa_recall_result tiny_recall(tiny *t)
{
    msa_recall_result result;
    must(msa_recall(&t->shape, t->q, t->k, t->ids, NULL, &result, t->work));
    return result;
}

#endif
