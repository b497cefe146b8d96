/**
 * @file selections.h
 * @brief Selections for the stages that take ids: from none that neighbours share to nearly all, to time them
 *        with, and two that no Index Branch would make, to judge them with.
 *
 * A row depends on the seed, its group and its query only. The groups' selections differ, except for the
 * local ones. Those to time with hold the local block and are full, min(k, local+1) ids, as the contract has
 * it.
 */
#ifndef MSA_SELECTIONS_H
#define MSA_SELECTIONS_H

#include "../msa.h"

typedef enum selection_kind {
    SELECTION_RANDOM, /**< uniform among the visible blocks */
    SELECTION_HOT,    /**< 4 early blocks of the group, each taken by 90% of the queries; the rest random */
    SELECTION_LOCAL,  /**< the last k blocks */
    SELECTION_STRUCTURED, /**< as in figure 5 of the paper: block 0 with probability 0.9; six distances of the
                               group, drawn once and log-uniform, each taken with probability 0.8; the rest
                               random, redrawn every 32 tokens */
    SELECTION_N,          /**< so many to time with */
    SELECTION_ANY = SELECTION_N, /**< 1..k random visible blocks; the local one is not always among them */
    SELECTION_ENDS               /**< block 0 and the local one */
} selection_kind;

const char *selection_name(selection_kind kind);
/** One of those to time with, by its name; false if there is none. */
bool selection_named(const char *name, selection_kind *kind);

/** @param ids [Hkv,T,k] */
void selection_draw(const msa_shape *s, selection_kind kind, uint64_t seed, int32_t *ids);

/** Mean size of the union of the blocks that 8 neighbouring queries of a sequence selected, over the groups;
 *  a sequence's last few count where there are fewer. 0 if memory ran out. */
double selection_union8(const msa_shape *s, const int32_t *ids);

/** Visible (query, key) pairs under the selection, summed over the groups; NULL: all of them. */
double selection_pairs(const msa_shape *s, const int32_t *ids);

/** (Group, block) pairs, over the sequences, that at least one query selected; NULL: all. -1 if memory ran
 *  out. */
int64_t selection_blocks(const msa_shape *s, const int32_t *ids);

#endif
