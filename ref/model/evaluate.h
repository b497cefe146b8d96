/**
 * @file evaluate.h
 * @brief How good is a model, and how good is its selector, on a text?
 */
#ifndef MSA_EVALUATE_H
#define MSA_EVALUATE_H

#include "../msa_index8.h"
#include "model.h"

/** A text as evenly spaced windows of `length` tokens. */
typedef struct eval_windows {
    const uint8_t *bytes;
    int64_t n;
    int length;
    int count; /**< at most what fits without overlap: see eval_windows_of() */
} eval_windows;

/** Up to `most` windows of the model's context in bytes[0..n-1]; one shorter window if the text is
 *  shorter than the context; count 0 if it has fewer than two bytes. */
eval_windows eval_windows_of(const model *m, const uint8_t *bytes, int64_t n, int most);
/** The first byte of window w; length + 1 bytes are there to read. */
const uint8_t *eval_window(const eval_windows *t, int w);

/** Mean bits per byte of predicting each next byte, attending as `mode` says (a dense model: always
 *  dense). NaN where there is no window. False if memory runs out. */
bool eval_bits_per_byte(const model *m, const msa_ops *ops, const eval_windows *t, msa_attention mode,
                        double *bits);

/** What an index that knows nothing would choose: the local block and k-1 random others before it. For
 *  one sequence. @param ids [Hkv,T,k] */
void eval_random_ids(const msa_shape *s, uint64_t seed, int32_t *ids);

/** Adds one result's averages, times its rows, to the sums; divide by the rows in the end. */
void eval_add_recall(msa_recall_result *sum, const msa_recall_result *one);

/** Recall of one layer's selection, and of random blocks in its place. */
typedef struct eval_recall {
    msa_recall_result index, random;
} eval_recall;

/** Recall of every layer, averaged over the windows, into out[n_layers]. False if memory runs out. */
bool eval_recalls(const model *m, const msa_ops *ops, const eval_windows *t, uint64_t seed, eval_recall *out);

/** The mean over the layers of their averages. */
eval_recall eval_mean_recall(const eval_recall *layer, int layers);

/** What a layer's attention and selection look like, averaged over windows, groups and queries with
 *  local+1 > k. */
typedef struct eval_look {
    double entropy;     /**< of the full causal softmax of the Main Branch, in nats, a mean over heads */
    double first_mass;  /**< part of its mass on the first block */
    double first_taken; /**< part of the queries that chose the first block */
    double agreement; /**< |A & B| / |A or B| of two groups' choices but for the local block; NaN with one */
} eval_look;

/** Looks at every layer, into out[n_layers]. False if memory runs out. */
bool eval_looks(const model *m, const msa_ops *ops, const eval_windows *t, eval_look *out);

/** Selections by index keys of 16 bits (bf16), and by the same in 8 bits (E4M3, a scale a block): their
 * recall, and where the query has a choice, how often they are the same. */
typedef struct eval_small {
    float *ki[2];              /**< the keys as they are rounded */
    msa_recall_result bits[2]; /**< sums, as eval_add_recall() makes them */
    int64_t rows, equal;       /**< pairs (query, group); those whose selections are equal sets */
    int64_t ids, in_both;      /**< ids by 16 bits; those that 8 bits choose too */
    msa_screening exact; /**< of int8 keys with a bound, which choose what 16 bits do (eval_small_layers) */
    int64_t wrong;       /**< their ids that are not those of 16 bits: 0 */
} eval_small;

/** For keys [S,di] of one sequence. False if memory runs out; eval_small_free() is due anyway. */
bool eval_small_new(eval_small *a, const msa_shape *s, const float *ki);
/** Adds the queries of a call over these keys, or over the first of them.
 *  @param ids [2,Hkv,T,k] @param work for msa_index and msa_recall */
void eval_small_add(eval_small *a, const msa_shape *s, const float *q, const float *k, const float *qi,
                    int32_t *ids, void *work);
/** Adds the counts of one to those of `sum`. */
void eval_small_sum(eval_small *sum, const eval_small *one);
void eval_small_free(eval_small *a);

/** The same for every layer of a model, over the windows, into out[n_layers] without keys. */
bool eval_small_layers(const model *m, const msa_ops *ops, const eval_windows *t, eval_small *out);

/** What a layer's ids are worth in the layers after it: recall in layer l, by its own q and k, of the ids of layer
 *  l - n, into out[l][n]; NaN where there is no such layer. False if memory runs out. */
enum { EVAL_FARTHEST = 2 };
bool eval_reuse_recalls(const model *m, const msa_ops *ops, const eval_windows *t,
                        msa_recall_result (*out)[EVAL_FARTHEST + 1]);
/** Bits per byte where only every `period`-th layer chooses, the first one too, and those behind it take its ids. MSA's
 *  own selector only; not by two threads at a time. */
bool eval_reuse_bits(const model *m, const msa_ops *ops, const eval_windows *t, int period, double *bits);

/** The largest difference between the logits of MSA with every block selected and those of dense attention
 *  by the double-precision reference: same weights, first window. False if memory runs out. */
bool eval_dense_agreement(const model *m, const eval_windows *t, double *worst);

#endif
