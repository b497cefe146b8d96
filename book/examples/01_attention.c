/* Chapter 1: causal attention with one head, what it costs, and two ways to get it wrong. */
#include "example.h"

/* [attend] */
/* O[i] = sum over j <= i of p[j] V[j], p = softmax of Q[i].K[j] / sqrt(d). Returns the multiply-adds. */
static long attend(int n, int d, const float *q, const float *k, const float *v, float *o)
{
    double *p = room(n, sizeof *p);
    long work = 0;
    for (int i = 0; i < n; i++) {
        double max = -INFINITY, sum = 0;
        for (int j = 0; j <= i; j++) { /* causal: the future is not there */
            double s = 0;
            for (int c = 0; c < d; c++, work++)
                s += (double)q[i * d + c] * (double)k[j * d + c];
            p[j] = s / sqrt(d);
            max = fmax(max, p[j]);
        }
        for (int j = 0; j <= i; j++)
            sum += p[j] = exp(p[j] - max);
        for (int c = 0; c < d; c++) {
            double out = 0;
            for (int j = 0; j <= i; j++, work++)
                out += p[j] * (double)v[j * d + c];
            o[i * d + c] = (float)(out / sum);
        }
    }
    free(p);
    return work;
}
/* [attend] */

/* Perplexity of the weights: over how many keys the last query really spreads itself. */
static double spread(int n, int d, const float *q, const float *k, double scale)
{
    double *p = room(n, sizeof *p), max = -INFINITY, sum = 0, entropy = 0;
    for (int j = 0; j < n; j++) {
        for (int c = 0; c < d; c++)
            p[j] += scale * (double)q[(n - 1) * d + c] * (double)k[j * d + c];
        max = fmax(max, p[j]);
    }
    for (int j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - max);
    for (int j = 0; j < n; j++)
        entropy -= p[j] > 0 ? p[j] / sum * log(p[j] / sum) : 0;
    free(p);
    return exp(entropy);
}

int main(void)
{
    enum { D = 64, MOST = 1024 };
    float *q = room(MOST * D, sizeof *q), *k = room(MOST * D, sizeof *k), *v = room(MOST * D, sizeof *v);
    float *o = room(MOST * D, sizeof *o), *reference = room(MOST * D, sizeof *reference);
    noise(q, MOST * D, 1);
    noise(k, MOST * D, 2);
    noise(v, MOST * D, 3);

    printf("tokens   multiply-adds   for each token   against msa_dense\n");
    for (int n = 128; n <= MOST; n *= 2) {
        long work = attend(n, D, q, k, v, o);
        msa_shape s = {.n_q = n, .n_kv = n, .n_heads = 1, .n_kv_heads = 1, .d_head = D, .d_index = 1, .block = 1, .topk = 1};
        void *w = room(1, msa_workspace(NULL, &s));
        must(msa_dense(&s, q, k, v, reference, NULL, w));
        free(w);
        printf("%6d %15ld %16ld   %s\n", n, work, work / n, distance(o, reference, n * D) < 1e-6 ? "equal" : "DIFFERENT");
    }

    printf("\nkeys that the last of 1024 queries spreads over\n");
    printf("  logits divided by sqrt(d): %6.1f\n", spread(MOST, D, q, k, 1 / sqrt(D)));
    printf("  not divided:               %6.1f\n", spread(MOST, D, q, k, 1));

    /* [overflow] */
    float logit = 90;
    float weight = expf(logit);
    printf("\nexp(90) in float32: %f; divided by itself: %s\n", (double)weight,
           isnan(weight / weight) ? "not a number" : "1");
    /* [overflow] */
    free(q), free(k), free(v), free(o), free(reference);
    return 0;
}
