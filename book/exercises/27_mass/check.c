/* Which blocks the scores choose, where one key decides, where all of them do, and where exp overflows. The picture shows the
 * choices of the first two, and brighter the blocks that another one should have been taken for. */
#include "task.h"

enum { n = 72, block = 8, topk = 3, width = 16 };

typedef struct problem {
    float qi[n * width], ki[n * width];
} problem;

/* Queries and keys of which no block stands out: small noise, and one direction that all queries share. */
static void draw(problem *p, inputs_rng *rng)
{
    for (int i = 0; i < n * width; i++) {
        p->qi[i] = (i % width % 2 ? 1.0f : -1.0f) + 0.1f * inputs_normal(rng);
        p->ki[i] = 0.1f * inputs_normal(rng);
    }
}

/* Moves keys towards the queries: their logits grow by about `logit`. */
static void raise(problem *p, int first, int last, float logit)
{
    for (int j = first; j < last; j++)
        for (int c = 0; c < width; c++)
            p->ki[j * width + c] += (c % 2 ? logit : -logit) / sqrtf(width);
}

static void scale_queries(problem *p, float by)
{
    for (int i = 0; i < n * width; i++)
        p->qi[i] *= by;
}

static double log_mass(const float *qi, const float *ki, int64_t first, int64_t last)
{
    double logit[block], max = -INFINITY, sum = 0;
    for (int64_t j = first; j < last; j++) {
        logit[j - first] = dot_product(qi, ki + j * width, width) / sqrt(width);
        max = fmax(max, logit[j - first]);
    }
    for (int64_t j = first; j < last; j++)
        sum += exp(logit[j - first] - max);
    return max + log(sum);
}

/* Takes the best `topk - 1` of the blocks before the local one, as the selector does: of equal ones the
 * lower. */
static void choose(const double *score, int64_t local, bool *chosen)
{
    for (int a = 0; a < topk - 1; a++) {
        int64_t best = -1;
        for (int64_t b = 0; b < local; b++)
            if (!chosen[b] && (best < 0 || score[b] > score[best]))
                best = b;
        chosen[best] = true;
    }
}

static void judge(const char *what, const problem *p, touched *seen, touched *choice, int64_t column)
{
    const tensor ki = exercise_rows("ki", p->ki, n, 1, width, seen);
    float *qi = exercise_given(width, "qi");
    double *mass = answer_wanted(n / block * (int64_t)sizeof *mass, "the result");
    for (int64_t i = topk * block; i < n; i++) {
        const int64_t local = i / block;
        double found[n / block], expected[n / block];
        bool chosen[n / block] = {false};
        seen->row = i;
        exercise_give(qi, p->qi + i * width, width);
        memset(mass, 0xff, n / block * sizeof *mass);
        ANSWER(for (int64_t b = 0; b < local; b++) mass[b] = block_mass(qi, &ki, b * block, (b + 1) * block));
        for (int64_t b = 0; b < local; b++) {
            found[b] = mass[b];
            exercise_true(found[b] == found[b], "%s, query %d: the result for block %d is not a number", what, (int)i,
                          (int)b);
            expected[b] = log_mass(p->qi + i * width, p->ki, b * block, (b + 1) * block);
        }
        choose(found, local, chosen);
        for (int64_t in = 0; in < local; in++)
            for (int64_t out = 0; out < local; out++) {
                if (out == 0 && chosen[in] && choice)
                    touched_mark(choice, i, column + in);
                if (chosen[in] && !chosen[out] && expected[in] < expected[out] - 1e-9 && choice)
                    touched_mark(choice, i, column + in);
                if (chosen[in] && !chosen[out])
                    exercise_true(expected[in] >= expected[out] - 1e-9,
                                  "%s, query %d: block %d chosen, but block %d holds %.3g times as much",
                                  what, (int)i, (int)in, (int)out, exp(expected[out] - expected[in]));
            }
    }
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    inputs_rng rng = {exercise_seed()};
    touched seen = touched_new(n, n, "", ""), unseen = touched_new(n, n, "", "");
    touched choice = touched_new(n, 2 * (n / block) + 1, "query",
                                 "block chosen, brighter where wrong; on the left one key matters, "
                                 "on the right eight");
    choice.brightest = 3;
    problem *p = exercise_alloc(sizeof *p);
    uint64_t reads = 0;
    for (int64_t i = topk * block; i < n; i++)
        reads += (uint64_t)(i / block * block);

    draw(p, &rng);
    raise(p, 2 * block + 3, 2 * block + 4, 3.6f); /* one key of block 2 */
    raise(p, 0, block, 0.8f);                     /* all of block 0, a little, and of block 1 */
    raise(p, block, 2 * block, 1.2f);
    judge("one key that matters", p, &seen, &choice, 0);
    draw(p, &rng);
    raise(p, block, block + 1, 2.2f);
    raise(p, 2 * block, 2 * block + 1, 2.2f); /* one key each of blocks 1 and 2 */
    raise(p, 0, block, 1.3f);                 /* all of block 0 */
    judge("eight keys that matter together", p, &unseen, &choice, n / block + 1);
    for (int sign = -1; sign <= 1; sign += 2) {
        draw(p, &rng);
        raise(p, 0, n, 4);
        raise(p, block, 2 * block, 0.1f);
        scale_queries(p, 300.0f * (float)sign);
        judge(sign < 0 ? "logits of -1200" : "logits of 1200", p, &unseen, NULL, 0);
    }
    exercise_bar((exercise_count){"index keys read", seen.reads, reads, reads, "row(ki, j, 0)"});
    return exercise_end(&choice);
}
