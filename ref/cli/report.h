/**
 * @file report.h
 * @brief Lines that several of `msa evaluate`, `demo` and `train` print (evaluate.c).
 */
#ifndef MSA_REPORT_H
#define MSA_REPORT_H

#include "../model/evaluate.h"

#define REPORT_MAX_TEXT ((size_t)1 << 31)

/* Recall of every layer and their mean, beside random blocks. */
void report_recall(const eval_recall *layer, int layers);

/* Not even one window fits. Returns the exit status. */
int report_no_memory(const char *command);

#endif
