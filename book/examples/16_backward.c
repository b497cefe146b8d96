/* Chapter 16: the gradient of attention, row by row; its sums in several orders; who writes what. */
#include "../../ref/judge/noise.h"
#include "../../ref/judge/verdict.h"
#include "gradients.h"

#include <string.h>

/* ---- One row ---------------------------------------------------------------------------------------- */

enum { KEYS = 5, WIDTH = 8 };

static double product(const float *x, const float *y)
{
    double sum = 0;
    for (int c = 0; c < WIDTH; c++)
        sum += (double)x[c] * (double)y[c];
    return sum;
}

/* One query and five keys: what the forward pass stored, O and LSE, is enough. */
static void one_row(void)
{
    float q[WIDTH], k[KEYS * WIDTH], v[KEYS * WIDTH], dout[WIDTH], o[WIDTH], lse;
    float expected[WIDTH], dk[KEYS * WIDTH], dv[KEYS * WIDTH], found[WIDTH] = {0};
    noise(q, WIDTH, 1);
    noise(k, KEYS * WIDTH, 2);
    noise(v, KEYS * WIDTH, 3);
    noise(dout, WIDTH, 4);
    msa_shape s = {.n_q = 1,
                   .n_kv = KEYS,
                   .n_heads = 1,
                   .n_kv_heads = 1,
                   .d_head = WIDTH,
                   .d_index = 1,
                   .block = 8,
                   .topk = 1};
    void *w = room(1, msa_workspace(NULL, &s));
    must(msa_dense(&s, q, k, v, o, &lse, w));
    must(msa_backward(&s, q, k, v, NULL, o, &lse, dout, expected, dk, dv, w));
    free(w);

    double sum_p = 0, sum_pdp = 0, sum_dx = 0;
    printf("key  weight p       dp     p dp       dx\n");
    /* [row] */
    double delta = product(dout, o);
    for (int j = 0; j < KEYS; j++) {
        double p = exp(product(q, k + j * WIDTH) / sqrt(WIDTH) - (double)lse);
        double dp = product(dout, v + j * WIDTH), dx = p * (dp - delta);
        for (int c = 0; c < WIDTH; c++)
            found[c] += (float)(dx / sqrt(WIDTH) * (double)k[j * WIDTH + c]);
        /* [row] */
        printf("%3d %9.3f %8.3f %8.3f %8.3f\n", j, p, dp, p * dp, dx);
        sum_p += p, sum_pdp += p * dp, sum_dx += dx;
    }
    printf("sum %9.3f          %8.3f %8.3f\n", sum_p, sum_pdp, fabs(sum_dx) < 1e-6 ? 0 : sum_dx);
    printf("dO . O                 %8.3f   dQ as by msa_backward(): %s\n", delta,
           distance(found, expected, WIDTH) < 1e-6 ? "yes" : "NO");
}

/* ---- Against differences of the loss ---------------------------------------------------------------- */

typedef struct problem {
    msa_shape s;
    float *q, *k, *v, *qi, *ki, *dout;
    int32_t *ids;
    void *work;
} problem;

/* The sum of dO . O, whose gradient by O is dO. */
static double main_loss(const problem *p)
{
    long n = p->s.n_q * p->s.n_heads * p->s.d_head;
    float *o = room(n, sizeof *o), *lse = room(p->s.n_q * p->s.n_heads, sizeof *lse);
    must(msa_sparse(&p->s, p->q, p->k, p->v, p->ids, o, lse, p->work));
    double sum = 0;
    for (long a = 0; a < n; a++)
        sum += (double)p->dout[a] * (double)o[a];
    free(o);
    free(lse);
    return sum;
}

static double kl_loss(const problem *p)
{
    double loss;
    must(msa_kl(&p->s, p->q, p->k, p->qi, p->ki, p->ids, NULL, NULL, 1, &loss, NULL, NULL, p->work));
    return loss;
}

static double difference(const problem *p, double (*loss)(const problem *), float *x)
{
    const float step = 0x1p-6f, before = *x;
    *x = before + step;
    double above = loss(p);
    *x = before - step;
    double below = loss(p);
    *x = before;
    return (above - below) / (2 * (double)step);
}

static float *noisy(long n, unsigned seed)
{
    float *x = room(n, sizeof *x);
    noise(x, n, seed);
    return x;
}

static void differences(void)
{
    problem p = {.s = {.n_q = 48,
                       .n_kv = 48,
                       .n_heads = 4,
                       .n_kv_heads = 2,
                       .d_head = 8,
                       .d_index = 8,
                       .block = 4,
                       .topk = 3}};
    const msa_shape *s = &p.s;
    long n = s->n_q * s->n_heads * s->d_head, nk = s->n_kv * s->n_kv_heads * s->d_head,
         ni = s->n_q * s->n_kv_heads * s->d_index;
    p.q = noisy(n, 1), p.k = noisy(nk, 2), p.v = noisy(nk, 3), p.dout = noisy(n, 4);
    p.qi = noisy(ni, 5), p.ki = noisy(s->n_kv * s->d_index, 6);
    p.ids = room(s->n_kv_heads * s->n_q * s->topk, sizeof *p.ids);
    p.work = room(1, msa_workspace(NULL, s));
    selection_draw(s, SELECTION_RANDOM, 7, p.ids);
    float *dq = room(n, sizeof *dq), *dk = room(nk, sizeof *dk), *dv = room(nk, sizeof *dv);
    float *dqi = room(ni, sizeof *dqi), *dki = room(s->n_kv * s->d_index, sizeof *dki);
    double loss;
    must(msa_backward(s, p.q, p.k, p.v, p.ids, NULL, NULL, p.dout, dq, dk, dv, p.work));
    must(msa_kl(s, p.q, p.k, p.qi, p.ki, p.ids, NULL, NULL, 1, &loss, dqi, dki, p.work));
    const struct {
        const char *name;
        float *x, gradient;
        bool kl;
    } row[] = {{"one of Q", p.q + 300, dq[300], false},
               {"one of K", p.k + 300, dk[300], false},
               {"one of V", p.v + 300, dv[300], false},
               {"one of Q, of L_KL", p.q + 300, 0, true},
               {"one of Qi, of L_KL", p.qi + 300, dqi[300], true},
               {"one of Ki, of L_KL", p.ki + 100, dki[100], true}};
    printf("\n48 queries in two groups, 3 blocks of 4 keys  derivative  by differences\n");
    for (size_t a = 0; a < sizeof row / sizeof *row; a++)
        printf("  %-42s %11.5f %15.5f\n", row[a].name, (double)row[a].gradient,
               difference(&p, row[a].kl ? kl_loss : main_loss, row[a].x));
    void *all[] = {p.q, p.k, p.v, p.dout, p.qi, p.ki, p.ids, p.work, dq, dk, dv, dqi, dki};
    for (size_t a = 0; a < sizeof all / sizeof *all; a++)
        free(all[a]);
}

/* ---- The order of a sum ------------------------------------------------------------------------------ */

enum { TRIES = 1000 };

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The n products of two vectors of noise, added in float in TRIES orders. */
static void shuffled_sums(int n)
{
    float *x = noisy(n, 9), *y = noisy(n, 11), *found = room(TRIES, sizeof *found);
    double exact = 0, size = 0, worst = 0;
    unsigned state = 1;
    for (int i = 0; i < n; i++) {
        x[i] *= y[i];
        exact += (double)x[i], size += fabs((double)x[i]);
    }
    for (int a = 0; a < TRIES; a++) {
        for (int i = n - 1; i > 0; i--) {
            state = state * 1664525u + 1013904223u;
            int j = (int)((state >> 16) % (unsigned)(i + 1));
            float kept = x[i];
            x[i] = x[j];
            x[j] = kept;
        }
        for (int i = 0; i < n; i++)
            found[a] += x[i];
        worst = fmax(worst, fabs((double)found[a] - exact));
    }
    qsort(found, TRIES, sizeof *found, by_value);
    int different = 1;
    for (int a = 1; a < TRIES; a++)
        different += found[a] != found[a - 1];
    printf("%9d %19d %25.2f\n", n, different, worst / (size * 0x1p-24));
    free(x);
    free(y);
    free(found);
}

/* ---- Kernels ---------------------------------------------------------------------------------------- */

static const char *const kernels[] = {"backward/q_outer", "backward/kv_outer", "backward/deterministic"};
enum { KERNELS = 3, ORDERS = 3 };

typedef struct gradients {
    float *x[ARRAYS];
} gradients;

static long elements(const msa_shape *s, int array)
{
    return (array == TO_DQ ? s->n_q * s->n_heads : s->n_kv * s->n_kv_heads) * s->d_head;
}

static gradients kept(const trial *t)
{
    const float *from[ARRAYS] = {t->outputs.dq, t->outputs.dk, t->outputs.dv};
    gradients g;
    for (int a = 0; a < ARRAYS; a++) {
        g.x[a] = room(elements(&t->shape, a), sizeof *g.x[a]);
        memcpy(g.x[a], from[a], (size_t)elements(&t->shape, a) * sizeof *g.x[a]);
    }
    return g;
}

static void drop(gradients *g)
{
    for (int a = 0; a < ARRAYS; a++)
        free(g->x[a]);
}

static bool same(const trial *t, const gradients *g, const gradients *h)
{
    bool all = true;
    for (int a = 0; a < ARRAYS; a++)
        all = all && memcmp(g->x[a], h->x[a], (size_t)elements(&t->shape, a) * sizeof *g->x[a]) == 0;
    return all;
}

/* How many elements of an array have other bits; which part of their error budget the change is, at most. */
static double change(const trial *t, const inputs *in, int array, const float *first, const float *other,
                     const double *bf16_noise, long *changed)
{
    long n = elements(&t->shape, array);
    double *wide = room(n, sizeof *wide);
    for (long i = 0; i < n; i++) {
        *changed += first[i] != other[i];
        wide[i] = (double)first[i];
    }
    array_id which = (array_id)(ARRAY_DQ + array);
    verdict_budget budget = verdict_float32(&t->shape, in, which, 1);
    budget.noise = bf16_noise;
    verdict v = verdict_compare(verdict_dims_of(&t->shape, which), wide, other, budget);
    free(wide);
    return v.used;
}

static void compare(const trial *t, const inputs *in, const char *kernel)
{
    const msa_shape *s = &t->shape;
    double *bf16_noise[ARRAYS], used = 0;
    long changed[ARRAYS] = {0};
    for (int a = 0; a < ARRAYS; a++)
        bf16_noise[a] = room(elements(s, a), sizeof *bf16_noise[a]);
    const msa_arrays given = {.q = in->q, .k = in->k, .v = in->v, .ids = t->in.ids, .dout = in->dout};
    noise_of_backward(s, &given, table_find(kernel, "simt")->precision, true, bf16_noise[TO_DQ],
                      bf16_noise[TO_DK], bf16_noise[TO_DV]);
    run_gradient(t, kernel, MAIN, 0, NULL);
    gradients first = kept(t);
    for (int order = 1; order < ORDERS; order++) {
        run_gradient(t, kernel, MAIN, order, NULL);
        gradients other = kept(t);
        for (int a = 0; a < ARRAYS; a++)
            used = fmax(used, change(t, in, a, first.x[a], other.x[a], bf16_noise[a], &changed[a]));
        drop(&other);
    }
    printf("%-24s", kernel);
    for (int a = 0; a < ARRAYS; a++) {
        printf(" %8.0f %%", 100 * (double)changed[a] / ((ORDERS - 1) * (double)elements(s, a)));
        free(bf16_noise[a]);
    }
    printf(" %20.1g %%\n", 100 * used);
    drop(&first);
}

static void compare_all(const trial *t)
{
    inputs raw, in;
    if (!inputs_new(&raw, &t->shape, INPUTS_NORMAL, (uint64_t)t->seed) ||
        !inputs_rounded(&in, &raw, &t->shape))
        must(MSA_ERR_SIZE);
    printf("\nother bits in other orders      dQ         dK         dV    of the error budget\n");
    for (int a = 0; a < KERNELS; a++)
        compare(t, &in, kernels[a]);
    inputs_free(&raw);
    inputs_free(&in);
}

static void who_writes(const trial *t)
{
    printf("\nKiB                     read  to dQ   to dK   to dV  scratch  CTAs a row of dQ  of dK\n");
    for (int a = 0; a < KERNELS; a++) {
        written *w = watch_gradient(t, kernels[a]);
        printf("%-22s %5.0f %6.0f %7.0f %7.0f %8.0f %17d %6d\n", kernels[a],
               (double)simt_counts()->load_bytes / 1024, w->bytes[TO_DQ] / 1024, w->bytes[TO_DK] / 1024,
               w->bytes[TO_DV] / 1024, w->elsewhere / 1024, most_writers(w, TO_DQ), most_writers(w, TO_DK));
        free(w);
    }
}

/* ---- Both gradients --------------------------------------------------------------------------------- */

static void one_sweep(const trial *t)
{
    static const struct {
        const char *what, *kernel;
        int task;
    } run[] = {{"attention", "backward/deterministic", MAIN},
               {"index", "kl/deterministic", KL},
               {"both in one sweep", "backward/deterministic", BOTH}};
    gradients alone[3];
    printf("\ndeterministic         10^6 multiply-adds   KiB read   written   dQ, dK, dV\n");
    for (int a = 0; a < 3; a++) {
        simt_counters n = run_gradient(t, run[a].kernel, run[a].task, 0, NULL);
        alone[a] = kept(t);
        printf("%-20s %19.2f %10.0f %9.0f%s\n", run[a].what, (double)n.tensor_fma / 1e6,
               (double)n.load_bytes / 1024, (double)n.store_bytes / 1024,
               a < 2                           ? ""
               : same(t, &alone[0], &alone[2]) ? "   the same bits"
                                               : "   OTHER BITS");
    }
    for (int a = 0; a < 3; a++)
        drop(&alone[a]);
}

int main(void)
{
    one_row();
    differences();
    printf("\nnumbers  different sums in %d orders  largest error, in 2^-24 sum |x|\n", TRIES);
    static const int n[] = {2, 3, 4, 16, 64, 256, 1024};
    for (int a = 0; a < 7; a++)
        shuffled_sums(n[a]);
    msa_shape s = small_shape();
    trial t = engine_inputs(&s, "random");
    compare_all(&t);
    who_writes(&t);
    one_sweep(&t);
    trial_end(&t);
    return 0;
}
