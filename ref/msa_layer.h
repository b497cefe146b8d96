/**
 * @file msa_layer.h
 * @brief Around the attention of msa.h: norm, rotary embedding, the whole layer with its gradients.
 */
#ifndef MSA_LAYER_H
#define MSA_LAYER_H

#include "msa.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Norm, rotary, the whole layer ------------------------------------------------------------ */

/** Gemma-form RMSNorm of `rows` rows of width d: y = x/rms(x) * (1+w), rms = sqrt(mean(x^2) + eps). In place
 * allowed. */
msa_status msa_rmsnorm(int64_t rows, int d, double eps, const float *x, const float *w, float *y);

/** Its gradient. dx [rows,d] is written (may alias dy), dw [d] is added to. @param work d doubles. */
msa_status msa_rmsnorm_backward(int64_t rows, int d, double eps, const float *x, const float *w,
                                const float *dy, float *dx, float *dw, double *work);

/** Partial rotary embedding, half-split (NeoX) pairs (i, i+rot/2), angle pos * theta^(-2i/rot), in
 *  place on x [n,heads,d]; channels rot..d-1 stay. @param pos [n]. @param inverse rotates back, which
 *  is also the gradient. */
msa_status msa_rope(int64_t n, int heads, int d, int rot, double theta, const int32_t *pos, bool inverse,
                    float *x);

/** p(i) of every query of the batch, within its own sequence; 0 for padding. @param pos [T] */
msa_status msa_positions(const msa_shape *s, int32_t *pos);

/** How a layer attends. */
typedef enum msa_attention {
    MSA_ATTN_DENSE,  /**< GQA; the Index Branch is not run */
    MSA_ATTN_WARMUP, /**< full support in both branches; the index is trained but does not select */
    MSA_ATTN_SPARSE  /**< MSA */
} msa_attention;

typedef struct msa_layer_config {
    int d_model;
    int rot;       /**< rotated channels of a main head */
    int index_rot; /**< rotated channels of an index head; 0: as many as of a main head, as in MiniMax-M3 */
    double theta;  /**< rotary base; 5e6 in MiniMax-M3 */
    double eps;    /**< of every RMSNorm; 1e-6 */
    /* What the paper tried and left out of MSA; false in MSA. */
    bool attached;   /**< the Index Branch reads X, not sg(X): the KL loss reaches dX too */
    bool sink;       /**< a learnable logit beside the keys' in every head's softmax; it has no value */
    bool value_head; /**< the Index Branch attends to values of its own, which the language loss trains */
} msa_layer_config;

/** Weights of one attention layer, or their gradients. Row vectors times matrices: Q = X Wq. */
typedef struct msa_layer_weights {
    float *wq;        /**< [d_model, Hq*dh] */
    float *wk;        /**< [d_model, Hkv*dh] */
    float *wv;        /**< [d_model, Hkv*dh] */
    float *wo;        /**< [Hq*dh, d_model] */
    float *wiq;       /**< [d_model, Hkv*di] */
    float *wik;       /**< [d_model, di] */
    float *gq, *gk;   /**< [dh] norm gains */
    float *giq, *gik; /**< [di] norm gains */
    float *sink;      /**< [Hq] logits, if the configuration says so; else unused */
    float *wiv, *wio; /**< [d_model, di], [Hkv*di, d_model] of the value head; likewise */
} msa_layer_weights;

/** What the forward pass of a layer keeps. Everything [T,..] is per call; k, v, ki [S,..] are the KV
 *  cache: rows of the prefix hold earlier tokens, the layer fills the rows of its own T tokens. With `pages`
 *  the call is a paged one and the layer appends to them; the cache in pages is bf16, uint16_t behind these
 *  pointers and no 8-bit index keys, where msa_layer_caches_bf16() says so. */
typedef struct msa_layer_state {
    float *q_raw, *k_raw, *qi_raw, *ki_raw; /**< [T,..] projections before norm and rotary */
    float *q, *qi;                          /**< [T,..] after */
    float *k, *v, *ki;                      /**< [S,..] after; the KV cache */
    float *o, *lse, *index_lse;             /**< outputs of the attention, before the sink takes its part */
    float *vi, *oi;                         /**< [S,di], [T,Hkv,di] of the value head; else unused */
    int32_t *ids, *pos;                     /**< [Hkv,T,k], [T] */
    const msa_pages *pages;                 /**< NULL, or how k, v and ki are paged; forward only, no warmup */
    const int32_t *at; /**< [T] NULL, or the tokens' positions where the shape cannot say them: for entries of
                            the table that know of them too */
} msa_layer_state;

/** Y = Attention(X) Wo. x, y [T,d_model]. @param x is what the caller's norm made of the residual stream.
 *  Only T = S has a backward pass; of padding Y and its gradient are 0. @param work msa_layer_workspace() bytes */
msa_status msa_layer_forward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                             msa_attention mode, const msa_layer_weights *w, const float *x,
                             msa_layer_state *st, float *y, void *work);

/** Gradients of <dy, y> + kl_weight * L_KL. dx is written, dw is added to. The first term reaches x and
 *  wq wk wv wo gq gk only, the second wiq wik giq gik only: the Index Branch reads sg(X).
 *  @param kl L_KL of this layer, unweighted; 0 for MSA_ATTN_DENSE. @param work msa_layer_workspace() bytes */
msa_status msa_layer_backward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                              msa_attention mode, const msa_layer_weights *w, const float *x,
                              const msa_layer_state *st, const float *dy, double kl_weight, float *dx,
                              const msa_layer_weights *dw, double *kl, void *work);

/** Whether `ops`, NULL: the reference, has a step for that mode which takes bf16 tensors (run_half). Then a cache in
 *  pages is bf16. */
bool msa_layer_caches_bf16(const msa_ops *ops, msa_attention mode);

/** Bytes of `work` for the two functions above; 0 for what they refuse. */
size_t msa_layer_workspace(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c);

#ifdef __cplusplus
}
#endif
#endif
