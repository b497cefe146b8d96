/**
 * @file foreign.h
 * @brief Block ids that another implementation wrote: in its layout and order, brought into ours.
 */
#ifndef MSA_FOREIGN_H
#define MSA_FOREIGN_H

#include "cli.h"

typedef struct foreign_ids {
    npy_array array;
    bool token_major; /**< [T,Hkv,k] instead of [Hkv,T,k] */
    bool ambiguous;   /**< the sizes allow both layouts */
} foreign_ids;

/** What the rows seen so far have in common; starts all true. */
typedef struct foreign_order {
    bool ascending, by_score, local_last, local_first;
} foreign_order;

/** Reads ids of either layout and the tensors they belong to; `layout` is NULL, "htk" or "thk". */
int foreign_read(const char *command, const char *path, const char *layout, cli_tensors *t, foreign_ids *f);

/** Finds out in which layout an array of three sizes, which was read, is that of this shape. */
int foreign_match(const char *command, const char *path, const char *layout, const msa_shape *s,
                  foreign_ids *f);

/** The row of (group, query) as it stands in the file. */
const int32_t *foreign_row(const foreign_ids *f, const msa_shape *s, int r, int64_t i);

/** A row in our convention, ascending and then -1, in `ids` [k]. */
void foreign_sort(const int32_t *row, int k, int32_t *ids);

/** Takes one more row into account. `score` and `rounding` are those of its blocks, as verdict_score_blocks()
 *  gives them (not read once by_score is false), `local` its local block. */
void foreign_note_order(foreign_order *o, const int32_t *row, int k, const double *score,
                        const double *rounding, int64_t local);

#endif
