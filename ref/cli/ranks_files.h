/**
 * @file ranks_files.h
 * @brief Inputs of a call on ranks, which stay in their files: a rank reads its own rows.
 */
#ifndef MSA_RANKS_FILES_H
#define MSA_RANKS_FILES_H

#include "../parallel/deal.h"
#include "cli.h"

/** What a rank reads from. */
typedef struct ranks_files {
    const cli_tensors *t; /**< with `dealt` */
    bool
        paged; /**< keys lie in pages, with the heads outside: CLI_K_PAGES and so on, as `msa decode` has them */
    double bytes; /**< of files, read so far */
    io_error err; /**< why a read has failed; empty: none has */
} ranks_files;

/** The keys, for deal_new_shard(). @param p NULL, unless they are paged */
deal_source ranks_keys(ranks_files *f, const msa_pages *p);
/** Rows of a tensor [T,..] that a home has, in its order. */
bool ranks_take(ranks_files *f, cli_tensor which, const deal_rows *rows, int home, float *to);

#endif
