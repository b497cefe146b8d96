/* wants: not yet: bounds (that hold.*: expected no evidence, found some|.*expected evidence whose largest product is outside of them, found it inside) */
#include "task.h"

/* Evidence that shows nothing, whatever is claimed. */
bool refute(float *q, float *keys)
{
    q[0] = keys[0] = 1;
    return true;
}
