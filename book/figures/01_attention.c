/* The weights of one head, a row per query. */
#include "draw.h"

int main(void)
{
    enum { N = 24, D = 8, C = 17 };
    float q[N * D], k[N * D];
    noise(q, N * D, 5);
    noise(k, N * D, 6);
    begin(700, 460, "Causal attention weights of 24 tokens");
    text(60 + N * C / 2.0, 22, "middle", INK, "keys j");
    text(44, 40 + N * C / 2.0, "end", INK, "i");
    for (int i = 0; i < N; i++) {
        double p[N], sum = 0;
        for (int j = 0; j <= i; j++) {
            double s = 0;
            for (int c = 0; c < D; c++)
                s += (double)q[i * D + c] * (double)k[j * D + c];
            sum += p[j] = exp(s / sqrt(D));
        }
        for (int j = 0; j < N; j++) {
            if (j <= i)
                box(60 + j * C, 34 + i * C, C - 1, C - 1, BLUE, 0.06 + 0.94 * fmin(1, 2 * p[j] / sum));
            else
                box(60 + j * C, 34 + i * C, C - 1, C - 1, "#f4f4f4", 1);
        }
    }
    text(490, 70, "start", FAINT, "grey: the future,");
    text(490, 90, "start", FAINT, "never computed");
    text(490, 250, "start", BLUE, "blue: weights, every");
    text(490, 270, "start", BLUE, "row adds up to 1");
    text(490, 400, "start", INK, "half of N² cells,");
    text(490, 420, "start", INK, "each 2 d multiply-adds");
    return finish();
}
