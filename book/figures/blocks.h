/* The figures of chapters 4 and 5: one query, its index scores, and what is chosen. */
#ifndef BLOCKS_H
#define BLOCKS_H

#include "draw.h"

/* The index scores of one query over T keys in blocks, from the reference. */
enum { T4 = 96, B4 = 12, D4 = 16 };
enum { AT4 = 86 }; /* the query's position: block 7 holds 3 visible tokens, and what it chooses lies apart */
static inline void scores_of_last(float *token, float *block, int *topk4)
{
    static float qi[T4 * D4], ki[T4 * D4], m[T4 * (T4 / B4)];
    static int32_t ids[T4 * 4];
    noise(qi, T4 * D4, 21);
    noise(ki, T4 * D4, 22);
    msa_shape s = {.n_q = T4, .n_kv = T4, .n_heads = 1, .n_kv_heads = 1, .d_head = 1, .d_index = D4, .block = B4, .topk = 4};
    void *w = room(1, msa_workspace(NULL, &s));
    must(msa_index(&s, qi, ki, m, ids, NULL, w));
    free(w);
    for (int j = 0; j <= AT4; j++) {
        double x = 0;
        for (int c = 0; c < D4; c++)
            x += (double)qi[AT4 * D4 + c] * (double)ki[j * D4 + c];
        token[j] = (float)(x / sqrt(D4));
    }
    for (int j = AT4 + 1; j < T4; j++)
        token[j] = NAN;
    for (int b = 0; b < T4 / B4; b++)
        block[b] = m[AT4 * (T4 / B4) + b];
    for (int a = 0; a < 4; a++)
        topk4[a] = ids[AT4 * 4 + a];
}

/* Token scores, block maxima, and which blocks are kept. */
static inline int blocks(int selected)
{
    float token[T4], block[T4 / B4];
    int ids[4];
    scores_of_last(token, block, ids);
    begin(720, 320, selected ? "The blocks that are kept" : "Index scores of tokens and of blocks");
    double step = 680.0 / T4, zero = 170;
    for (int b = 0; b < T4 / B4; b++) {
        int chosen = 0;
        for (int a = 0; a < 4; a++)
            chosen |= ids[a] == b;
        double x = 20 + b * B4 * step, w = B4 * step;
        if (selected && chosen)
            box(x + 1, 20, w - 2, 262, ORANGE, 0.13);
        for (int j = b * B4; j < (b + 1) * B4; j++) {
            double left = 20 + j * step;
            if (isnan(token[j])) {
                box(left + 1, zero - 4, step - 2, 8, "#e3e3e3", 1);
                continue;
            }
            double y = 42 * (double)token[j];
            int top = fabsf(token[j] - block[b]) < 1e-6f;
            box(left + 1, y > 0 ? zero - y : zero, step - 2, fabs(y) + 0.5, top ? ORANGE : BLUE, top ? 1 : selected ? 0.25 : 0.5);
        }
        line(x + 2, zero - 42 * (double)block[b], x + w - 2, zero - 42 * (double)block[b], ORANGE, 2);
        char name[32];
        snprintf(name, sizeof name, selected && b == AT4 / B4 ? "local" : "block %d", b);
        text(x + w / 2, 302, "middle", selected && chosen ? ORANGE : INK, name);
        if (b)
            line(x, 20, x, 286, PALE, 1);
    }
    line(20, zero, 700, zero, FAINT, 1);
    return finish();
}

#endif
