/* Block by block: whoever chose it fills the columns, 16 rows of heads and queries at a time, and its keys stay in two
 * tiles meanwhile. */
#include "task.h"

/* A row's sum so far. */
typedef struct partial {
    double m, sum;
} partial;

static void add(double x, partial *p)
{
    const double next = fmax(p->m, x);
    p->sum = p->sum * exp(p->m - next) + exp(x - next);
    p->m = next;
}

static bool chose(const msa_shape *s, const int32_t *ids, int64_t i, int64_t block)
{
    for (int n = 0; n < s->topk; n++)
        if (ids[i * s->topk + n] == block)
            return true;
    return false;
}

/* Columns 0 .. n - 1 of the panel, which are rows row[..] of lse, meet the keys from `first` on. */
static void meet(const msa_shape *s, const int64_t *row, int n, int64_t first, partial *p)
{
    unit_zero(0);
    for (int step = 0; step < s->d_head / UNIT_STEP; step++) {
        unit_load_queries(1, 0, step);
        unit_product(0, 2 + step, 1);
    }
    const float *logits = unit_read(0);
    for (int column = 0; column < n; column++)
        for (int key = 0; key < UNIT_ROWS && first + key <= row[column] / s->n_heads; key++)
            add((double)logits[key * UNIT_ROWS + column] / sqrt(s->d_head), &p[row[column]]);
}

static void walk_block(const msa_shape *s, const int32_t *ids, int64_t block, partial *p)
{
    const int64_t first = block * UNIT_ROWS;
    int64_t row[UNIT_ROWS];
    int n = 0;
    bool loaded = false;
    for (int64_t i = first; i < s->n_q; i++)
        for (int h = 0; h < s->n_heads && chose(s, ids, i, block); h++) {
            for (int step = 0; !loaded && step < s->d_head / UNIT_STEP; step++)
                unit_load_keys(2 + step, first, step);
            loaded = true;
            unit_put(0, n, i, h);
            row[n++] = i * s->n_heads + h;
            if (n == UNIT_ROWS) {
                meet(s, row, n, first, p);
                n = 0;
            }
        }
    if (n > 0)
        meet(s, row, n, first, p);
}

void lse_of_blocks(const msa_shape *s, const int32_t *ids, float *lse)
{
    const int64_t rows = s->n_q * s->n_heads;
    partial *p = malloc((size_t)rows * sizeof *p);
    for (int64_t a = 0; a < rows; a++)
        p[a] = (partial){-INFINITY, 0};
    for (int64_t block = 0; block * UNIT_ROWS < s->n_q; block++)
        walk_block(s, ids, block, p);
    for (int64_t a = 0; a < rows; a++)
        lse[a] = (float)(p[a].m + log(p[a].sum));
    free(p);
}
