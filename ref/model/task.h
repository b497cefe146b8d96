/**
 * @file task.h
 * @brief A synthetic task with known answers at every distance: associative recall.
 *
 * A sequence is a shuffle of pairs (key, value). Every key stands in two pairs with the same value; at the
 * second the value can be told, by whoever finds the first. Keys and values are drawn anew for each sequence.
 */
#ifndef MSA_TASK_H
#define MSA_TASK_H

#include "model.h"

#define TASK_KEYS 128 /* bytes 0..127 are keys, 128..255 values */
#define TASK_MAX_LENGTH (4 * TASK_KEYS)

/** Sequence `number` of stream `seed`: tokens [length] and the token after each, targets [length]. A target
 *  that can be told has its distance in tokens from key to key in distance [length], any other 0.
 *  @param length a multiple of 4, at most TASK_MAX_LENGTH */
void task_draw(uint64_t seed, uint64_t number, int length, uint8_t *tokens, uint8_t *targets, int *distance);

/** What a model gets right of the targets that can be told. */
#define TASK_BINS 4
typedef struct task_result {
    double bits;            /**< mean bits of a target */
    double accuracy;        /**< part where the answer has the largest logit */
    double bin[TASK_BINS];  /**< the same for distances up to 1/4, 2/4, 3/4 and 4/4 of the sequence */
} task_result;

/** Judges the model on `count` sequences of a stream that training does not draw from. False if memory runs
 *  out. */
bool task_judge(const model *m, const msa_ops *ops, uint64_t seed, int count, task_result *out);

/** The same sequences one after another, and one byte more, as a text to evaluate: count*context+1 bytes. */
void task_text(const model *m, uint64_t seed, int count, uint8_t *bytes);

#endif
