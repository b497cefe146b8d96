/**
 * @file timeline_predict.h
 * @brief What the clocks of the kernels' inner loops say of whole stages.
 */
#ifndef MSA_TIMELINE_PREDICT_H
#define MSA_TIMELINE_PREDICT_H

#include "cli.h"

/**
 * Prints a line for each stage, length from 8K to 1M tokens and GPU.
 * @param shape T = S of the only length, other heads, or both; NULL: M3's layer, all lengths
 * @param files of msa bench: what they measured stands beside, and how far off the prediction is
 * @return the status of the program
 */
int timeline_predict(const char *command, const char *shape, const cli_list *files);

#endif
