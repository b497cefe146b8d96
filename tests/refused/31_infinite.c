/* wants: not yet: bounds .*: expected (evidence of numbers from 2\^-60 to 2\^60, or 0, found others|no evidence, found some) */
#include "task.h"

/* Numbers that no bound encloses. */
bool refute(float *q, float *keys)
{
    q[0] = keys[0] = INFINITY;
    return true;
}
