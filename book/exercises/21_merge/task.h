/** What one part of the keys leaves behind: attention over that part alone, and its LSE. */
#include "../exercise.h"
typedef struct part {
    const float *o; /**< [width] normalised within the part */
    float lse;      /**< -INFINITY for a part without a visible key; o is then NaN */
} part;
/** Attention over all parts together, and its LSE. At least one part has a visible key. */
void merge(const part *parts, int n, int width, float *o, float *lse);
