/**
 * @file twin.h
 * @brief A second formulation of MSA: dense attention under an explicit token mask, all in double.
 *
 * Written from the paper's formulas, sharing no code with the reference and built the opposite way:
 * whole [T,S] matrices instead of block loops, a boolean per (head, query, key) instead of ids, sorting
 * instead of a running top-k, Jacobians instead of closed forms. It is slow and meant to be obvious.
 * Packed sequences are one big matrix whose mask is block-diagonal.
 */
#ifndef MSA_TWIN_H
#define MSA_TWIN_H

#include "../../ref/msa_layer.h"

/** Index scores m [Hkv,T,B] (-inf where no token of the block is visible) and the selection [Hkv,T,k]. */
void twin_select(const msa_shape *s, const double *qi, const double *ki, double *scores, int32_t *ids);

/** mask [Hkv,T,S]: key j is visible to query i, and in a selected block of the group (ids NULL: any). */
void twin_mask(const msa_shape *s, const int32_t *ids, bool *mask);

/** o [T,Hq,dh] and lse [T,Hq]. */
void twin_attention(const msa_shape *s, const bool *mask, const double *q, const double *k, const double *v,
                    double *o, double *lse);

/** Gradients of <dout, o>. */
void twin_backward(const msa_shape *s, const bool *mask, const double *q, const double *k, const double *v,
                   const double *dout, double *dq, double *dk, double *dv);

/** [Hkv,T] */
void twin_index_lse(const msa_shape *s, const bool *mask, const double *qi, const double *ki,
                    double *index_lse);

/** L_KL; dqi and dki (may both be NULL) are gradients of weight * L_KL. */
double twin_kl(const msa_shape *s, const bool *mask, const double *q, const double *k, const double *qi,
               const double *ki, double weight, double *dqi, double *dki);

/** Block mass [Hkv,T,B] under the full causal softmax. */
void twin_block_mass(const msa_shape *s, const double *q, const double *k, double *mass);

/** y = x / rms(x) * (1 + w), row by row; y may be x. */
void twin_rmsnorm(int64_t rows, int d, double eps, const double *x, const double *w, double *y);

/** Rotates channel pairs (c, c + rot/2) of x [n,heads,d], as complex numbers, by pos * theta^(-2c/rot). */
void twin_rope(int64_t n, int heads, int d, int rot, double theta, const int32_t *pos, double *x);

/** msa_layer_weights in double. */
typedef struct twin_weights {
    double *wq, *wk, *wv, *wo, *wiq, *wik, *gq, *gk, *giq, *gik;
} twin_weights;

/** A whole layer over sequences without a prefix (T = S): y [T,d_model], and L_KL (0 for MSA_ATTN_DENSE).
 *  @param ids [Hkv,T,k] of MSA_ATTN_SPARSE: chosen by the layer if `select`, else given: a derivative is
 *  taken at a fixed selection */
double twin_layer(const msa_shape *s, const msa_layer_config *c, msa_attention mode, const twin_weights *w,
                  const double *x, bool select, int32_t *ids, double *y);

#endif
