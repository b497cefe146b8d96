/* The sum by 1 to 8 workers in shuffled order: the same bits, near the exact sum, every number read once, and
 * no worker with much more than its share. The picture has a row for each worker of each run. */
#include "task.h"

#define MOST 8 // workers
#define COLUMNS 64

static uint64_t reads; // of the worker that runs

/* In the judge's process, for each number that is asked for. */
static void note_number(void *context, int64_t i, int64_t column)
{
    const numbers *list = context;
    (void)column;
    reads++;
    touched_mark(list->seen, list->seen->row, ((i + 1) * COLUMNS - 1) / list->n);
}

double number(const numbers *list, int64_t i)
{
    return *(const double *)answer_ask(list->x, i, 0);
}

/* Magnitudes from 2^-20 to 2^20, so that nearly every change of order shows in the last bits. */
static numbers draw(int64_t n, inputs_rng *rng, touched *seen)
{
    double *x = answer_hidden(n * (int64_t)sizeof *x, "the list", "number(list, i)");
    for (int64_t i = 0; i < n; i++)
        x[i] = ldexp((double)inputs_normal(rng), (int)inputs_below(rng, 41) - 20);
    return (numbers){n, x, seen};
}

/* The sum with what each addition rounds away added up beside it (Knuth's two-sum). */
static double exact_sum(const numbers *list, double *size)
{
    double sum = 0, lost = 0;
    *size = 0;
    for (int64_t i = 0; i < list->n; i++) {
        const double x = list->x[i], next = sum + x, part = next - sum;
        lost += (sum - (next - part)) + (x - part);
        sum = next;
        *size += fabs(x);
    }
    return sum + lost;
}

/* The sum by so many workers, who run in an order of their own; *most is what the busiest read. */
static double sum_by(int workers, const numbers *list, inputs_rng *rng, uint64_t *most)
{
    double *partial = answer_wanted(PLACES * (int64_t)sizeof *partial, "partial");
    double *sum = answer_wanted(sizeof *sum, "the sum");
    int order[MOST];
    uint64_t all = 0;
    *most = 0;
    for (int a = 0; a < PLACES; a++)
        partial[a] = NAN;
    for (int a = 0; a < workers; a++) {
        const int b = (int)inputs_below(rng, a + 1);
        order[a] = order[b];
        order[b] = a;
    }
    for (int a = 0; a < workers; a++) {
        reads = 0;
        list->seen->row = workers * (workers - 1) / 2 + order[a];
        ANSWER(work(order[a], workers, list, partial));
        all += reads;
        *most = reads > *most ? reads : *most;
    }
    exercise_true(all == (uint64_t)list->n,
                  "%lld numbers, workers: %d: expected each to be read once, found %llu reads",
                  (long long)list->n, workers, (unsigned long long)all);
    ANSWER(*sum = combine(workers, partial));
    return *sum;
}

static uint64_t judge(int64_t n, touched *seen)
{
    inputs_rng rng = {exercise_seed() + (uint64_t)n};
    numbers list = draw(n, &rng, seen);
    answer_offer(&(answer_source){list.x, n, 1, sizeof *list.x, "number(list, %lld)", note_number, &list});
    double size, exact = exact_sum(&list, &size), first = 0, allowed = 256 * 0x1p-53 * size;
    uint64_t most = 0;
    for (int workers = 1; workers <= MOST; workers++) {
        const double sum = sum_by(workers, &list, &rng, &most);
        if (workers == 1)
            first = sum;
        exercise_true(fabs(sum - exact) <= allowed,
                      "sum of %lld numbers, workers: %d: expected %.17g, found %.17g, allowed %.2g",
                      (long long)n, workers, exact, sum, allowed);
        exercise_true(memcmp(&sum, &first, sizeof sum) == 0,
                      "sum of %lld numbers: 1 worker finds %a, %d find %a: expected the same bits",
                      (long long)n, first, workers, sum);
    }
    return most;
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched seen = touched_new(MOST * (MOST + 1) / 2, COLUMNS, "worker 0 of 1, then 0 and 1 of 2, to 7 of 8",
                               "numbers read, in 64 parts");
    touched unseen = touched_new(1, 1, "", "");
    judge(1, &unseen);
    judge(50, &unseen);
    for (int64_t n = 200; n <= 600; n += 200)
        judge(n, &unseen);
    const uint64_t most = judge(999, &seen);
    exercise_bar((exercise_count){"read by the busiest of 8", most, (999 + 7) / 8, 999 / 8 + 40, "number(list, i)"});
    return exercise_end(&seen);
}
