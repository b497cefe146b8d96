/**
 * @file traffic.h
 * @brief What has to move where the keys of a sequence lie on several machines: the model, kind by kind.
 */
#ifndef MSA_TRAFFIC_H
#define MSA_TRAFFIC_H

#include "../msa.h"

/** What a message carries. The transport counts by these, and the model tells each but the last; that of one call of
 *  attention all before ::TRAFFIC_WEIGHTS. */
typedef enum traffic_kind {
    TRAFFIC_INDEX_QUERIES, /**< Qi, to everyone */
    TRAFFIC_CANDIDATES,    /**< the best blocks of one rank, to the home of the query */
    TRAFFIC_WINNERS,       /**< the best of all, to everyone */
    TRAFFIC_QUERIES,       /**< Q, to those who own a chosen block */
    TRAFFIC_PARTIALS,      /**< O and LSE of those blocks, back */
    TRAFFIC_INDEX_KEYS,    /**< Ki, to everyone */
    TRAFFIC_KEYS,          /**< K and V, to everyone */
    TRAFFIC_GRADIENTS,     /**< of K, V and Ki, to their owners */
    TRAFFIC_WEIGHTS,       /**< of a model's parameters: parts to who adds them up, and sums to everyone */
    TRAFFIC_OTHER,         /**< results for who writes them down, and whether all goes well */
    TRAFFIC_N_KINDS
} traffic_kind;

/** "index queries", "candidates", ... */
const char *traffic_name(traffic_kind kind);

/** One call of attention over keys that are dealt to ranks. */
typedef struct traffic_call {
    const msa_shape *s; /**< heads, widths, block and topk; no more is read */
    int ranks;          /**< R */
    double rows;        /**< T: queries, without padding */
    double keys;        /**< S: keys of all sequences that have queries */
    double element;     /**< bytes of an element of Q, K, V, Qi and of a partial O: 4, the reference, or 2, a device */
    double index_key;   /**< bytes of an element of Ki; with 1 a block has a scale of 4 bytes beside it */
    bool dense;         /**< dense attention: no index, and a row attends to all blocks that it sees */
    double owners; /**< mean of traffic_owners() over the rows; 0: these are the last ones of one sequence */
} traffic_call;

/** How many ranks own a block to which a row attends that sees so many, if each of the k that it chooses among more lies
 *  anywhere with equal chance. */
double traffic_owners(const traffic_call *c, double blocks);

/** How many (row, group, rank other than the row's home) own a chosen block, by traffic_owners(). What a run counts instead
 *  depends on its ids. */
double traffic_expected_pairs(const traffic_call *c);

/** Queries travel to the owners of the keys (pass-Q): bytes that all ranks together send, by kind, where `pairs`
 *  as above own a chosen block. */
void traffic_pass_q(const traffic_call *c, double pairs, double bytes[TRAFFIC_N_KINDS]);

/** Keys travel to the queries (pass-KV): the same. */
void traffic_pass_kv(const traffic_call *c, double bytes[TRAFFIC_N_KINDS]);

/** What the rank that sends most sends when the keys of one sequence travel: it owns a block more than others. */
double traffic_most_kv(const traffic_call *c);

/** Bytes that every rank holds for a moment where keys travel, of a layer: whole sequences, and of K or V, or of Ki if that is
 *  wider, what has come and is not yet in its place. */
double traffic_held(const traffic_call *c);

/** A backward pass: keys travel, and their gradients, in float32, back to the owners. */
void traffic_backward(const traffic_call *c, double bytes[TRAFFIC_N_KINDS]);

/** Bytes of a candidate: a block id with its score in double, by which the reference ranks, or in float32. */
double traffic_candidate(const traffic_call *c);

/** A step of training, all layers, forward and backward. */
typedef struct traffic_training {
    int ranks; /**< of all windows; c->ranks of them share one, and c->keys are the tokens of those they share */
    int layers;
    bool selects; /**< its forward pass needs index keys: no warmup */
    double parameters;
} traffic_training;
void traffic_step(const traffic_call *c, const traffic_training *t, double bytes[TRAFFIC_N_KINDS]);

/** The sum over all kinds. */
double traffic_sum(const double bytes[TRAFFIC_N_KINDS]);

/** What the rank that sends most sends when queries travel, rows being dealt evenly: with fewer rows than ranks it is
 *  the home of one, which asks all others. */
double traffic_most_q(const traffic_call *c);

/** Whether moving queries costs less, by the expected pairs. One rank sends nothing, and does as two would: what would not
 *  have to be sent need not be copied either. */
bool traffic_moves_queries(const traffic_call *c);

/** The chunk length up to which that is so. */
double traffic_crossing(const traffic_call *c);

#endif
