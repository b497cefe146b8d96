/* Bounds that hold and bounds that do not, in an order of their own each run. Of the first nobody has evidence; of the
 * others the answer has to bring it. The picture: keys whose product lies outside. */
#include "task.h"

#include <stdio.h>

typedef enum version {
    HOLDS,      /* eps = |f| N + |q| E */
    HOLDS_WIDE, /* three times that */
    NO_QUERY,   /* |q| E alone: the query was rounded too */
    NO_KEY,     /* |f| N alone */
    FIRST_KEY,  /* N and E of the block's first key */
    MEAN_KEY,   /* their means over the keys */
    PROBABLE,   /* a part of eps, which random errors never reach */
    SINGLE,     /* eps is right, the score is evaluated in float32 */
    VERSIONS
} version;
static const char *const what[] = {"bounds that hold",
                                   "bounds that hold and are wide",
                                   "bounds without the query's rounding",
                                   "bounds without the keys' rounding",
                                   "bounds by the first key's lengths",
                                   "bounds by mean lengths",
                                   "bounds that hold for random errors only",
                                   "bounds evaluated in float32"};

static version now;
static double part; /* of eps */

typedef struct rounded {
    double code[KEYS][WIDTH], step, coded[KEYS], off[KEYS]; /* lengths */
} rounded;

static void round_rows(const float *x, int rows, rounded *to)
{
    double most = 0;
    for (int i = 0; i < rows * WIDTH; i++)
        most = fmax(most, fabs((double)x[i]));
    to->step = most / 127;
    for (int j = 0; j < rows; j++) {
        double coded = 0, off = 0;
        for (int c = 0; c < WIDTH; c++) {
            const double v = (double)x[j * WIDTH + c], code = most > 0 ? rint(v / to->step) : 0;
            to->code[j][c] = code;
            coded += to->step * code * to->step * code;
            off += (v - to->step * code) * (v - to->step * code);
        }
        to->coded[j] = sqrt(coded);
        to->off[j] = sqrt(off);
    }
}

static double length(const float *x)
{
    double sum = 0;
    for (int c = 0; c < WIDTH; c++)
        sum += (double)x[c] * (double)x[c];
    return sqrt(sum);
}

static double over_keys(const double *x)
{
    double most = 0, sum = 0;
    for (int j = 0; j < KEYS; j++) {
        most = fmax(most, x[j]);
        sum += x[j];
    }
    return now == FIRST_KEY ? x[0] : now == MEAN_KEY ? sum / KEYS : most;
}

void claimed(const float *q, const float *keys, double *lower, double *upper)
{
    rounded query, block;
    double best = -INFINITY;
    round_rows(q, 1, &query);
    round_rows(keys, KEYS, &block);
    for (int j = 0; j < KEYS; j++) {
        double x = 0;
        for (int c = 0; c < WIDTH; c++)
            x += query.code[0][c] * block.code[j][c];
        best = fmax(best, x);
    }
    const double by_query = now == NO_KEY ? query.off[0] * over_keys(block.coded) : 0;
    double eps = query.off[0] * over_keys(block.coded) + length(q) * over_keys(block.off);
    eps = now == NO_QUERY ? length(q) * over_keys(block.off) : now == NO_KEY ? by_query : eps;
    eps *= now == HOLDS_WIDE ? 3 : now == PROBABLE ? part : 1;
    const double score = now == SINGLE ? (double)((float)query.step * (float)block.step * (float)best)
                                       : query.step * block.step * best;
    *lower = score - eps;
    *upper = score + eps;
}

/* Whether the evidence shows it, and which keys' products lie outside. */
static bool shows(const float *q, const float *keys, touched *seen)
{
    double lower, upper, best = -INFINITY, longest = 0;
    claimed(q, keys, &lower, &upper);
    for (int j = 0; j < KEYS; j++)
        longest = fmax(longest, length(keys + j * WIDTH));
    const double room = ldexp(length(q) * longest, -40);
    for (int j = 0; j < KEYS; j++) {
        double x = 0;
        for (int c = 0; c < WIDTH; c++)
            x += (double)q[c] * (double)keys[j * WIDTH + c];
        if (x > upper + room)
            touched_mark(seen, seen->row, j);
        best = fmax(best, x);
    }
    return best > upper + room || best < lower - room;
}

static bool in_range(const float *x, int n)
{
    for (int i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= 0x1p60f && (fabsf(x[i]) >= 0x1p-60f || fabsf(x[i]) <= 0)))
            return false;
    return true;
}

static void judge(touched *seen)
{
    static float *q, *keys;
    static bool *says;
    if (!q) {
        q = exercise_wanted(WIDTH, "q");
        keys = exercise_wanted(KEYS * WIDTH, "keys");
        says = answer_wanted(sizeof *says, "the result");
    }
    memset(q, 0, WIDTH * sizeof *q);
    memset(keys, 0, KEYS * WIDTH * sizeof *keys);
    *says = false;
    ANSWER(*says = refute(q, keys));
    const bool holds = now == HOLDS || now == HOLDS_WIDE;
    if (holds || !*says) {
        exercise_true(holds == !*says, "%s: expected %s, found %s", what[now],
                      holds ? "no evidence" : "evidence", *says ? "some" : "none");
        return;
    }
    const bool proper = in_range(q, WIDTH) && in_range(keys, KEYS * WIDTH);
    exercise_true(proper, "%s: expected evidence of numbers from 2^-60 to 2^60, or 0, found others",
                  what[now]);
    exercise_true(proper && shows(q, keys, seen),
                  "%s: expected evidence whose largest product is outside of them, found it inside",
                  what[now]);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    inputs_rng rng = {exercise_seed()};
    version order[VERSIONS];
    touched seen = touched_new(VERSIONS, KEYS, "version, in the order of this run",
                               "key whose product is above its bound");
    for (int n = 0; n < VERSIONS; n++) { /* shuffled as they come */
        const int at = (int)inputs_below(&rng, n + 1);
        order[n] = order[at];
        order[at] = (version)n;
    }
    part = 0.5 + 0.05 * (double)inputs_below(&rng, 8);
    for (int n = 0; n < VERSIONS; n++) {
        now = order[n];
        seen.row = n;
        judge(&seen);
    }
    return exercise_end(&seen);
}
