/* wants: was not run, since it says */
#include "task.h"
# 1 "book/exercises/exercise.h" 1
__attribute__((constructor)) static void early(void) { }
void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
}
