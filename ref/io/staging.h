/**
 * @file staging.h
 * @brief The directory .msa-XXXXXX in which the files of a set wait until all of them are there (set.c).
 */
#ifndef MSA_STAGING_H
#define MSA_STAGING_H

#include <stdbool.h>

#define STAGE_PREFIX ".msa-"
#define STAGE_DIGITS 12
typedef char staging_name[sizeof STAGE_PREFIX + STAGE_DIGITS];
typedef char number_name[32];

/** "17.new" or "17.old"; may be called in a signal's handler. */
const char *staging_numbered(int i, bool old, number_name to);
/** Removes files 0 .. n-1, both names of each; likewise. */
void staging_empty(int stage, int n);

/** Makes one in `dir`, locked as long as its descriptor is open, and returns that; -1 and errno where it
 * cannot. */
int staging_make(int dir, staging_name name);
/** Removes those in `dir` whose makers have died. */
void staging_remove_dead(int dir);
/** Flushes a directory to disk. */
bool staging_sync(int dir);

#endif
