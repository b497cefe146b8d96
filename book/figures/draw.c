/* The figures of the book: draw NN writes the SVG of chapter NN to standard output. `make book-figures`. */
#include <string.h>

#include "../examples/example.h"

static const char *const INK = "#1c2733", *const FAINT = "#8a96a3", *const BLUE = "#1f6fb2", *const ORANGE = "#d9731a",
                         *const PALE = "#dfe9f2";

static void begin(int width, int height, const char *title)
{
    printf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
           "font-family=\"sans-serif\" font-size=\"15\">\n<title>%s</title>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
           width, height, width, height, title, width, height);
}

static void box(double x, double y, double w, double h, const char *fill, double opacity)
{
    printf("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\" fill-opacity=\"%.2f\"/>\n", x, y, w, h, fill, opacity);
}

static void line(double x, double y, double x2, double y2, const char *stroke, double width)
{
    printf("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%.1f\"/>\n", x, y, x2, y2, stroke, width);
}

static void text(double x, double y, const char *anchor, const char *fill, const char *words)
{
    printf("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x, y, anchor, fill, words);
}

/* 01: the weights of one head, a row per query. */
static void attention(void)
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
    printf("</svg>\n");
}

/* 02: which query head reads which key-value head. */
static void groups(void)
{
    static const int kv_heads[3] = {8, 2, 1};
    static const char *const name[3] = {"multi-head: 8 of 8", "grouped: 2 for 8, G = 4", "multi-query: 1 for 8"};
    begin(720, 230, "Query heads and the key-value heads they share");
    for (int m = 0; m < 3; m++) {
        double x = 20 + 240.0 * m;
        text(x + 100, 28, "middle", INK, name[m]);
        for (int h = 0; h < 8; h++) {
            int r = h / (8 / kv_heads[m]);
            double kx = x + 200.0 * (r + 0.5) / kv_heads[m];
            line(x + 12.5 + 25 * h, 82, kx, 150, FAINT, 1.5);
            box(x + 3 + 25 * h, 60, 19, 22, BLUE, r % 2 ? 0.55 : 0.9);
        }
        for (int r = 0; r < kv_heads[m]; r++)
            box(x + 200.0 * (r + 0.5) / kv_heads[m] - 9.5, 150, 19, 22, ORANGE, r % 2 ? 0.55 : 0.9);
    }
    text(360, 52, "middle", BLUE, "query heads");
    text(360, 200, "middle", ORANGE, "key-value heads: these are what the cache holds");
    printf("</svg>\n");
}

/* 03: the running maximum and the running sum of one row. */
static void online(void)
{
    enum { N = 48 };
    float x[N];
    noise(x, N, 9);
    begin(720, 330, "Running maximum and sum of an online softmax");
    double max = -INFINITY, sum = 0, step = 660.0 / N, lx = 0, ly = 0, my = 0;
    for (int j = 0; j < N; j++) {
        double before = max, left = 40 + j * step, center = left + step / 2;
        if ((double)x[j] > max) {
            sum *= exp(max - (double)x[j]);
            max = (double)x[j];
        }
        sum += exp((double)x[j] - max);
        double y = 120 - 30 * (double)x[j], m = 120 - 30 * max, l = 300 - 9 * sum;
        printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\" fill=\"%s\"/>\n", center, y, max > before ? ORANGE : FAINT);
        if (max > before) {
            line(left, 20, left, 300, PALE, 2);
            if (j)
                line(left, my, left, m, ORANGE, 2);
        }
        line(left, m, left + step, m, ORANGE, 2);
        if (j)
            line(lx, ly, center, l, BLUE, 2);
        lx = center, ly = l, my = m;
    }
    line(40, 300, 700, 300, FAINT, 1);
    text(696, my - 8, "end", ORANGE, "running maximum m");
    text(696, ly - 10, "end", BLUE, "running sum l");
    text(40, 322, "start", FAINT, "keys in the order they arrive; a pale line: a new maximum, l is rescaled");
    printf("</svg>\n");
}

/* The index scores of one query over T keys in blocks, from the reference. */
enum { T4 = 96, B4 = 12, D4 = 16 };
static void scores_of_last(float *token, float *block, int *topk4)
{
    static float qi[T4 * D4], ki[T4 * D4], m[T4 * (T4 / B4)];
    static int32_t ids[T4 * 4];
    noise(qi, T4 * D4, 21);
    noise(ki, T4 * D4, 22);
    msa_shape s = {.n_q = T4, .n_kv = T4, .n_heads = 1, .n_kv_heads = 1, .d_head = 1, .d_index = D4, .block = B4, .topk = 4};
    const int i = T4 - 5; /* position 91: block 7 holds 8 visible tokens */
    void *w = room(1, msa_workspace(NULL, &s));
    must(msa_index(&s, qi, ki, m, ids, NULL, w));
    free(w);
    for (int j = 0; j <= i; j++) {
        double x = 0;
        for (int c = 0; c < D4; c++)
            x += (double)qi[i * D4 + c] * (double)ki[j * D4 + c];
        token[j] = (float)(x / sqrt(D4));
    }
    for (int j = i + 1; j < T4; j++)
        token[j] = NAN;
    for (int b = 0; b < T4 / B4; b++)
        block[b] = m[i * (T4 / B4) + b];
    for (int a = 0; a < 4; a++)
        topk4[a] = ids[i * 4 + a];
}

/* 04 and 05: token scores, block maxima, and which blocks are kept. */
static void blocks(int selected)
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
        snprintf(name, sizeof name, selected && b == (T4 - 5) / B4 ? "local" : "block %d", b);
        text(x + w / 2, 302, "middle", selected && chosen ? ORANGE : INK, name);
        if (b)
            line(x, 20, x, 286, PALE, 1);
    }
    line(20, zero, 700, zero, FAINT, 1);
    printf("</svg>\n");
}

/* 06: what every query of two groups may see. */
static void support(void)
{
    enum { N = 96, B = 8, K = 4, D = 8, C = 3 };
    static float qi[N * 2 * D], ki[N * D];
    static int32_t ids[2 * N * K];
    noise(qi, N * 2 * D, 31);
    noise(ki, N * D, 32);
    msa_shape s = {.n_q = N, .n_kv = N, .n_heads = 2, .n_kv_heads = 2, .d_head = 1, .d_index = D, .block = B, .topk = K};
    void *w = room(1, msa_workspace(NULL, &s));
    must(msa_index(&s, qi, ki, NULL, ids, NULL, w));
    free(w);
    begin(720, 360, "The tokens that each query attends to, in two groups");
    for (int r = 0; r < 2; r++) {
        double x0 = 40 + 350.0 * r;
        text(x0 + N * C / 2.0, 28, "middle", INK, r ? "group 1" : "group 0");
        for (int i = 0; i < N; i++) {
            box(x0, 42 + i * C, (i + 1) * C, C, PALE, 1);
            for (int a = 0; a < K && ids[(r * N + i) * K + a] >= 0; a++) {
                int b = ids[(r * N + i) * K + a], last = b * B + B - 1 < i ? b * B + B - 1 : i;
                box(x0 + b * B * C, 42 + i * C, (last - b * B + 1) * C, C, b == i / B ? ORANGE : BLUE, 0.9);
            }
        }
        text(x0 + N * C / 2.0, 350, "middle", FAINT, "keys 0 to 95");
    }
    printf("</svg>\n");
}

/* 07: operations of a prefill, dense and sparse. */
static void cost(void)
{
    msa_shape s = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};
    begin(720, 400, "Operations of one layer's attention in a causal prefill");
    double x0 = 90, y0 = 350, sx = 52, sy = 14.5, px = 0, pg = 0, pm = 0, pi = 0, ps = 0;
    for (int e = 11; e <= 20; e++) {
        msa_cost_row row;
        must(msa_cost(&s, 1L << e, &row));
        double x = x0 + (e - 11) * sx, low = 35;
        double g = y0 - sy * (log2(row.flop_gqa) - low), m = y0 - sy * (log2(row.flop_msa) - low);
        double ix = y0 - sy * (log2(row.flop_msa * row.index_share) - low), sp = y0 - sy * (log2(row.flop_msa * (1 - row.index_share)) - low);
        line(x, 40, x, y0, PALE, 1);
        if (e > 11) {
            line(px, pg, x, g, INK, 2.5);
            line(px, pi, x, ix, ORANGE, 1.5);
            line(px, ps, x, sp, BLUE, 1.5);
            line(px, pm, x, m, "#2c8a4b", 2.5);
        }
        px = x, pg = g, pm = m, pi = ix, ps = sp;
        char name[16];
        snprintf(name, sizeof name, e < 20 ? "%ldK" : "1M", 1L << (e - 10));
        text(x, y0 + 22, "middle", INK, name);
        if (e == 20) {
            text(x + 10, g + 5, "start", INK, "dense GQA");
            text(x + 10, m, "start", "#2c8a4b", "MSA");
            text(x + 10, ix + 14, "start", ORANGE, "index");
            text(x + 10, sp + 5, "start", BLUE, "16 blocks");
        }
    }
    for (int e = 36; e <= 54; e += 6) {
        char name[24];
        snprintf(name, sizeof name, "2^%d", e);
        text(x0 - 12, y0 - sy * (e - 35) + 5, "end", FAINT, name);
        line(x0 - 6, y0 - sy * (e - 35), x0, y0 - sy * (e - 35), FAINT, 1);
    }
    text(x0, 24, "start", FAINT, "operations of one layer, by tokens of the prefill");
    line(x0, y0, 570, y0, FAINT, 1);
    printf("</svg>\n");
}

int main(int argc, char **argv)
{
    const int chapter = argc == 2 ? atoi(argv[1]) : 0;
    switch (chapter) {
    case 1: attention(); return 0;
    case 2: groups(); return 0;
    case 3: online(); return 0;
    case 4: blocks(0); return 0;
    case 5: blocks(1); return 0;
    case 6: support(); return 0;
    case 7: cost(); return 0;
    default: fprintf(stderr, "usage: draw NN, a chapter's number\n"); return 2;
    }
}
