/**
 * @file exercise.h
 * @brief What an exercise starts from: tensors whose reads are noted, verdicts in one line, a picture.
 *
 * The check of an exercise calls the student's function, compares what it wrote with the reference through
 * the project's verdicts (ref/cli/verdict.h), and draws which rows it read.
 */
#ifndef MSA_EXERCISE_H
#define MSA_EXERCISE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../ref/cli/verdict.h"

/* ---- What the code touched ----------------------------------------------------------------------- */

/** A picture in the making: how often each cell was touched. */
typedef struct touched {
    int64_t rows, columns;
    const char *down, *across; /**< what a row and a column are */
    int64_t row;               /**< of the reads that follow: row() notes them here */
    uint64_t reads;            /**< all of them */
    float *count;              /**< [rows,columns] */
} touched;

touched touched_new(int64_t rows, int64_t columns, const char *down, const char *across);
/** Cells outside of the picture are ignored. */
void touched_mark(touched *t, int64_t row, int64_t column);

/** Vectors [tokens,heads,width]. Read them through row(). */
typedef struct tensor {
    const float *data;
    int heads, width;
    touched *seen; /**< column = token * heads + head; may be NULL */
} tensor;

/** The vector of one token and head; the picture gets a dot. */
const float *row(const tensor *t, int64_t token, int head);

/** x . y */
double dot_product(const float *x, const float *y, int width);

/* ---- Verdicts -------------------------------------------------------------------------------------- */

/** Reads `check SEED PICTURE` from the command line. */
void exercise_begin(int argc, char **argv);
/** The seed of the run. */
uint64_t exercise_seed(void);
/** `found` against the reference, within the budget. Only the first failure of a run is told. */
void exercise_tensor(const char *what, verdict_dims n, const float *expected, const float *found,
                     verdict_budget budget);
/** Anything else that must hold; the text says what was expected and what was found. */
__attribute__((format(printf, 2, 3))) void exercise_true(bool ok, const char *fmt, ...);
/** How many things did not hold so far, told or not. */
int exercise_failures(void);
/** What failures from now on begin with. */
void exercise_place(const char *place);
/** ids [Hkv,T,k], exactly: the first wrong one is told. */
void exercise_ids(const msa_shape *s, const int32_t *expected, const int32_t *found);
/** An exact count, and the most that passes. */
void exercise_bar(const char *what, uint64_t found, uint64_t bar);
/** Draws the picture, says the verdict; returns the exit status. */
int exercise_end(const touched *picture);

/** Memory for the length of the program; floats are NaN until they are written. */
void *exercise_alloc(int64_t bytes);
float *exercise_floats(int64_t n);
/** Inputs of a pattern; ends the program where memory runs out. */
inputs exercise_inputs(const msa_shape *s, inputs_pattern pattern);

#endif
