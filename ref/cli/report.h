/* Lines that `msa evaluate` and `msa demo` both print. */
#ifndef MSA_REPORT_H
#define MSA_REPORT_H

#include "../model/evaluate.h"

#define REPORT_MAX_TEXT ((size_t)1 << 31)

/* Recall of every layer and their mean, beside random blocks. */
void report_recall(const eval_recall *layer, int layers);

#endif
