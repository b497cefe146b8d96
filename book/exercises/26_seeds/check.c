/* The smallest visible difference of tables of every sort, then how many equals it tells apart. */
#include "task.h"

#include <stdio.h>

enum { arms = 17, most = 5, trials = 200 };

static double next_normal(uint64_t *state) /* the sum of 12 uniform numbers, nearly normal, with variance 1 */
{
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 11) * 0x1p-53;
    }
    return sum;
}

/* Mean of each arm + far times its number; every seed adds its luck. */
static void draw(float *score, const int *seeds, double mean, double far, double deviation, uint64_t *state)
{
    for (int a = 0; a < arms; a++)
        for (int i = 0; i < most; i++)
            score[a * most + i] =
                i < seeds[a] ? (float)(mean + far * a + deviation * next_normal(state)) : NAN;
}

static double expected_of(const float *score, const int *seeds, int n)
{
    double squares = 0;
    int freedoms = -arms;
    for (int a = 0; a < arms; a++) {
        double mean = 0;
        for (int i = 0; i < seeds[a]; i++)
            mean += (double)score[a * most + i] / seeds[a];
        for (int i = 0; i < seeds[a]; i++)
            squares += pow((double)score[a * most + i] - mean, 2);
        freedoms += seeds[a];
    }
    return 2 * sqrt(squares / freedoms * 2 / n);
}

/* What the student's function says of such scores. */
static double ask(const float *score, const int *seeds, int n, touched *seen)
{
    static int *given;
    static double *found;
    if (!given) {
        given = answer_given(arms * (int64_t)sizeof *given, "seeds");
        found = answer_wanted(sizeof *found, "the result");
    }
    const tensor t = exercise_rows("score", score, arms, most, 1, seen);
    memcpy(given, seeds, arms * sizeof *given);
    *found = NAN;
    ANSWER(*found = smallest_difference(&t, given, arms, n));
    return *found;
}

static void judge(const char *what, const int *seeds, double mean, double far, touched *seen)
{
    uint64_t state = exercise_seed() + 100;
    float *score = exercise_floats(arms * most);
    draw(score, seeds, mean, far, 0.003, &state);
    for (int n = 1; n <= 12; n += 11) {
        const double expected = expected_of(score, seeds, n), found = ask(score, seeds, n, seen);
        exercise_true(fabs(found - expected) <= 0x1p-18 * expected,
                      "%s, means of %d seeds: expected %.7f, found %.7f", what, n, expected, found);
    }
}

/* Comparisons of the first two arms that the function calls different, though they never are. */
static void tell_equals_apart(const int *seeds)
{
    uint64_t state = exercise_seed();
    int expected = 0, found = 0;
    float *score = exercise_floats(arms * most);
    for (int i = 0; i < trials; i++) {
        draw(score, seeds, 2.26, 0, 0.005, &state);
        double d = 0;
        for (int j = 0; j < seeds[0]; j++)
            d += ((double)score[j] - (double)score[most + j]) / seeds[0];
        expected += fabs(d) > expected_of(score, seeds, seeds[0]);
        found += fabs(d) > ask(score, seeds, seeds[0], NULL);
    }
    printf("  of %d comparisons of equal arms your function calls %d different\n", trials, found);
    exercise_true(expected == found, "equal arms called different: expected %d of %d, found %d", expected,
                  trials, found);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched seen = touched_new(4, arms * most, "table", "arm and seed");
    int three[arms], some[arms];
    for (int a = 0; a < arms; a++) {
        three[a] = 3;
        some[a] = 1 + a % most;
    }
    judge("equal arms", three, 2.26, 0, &seen);
    seen.row = 1;
    judge("arms that differ", three, 2.26, 0.02, &seen);
    seen.row = 2;
    judge("unequal numbers of seeds", some, 2.26, 0.02, &seen);
    seen.row = 3;
    judge("large values", three, 1000, 0.5, &seen);
    tell_equals_apart(three);
    return exercise_end(&seen);
}
