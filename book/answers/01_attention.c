/* Answers to chapter 1: the shortcut 2 d N^2, one long key, a shuffled past. */
#include "../examples/example.h"

enum { N = 1024, D = 64 };

static float q[N * D], k[N * D], v[N * D], o[N * D], other[N * D], lse[N];
static msa_shape s = {
    .n_q = N, .n_kv = N, .n_heads = 1, .n_kv_heads = 1, .d_head = D, .d_index = 1, .block = 1, .topk = 1};

static void attend(const float *keys, const float *values, float *out, float *sums)
{
    void *work = room(1, msa_workspace(NULL, &s));
    must(msa_dense(&s, q, keys, values, out, sums, work));
    free(work);
}

static const char *word(double off)
{
    return off < 1e-5 ? "the same" : "DIFFERENT";
}

static void same_vector_on_all_keys(void)
{
    static float moved[N * D];
    for (int i = 0; i < N * D; i++)
        moved[i] = k[i] + 3 * q[i % D];
    attend(moved, v, other, NULL);
    printf("vector %s\n", word(distance(o, other, N * D)));
}

/* Key 0 is long: how many queries give it nearly all of their weight, and how many next to nothing? */
static void long_key(void)
{
    static float stretched[N * D];
    int all = 0, none = 0;
    for (int i = 0; i < N * D; i++)
        stretched[i] = (i < D ? 1000 : 1) * k[i];
    attend(stretched, v, other, lse);
    for (int i = 1; i < N; i++) {
        double x = 0;
        for (int c = 0; c < D; c++)
            x += (double)q[i * D + c] * (double)stretched[c] / sqrt(D);
        const double weight = exp(x - (double)lse[i]);
        all += weight > 0.99;
        none += weight < 0.01;
    }
    printf("long_all %d\nlong_none %d\nlong_rest %d\nlong_of %d\n", all, none, N - 1 - all - none, N - 1);
}

/* The past of the last query, backwards. */
static void shuffled(void)
{
    static float k_back[N * D], v_back[N * D];
    for (int j = 0; j < N; j++)
        for (int c = 0; c < D; c++) {
            const int from = j < N - 1 ? N - 2 - j : j;
            k_back[j * D + c] = k[from * D + c];
            v_back[j * D + c] = v[from * D + c];
        }
    attend(k_back, v_back, other, NULL);
    printf("shuffled %s\n", word(distance(o + (N - 1) * D, other + (N - 1) * D, D)));
}

int main(void)
{
    noise(q, N * D, 1);
    noise(k, N * D, 2);
    noise(v, N * D, 3);
    attend(k, v, o, NULL);
    int n = 1;
    while (1.0 / (n + 1) >= 0.001)
        n++;
    printf("operations %d\nmultiply_adds %d\nmiss %.2f\nfrom %d\n", 2 * D * 128 * 129, D * 128 * 129,
           100.0 / 129, n);
    same_vector_on_all_keys();
    long_key();
    shuffled();
    return 0;
}
