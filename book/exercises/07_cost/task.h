/** Exact counts of a causal prefill of n tokens, n >= 1: token i sees the tokens 0 .. i. Sizes are in *s as in msa.h: n_heads,
 *  n_kv_heads, d_head, d_index, block, topk. Blocks have `block` tokens; token i is in block i / block, its own. */
#include "../exercise.h"
/** Of dense attention: pairs of a token and a key that it sees, for one head. */
int64_t pairs_dense(int64_t n);
/** Of the Main Branch, for one head: each token sees what it may of its own block, and topk - 1 earlier blocks whole, or all
 *  where there are no more. n <= 2^40. */
int64_t pairs_main(const msa_shape *s, int64_t n);
/** Of the Index Branch, for one group: a token scores every key of the blocks before its own, unless it keeps all of these
 *  anyway. n <= 2^30. */
int64_t pairs_index(const msa_shape *s, int64_t n);
/** The smallest n at which MSA takes fewer multiply-adds than dense attention, or -1 if there is none. A pair costs 2 d_head
 *  multiply-adds for each of n_heads heads; one of the index d_index for each of n_kv_heads groups. It is below 2^24. */
int64_t pays_from(const msa_shape *s);
