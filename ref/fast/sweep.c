/* Sweeps: chunks of queries, parts of blocks, meetings; and the log-sum-exps that backward and KL begin with.
 */
#include "sweep.h"
#include "online.h"

#define LSE_PARTS 16

/* ---- Chunks and parts ---------------------------------------------------------------------------------- */

static size_t place_chunk(chunk *c, const msa_shape *s, int64_t n, void *work)
{
    arena a = arena_over(work);
    chunk_take(c, s, n, &a);
    return arena_bytes(&a);
}

void sweep_take(sweep *w, const msa_shape *s, int64_t n, arena *a)
{
    chunk any;
    const size_t bytes = place_chunk(&any, s, n, NULL);
    *w = (sweep){.s = s, .group = arena_take(a, s->n_kv_heads, sizeof(chunk))};
    char *chunks = arena_take(a, s->n_kv_heads, bytes);
    for (int r = 0; chunks && r < s->n_kv_heads; r++)
        place_chunk(&w->group[r], s, n, chunks + (size_t)r * bytes);
}

void sweep_open(sweep *w, const msa_seq *seq, int64_t i0, int64_t most, const int32_t *ids)
{
    w->seq = *seq;
    w->i0 = i0;
    w->n = min_i64(most, seq->n_q - i0);
    w->full = !ids;
    w->width = ids ? w->s->block : SWEEP_KEYS;
    w->count = position(seq, i0 + w->n - 1) / w->width + 1;
#pragma omp parallel for num_threads(fast_threads()) schedule(dynamic)
    for (int r = 0; r < w->s->n_kv_heads; r++) {
        chunk_open(&w->group[r], seq, r, i0, most);
        if (ids)
            chunk_turn(&w->group[r], w->s, ids);
        for (int64_t i = 0; !ids && i < w->n; i++)
            w->group[r].entry[i] = (int32_t)i;
    }
}

const int32_t *sweep_entries(const sweep *w, int r, int64_t block, int64_t *n)
{
    const chunk *c = &w->group[r];
    const int64_t blind = max_i64(0, block * w->width - position(&w->seq, w->i0)); /* full: see none of it */
    *n = w->full ? max_i64(0, w->n - blind) : c->first[block + 1] - c->first[block];
    return c->entry + (w->full ? blind : c->first[block]);
}

static int64_t work_of(const sweep *w, int r0, int r1, int64_t block)
{
    int64_t work = 0;
    for (int r = r0; r < r1; r++) {
        int64_t n;
        sweep_entries(w, r, block, &n);
        work += n;
    }
    return work;
}

int64_t sweep_cut(const sweep *w, int r0, int r1, int part, int parts)
{
    int64_t all = 0, before = 0, b = 0;
    for (int64_t i = 0; i < w->count; i++)
        all += work_of(w, r0, r1, i);
    for (; b < w->count && before * parts < all * part; b++)
        before += work_of(w, r0, r1, b);
    return part == parts ? w->count : b;
}

/* ---- Meetings ------------------------------------------------------------------------------------------ */

int64_t visit_queries(const msa_shape *s)
{
    return max_i64(1, SWEEP_ROWS / (s->n_heads / s->n_kv_heads));
}

void sweep_walk(const sweep *w, int r, int64_t b0, int64_t b1, visit_fn *visit, void *own)
{
    const int64_t most = visit_queries(w->s);
    for (int64_t b = b0; b < b1; b++) {
        int64_t n;
        const int32_t *entry = sweep_entries(w, r, b, &n);
        for (int64_t e = 0; e < n; e += most) {
            block_visit m = {.w = w, .r = r, .entry = entry + e, .queries = min_i64(most, n - e)};
            const int64_t last = position(&w->seq, w->i0 + m.entry[m.queries - 1]);
            const int64_t end = min_i64((b + 1) * w->width, last + 1);
            for (m.j0 = b * w->width; m.j0 < end; m.j0 += SWEEP_KEYS) {
                m.cols = min_i64(SWEEP_KEYS, end - m.j0);
                visit(&m, own);
            }
        }
    }
}

void visit_gather(const block_visit *m, const float *x, int heads, int head, int count, int d, float scale,
                  float *rows)
{
    const int64_t wide = (int64_t)count * d;
    for (int64_t e = 0; e < m->queries; e++) {
        const float *from = x + ((m->w->seq.q0 + m->w->i0 + m->entry[e]) * heads + head) * d;
        for (int64_t c = 0; c < wide; c++)
            rows[e * wide + c] = scale * from[c];
    }
}

void visit_scatter(const block_visit *m, const float *rows, int64_t wide, float *to)
{
    for (int64_t e = 0; e < m->queries; e++) {
        float *at = to + m->entry[e] * wide;
        for (int64_t c = 0; c < wide; c++)
            at[c] += rows[e * wide + c];
    }
}

/* ---- Logits -------------------------------------------------------------------------------------------- */

static size_t floats_bytes(const msa_shape *s, int n_heads, int d)
{
    return (size_t)(visit_queries(s) * (n_heads / s->n_kv_heads) * d) * sizeof(float);
}

static void make_logits(const block_visit *m, const void *q, int n_heads, const void *k, int kv_heads, int d,
                        void *buffer, float *logits)
{
    const int count = n_heads / m->w->s->n_kv_heads;
    const int64_t stride = (int64_t)kv_heads * d, key = m->w->seq.kv0 + m->j0;
    const float *keys = (const float *)k + key * stride + (kv_heads > 1 ? m->r * d : 0);
    visit_gather(m, q, n_heads, m->r * count, count, d, (float)(1 / sqrt(d)), buffer);
    small_gemm(false, true, m->queries * count, m->cols, d, buffer, d, keys, stride, 0, logits, m->cols);
}

const logits_way sweep_floats = {floats_bytes, make_logits};

/* ---- Log-sum-exps -------------------------------------------------------------------------------------- */

/* What a thread needs to sum up the weights of a part. */
typedef struct lse_sums {
    const logits_way *by;
    const void *q, *k;
    int heads, kv_heads, d;
    void *buffer;
    float *logits, *max; /* max, sum: [n,heads] of the part */
    double *sum;
} lse_sums;

/* One more piece of a row: logits x[n] to the sum of exp(x - max). Not in base 2: these are the very logits
 * that are weighed later, and a row of one key is to weigh exactly 1. */
static void sum_up(const float *x, int64_t n, float *max, double *sum)
{
    const float most = row_top(x, n, *max);
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t c = 0; c < n; c++)
        part += exp2_nonpositive((float)LOG2_E * (x[c] - most));
    *sum = *sum * (double)exp2_nonpositive((float)LOG2_E * (*max - most)) + (double)part;
    *max = most;
}

static void visit_to_sum(const block_visit *m, void *own)
{
    const lse_sums *u = own;
    const int count = u->heads / m->w->s->n_kv_heads;
    u->by->make(m, u->q, u->heads, u->k, u->kv_heads, u->d, u->buffer, u->logits);
    for (int64_t row = 0; row < m->queries * count; row++) {
        const int64_t at = m->entry[row / count] * u->heads + m->r * count + row % count,
                      seen = seen_by(m, row / count);
        if (seen > 0)
            sum_up(u->logits + row * m->cols, seen, &u->max[at], &u->sum[at]);
    }
}

static size_t place_own(lse_sums *u, const msa_shape *s, const logits_way *by, int heads, int d, void *work)
{
    const int64_t rows = visit_queries(s) * (heads / s->n_kv_heads);
    arena a = arena_over(work);
    u->buffer = arena_take(&a, 1, by->bytes(s, heads, d));
    u->logits = arena_take(&a, rows * SWEEP_KEYS, sizeof *u->logits);
    return arena_bytes(&a);
}

static size_t own_bytes(const msa_shape *s, const logits_way *by, int heads, int d)
{
    lse_sums u;
    return place_own(&u, s, by, heads, d, NULL);
}

typedef struct sums {
    float *max; /* [parts,n,heads] */
    double *sum;
    void *own;
} sums;

static size_t place(sums *x, const msa_shape *s, int64_t n, const logits_way *by, int heads, int d,
                    void *work)
{
    arena a = arena_over(work);
    x->max = arena_take(&a, LSE_PARTS * n * heads, sizeof *x->max);
    x->sum = arena_take(&a, LSE_PARTS * n * heads, sizeof *x->sum);
    x->own = arena_take(&a, fast_max_threads(), own_bytes(s, by, heads, d));
    return arena_bytes(&a);
}

size_t sweep_lse_bytes(const msa_shape *s, int64_t n, const logits_way *by, int heads, int d)
{
    sums x;
    return place(&x, s, n, by, heads, d, NULL);
}

void sweep_lse(const sweep *w, const logits_way *by, const void *q, int heads, const void *k, int kv_heads,
               int d, float *lse, void *work)
{
    const int64_t size = w->n * heads;
    sums x;
    place(&x, w->s, w->n, by, heads, d, work);
    float *max = x.max;
    double *sum = x.sum;
    const int threads = products_begin();
#pragma omp parallel num_threads(threads)
    {
        lse_sums u = {.by = by, .q = q, .k = k, .heads = heads, .kv_heads = kv_heads, .d = d};
        place_own(&u, w->s, by, heads, d, own_part(x.own, own_bytes(w->s, by, heads, d)));
#pragma omp for schedule(dynamic)
        for (int part = 0; part < LSE_PARTS; part++) {
            const int groups = w->s->n_kv_heads;
            const int64_t b0 = sweep_cut(w, 0, groups, part, LSE_PARTS),
                          b1 = sweep_cut(w, 0, groups, part + 1, LSE_PARTS);
            u.max = max + part * size;
            u.sum = sum + part * size;
            for (int64_t i = 0; i < size; i++) {
                u.max[i] = -INFINITY;
                u.sum[i] = 0;
            }
            for (int r = 0; r < groups; r++)
                sweep_walk(w, r, b0, b1, visit_to_sum, &u);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < size; i++) {
            float most = -INFINITY;
            double all = 0;
            for (int part = 0; part < LSE_PARTS; part++)
                most = max[part * size + i] > most ? max[part * size + i] : most;
            for (int part = 0; part < LSE_PARTS; part++)
                all += sum[part * size + i] *
                       (double)exp2_nonpositive((float)LOG2_E * (max[part * size + i] - most));
            lse[i] = (float)((double)most + log(all));
        }
    }
    products_end();
}
