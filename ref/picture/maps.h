/**
 * @file maps.h
 * @brief What one layer chose and what it should have chosen, as maps over (query, key block).
 *
 * The pictures and the viewer draw these maps; the .npy files hold them.
 */
#ifndef MSA_MAPS_H
#define MSA_MAPS_H

#include "../msa.h"

/** One cell of `maps.fate`: a set of two bits, or hidden. */
enum {
    MAPS_HIDDEN = -1, /**< the block lies after the query */
    MAPS_NEITHER = 0,
    MAPS_CHOSEN = 1, /**< in I, the selection; alone: an extra block */
    MAPS_IDEAL = 2,  /**< in I*, the blocks of largest mass; alone: a missed block */
    MAPS_BOTH = 3
};

/** The maps of one layer over one sequence, all groups. Without q and k only the first four exist. */
typedef struct maps {
    msa_shape shape;
    int64_t n_blocks;
    float *scores; /**< [Hkv,T,B] block scores of the Index Branch, -inf where hidden */
    float *share;  /**< [Hkv,T,B] softmax of a row's block scores: comparable with the mass */
    int32_t *ids;  /**< [Hkv,T,k] the selection */
    int32_t *fate; /**< [Hkv,T,B] */
    float *mass;   /**< [Hkv,T,B] block mass of the Main Branch under full attention, or NULL */
    float *recall; /**< [2,Hkv,T] block recall, then score recall, or NULL */
} maps;

/** Takes memory for the maps of a layer of this shape; false if there is not enough. */
bool maps_new(maps *m, const msa_shape *s, bool with_mass);
void maps_free(maps *m);

/** Fills the maps. q and k are read only if there is room for the mass.
 *  @param work msa_workspace() or, if larger, msa_recall_workspace() bytes */
msa_status maps_compute(maps *m, const msa_ops *ops, const float *q, const float *k, const float *qi,
                        const float *ki, void *work);

/** The local block of query i: its row has local+1 visible blocks. */
int64_t maps_local(const msa_shape *s, int64_t i);

/** Where the row of (group, query) starts in a [Hkv,T,B] map. */
size_t maps_row(const maps *m, int group, int64_t i);

/** Means over the group's queries that had to choose (local+1 > k); returns how many those are. */
int64_t maps_recall(const maps *m, int group, double *block_recall, double *score_recall);

/** How many blocks of queries there are: the sequence's blocks from the first query's to the last. */
int64_t maps_query_blocks(const msa_shape *s);

/** Selection frequency [Hkv,Bq,B]: of the queries in a query block, the part that chose a key block;
 *  -1 where it lies after them. */
void maps_frequency(const maps *m, float *frequency);

/** Where a share or mass stands on the logarithmic colour scale, from 0 (at or below 10^decades) to 1. */
double maps_level(double share, int decades);

/** The negative decade at which that scale ends: a tenth of an even share, or a little less. */
int maps_decades(int64_t n_blocks);

#endif
