/* q.k - q^.k^ = (q - q^).k^ + q.(k - k^), and no product is longer than both vectors. */
#include "task.h"

static float above(double x)
{
    return nextafterf((float)x, INFINITY);
}

static float step_of(const float *x, int n)
{
    float most = 0;
    for (int i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most / 127;
}

typedef struct lengths {
    double whole, coded, off;
} lengths;

static lengths round_row(const float *x, float step, int8_t *code)
{
    lengths sum = {0, 0, 0};
    for (int c = 0; c < WIDTH; c++) {
        const double steps = step > 0 ? rint((double)x[c] / (double)step) : 0;
        code[c] = (int8_t)fmin(fmax(steps, -127), 127);
        const double said = (double)step * code[c], off = (double)x[c] - said;
        sum.whole += (double)x[c] * (double)x[c];
        sum.coded += said * said;
        sum.off += off * off;
    }
    return (lengths){sqrt(sum.whole), sqrt(sum.coded), sqrt(sum.off)};
}

void round_block(const float *keys, block8 *to)
{
    to->scale = step_of(keys, KEYS * WIDTH);
    to->reach = to->error = 0;
    for (int j = 0; j < KEYS; j++) {
        const lengths row = round_row(keys + j * WIDTH, to->scale, to->code[j]);
        to->reach = fmaxf(to->reach, above(row.coded));
        to->error = fmaxf(to->error, above(row.off));
    }
}

void round_query(const float *q, query8 *to)
{
    to->step = step_of(q, WIDTH);
    const lengths row = round_row(q, to->step, to->code);
    to->length = above(row.whole);
    to->rest = above(row.off);
}

void bounds_of_block(const query8 *q, const block8 *b, double *lower, double *upper)
{
    int best = INT32_MIN;
    for (int j = 0; j < KEYS; j++) {
        int x = 0;
        for (int c = 0; c < WIDTH; c++)
            x += q->code[c] * b->code[j][c];
        best = x > best ? x : best;
    }
    const double score = (double)q->step * (double)b->scale * best;
    const double eps = (double)q->rest * (double)b->reach + (double)q->length * (double)b->error;
    *lower = score - eps;
    *upper = score + eps;
}
