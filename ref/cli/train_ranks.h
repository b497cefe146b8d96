/**
 * @file train_ranks.h
 * @brief Ranks that train together: what they agree on, and what is said of them.
 */
#ifndef MSA_TRAIN_RANKS_H
#define MSA_TRAIN_RANKS_H

#include "../model/train.h"

/** Whether this is the one that reads and writes files, prints and judges. @param t NULL: there is no other */
bool train_is_first(const transport *t);
/** The first status that is not 0, by ranks; without ranks, this one. */
int train_agree(transport *t, int status);
/** The same before the first step, where all but the first keep their line in `err`, and all are to have the same text and
 *  options, which `fingerprint` stands for. */
int train_agree_to_begin(const char *command, transport *t, int status, uint64_t fingerprint,
                         const char *err);
/** What all have done in so many seconds, printed by the first. False if memory runs out. */
bool train_report(const trainer *t, transport *ranks, double seconds);

#endif
