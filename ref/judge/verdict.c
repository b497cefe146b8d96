/**
 * @file verdict.c
 * @brief Comparisons with budgets, and what float32 may lose.
 */
#include "verdict.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "../internal.h"

#define UNIT 0x1p-24 // of float32: half the distance from 1 to the next number

/* ---- Tensors ------------------------------------------------------------------------------------- */

// An error above its allowance counts as more than 1 however small the allowance; NaN as infinite.
static double share(double error, double allowed)
{
    if (!(error <= allowed))
        return allowed > 0 && error / allowed < DBL_MAX ? error / allowed : HUGE_VAL;
    return error > 0 ? error / allowed : 0;
}

/* [allowed] */
static double allowed_in_row(const double *oracle, const double *noise, int64_t n, verdict_budget b)
{
    double scale = 0, most = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(oracle[i])) {
            scale = fmax(scale, fabs(oracle[i]));
            most = noise ? fmax(most, noise[i]) : 0;
        }
    return b.relative * scale + b.absolute + 4 * most;
}
/* [allowed] */

// The distance between neighbours in that type, around x.
static double spacing(double x, const verdict_store *store)
{
    const int least = store->min_exponent + 1;
    int exponent;
    frexp(x, &exponent); // x = f 2^exponent, 1/2 <= f < 1
    return ldexp(1, (x != 0 && exponent > least ? exponent : least) - store->bits);
}

bool verdict_is_stored(const float *x, size_t n, const verdict_store *store)
{
    for (size_t i = 0; i < n; i++) {
        const double y = (double)x[i], step = spacing(y, store);
        if (rint(y / step) * step != y)
            return false;
    }
    return true;
}

// What storing this value costs, on the scale of noise: the error that its own rounding makes, as where it is
// the same value again and again, or what roundings make in the mean, spacing/sqrt(12) = 0.85 spacing/3.
static double storing_noise(double x, const verdict_store *store)
{
    const double step = spacing(x, store);
    return fmax(fabs(rint(x / step) * step - x), step / 3);
}

static void judge_element(verdict *v, double oracle, double found, double allowed, const int64_t at[3])
{
    double error = isinf(oracle) && found == oracle ? 0 : fabs(found - oracle);
    double used = share(error, allowed);
    bool bad = !(used <= 1);
    if (bad ? v->n_bad == 0 : v->n_bad == 0 && used >= v->used) {
        for (int i = 0; i < 3; i++)
            v->at[i] = at[i];
        v->expected = oracle;
        v->found = found;
        v->allowed = allowed;
    }
    v->n_bad += bad;
    v->used = fmax(v->used, used);
}

static void add_row(verdict *v, const int64_t row[2], int64_t n, const double *oracle, const float *found,
                    verdict_budget b, const verdict_store *store)
{
    const double allowed = allowed_in_row(oracle, b.noise, n, b);
    double noise2 = 0;
    for (int64_t c = 0; c < n; c++) {
        const bool stored = store && isfinite(oracle[c]);
        judge_element(v, oracle[c], (double)found[c],
                      allowed + (stored ? spacing(fabs(oracle[c]) + allowed, store) / 2 : 0),
                      (int64_t[]){row[0], row[1], c});
        if (isinf(oracle[c]))
            continue;
        v->error2 += pow((double)found[c] - oracle[c], 2);
        v->oracle2 += pow(oracle[c], 2);
        noise2 += (b.noise ? pow(b.noise[c], 2) : 0) + (stored ? pow(storing_noise(oracle[c], store), 2) : 0);
    }
    v->noise2 += noise2;
    v->noise4 += (long double)noise2 * noise2;
    v->n_elements += n;
}

void verdict_add(verdict *v, int64_t first, verdict_dims n, const double *oracle, const float *found,
                 verdict_budget b, const verdict_store *store)
{
    for (int64_t row = 0; row < n.d0 * n.d1; row++) {
        verdict_budget here = b;
        here.noise = b.noise ? b.noise + row * n.d2 : NULL;
        add_row(v, (int64_t[]){first + row / n.d1, row % n.d1}, n.d2, oracle + row * n.d2, found + row * n.d2,
                here, store);
    }
}

void verdict_close(verdict *v, verdict_budget b)
{
    /* The errors of a row may all come from one rounding, of its largest weight. With few rows, or few that are much larger
     * than the others, their sum of squares strays further from its mean: by 2 noise4 / noise2^2 of itself. */
    const double strays = v->noise2 > 0 && isfinite(v->noise2) ? (double)(2 * v->noise4 / v->noise2) : 0;
    double allowed2 = b.relative * sqrt(v->oracle2) + b.absolute * sqrt((double)v->n_elements) +
                      2 * sqrt((v->noise2 + strays) / 3);
    v->used = fmax(v->used, share(sqrt(v->error2), allowed2));
    v->relative_l2 = v->oracle2 > 0 ? sqrt(v->error2 / v->oracle2) : sqrt(v->error2);
    v->pass = v->n_elements > 0 && v->n_bad == 0 && v->used <= 1;
}

verdict verdict_compare(verdict_dims n, const double *oracle, const float *found, verdict_budget b)
{
    verdict v = {0};
    verdict_add(&v, 0, n, oracle, found, b, NULL);
    verdict_close(&v, b);
    return v;
}

void verdict_text(const char *what, const verdict *v, char text[VERDICT_TEXT])
{
    if (v->n_bad)
        snprintf(text, VERDICT_TEXT,
                 "%s[%lld,%lld,%lld]: expected %.9g, found %.9g, allowed %.2g (%lld such)", what,
                 (long long)v->at[0], (long long)v->at[1], (long long)v->at[2], v->expected, v->found,
                 v->allowed, (long long)v->n_bad);
    else
        snprintf(text, VERDICT_TEXT, "%s: %.1f%% of its budget, relative L2 error %.1e", what, 100 * v->used,
                 v->relative_l2);
}

/* ---- The outputs --------------------------------------------------------------------------------- */

bool verdict_judges(array_id a)
{
    return a == ARRAY_SCORES || a == ARRAY_INDEX_LSE || a == ARRAY_O || a == ARRAY_LSE || a >= ARRAY_DQ;
}

verdict_dims verdict_dims_of(const msa_shape *s, array_id a)
{
    int64_t dim[3];
    array_dims(s, a, dim);
    return (verdict_dims){dim[0], dim[1], dim[2]};
}

/* ---- What float32 may lose -----------------------------------------------------------------------
 * With u = 2^-24, by first-order error analysis. A sum of d products rounds d times, by at most u|q||k| each
 * time, and by 1/sqrt(3) of that in root mean square. Signs agree no better than those of a random walk (Higham
 * and Mary 2019): the sum is off by u sqrt(d/3) |q||k| in root mean square, which the logit's scale 1/sqrt(d)
 * turns into u|q||k|/sqrt(3). That is reached where one channel outweighs all others and comes early: every
 * later addition rounds at its size. A uniform error is strictly sub-Gaussian and so is a sum of them: except
 * for one verdict in a million the largest of n logits' errors stays below sqrt(2 ln(2 n 10^6)) of these, and
 * never is it above sqrt(3 d), d roundings at their worst. An LSE follows the logit of a key that outweighs all
 * others. A probability moves with its logit against the mean of all, and so do those of other keys: by 2 u|q||k|.
 * exp carries an absolute error of its argument into a relative error of the probability, and with the
 * division adds a few roundings. The denominator is no random walk: where keys repeat, equal terms round the
 * same way again and again. It stays below u S / 4 for whoever keeps four partial sums or more.
 * Whatever is summed over keys weighs these errors with probabilities that sum to 1; what is summed over
 * queries (dk, dv, dki) weighs them with the probabilities that T queries give to one key, whose errors
 * again add up as a random walk: sqrt(T) times the heads.
 */

/** Sizes of the inputs of one branch, and the errors that follow from them. */
typedef struct float32_error {
    double logit;       // absolute, of a scaled logit: the largest of all
    double denominator; // relative
    double probability; // relative, of a softmax weight
} float32_error;

// Of no tensor (a stage that does not read it) it is 0, and so is the norm.
static double largest(const float *x, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; x && i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

// Largest |x - c|, where c is what rows have in common in a channel, known to bf16 (ref/centre.c) or taken
// for 0.
static double largest_apart(const float *x, int64_t rows, int width)
{
    double most = 0;
    for (int c = 0; x && c < width; c++) {
        double low = HUGE_VAL, high = -HUGE_VAL;
        for (int64_t i = 0; i < rows; i++) {
            low = fmin(low, (double)x[i * width + c]);
            high = fmax(high, (double)x[i * width + c]);
        }
        const double size = fmax(fabs(low), fabs(high));
        most = fmax(most, fmin(size, high - low + size * 0x1p-8));
    }
    return most;
}

static double largest_norm(const float *x, int64_t rows, int d)
{
    double most = 0;
    for (int64_t i = 0; x && i < rows; i++, x += d) {
        double norm2 = 0;
        for (int c = 0; c < d; c++)
            norm2 += (double)x[c] * (double)x[c];
        most = fmax(most, norm2);
    }
    return sqrt(most);
}

// Of the logits of `n_q` rows of q with n_kv keys each.
static float32_error error_of(double norm_q, double norm_k, int64_t n_q, int64_t n_kv, int d)
{
    const double walk = UNIT * norm_q * norm_k, n = (double)n_q * (double)n_kv;
    const double largest = sqrt(fmin(2 * log(2e6 * fmax(n, 1)) / 3, d));
    const double denominator = UNIT * (8 + (double)n_kv / 4);
    return (float32_error){largest * walk, denominator, 2 * walk + denominator};
}

static float32_error main_error(const msa_shape *s, const inputs *in)
{
    const int64_t rows = s->n_q * s->n_heads;
    return error_of(largest_norm(in->q, rows, s->d_head),
                    largest_norm(in->k, s->n_kv * s->n_kv_heads, s->d_head), rows, s->n_kv, s->d_head);
}

static float32_error index_error(const msa_shape *s, const inputs *in)
{
    const int64_t rows = s->n_q * s->n_kv_heads;
    return error_of(largest_norm(in->qi, rows, s->d_index), largest_norm(in->ki, s->n_kv, s->d_index), rows,
                    s->n_kv, s->d_index);
}

// |dP| and |delta|, at most.
static double largest_dp(const msa_shape *s, const inputs *in)
{
    return largest_norm(in->dout, s->n_q * s->n_heads, s->d_head) *
           largest_norm(in->v, s->n_kv * s->n_kv_heads, s->d_head);
}

// Of the sum over the keys of |dS|, where dS = P (dP - delta).
static double score_gradient_error(const msa_shape *s, const inputs *in, float32_error e)
{
    return largest_dp(s, in) * (2 * e.probability + 8 * UNIT);
}

// Errors of P may leave nothing of what keys have in common in a query's gradient; the roundings of the sum over
// the keys may: one an addition, as a random walk, beside those of its terms.
static double key_sum_error(double probability, const float *k, int64_t rows, int width)
{
    return 2 * probability * largest_apart(k, rows, width) +
           UNIT * (8 + sqrt((double)rows)) * largest(k, rows * width);
}

verdict_budget verdict_float32(const msa_shape *s, const inputs *in, array_id t, double kl_weight)
{
    float32_error m = main_error(s, in), x = index_error(s, in);
    int64_t group = s->n_heads / s->n_kv_heads, nq = s->n_q * s->n_heads * s->d_head;
    int64_t nk = s->n_kv * s->n_kv_heads * s->d_head;
    double few = 4 * UNIT, column = sqrt((double)s->n_q), per_root = 1 / sqrt(s->d_head);
    double kl = fabs(kl_weight) / (sqrt(s->d_index) * kl_rows(s));
    double both = m.probability + x.probability;
    switch (t) {
    case ARRAY_SCORES:
        return (verdict_budget){few, x.logit, NULL};
    case ARRAY_INDEX_LSE:
        return (verdict_budget){few, x.logit + x.denominator, NULL};
    case ARRAY_LSE:
        return (verdict_budget){few, m.logit + m.denominator, NULL};
    case ARRAY_O:
        return (verdict_budget){few, m.probability * largest(in->v, nk), NULL};
    case ARRAY_DQ:
        per_root *= fmin(key_sum_error(m.probability, in->k, s->n_kv, s->n_kv_heads * s->d_head),
                         (2 * m.probability + 8 * UNIT) * largest(in->k, nk));
        return (verdict_budget){few, largest_dp(s, in) * per_root, NULL};
    case ARRAY_DK:
        column *= (double)group * per_root;
        return (verdict_budget){few, score_gradient_error(s, in, m) * column * largest(in->q, nq), NULL};
    case ARRAY_DV:
        return (verdict_budget){few, m.probability * column * (double)group * largest(in->dout, nq), NULL};
    case ARRAY_DQI:
        kl *= fmin(key_sum_error(both / 2, in->ki, s->n_kv, s->d_index),
                   both * largest(in->ki, s->n_kv * s->d_index));
        return (verdict_budget){few, kl, NULL};
    default:
        kl *= largest(in->qi, s->n_q * s->n_kv_heads * s->d_index);
        return (verdict_budget){few, both * kl * column * s->n_kv_heads, NULL};
    }
}

// |d KL| <= E_t |d log t| + sum |dt| |log t/u| + |d log u|, and sum t |log t/u| <= KL + 2/e.
verdict_budget verdict_float32_kl(const msa_shape *s, const inputs *in, double kl)
{
    float32_error m = main_error(s, in), x = index_error(s, in);
    return (verdict_budget){0, m.probability * (2 + kl) + x.probability, NULL};
}
