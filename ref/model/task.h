/**
 * @file task.h
 * @brief A synthetic task with known answers at every distance: associative recall.
 *
 * A sequence is noise in which facts stand, one byte each: this key has that value. Each key has one fact at
 * a random place, and its value is drawn anew for each sequence. About a quarter of the tokens ask for a key
 * whose fact came before; the target there is the value. No answer ever stands in the sequence, and noise has
 * no target.
 */
#ifndef MSA_TASK_H
#define MSA_TASK_H

#include "model.h"

enum {
    TASK_KEYS = 16,
    TASK_VALUES = 8,
    TASK_ASK =
        TASK_KEYS * TASK_VALUES, /**< bytes below are facts, key * TASK_VALUES + value; then 16 questions */
    TASK_ANSWER = TASK_ASK + TASK_KEYS, /**< then 8 answers */
    TASK_NOISE = TASK_ANSWER + TASK_VALUES,
    TASK_MIN_LENGTH = 2 * TASK_KEYS
};

/** Sequence `number` of stream `seed`: tokens [length], the answer to each, targets [length], and in
 *  distance [length] how far back its fact stands; 0 where nothing is asked.
 *  @param length at least TASK_MIN_LENGTH */
void task_draw(uint64_t seed, uint64_t number, int length, uint8_t *tokens, uint8_t *targets, int *distance);

/** What a model answers. */
#define TASK_BINS 4
typedef struct task_result {
    double bits;           /**< mean bits of an answer */
    double accuracy;       /**< part where the answer has the largest logit */
    double bin[TASK_BINS]; /**< the same for distances up to 1/4, 2/4, 3/4 and 4/4 of the sequence */
} task_result;

/** Judges the model on `count` sequences of a stream that training does not draw from. False if memory runs
 *  out. */
bool task_judge(const model *m, const msa_ops *ops, uint64_t seed, int count, task_result *out);

/** The same sequences one after another, and one byte more, as a text to evaluate: count*context+1 bytes. */
bool task_text(const model *m, uint64_t seed, int count, uint8_t *bytes);

#endif
