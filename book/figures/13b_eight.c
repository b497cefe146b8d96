/* Bounds of one query's block scores, and what they leave open. */
#include "../examples/screening.h"

#include "draw.h"

enum { B = 160 };

static double place(double score)
{
    return 290 - 5.5 * (score - 16);
}

static void draw(const bounds *b, const float *score, const char *open, const char *chosen, int count,
                 double tau)
{
    char words[96];
    const double step = 656.0 / B;
    begin(720, 350, "Bounds of one query's block scores");
    for (int i = 0; i < B; i++) {
        const double x = 48 + i * step, y = place(b[i].upper), high = place(b[i].lower) - y;
        box(x, y, step - 1, high, open[i] ? BLUE : FAINT, open[i] ? 0.5 : 0.3);
        box(x, place((double)score[i] * sqrt(D)) - 1, step - 1, 2,
            chosen[i] ? ORANGE
            : open[i] ? INK
                      : FAINT,
            1);
        if (chosen[i])
            printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", x + (step - 1) / 2, y - 6,
                   ORANGE);
    }
    line(48, place(tau), 704, place(tau), GREEN, 1.5);
    for (int y = 20; y <= 60; y += 10) {
        snprintf(words, sizeof words, "%d", y);
        text(40, place(y) + 5, "end", FAINT, words);
    }
    line(48, 306, 704, 306, FAINT, 1);
    for (int i = 0; i < B; i += 40) {
        snprintf(words, sizeof words, "%d", i);
        text(48 + i * step, 324, "middle", FAINT, words);
    }
    text(376, 342, "middle", FAINT, "blocks, and the bounds of their scores");
    snprintf(words, sizeof words, "blue: %d of %d are candidates", count, B);
    text(48, 20, "start", BLUE, words);
    text(376, 20, "middle", ORANGE, "dots: the 15 chosen");
    text(704, 20, "end", GREEN, "line: the 15th largest lower bound");
}

int main(void)
{
    const msa_shape s = {.n_q = 1,
                         .n_kv = (B + 1) * BLOCK,
                         .n_heads = 1,
                         .n_kv_heads = 1,
                         .d_head = D,
                         .d_index = D,
                         .block = BLOCK,
                         .topk = K};
    float *keys = room(s.n_kv * D, sizeof *keys), q[D], *numbers = room(4 * (B + 1), sizeof *numbers);
    float score[B + 1];
    int8_t *codes = room(s.n_kv, D), code[D];
    int32_t ids[K];
    bounds b[B];
    double work[D], lower[B], upper[B];
    char open[B], top[B], chosen[B + 1] = {0};
    draw_rows(keys, s.n_kv * D, 1, 0, 0);
    draw_rows(q, D, 2, 0, 0);

    /* What the reference says: scores, ids and bounds, whose unit is half of q.k at this width. */
    void *index = room(1, msa_workspace(NULL, &s));
    const msa_index8 copy = {codes, numbers, numbers + B + 1, numbers + 2 * (B + 1), numbers + 3 * (B + 1)};
    must(msa_index(&s, q, keys, score, ids, NULL, index));
    must(msa_index8_keys(&s, NULL, keys, NULL, &copy, work));
    const msa_index8_query query = msa_index8_round(q, D, 1, code, work);
    msa_index8_bounds(&s, &copy, 0, B, code, &query, lower, upper);
    for (int i = 0; i < B; i++)
        b[i] = (bounds){2 * lower[i], 2 * upper[i]};
    for (int i = 0; i < K; i++)
        chosen[ids[i]] = 1;
    const int count = candidates(b, B, K - 1, open);
    for (int i = 0; i < B; i++)
        lower[i] = b[i].lower;
    const double tau = choose(lower, B, K - 1, top);

    draw(b, score, open, chosen, count, tau);
    free(keys);
    free(numbers);
    free(codes);
    free(index);
    return finish();
}
