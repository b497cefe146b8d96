/**
 * @file own.h
 * @brief What your own MSA is made of: nine steps, a chapter each. `make own STEP=3` judges the first three.
 *
 * All arrays are float32, in C order. A query stands at the end of the n keys that it sees: it is key n-1's own, and
 * what lies behind key n-1 is the future. Block b holds the keys b * block to b * block + block - 1; the last block
 * that a query sees is its local one, and may be cut short by the query's own position.
 */
#ifndef MSA_OWN_H
#define MSA_OWN_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct shape {
    int heads, kv_heads;    /**< Hq, Hkv; heads r * G .. r * G + G-1 share KV head r, G = heads / kv_heads */
    int width, index_width; /**< dh, di: of a head, of an index head */
    int block, topk;        /**< Bk: keys in a block; k: blocks that a query keeps */
} shape;

/** Step 1. Dense attention of one head: o [width] = sum over j < n of softmax(q . k_j / sqrt(width)) v_j.
 *  Key j begins at k + j * stride, value j at v + j * stride. */
void attend(const float *q, const float *k, const float *v, int n, int stride, int width, float *o);

/** Step 2. All heads of a query: q, o [heads,width]; k, v [n,kv_heads,width]. */
void attend_heads(const shape *s, const float *q, const float *k, const float *v, int n, float *o);

/** Step 3. A softmax that has seen some keys and may see more: it keeps the largest logit, the sum of
 *  exp(logit - max) and the sum of exp(logit - max) value. Begins with max = -INFINITY and zeros. */
typedef struct running {
    double max, sum;
    double *value; /**< [width] */
    int width;
} running;
void running_add(running *r, double logit, const float *value);
/** As if r had seen what `other` has seen too; either may have seen nothing. */
void running_merge(running *r, const running *other);
/** o [width]: the attention's output; returns its LSE, the natural logarithm of the sum of exp(logit). */
double running_end(const running *r, float *o);

/** Step 4. scores[b] = max over the visible keys j < n of block b of qi . ki_j / sqrt(index_width).
 *  qi [index_width], ki [n,index_width], scores [ceil(n / block)]. */
void score_blocks(const shape *s, const float *qi, const float *ki, int n, float *scores);

/** Step 5. The blocks to read: the last one (local), and of the others the topk - 1 with the highest scores, the
 *  lower block first where two are equal. ids [topk]: ascending, then -1. */
void choose(const shape *s, const float *scores, int blocks, int *ids);

/** Step 6. Exact attention of the G heads of one group over the visible keys of the chosen blocks, and of no other key.
 *  q, o [G,width]; k, v [n,kv_heads,width], from the group's own head on. */
void attend_blocks(const shape *s, const float *q, const float *k, const float *v, int n, const int *ids,
                   float *o);

/** Step 7. All of it for one query. q, o [heads,width]; qi [kv_heads,index_width], a query for each group;
 *  k, v [n,kv_heads,width]; ki [n,index_width], which all groups share. */
void msa(const shape *s, const float *q, const float *qi, const float *k, const float *v, const float *ki,
         int n, float *o);
/** How many numbers of k, v and ki a query that sees n keys has to read: each index key once, and the keys and values
 *  of the chosen blocks, of every group. */
int64_t msa_reads(const shape *s, int n);

/** Step 8. What trains the index queries of one group: KL(t || u) over the visible keys of the chosen blocks. The
 *  student u is the softmax of qi . ki_j / sqrt(index_width); the teacher t is the mean over the G heads of
 *  each one's softmax of q . k_j / sqrt(width). Returns the loss; dqi [index_width] and dki [n,index_width] are its
 *  gradients, 0 for keys that were not chosen. q [G,width], qi [index_width]; k from the group's own head on. */
double index_loss(const shape *s, const float *q, const float *qi, const float *k, const float *ki, int n,
                  const int *ids, float *dqi, float *dki);

/* ---- Step 9: the model of data/kjv-msa.safetensors ---------------------------------------------------------- */

/** Of one layer. A matrix is [in,out]: y_c = sum over a of x_a w[a * out + c]. */
typedef struct layer {
    const float *attn_norm, *wq, *wk, *wv,
        *wo;                      /**< [model], then matrices of heads * width or kv_heads * width */
    const float *q_norm, *k_norm; /**< [width], for each head */
    const float *wiq, *wik, *iq_norm, *ik_norm; /**< the Index Branch: kv_heads queries, one key */
    const float *mlp_norm, *w_gate, *w_up, *w_down;
    float *k, *v, *ki; /**< the cache: of all positions so far, as msa() wants them */
} layer;

#define MOST_LAYERS 8
typedef struct network {
    shape s;
    int layers, model, hidden; /**< how many; width of x; width inside the MLP */
    double theta, eps;
    const float *embed, *final_norm, *head; /**< [256,model], [model], [model,256] */
    layer layer[MOST_LAYERS];
} network;

/** Step 9. The attention of one layer at a position: x [model], normed, to y [model]. */
void attention(const network *w, const layer *l, int position, const float *x, float *y);
/** The rest of the model, which the file begins with: logits [256] of the byte behind the one at this position. */
void next_byte(const network *w, int position, uint8_t byte, float *logits);

#endif
