/* Work of the fullest rank and calls of all, for several numbers of ranks. The picture: which rank has which queries. */
#include "task.h"

#define CELLS 64 /* columns of the picture */

static void judge(int ranks, int64_t n, uint64_t *most, uint64_t *mean, uint64_t *calls, touched *seen)
{
    int32_t *home = answer_wanted(n * 4, "home");
    uint64_t work[16] = {0}, fullest = 0;
    bool all = true;
    memset(home, 0x80, (size_t)n * 4);
    ANSWER(deal(ranks, n, home));
    for (int64_t i = 0; i < n && all; i++) {
        all = home[i] >= 0 && home[i] < ranks;
        exercise_true(all, "%d ranks, query %lld of %lld: expected a home from 0 to %d, found %d", ranks, (long long)i,
                      (long long)n, ranks - 1, home[i]);
        if (!all)
            break;
        work[home[i]] += (uint64_t)i + 1;
        *calls += i == 0 || home[i] != home[i - 1];
        if (seen)
            touched_mark(seen, home[i], i * CELLS / n);
    }
    for (int r = 0; r < ranks; r++)
        fullest = work[r] > fullest ? work[r] : fullest;
    *most += fullest;
    *mean += (uint64_t)(n * (n + 1) / 2 / ranks);
}

int main(int argc, char **argv)
{
    static const int ranks[] = {1, 2, 3, 4, 7, 8};
    uint64_t most = 0, mean = 0, calls = 0, least = 0, allowed = 0;
    exercise_begin(argc, argv);
    touched seen = touched_new(8, CELLS, "rank", "queries, in order");
    for (int n = 0; n < 6; n++) {
        const int64_t queries = 2 * ranks[n] * (int64_t)(20 + exercise_seed() % 13);
        judge(ranks[n], queries, &most, &mean, &calls, ranks[n] == 8 ? &seen : NULL);
        least += (uint64_t)ranks[n];
        allowed += 2 * (uint64_t)ranks[n];
    }
    exercise_bar((exercise_count){"keys that the fullest ranks' queries see", most, mean, mean + mean / 100, "deal()"});
    exercise_bar((exercise_count){"calls of all ranks", calls, least, allowed, "deal()"});
    return exercise_end(&seen);
}
