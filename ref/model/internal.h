/**
 * @file model/internal.h
 * @brief What the files of the model share.
 */
#ifndef MSA_MODEL_INTERNAL_H
#define MSA_MODEL_INTERNAL_H

#include <math.h>
#include <stddef.h>

#include "../arena.h"
#include "model.h"

/* ---- Parameters of a layer, in the order of the table (parameters.c) --------------------------------- */

enum {
    ATTN_NORM,
    WQ,
    WK,
    WV,
    WO,
    Q_NORM,
    K_NORM,
    WIQ,
    WIK,
    IQ_NORM,
    IK_NORM,
    MLP_NORM,
    W_GATE,
    W_UP,
    W_DOWN,
    LAYER_TENSORS
};

/* Part `which` of layer l within a buffer laid out like the parameters (values or gradients). */
static inline float *layer_part(const model *m, float *buffer, int l, int which)
{
    return buffer + m->tensor[1 + l * LAYER_TENSORS + which].offset;
}

static inline float *final_norm(const model *m, float *buffer)
{
    return buffer + m->tensor[1 + m->config.n_layers * LAYER_TENSORS].offset;
}

static inline float *head(const model *m, float *buffer)
{
    return buffer + m->tensor[2 + m->config.n_layers * LAYER_TENSORS].offset;
}

/* What a departure from MSA adds to a layer stands behind everything else: its parts `which` = 0.. in order.
 */
static inline int extra_tensors(const model_config *c)
{
    return (c->sink ? 1 : 0) + (c->value_head ? 2 : 0);
}

static inline float *extra_part(const model *m, float *buffer, int l, int which)
{
    const int first = 3 + m->config.n_layers * LAYER_TENSORS;
    return buffer + m->tensor[first + l * extra_tensors(&m->config) + which].offset;
}

/* `ops`, or, where the model's departures from MSA replace entries of it, *own with those (variants.c). */
const msa_ops *variant_ops(const model_config *c, const msa_ops *ops, msa_ops *own);

/* A model of zeros, its sizes checked. */
bool model_allocate(model *m, const model_config *c, io_error err);

/* ---- Checkpoints: metadata as text, tensors by name (checkpoint.c) ------------------------------------- */

#define CHECKPOINT_META 40
typedef struct checkpoint_meta {
    int n;
    st_meta item[CHECKPOINT_META];
    char text[CHECKPOINT_META][40];
} checkpoint_meta;

void checkpoint_put(checkpoint_meta *meta, const char *key, const char *value);
void checkpoint_put_int(checkpoint_meta *meta, const char *key, int64_t value);
void checkpoint_put_real(checkpoint_meta *meta, const char *key, double value);
bool checkpoint_get_int(const st_file *f, const char *path, const char *key, int64_t most, int64_t *value,
                        io_error err);
bool checkpoint_get_real(const st_file *f, const char *path, const char *key, double *value, io_error err);
bool checkpoint_read_tensor(const st_file *f, const char *path, const char *name, const model_tensor *t,
                            float *to, io_error err);
/* Fails by the name of a tensor that is none of the model's, with one of the prefixes before it. */
bool checkpoint_no_others(const st_file *f, const char *path, const model *m, const char *const *prefix,
                          int n_prefixes, io_error err);
st_tensor checkpoint_tensor(const model_tensor *t, const char *name, float *buffer);

void config_to_meta(const model_config *c, checkpoint_meta *meta);
bool config_from_meta(const st_file *f, const char *path, model_config *c, io_error err);

/* ---- One block of the network over n tokens (block.c) -------------------------------------------------- */

/* Activations of a block: what it was given and what its backward pass needs again. */
typedef struct block_state {
    float *x;                  /* [n,d] residual stream that entered */
    float *attn_in, *attn_out; /* [n,d] norm(x), attention's output */
    float *mid, *mlp_in;       /* [n,d] x + attention, norm(mid) */
    float *gate, *up, *act;    /* [n,ff] mlp_in Wg, mlp_in Wu, silu(gate) * up */
    msa_layer_state attention;
} block_state;

/* Shape of the attention call for a model. */
msa_shape attention_shape(const model_config *c, int64_t n_q, int64_t n_kv);
msa_layer_config attention_config(const model_config *c);
msa_layer_weights attention_weights(const model *m, float *buffer, int layer);

void block_forward(const model *m, int layer, const msa_ops *ops, const msa_shape *s, msa_attention mode,
                   block_state *st, float *out, void *work);

/* dout is the gradient of the block's output; becomes that of its input. Adds to the gradients of the parameters. */
typedef struct block_scratch {
    float *wide1, *wide2, *wide3; /* [n,ff] */
    float *narrow;                /* [n,d] */
    double *channel;              /* [d] */
    float *grads;                 /* of all parameters, laid out as they are */
    void *work;                   /* the layer's */
} block_scratch;
void block_backward(const model *m, int layer, const msa_ops *ops, const msa_shape *s, msa_attention mode,
                    const block_state *st, double lambda, float *dout, double *kl,
                    const block_scratch *scratch);

/* A status that only a mistake in this program can cause. */
void must(msa_status status);

/* Places what a pass over n tokens writes in a block; and a layer's cache for `length` tokens, of elements of `size` bytes. */
void place_block(const model_config *c, int64_t n, block_state *b, arena *a);
void place_cache(const model_config *c, int64_t length, size_t size, msa_layer_state *st, arena *a);

#endif
