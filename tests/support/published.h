/**
 * @file published.h
 * @brief Small random checkpoints of MiniMax-M3, written byte by byte: every set of names, type and shard layout in
 *        which the model is published, and the values of the weights as floats.
 */
#ifndef MSA_PUBLISHED_H
#define MSA_PUBLISHED_H

#include <stdbool.h>
#include <stdint.h>

/** [out,in] and [cols], in the order of msa_layer_weights, then the input norm. */
enum { PUB_WQ, PUB_WK, PUB_WV, PUB_WO, PUB_WIQ, PUB_WIK, PUB_GQ, PUB_GK, PUB_GIQ, PUB_GIK, PUB_INPUT, PUB_N };
#define PUB_LAYERS 2 /**< the first is dense, the second sparse */

typedef struct published {
    int d_model, heads, kv_heads, d_head, d_index, block, topk;
    int rot;            /**< rotated channels of a main head */
    const char *prefix; /**< "model.layers." */
    bool indexer;       /**< "indexer.q_proj" instead of "index_q_proj" */
    bool nested;        /**< config.json has text_config and sparse_attention_config */
    const char *dtype;  /**< "F32", "BF16", "F16" or "F8_E4M3" with scales; norms are then BF16 */
    int shards;         /**< 0: model.safetensors alone */
    const char *more;   /**< further fields of config.json, each followed by a comma; NULL: none */
    uint64_t seed;
    float *w[PUB_LAYERS][PUB_N]; /**< set by published_write(); of check_alloc() */
} published;

/** The number of values of a weight, and through the pointers its [out,in]; of a gain `rows` is 0. */
int64_t published_shape(const published *p, int weight, int64_t *rows, int64_t *cols);
/** Writes config.json, shards and index into `dir`, which is made. */
void published_write(published *p, const char *dir);

#endif
