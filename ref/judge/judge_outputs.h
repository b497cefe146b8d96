/**
 * @file judge_outputs.h
 * @brief What judge.c and judge_outputs.c share.
 */
#ifndef MSA_JUDGE_OUTPUTS_H
#define MSA_JUDGE_OUTPUTS_H

#include "guard.h"
#include "judge.h"

#define KL_WEIGHT 0.75 // not 1, so that a kernel that ignores it is found out

/** One judgement: the reference's results beside the guarded buffers that the kernel writes. */
typedef struct judgement {
    const msa_kernel *kernel;
    const msa_shape *s;
    const inputs *in;
    void *oracle[ARRAY_N];
    guard found[ARRAY_N];
    int32_t *drawn_ids; // a synthetic selection
    double oracle_loss, loss;
    void *oracle_work;
    guard work;
    double *wide;           // one oracle tensor in double
    double *noise[ARRAY_N]; // of the kernel's roundings; NULL where it makes none
    bool codes;             // calls bring an 8-bit copy of the index keys
    inputs rounded;         // what a bf16 kernel makes of the inputs
    judge_report report;
} judgement;

/* False if memory ran out. */
bool judge_open(judgement *j);
void judge_close(judgement *j);
size_t judge_count(const msa_shape *s, array_id a);

/* Only the first failure is kept: what follows it is often its consequence. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void judge_fail(judgement *j, const char *fmt, ...);

/* Whether the kernel kept to this buffer and filled it. */
bool judge_is_sound(judgement *j, const guard *g, const char *name, const char *support);
/* Found against oracle, word by word. */
void judge_words(judgement *j, array_id a, const char *support);
/* A selection by its scores, which leave room for ties. */
void judge_selection(judgement *j);
/* Compares the outputs of `set` with the oracle, and checks every fence. Of a stage that scores blocks the
 * ids have been judged before. */
void judge_outputs(judgement *j, unsigned set, const char *support);

#endif
