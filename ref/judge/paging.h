/**
 * @file paging.h
 * @brief A contiguous KV cache laid out in pages: random physical order, pages that nobody uses, and NaN
 * where no token is.
 */
#ifndef MSA_PAGING_H
#define MSA_PAGING_H

#include "inputs.h"

typedef struct paging {
    msa_shape s; /**< of the paged call */
    msa_pages p;
    float *k, *v, *ki; /**< [P,page,..] */
    float *decoded;    /**< [S,di], 8-bit keys only: what they say, where the call's keys were */
    int32_t *table, *lens, *cu;
} paging;

/** Whether all sequences have room for equally many queries. */
bool paging_possible(const msa_shape *s);
/** Shape, lengths and page table only. @param page tokens of a page, 0: a block. @param spare pages that
 * nobody uses; with some, there is also room for one page more than the longest sequence has. */
bool paging_layout(paging *g, const msa_shape *s, int page, int spare, uint64_t seed);
/** @param small 8-bit index keys beside ki. False if memory runs out; paging_free() is due anyway. */
bool paging_new(paging *g, const msa_shape *s, const inputs *in, int page, uint64_t seed, bool small);
void paging_free(paging *g);

#endif
