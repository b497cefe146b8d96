/** Attention of one query in one pass, and the LSE: log sum_j exp(q . k_j / sqrt(width)).
 *  Arguments as those of attend() in exercise attention. Each key and each value may be read once. */
#include "../exercise.h"
void attend_once(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o, float *lse);
