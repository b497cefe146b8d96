/**
 * @file train.h
 * @brief Training: AdamW, learning-rate schedule, two-stage index warmup, resumable state.
 *
 * Everything a step does follows from the parameters, the moments and the step's number, so a run that
 * is stopped anywhere and continued from its last saved state ends in the same bytes.
 */
#ifndef MSA_TRAIN_H
#define MSA_TRAIN_H

#include "../parallel/transport.h"
#include "model.h"

typedef struct train_config {
    int64_t steps;        /**< optimizer steps of the whole run */
    int64_t batch;        /**< sequences of `context` tokens a step */
    int64_t dense_steps;  /**< first steps, as a dense model: MSA is a conversion of what they leave */
    int64_t index_warmup; /**< steps after them with full support in both branches (MSA only) */
    int64_t lr_warmup;    /**< steps of linear rise of the learning rate; cosine decay follows */
    double lr, lr_end;    /**< peak and final learning rate */
    double decay;         /**< AdamW's weight decay, on matrices */
    double clip;          /**< largest global norm of the gradient */
    double lambda;        /**< weight of the KL loss. The Index Branch has no other gradient and AdamW divides
                               by its size, so lambda acts through the clipping norm only */
    double index_gain;    /**< unless 0: gains of the norms of index queries and keys stay within 1/x .. x. At 1
                               all queries have one length, and all keys, as bounds by length like them */
    uint64_t seed;
    /* Noted in the state, so that a run goes on as it began; NULL and 0 are not. */
    const char *backend;   /**< who computes */
    const char *precision; /**< the type of attention's tensors */
    int64_t recall_every;  /**< how often the curve tells recall */
    /* Not noted: a run may go on with other ranks. */
    transport *
        ranks; /**< who trains together, each with a trainer of its own that makes the same calls; NULL: one */
    int64_t context_ranks; /**< that share a window; 0: the fewest with which all have as many windows */
} train_config;

train_config train_default_config(void);

/** A text cut in two: training draws from the first 95 %, validation reads the rest. Without bytes training
 *  draws sequences of the task of task.h instead. */
typedef struct train_text {
    const uint8_t *bytes;
    int64_t n, n_train;
} train_text;
train_text train_split(const uint8_t *bytes, int64_t n);

typedef struct trainer trainer;

/** A number that stands for settings and text: one for all ranks, or they train different models. */
uint64_t trainer_fingerprint(const trainer *t);
/** Before the first step on ranks: everyone takes parameters, moments and step of the first. False if memory runs out. */
bool trainer_join(trainer *t);
/** What a rank has done since it joined. */
typedef struct train_account {
    double tokens, seen;          /**< of a step, and keys that they see */
    double seconds, waited;       /**< in steps, as it is told; in exchanges, a part of it */
    double sent[TRAFFIC_N_KINDS]; /**< bytes */
} train_account;
/** Those of all ranks, in `all` [ranks] of the first; and what the model says that they have sent, by kind. */
bool trainer_accounts(const trainer *t, double seconds, train_account *all, double expected[TRAFFIC_N_KINDS]);

/** What one step reports. */
typedef struct train_step {
    int64_t step; /**< 1-based number of the step just done */
    double loss;  /**< bits per byte on the step's tokens */
    double kl;    /**< mean L_KL over the layers, in nats */
    double lr, norm;
} train_step;

/** Starts a run from fresh weights. NULL with a line in err. The text must outlive the trainer. */
trainer *trainer_new(const model_config *c, const train_config *t, const train_text *text, const msa_ops *ops,
                     io_error err);
/** Continues a run from its state file; configuration and text must be those it began with. */
trainer *trainer_resume(const char *path, const model_config *c, const train_config *t,
                        const train_text *text, const msa_ops *ops, io_error err);
void trainer_free(trainer *t);
/** Steps done so far. */
int64_t trainer_steps(const trainer *t);
train_step trainer_step(trainer *t);
/** How much of the run's loss curve belongs to the steps done: kept in the state for whoever writes it. */
typedef struct train_curve {
    int64_t bytes;
    uint64_t hash;
} train_curve;
train_curve *trainer_curve(trainer *t);
/** Writes parameters, moments, step and what is known of the curve, atomically. */
bool trainer_save(const trainer *t, const char *path, io_error err);
const model *trainer_model(const trainer *t);

#endif
