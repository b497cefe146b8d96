/**
 * @file curve.h
 * @brief The loss curve of a training run: a CSV that grows row by row and never loses one.
 */
#ifndef MSA_CURVE_H
#define MSA_CURVE_H

#include "../model/train.h"

typedef struct curve {
    char path[4096];
    int fd;             /**< -1 while closed */
    bool created;       /**< was not there before */
    train_curve *known; /**< all of it that is written; saved with the run's state */
} curve;

/** Names the curve of a model: NAME.csv beside NAME.safetensors, and X.csv beside any other X. */
void curve_name(curve *c, const char *path);
/** Opens it and keeps others out, who could write to the same files. Of a run that begins (nothing known yet)
 *  it must be new; of one that goes on it must begin with what is known, and the rest is cut off. */
bool curve_open(curve *c, train_curve *known, const char *header, io_error err);
/** Removes it again, if opening it made it: for a run that cannot begin. */
void curve_undo(const curve *c);
/** Appends a row, whole or not at all. */
bool curve_add(curve *c, const char *row, io_error err);
/** Flushes it to disk. */
bool curve_sync(const curve *c, io_error err);
void curve_close(curve *c);

#endif
