/**
 * @file model.h
 * @brief A byte-level decoder-only transformer whose attention is MSA or GQA by a switch.
 *
 * Pre-norm blocks x += Attention(norm(x)); x += SwiGLU(norm(x)); then a norm and a head of 256 logits.
 * Forward and backward are written by hand over the layer of msa.h; every parameter lives in one flat
 * buffer, described by a table of named tensors.
 */
#ifndef MSA_MODEL_H
#define MSA_MODEL_H

#include "../io/io.h"
#include "../msa_layer.h"

#define MODEL_VOCAB 256
#define MODEL_MAX_LAYERS 256

typedef struct model_config {
    int n_layers, d_model, n_heads, n_kv_heads, d_head, d_index, d_ff;
    int block, topk;
    int context; /**< tokens the model was trained on at a time */
    int sparse;  /**< 1: MSA; 0: dense GQA, no Index Branch parameters are trained or used */
    double theta, eps;
    /* Departures from MSA, to see what its choices are worth; all 0 in MSA, and then no file names them. */
    int selector;   /**< a model_selector */
    int reverse_kl; /**< the selector learns from KL(u || t) */
    int attached;   /**< the KL loss reaches the rest of the network */
    int sink;       /**< a learnable sink logit in every head */
    int value_head; /**< the Index Branch has values of its own, which the language loss trains */
} model_config;

/** How a query's blocks are chosen: by a rule for their scores. The local block is always taken. */
typedef enum model_selector {
    SELECTOR_MAX, /**< the largest index logit of the block's tokens: MSA */
#define SELECTOR(NAME, name, learned, idea) SELECTOR_##NAME,
#include "../fast/selectors.def"
    N_SELECTORS
} model_selector;
/** The selector of that name; N_SELECTORS if none has it. */
model_selector model_selector_named(const char *name);
/** What a command expects: "NAME of a rule by which blocks are chosen: max, mean, ..." */
extern const char model_selector_help[];

/** The default shape: what `msa train` builds and data/ ships. */
model_config model_default_config(void);

/** One named tensor within the flat parameter buffer. */
typedef struct model_tensor {
    char name[48];
    int ndim;
    int64_t dim[2];
    size_t offset, count; /**< in floats */
    bool decay;           /**< a matrix: AdamW's weight decay applies */
    bool index;           /**< an Index Branch parameter: only the KL loss trains it */
} model_tensor;

typedef struct model {
    model_config config;
    int n_tensors;
    model_tensor *tensor;
    size_t n_params;
    float *params;
} model;

/** Allocates a model and draws its weights from `seed`. False with a line in err on bad sizes or no memory.
 */
bool model_new(model *m, const model_config *c, uint64_t seed, io_error err);
void model_free(model *m);

/** Reads a checkpoint written by model_save (or by training: optimizer tensors are passed over). */
bool model_load(model *m, const char *path, io_error err);
bool model_save(const model *m, const char *path, io_error err);

/** The activations of one forward pass and what backward needs besides. */
typedef struct model_run model_run;

/** Room for a pass over `n_seqs` sequences of `length` tokens each (a multiple of nothing in particular),
 *  with attention through `ops`. `train` adds the room for gradients. NULL if memory runs out. */
model_run *model_run_new(const model *m, const msa_ops *ops, int n_seqs, int length, bool train);
/** The same with `ops` as they are, for tokens at positions `at` [n_seqs*length] of sequences that the entries of the table
 *  know (parallel/context.h). NULL: those of the shape. The array must outlive the run. */
model_run *model_run_at(const model *m, const msa_ops *ops, int n_seqs, int length, const int32_t *at,
                        bool train);
void model_run_free(model_run *r);

/** Forward over tokens [n_seqs*length]; logits and everything below stay in the run. */
void model_forward(const model *m, model_run *r, msa_attention mode, const uint8_t *tokens);
/** Mean natural-log loss of predicting targets [n_seqs*length]; nats, optional, receives each token's. */
double model_loss(const model_run *r, const uint8_t *targets, float *nats);
/** After forward: gradients of loss + lambda * sum over layers of L_KL, into model_run_grads().
 *  kl [n_layers] receives each layer's L_KL. */
void model_backward(const model *m, model_run *r, msa_attention mode, const uint8_t *tokens,
                    const uint8_t *targets, double lambda, double *kl);
/** Only the targets whose `scored` [n_seqs*length] is not 0 count, in loss and gradient; NULL: all, as at
 * first. The array must outlive its use. @param n what loss and gradient are divided by, where other ranks have the rest of
 * the batch; 0: the number of targets that count */
void model_run_score(model_run *r, const int *scored, int64_t n);
float *model_run_grads(model_run *r);              /**< [n_params], zeroed by model_backward first */
const float *model_run_logits(const model_run *r); /**< [n_seqs*length, 256] */
/** The shape and the captured tensors (q, k, v, qi, ki, ids, o, lse...) of one layer. */
msa_shape model_run_shape(const model_run *r);
const msa_layer_state *model_run_layer(const model_run *r, int layer);

/** Autoregressive decoding over a KV cache. */
typedef struct model_decoder model_decoder;
/** Whether a decoding step can choose as the model learned to: by MSA's own selector, without a value head. */
bool model_decodes(const model_config *c);
/** A cache for up to max_len tokens. NULL if memory runs out, or if the model does not decode. */
model_decoder *model_decoder_new(const model *m, const msa_ops *ops, int max_len);
void model_decoder_free(model_decoder *d);
/** Appends n tokens (a prompt, or one) and returns the logits [256] after the last; NULL past max_len. */
const float *model_decode(model_decoder *d, const uint8_t *tokens, int n);

#endif
