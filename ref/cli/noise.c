/* The random walk of bf16 roundings, row by row. */
#include "noise.h"

#include <stdlib.h>

#include "../internal.h"

#define ROUNDING 0x1p-9 /* of bf16, relative; above its root mean square, see noise.h */

typedef struct scratch {
    int64_t *tokens;
    double *p, *o, *square; /* weights of one row; one block's output and squared noise */
} scratch;

/* Adds the squared noise of tokens of one block, whose weights p are normalised over the whole row. */
static void add_block(const msa_shape *s, const float *v, const int64_t *tokens, const double *p, int64_t n,
                      bool partials, scratch *b, double *square)
{
    const int d = s->d_head;
    memset(b->o, 0, (size_t)d * sizeof *b->o);
    /* [noise] */
    for (int64_t a = 0; a < n; a++)
        for (int c = 0; c < d; c++) {
            const double term = p[a] * (double)v[tokens[a] * s->n_kv_heads * d + c];
            square[c] += term * term;
            b->o[c] += term;
        }
    for (int c = 0; partials && c < d; c++)
        square[c] += b->o[c] * b->o[c];
    /* [noise] */
}

static void noise_row(const msa_shape *s, const float *q, const float *k, const float *v, int64_t n,
                      bool partials, scratch *b, double *noise)
{
    const int d = s->d_head;
    for (int64_t a = 0; a < n; a++)
        b->p[a] = dot(q, k + b->tokens[a] * s->n_kv_heads * d, d) / sqrt(d);
    double denom;
    softmax_row(b->p, n, false, &denom);
    for (int64_t a = 0; a < n; a++)
        b->p[a] /= denom;
    memset(b->square, 0, (size_t)d * sizeof *b->square);
    for (int64_t a = 0, next; a < n; a = next) {
        for (next = a + 1; next < n && b->tokens[next] / s->block == b->tokens[a] / s->block;)
            next++;
        add_block(s, v, b->tokens + a, b->p + a, next - a, partials, b, b->square);
    }
    for (int c = 0; c < d; c++)
        noise[c] = ROUNDING * sqrt(b->square[c]);
}

bool noise_of_rounding(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                       bool partials, double *noise)
{
    const size_t n_tokens = (size_t)max_support(s, !ids), d = (size_t)s->d_head;
    scratch b = {malloc(n_tokens * sizeof *b.tokens), malloc(n_tokens * sizeof *b.p), malloc(d * sizeof *b.o),
                 malloc(d * sizeof *b.square)};
    const bool ok = b.tokens && b.p && b.o && b.square;
    const int group = s->n_heads / s->n_kv_heads;
    for (int a = 0; ok && a < msa_n_seqs(s); a++) {
        const msa_seq seq = msa_get_seq(s, a);
        for (int64_t i = 0; i < seq.n_q; i++)
            for (int h = 0; h < s->n_heads; h++) {
                const int r = h / group;
                const int64_t kv = (seq.kv0 * s->n_kv_heads + r) * s->d_head;
                const int64_t row = ((seq.q0 + i) * s->n_heads + h) * s->d_head;
                const int64_t n =
                    list_support(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), b.tokens);
                noise_row(s, q + row, k + kv, v + kv, n, partials, &b, noise + row);
            }
    }
    free(b.tokens);
    free(b.p);
    free(b.o);
    free(b.square);
    return ok;
}
