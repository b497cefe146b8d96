/* Answers to chapter 8: a narrower index, and two ways to average two heads. */
#define TINY_DI 4
#include "../examples/tiny_selector.h"

enum { STEPS = 240, TOKENS = 100 };

/* Two heads, each with one logit of `high` among zeros. The weight of a token that one of them wants. */
static void two_heads(double high)
{
    const double one = exp(high) / (exp(high) + TOKENS - 1), other = 1 / (exp(high) + TOKENS - 1);
    const double mean_logit = exp(high / 2) / (2 * exp(high / 2) + TOKENS - 2);
    printf("high %.0f\ntokens %d\nmean_of_probabilities %.2f\nof_mean_logits %.2f\n", high, TOKENS,
           (one + other) / 2, mean_logit);
}

int main(void)
{
    static tiny t;
    two_heads(8);
    tiny_init(&t);
    for (int step = 0; step < STEPS; step++) {
        tiny_select(&t);
        tiny_step(&t, NULL, 0.5f);
    }
    tiny_select(&t);
    const msa_recall_result found = tiny_recall(&t);
    printf("block %.2f\nscore %.2f\nloss %.2f\n", found.block_recall, found.score_recall,
           tiny_loss(&t, NULL));
    free(t.work);
    return 0;
}
