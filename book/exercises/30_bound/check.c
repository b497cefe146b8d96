/* Bounds of random, adverse, huge and tiny blocks against the products of their keys, and how many blocks they leave open.
 * The picture: which these are. */
#include "task.h"

#include <stdio.h>

enum { BLOCKS = 64, QUERIES = 8, WANTED = 7, ROUNDING = 40 };

typedef enum kind { NORMAL, OUTLIERS, EXACT, AGAINST, ZEROS, HUGE_ONES, TINY_ONES, KINDS } kind;
static const char *const kind_name[] = {"normal keys",          "keys with a large channel",
                                        "small integers",       "keys between two codes",
                                        "some blocks of zeros", "keys near 1e25",
                                        "keys near 1e-25"};

static float element(kind k, int block, int c, inputs_rng *rng)
{
    const float x = inputs_normal(rng);
    switch (k) {
    case OUTLIERS:
        return c == 5 ? 12 * x : x;
    case EXACT: /* the first channel is a whole number of 127ths */
        return c == 0 ? 127 : (float)(inputs_below(rng, 9) - 4);
    case AGAINST: /* almost half a code off, each channel the same way */
        return c == 0 ? 127 : 20.49f;
    case ZEROS:
        return block % 3 == 1 ? 0 : x;
    case HUGE_ONES:
        return 1e25f * x;
    case TINY_ONES:
        return 1e-25f * x;
    default:
        return x;
    }
}

static double exact_score(const float *q, const float *keys)
{
    double best = -INFINITY;
    for (int j = 0; j < KEYS; j++) {
        double x = 0;
        for (int c = 0; c < WIDTH; c++)
            x += (double)q[c] * (double)keys[j * WIDTH + c];
        best = fmax(best, x);
    }
    return best;
}

static double norm_of(const float *x)
{
    double sum = 0;
    for (int c = 0; c < WIDTH; c++)
        sum += (double)x[c] * (double)x[c];
    return sqrt(sum);
}

/* Rows as codes of one step, and what these say; the longest of those, and the farthest from what it was. */
typedef struct coded {
    double said[KEYS][WIDTH], reach, error;
} coded;

static coded code_rows(const float *x, int rows)
{
    coded to = {.reach = 0};
    double most = 0;
    for (int i = 0; i < rows * WIDTH; i++)
        most = fmax(most, fabs((double)x[i]));
    for (int j = 0; j < rows; j++) {
        double length = 0, off = 0;
        for (int c = 0; c < WIDTH; c++) {
            const double v = (double)x[j * WIDTH + c],
                         said = most > 0 ? most / 127 * rint(127 * v / most) : 0;
            to.said[j][c] = said;
            length += said * said;
            off += (v - said) * (v - said);
        }
        to.reach = fmax(to.reach, sqrt(length));
        to.error = fmax(to.error, sqrt(off));
    }
    return to;
}

/* Blocks whose upper bound is not below the WANTED-th largest lower bound. */
static int open_blocks(const double *lower, const double *upper, touched *seen)
{
    int open = 0;
    for (int b = 0; b < BLOCKS; b++) {
        int above = 0;
        for (int a = 0; a < BLOCKS; a++)
            above += lower[a] > upper[b];
        if (above < WANTED && seen)
            touched_mark(seen, seen->row, b);
        open += above < WANTED;
    }
    return open;
}

/* The bar: with an eps that is 2 % wider than it has to be. */
static int open_at_most(const float *q, const float *keys)
{
    double lower[BLOCKS], upper[BLOCKS];
    const coded query = code_rows(q, 1);
    for (int b = 0; b < BLOCKS; b++) {
        const coded block = code_rows(keys + b * KEYS * WIDTH, KEYS);
        double best = -INFINITY;
        for (int j = 0; j < KEYS; j++) {
            double x = 0;
            for (int c = 0; c < WIDTH; c++)
                x += query.said[0][c] * block.said[j][c];
            best = fmax(best, x);
        }
        const double eps = 1.02 * (query.error * block.reach + norm_of(q) * block.error);
        lower[b] = best - eps;
        upper[b] = best + eps;
    }
    return open_blocks(lower, upper, NULL);
}

static void judge(kind k, touched *seen, uint64_t *open, uint64_t *bar)
{
    static float *given, *q;
    static block8 *rounded, *blocks;
    static query8 *answered, *query;
    static double(*found)[2];
    if (!given) {
        given = exercise_given(BLOCKS * KEYS * WIDTH, "keys");
        q = exercise_given(WIDTH, "q");
        rounded = answer_wanted(BLOCKS * (int64_t)sizeof *rounded, "to");
        blocks = answer_given(BLOCKS * (int64_t)sizeof *blocks, "b");
        answered = answer_wanted(sizeof *answered, "to");
        query = answer_given(sizeof *query, "q");
        found = answer_wanted(BLOCKS * (int64_t)sizeof *found, "the bounds");
    }
    inputs_rng rng = {exercise_seed() + (uint64_t)k};
    float *keys = exercise_floats(BLOCKS * KEYS * WIDTH), *queries = exercise_floats(QUERIES * WIDTH);
    for (int i = 0; i < BLOCKS * KEYS * WIDTH; i++)
        keys[i] = element(k, i / KEYS / WIDTH, i % WIDTH, &rng);
    for (int i = 0; i < QUERIES * WIDTH; i++)
        queries[i] = k == AGAINST ? (i % WIDTH ? 1 : 0) : inputs_normal(&rng);
    exercise_place(kind_name[k]);
    exercise_give(given, keys, BLOCKS * KEYS * WIDTH);
    ANSWER(for (int b = 0; b < BLOCKS; b++) round_block(given + b * KEYS * WIDTH, &rounded[b]));
    memcpy(blocks, rounded, BLOCKS * sizeof *blocks);
    memset(given, 0, BLOCKS * KEYS * WIDTH * sizeof *given); /* from here on nobody has the keys */
    for (int i = 0; i < QUERIES; i++) {
        double lower[BLOCKS], upper[BLOCKS];
        exercise_give(q, queries + i * WIDTH, WIDTH);
        ANSWER(round_query(q, answered));
        memcpy(query, answered, sizeof *query);
        ANSWER(for (int b = 0; b < BLOCKS; b++)
                   bounds_of_block(query, &blocks[b], &found[b][0], &found[b][1]));
        for (int b = 0; b < BLOCKS; b++) {
            const float *here = keys + b * KEYS * WIDTH;
            const double m = exact_score(queries + i * WIDTH, here);
            double longest = 0, room;
            for (int j = 0; j < KEYS; j++)
                longest = fmax(longest, norm_of(here + j * WIDTH));
            room = ldexp(norm_of(queries + i * WIDTH) * longest, -ROUNDING); /* the judge rounds too */
            lower[b] = found[b][0];
            upper[b] = found[b][1];
            exercise_true(lower[b] <= m + room && upper[b] >= m - room,
                          ": query %d, block %d: expected bounds around %.9g, found %.9g to %.9g", i, b, m,
                          lower[b], upper[b]);
        }
        if (k == NORMAL)
            seen->row = i;
        *open += (uint64_t)open_blocks(lower, upper, k == NORMAL ? seen : NULL);
        *bar += (uint64_t)open_at_most(queries + i * WIDTH, keys);
    }
    exercise_place("");
}

int main(int argc, char **argv)
{
    uint64_t open = 0, bar = 0;
    exercise_begin(argc, argv);
    touched seen = touched_new(QUERIES, BLOCKS, "query", "block that its bounds leave open");
    for (int k = NORMAL; k < KINDS; k++)
        judge((kind)k, &seen, &open, &bar);
    exercise_bar((exercise_count){"blocks left open", open, (uint64_t)KINDS * QUERIES * WANTED, bar, NULL});
    return exercise_end(&seen);
}
