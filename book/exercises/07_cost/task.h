/** The cost of one causal prefill of n tokens and of one decoded token at length n, projections not counted.
 *  Heads and widths are in *s as in msa.h: n_heads, n_kv_heads, d_head, d_index, block, topk. */
#include "../exercise.h"
double flop_dense(const msa_shape *s, double n);
double flop_msa(const msa_shape *s, double n);
double bytes_dense(const msa_shape *s, double n); /**< read by one decoded token, 2 bytes an element */
double bytes_msa(const msa_shape *s, double n);
double even_length(const msa_shape *s); /**< the n at which the Index Branch is half of flop_msa */
