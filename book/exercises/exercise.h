/**
 * @file exercise.h
 * @brief What an exercise starts from: tensors whose reads are counted, verdicts in one line, a picture.
 *
 * The check of an exercise lets the student's function run in a process of its own (answer.h), compares what
 * it wrote with the reference through the project's verdicts (ref/judge/verdict.h), and draws which rows it read.
 */
#ifndef MSA_EXERCISE_H
#define MSA_EXERCISE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../ref/judge/selections.h"
#include "../../ref/judge/verdict.h"
#include "answer.h"

/* ---- What the code touched ----------------------------------------------------------------------- */

/** A picture in the making: how often each cell was touched. */
typedef struct touched {
    int64_t rows, columns;
    const char *down, *across; /**< what a row and a column are */
    int64_t row;               /**< of the reads that follow: row() notes them here */
    uint64_t reads;            /**< all of them */
    float *count;              /**< [rows,columns] */
    float brightest;           /**< the count that is drawn brightest; 0: the largest of all */
    const char *const *names;  /**< NULL, or [rows] what stands beside each row */
} touched;

touched touched_new(int64_t rows, int64_t columns, const char *down, const char *across);
/** Cells outside of the picture are ignored. */
void touched_mark(touched *t, int64_t row, int64_t column);

/** Vectors [tokens,heads,width]. Read them through row(): `data` itself is closed to an answer. */
typedef struct tensor {
    const float *data;
    int heads, width;
    touched *seen; /**< column = token * heads + head; may be NULL */
} tensor;

/** A tensor that answers may ask for row by row; data is the judge's, from exercise_floats() or inputs. `name`
 *  is what the answer calls it: a pointer. */
tensor exercise_rows(const char *name, const float *data, int64_t tokens, int heads, int width, touched *seen);

/** The vector of one token and head; it is counted, and the picture gets a dot. */
const float *row(const tensor *t, int64_t token, int head);

/** x . y */
double dot_product(const float *x, const float *y, int width);

/* ---- Verdicts -------------------------------------------------------------------------------------- */

/** Reads `check [--seed N] [--json FILE] [--picture FILE]`. Without a seed each run has one of its own. */
void exercise_begin(int argc, char **argv);
/** The seed of the run. */
uint64_t exercise_seed(void);
/** `found` against the reference, within the budget. Only the first failure of a run is told. */
void exercise_tensor(const char *what, verdict_dims n, const float *expected, const float *found,
                     verdict_budget budget);
/** Anything else that must hold; the text says what was expected and what was found. */
__attribute__((format(printf, 2, 3))) void exercise_true(bool ok, const char *fmt, ...);
/** How many things did not hold so far, told or not; the first of them, or "". */
int exercise_failures(void);
const char *exercise_failure(void);
/** What failures from now on begin with. */
void exercise_place(const char *place);
/** ids [Hkv,T,k], exactly: the first wrong one is told. */
void exercise_ids(const msa_shape *s, const int32_t *expected, const int32_t *found);

/** An exact count. More than `bar` is too much work. Less than `floor`, which no answer can do without, was
 *  not counted; `how` says what to write in its place, NULL: what row() says. */
typedef struct exercise_count {
    const char *what;
    uint64_t found, floor, bar;
    const char *how;
} exercise_count;
void exercise_bar(exercise_count n);
/** Another way to do the same, and what it takes of a count on the same inputs. */
typedef struct exercise_rung {
    const char *way; /**< "index/tiled": a kernel of the ladder, as `msa count` counts it */
    uint64_t count;
} exercise_rung;
/** A table of `n` ways and the answer, which is part of the result; the first is the stub, the measure of all. Of an answer
 *  that is not right by then, bars aside, it says so. */
void exercise_ladder(const char *what, uint64_t found, int n, const exercise_rung *rung);
/** The bar of an answer that streams EXERCISE_LONG keys: the memory that it touched, less what it takes to read
 *  them and keep nothing. A number a key is over it, even one of two bytes. */
enum { EXERCISE_LONG = 1 << 15 };
void exercise_keep_nothing(const tensor *x, const tensor *y);
void exercise_bar_memory(uint64_t nothing, uint64_t found);
/** Draws the picture, if there is one, and says the verdict; returns the exit status. */
int exercise_end(const touched *picture);

/** The judge's memory for the length of the program; floats are NaN until they are written. */
void *exercise_alloc(int64_t bytes);
float *exercise_floats(int64_t n);
/** Inputs of a pattern, in the judge's memory; ends the program where memory runs out. */
inputs exercise_inputs(const msa_shape *s, inputs_pattern pattern);
/** n floats that the answer may read, and n that it may write. */
float *exercise_given(int64_t n, const char *name);
float *exercise_wanted(int64_t n, const char *name);
/** Fills what the answer may read; takes what it wrote away, so that the next call finds NaN. */
void exercise_give(float *given, const float *from, int64_t n);
void exercise_take(float *to, float *wanted, int64_t n);

#endif
