/* Chapter 3: softmax in one pass, in pieces, and what a piece has to leave behind. */
#include "example.h"

enum { N = 1000, D = 16 };

/* What is known after some of the keys. */
typedef struct part {
    double max, sum, acc[D]; /* largest logit; sum of exp(x - max); the same sum, weighted with the values */
} part;

/* [online] */
/* Takes in keys first..last-1. If `rescale` is 0, forgets to. Returns how often the maximum rose. */
static int online(part *a, const double *x, const float *v, int first, int last, int rescale)
{
    int rises = 0;
    for (int j = first; j < last; j++) {
        if (x[j] > a->max) {
            double keep = rescale ? exp(a->max - x[j]) : 1; /* exp(-inf) = 0: nothing to keep at first */
            a->sum *= keep;
            for (int c = 0; c < D; c++)
                a->acc[c] *= keep;
            a->max = x[j];
            rises++;
        }
        double w = exp(x[j] - a->max);
        a->sum += w;
        for (int c = 0; c < D; c++)
            a->acc[c] += w * (double)v[j * D + c];
    }
    return rises;
}
/* [online] */

/* [merge] */
/* Joins finished pieces, of which only the output and the LSE are left. */
static double merge(int pieces, double o[][D], const double *lse, double *out)
{
    double max = -INFINITY, sum = 0;
    for (int a = 0; a < pieces; a++)
        max = fmax(max, lse[a]);
    for (int a = 0; a < pieces; a++)
        sum += exp(lse[a] - max);
    double total = max + log(sum);
    for (int c = 0; c < D; c++) {
        out[c] = 0;
        for (int a = 0; a < pieces; a++)
            out[c] += exp(lse[a] - total) * o[a][c];
    }
    return total;
}
/* [merge] */

static double apart(const double *a, const float *b)
{
    double most = 0;
    for (int c = 0; c < D; c++)
        most = fmax(most, fabs(a[c] - (double)b[c]));
    return most;
}

int main(void)
{
    static float q[D], k[N * D], v[N * D], o[D], lse[1];
    static double x[N], out[D];
    noise(q, D, 1);
    noise(k, N * D, 2);
    noise(v, N * D, 3);
    for (int c = 0; c < D; c++)
        q[c] *= 3; /* peaked: a few keys carry most of the weight */
    msa_shape s = {.n_q = 1, .n_kv = N, .n_heads = 1, .n_kv_heads = 1, .d_head = D, .d_index = 1, .block = 1, .topk = 1};
    void *work = room(1, msa_workspace(NULL, &s));
    must(msa_dense(&s, q, k, v, o, lse, work));
    for (int j = 0; j < N; j++)
        for (int c = 0; c < D; c++)
            x[j] += (double)q[c] * (double)k[j * D + c] / sqrt(D);

    for (int rescale = 1; rescale >= 0; rescale--) {
        part a = {.max = -INFINITY};
        int rises = online(&a, x, v, 0, N, rescale);
        for (int c = 0; c < D; c++)
            out[c] = a.acc[c] / a.sum;
        double far = apart(out, o), off = fabs(a.max + log(a.sum) - (double)lse[0]);
        if (rescale) {
            double harmonic = 0;
            for (int j = 1; j <= N; j++)
                harmonic += 1.0 / j;
            printf("one pass over %d keys: output %s, LSE %.4f %s\n", N, far < 1e-6 ? "equal" : "DIFFERENT",
                   a.max + log(a.sum), off < 1e-5 ? "equal" : "DIFFERENT");
            printf("  the maximum rose %d times; keys in random order: %.1f expected\n", rises, harmonic);
        } else
            printf("the same without rescaling: output wrong by %.2f, LSE by %.2f\n", far, off);
    }

    static const int cut[4] = {0, 20, 300, N};
    double piece_o[3][D], piece_lse[3], total;
    for (int a = 0; a < 3; a++) {
        part p = {.max = -INFINITY};
        online(&p, x, v, cut[a], cut[a + 1], 1);
        piece_lse[a] = p.max + log(p.sum);
        for (int c = 0; c < D; c++)
            piece_o[a][c] = p.acc[c] / p.sum;
    }
    total = merge(3, piece_o, piece_lse, out);
    printf("three pieces, merged by LSE: output %s, LSE %s\n", apart(out, o) < 1e-6 ? "equal" : "DIFFERENT",
           fabs(total - (double)lse[0]) < 1e-5 ? "equal" : "DIFFERENT");
    for (int a = 0; a < 3; a++)
        printf("  keys %3d to %3d: LSE %.4f, so %4.1f %% of the weight\n", cut[a], cut[a + 1] - 1, piece_lse[a], 100 * exp(piece_lse[a] - total));
    for (int c = 0; c < D; c++)
        out[c] = (piece_o[0][c] + piece_o[1][c] + piece_o[2][c]) / 3;
    printf("three pieces, plainly averaged: output wrong by %.2f\n", apart(out, o));
    free(work);
    return 0;
}
