/* wants: fetch_query.t, 60.: expected 0 to 59 */
#include "task.h"

void attend_all(const task *t, float *o, float *lse)
{
    for (int64_t i = 0; i <= t->n; i++)
        o[0] = lse[0] = *fetch_query(t, i);
}
