/* Answers to chapter 18: how many seeds a small difference needs, and recall against loss. */
#include "../examples/experiments.h"

/* Has an index, and as many blocks of the same size as `msa`: only then are recalls of one kind. */
static int comparable(const table *t, const char *arm)
{
    return sum_up(t, arm, "block_recall").mean > 0 && strncmp(arm, "k-", 2) != 0 &&
           strncmp(arm, "block-", 6) != 0;
}

/* Rows of all experiments that train a model. */
static int models(void)
{
    static const char *const file[] = {"text",      "retrieval", "retrieval-1k",
                                       "one-layer", "precision", "bound"};
    static table t;
    int n = 0;
    for (int a = 0; a < 6; a++) {
        char path[64];
        snprintf(path, sizeof path, "data/experiments/%s.csv", file[a]);
        read_table(path, &t);
        n += t.rows;
    }
    return n;
}

int main(void)
{
    static table t;
    read_table("data/experiments/text.csv", &t);
    const double want = 0.001, s = seed_deviation(&t, "bits_per_byte");
    const pairs p = pair_up(&t, "dense", "msa", "bits_per_byte");
    const double of_pair = p.half / student(p.n - 1) * sqrt(p.n);
    printf("deviation %.4f\nalone %.0f\n", s, ceil(8 * s * s / (want * want)));
    const double pairs_needed = ceil(4 * of_pair * of_pair / (want * want));
    printf("pair_deviation %.4f\npaired %.0f\n", of_pair, pairs_needed);
    printf("models %d\nhours %.1f\n", models(),
           4.0 * 2 * pairs_needed / models()); /* `make experiments` takes about 4 hours */

    /* The two arms whose recall differs most, of those whose loss differs by less than luck does. */
    double most = 0;
    int a = 0, b = 0;
    for (int x = 0; x < t.rows; x++)
        for (int y = 0; y < t.rows; y++) {
            if (!is_first(&t, x) || !is_first(&t, y) || !comparable(&t, t.arm[x]) ||
                !comparable(&t, t.arm[y]))
                continue;
            const double recall =
                sum_up(&t, t.arm[x], "block_recall").mean - sum_up(&t, t.arm[y], "block_recall").mean;
            const double loss =
                sum_up(&t, t.arm[x], "bits_per_byte").mean - sum_up(&t, t.arm[y], "bits_per_byte").mean;
            if (fabs(loss) < visible(s, 3) && recall > most)
                most = recall, a = x, b = y;
        }
    printf("high %s\nlow %s\n", t.arm[a], t.arm[b]);
    printf("high_recall %.2f\nlow_recall %.2f\n", sum_up(&t, t.arm[a], "block_recall").mean,
           sum_up(&t, t.arm[b], "block_recall").mean);
    printf("high_bits %.4f\nlow_bits %.4f\nluck %.4f\n", sum_up(&t, t.arm[a], "bits_per_byte").mean,
           sum_up(&t, t.arm[b], "bits_per_byte").mean, visible(s, 3));

    const double dense = 2 * 64 * 128, index = 4 * 128, kept = 512;
    printf("k4 %.0f\n", ceil(2 * dense * kept / (dense - index)));
    printf("k4_recall %.2f\nk2_recall %.2f\nk4_bits %.4f\nk2_bits %.4f\n",
           sum_up(&t, "k-4", "block_recall").mean, sum_up(&t, "k-2", "block_recall").mean,
           sum_up(&t, "k-4", "bits_per_byte").mean, sum_up(&t, "k-2", "bits_per_byte").mean);
    printf("block8_recall %.2f\nmsa_recall %.2f\n", sum_up(&t, "block-8", "block_recall").mean,
           sum_up(&t, "msa", "block_recall").mean);
    return 0;
}
