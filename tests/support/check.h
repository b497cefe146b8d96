/**
 * @file check.h
 * @brief What the test programs share: the seed of a run, cases that gather verdicts, memory that is
 * released at once.
 *
 * The comparisons themselves are those of `msa check`: ref/judge/verdict.h.
 */
#ifndef MSA_CHECK_H
#define MSA_CHECK_H

#include "../../ref/judge/selections.h"
#include "../../ref/judge/verdict.h"
#include "tap.h"

/* ---- The run ------------------------------------------------------------------------------------- */

/** Settles the seed (argv[1], else the environment's MSA_SEED, else the clock) and prints how to replay it.
 */
void check_start(int argc, char **argv);
/** A seed that depends on the run's seed and on `salt` only. */
uint64_t check_seed(uint64_t salt);
/** Releases all memory and prints the plan. Returns the exit status. */
int check_done(void);

/* ---- Memory -------------------------------------------------------------------------------------- */

/** Zeroed; ends the program where memory runs out. What is written behind its end fails when it is released.
 */
void *check_alloc(int64_t count, size_t size);
double *check_doubles(int64_t count);
float *check_floats(int64_t count);
int32_t *check_ints(int64_t count);
/** A copy in the other precision. */
double *check_widen(const float *x, int64_t count);
float *check_narrow(const double *x, int64_t count);
/** What is allocated now; check_release() frees everything allocated since (NULL: since the start). */
const void *check_mark(void);
void check_release(const void *mark);

/* ---- Cases --------------------------------------------------------------------------------------- */

/** One line of TAP that stands for many verdicts. */
typedef struct check_case {
    char name[192];
    bool ok;
    int n;           /**< verdicts so far; a case without any fails */
    double used;     /**< largest share of a budget */
    char worst[192]; /**< where that was */
} check_case;

__attribute__((format(printf, 1, 2))) check_case check_begin(const char *fmt, ...);
/** Verdict on a tensor; a failure prints the first mismatch at once. */
void check_tensor(check_case *c, const char *what, verdict_dims n, const double *oracle, const float *found,
                  verdict_budget budget);
/** The same for n doubles in one row. */
void check_doubles_near(check_case *c, const char *what, int64_t n, const double *oracle, const double *found,
                        verdict_budget budget);
/** The same bits. */
void check_same(check_case *c, const char *what, const void *expected, const void *found, size_t bytes);
__attribute__((format(printf, 3, 4))) void check_true(check_case *c, bool ok, const char *fmt, ...);
void check_end(const check_case *c);

#endif
