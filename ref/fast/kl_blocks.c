/* KL with the key blocks outside, and the rule that chooses between it and the tiles. The index keys are
 * shared by the groups, so a part of the blocks belongs to one piece of work with all of them. */
#include "exact.h"
#include "online.h"
#include "sweep.h"

#define PARTS 16
#define MOST_FLOATS ((int64_t)32 << 20) /* of dQi that all parts add up: 128 MB */
#define MOST_QUERIES 4096
#define LEAST_QUERIES 32

static int64_t queries_at_once(const msa_shape *s)
{
    const int64_t most = MOST_FLOATS / (PARTS * (int64_t)s->n_kv_heads * s->d_index);
    return min_i64(s->n_q, max_i64(LEAST_QUERIES, min_i64(MOST_QUERIES, most)));
}

/* ---- One visit --------------------------------------------------------------------------------------- */

typedef struct kl_call {
    const float *q, *k, *qi, *ki, *lse, *index_lse; /* the last two of the chunk: [n,Hq] and [n,Hkv] */
    float factor;                                   /* of a gradient */
    float *dki;                                     /* NULL: the loss alone */
    float *dqi, *excess;                            /* [Hkv,n,di], [Hkv,n] of the part */
    double loss;                                    /* of the part */
    float *rows_q, *rows_qi, *rows_dqi;             /* [rows,d], [queries,di] */
    float *p, *u, *rows_lse;                        /* [rows,keys], [queries,keys], [rows] */
} kl_call;

/* LSEs of the rows of a visit, from those of the chunk. */
static void pick(const block_visit *m, const float *lse, int n_heads, float *rows)
{
    const int count = n_heads / m->w->s->n_kv_heads;
    for (int64_t a = 0; a < m->queries * count; a++)
        rows[a] = lse[m->entry[a / count] * n_heads + m->r * count + a % count];
}

/* The mean over the group's heads of their probabilities, in the place of the first head's. */
static void average(int group, int64_t queries, int64_t cols, float *p)
{
    const float share = 1 / (float)group;
    for (int64_t e = 0; e < queries; e++) {
        float *t = p + e * group * cols;
        for (int h = 1; h < group; h++)
            for (int64_t c = 0; c < cols; c++)
                t[c] += t[h * cols + c];
        for (int64_t c = 0; c < cols; c++)
            t[c] *= share;
    }
}

/* KL of one row's keys, log u taken from the logits x so that no underflow of u cuts it short; x becomes
 * the gradient factor * (u - t). */
static double compare(int64_t n, const float *t, float lse, float factor, float *x)
{
    const float smallest = 1.17549435e-38f;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) {
        const float log_t = log_positive(t[c] > smallest ? t[c] : smallest), log_u = x[c] - lse;
        sum += t[c] * (log_t - log_u);
        x[c] = factor * (exp2_nonpositive((float)LOG2_E * log_u) - t[c]);
    }
    return (double)sum;
}

static void visit_block(const block_visit *m, void *own)
{
    kl_call *l = own;
    const msa_shape *s = m->w->s;
    const int d = s->d_head, di = s->d_index, groups = s->n_kv_heads, group = s->n_heads / groups;
    const int64_t rows = m->queries * group, stride = (int64_t)groups * d, key = m->w->seq.kv0 + m->j0;
    visit_gather(m, l->q, s->n_heads, m->r * group, group, d, (float)(1 / sqrt(d)), l->rows_q);
    small_gemm(false, true, rows, m->cols, d, l->rows_q, d, l->k + key * stride + (int64_t)m->r * d, stride,
               0, l->p, m->cols);
    pick(m, l->lse, s->n_heads, l->rows_lse);
    visit_weigh(m, group, l->rows_lse, l->p);
    average(group, m->queries, m->cols, l->p);

    visit_gather(m, l->qi, groups, m->r, 1, di, (float)(1 / sqrt(di)), l->rows_qi);
    small_gemm(false, true, m->queries, m->cols, di, l->rows_qi, di, l->ki + key * di, di, 0, l->u, m->cols);
    pick(m, l->index_lse, groups, l->rows_lse);
    for (int64_t e = 0; e < m->queries; e++) {
        const int64_t seen = seen_by(m, e);
        float *u = l->u + e * m->cols;
        l->loss += compare(seen, l->p + e * group * m->cols, l->rows_lse[e], l->factor, u);
        float excess = 0;
        for (int64_t c = 0; c < seen; c++)
            excess += u[c];
        l->excess[m->r * m->w->n + m->entry[e]] += excess;
        for (int64_t c = seen; c < m->cols; c++)
            u[c] = 0;
    }
    if (!l->dki)
        return;
    small_gemm(true, false, m->cols, di, m->queries, l->u, m->cols, l->rows_qi, di, 1, l->dki + key * di, di);
    small_gemm(false, false, m->queries, di, m->cols, l->u, m->cols, l->ki + key * di, di, 0, l->rows_dqi,
               di);
    visit_scatter(m, l->rows_dqi, di, l->dqi + m->r * m->w->n * di);
}

static size_t place_own(kl_call *l, const msa_shape *s, void *work)
{
    const int64_t n = visit_queries(s), rows = n * (s->n_heads / s->n_kv_heads);
    arena a = arena_over(work);
    l->rows_q = arena_take(&a, rows * s->d_head, sizeof *l->rows_q);
    l->rows_qi = arena_take(&a, n * s->d_index, sizeof *l->rows_qi);
    l->rows_dqi = arena_take(&a, n * s->d_index, sizeof *l->rows_dqi);
    l->p = arena_take(&a, rows * SWEEP_KEYS, sizeof *l->p);
    l->u = arena_take(&a, n * SWEEP_KEYS, sizeof *l->u);
    l->rows_lse = arena_take(&a, rows, sizeof *l->rows_lse);
    return arena_bytes(&a);
}

static size_t own_bytes(const msa_shape *s)
{
    kl_call l;
    return place_own(&l, s, NULL);
}

/* ---- One chunk of queries ------------------------------------------------------------------------------ */

/* Sums what the parts have of dQi, without what index keys have in common: centre.c. */
static void finish(const sweep *w, const float *ki, const int32_t *ids, const float *pieces,
                   const float *excesses, float *centre, float *dqi)
{
    const int groups = w->s->n_kv_heads, di = w->s->d_index;
    const int64_t size = groups * w->n * di;
    const float scale = (float)(1 / sqrt(di));
#pragma omp for schedule(static)
    for (int64_t a = 0; a < w->n * groups; a++) {
        const int64_t i = a / groups, r = a % groups;
        float excess = 0;
        for (int part = 0; part < PARTS; part++)
            excess += excesses[(part * groups + r) * w->n + i];
        key_centre(w->s, ids_row(w->s, ids, (int)r, w->seq.q0 + w->i0 + i), position(&w->seq, w->i0 + i),
                   ki + w->seq.kv0 * di, di, di, centre);
        for (int c = 0; c < di; c++) {
            float sum = -excess * centre[c];
            for (int part = 0; part < PARTS; part++)
                sum += pieces[part * size + (r * w->n + i) * di + c];
            dqi[((w->seq.q0 + w->i0) * groups + a) * di + c] = scale * sum;
        }
    }
}

/* Returns the chunk's share of T Hkv L_KL. */
static double kl_chunk(const sweep *w, const kl_call *shared, const int32_t *ids, float *dqi, float *pieces,
                       float *excesses, void *own)
{
    const int groups = w->s->n_kv_heads;
    const int64_t size = groups * w->n * w->s->d_index;
    double loss[PARTS], sum = 0;
    const int threads = products_begin();
#pragma omp parallel num_threads(threads)
    {
        kl_call l = *shared;
        place_own(&l, w->s, own_part(own, own_bytes(w->s)));
#pragma omp for schedule(dynamic)
        for (int part = 0; part < PARTS; part++) {
            const int64_t b0 = sweep_cut(w, 0, groups, part, PARTS),
                          b1 = sweep_cut(w, 0, groups, part + 1, PARTS);
            l.dqi = pieces + part * size;
            l.loss = 0;
            l.excess = excesses + part * groups * w->n;
            memset(l.dqi, 0, (size_t)size * sizeof *l.dqi);
            memset(l.excess, 0, (size_t)(groups * w->n) * sizeof *l.excess);
            for (int r = 0; r < groups; r++)
                sweep_walk(w, r, b0, b1, visit_block, &l);
            loss[part] = l.loss;
        }
        if (dqi)
            finish(w, l.ki, ids, pieces, excesses, l.rows_qi, dqi);
    }
    products_end();
    for (int part = 0; part < PARTS; part++)
        sum += loss[part];
    return sum;
}

/* ---- The stage ----------------------------------------------------------------------------------------- */

typedef struct scratch {
    sweep w;
    float *lse, *index_lse;   /* [n,Hq], [n,Hkv] of the chunk */
    float *pieces, *excesses; /* [parts,Hkv,n,di], [parts,Hkv,n] */
    void *main, *index, *own; /* of one after the other: the two sweeps for the LSEs, and the threads' */
    void *again;
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int64_t n = queries_at_once(s);
    arena a = arena_over(work);
    m->again = arena_share(&a, kl_again_workspace(s));
    sweep_take(&m->w, s, n, &a);
    m->lse = arena_take(&a, n * s->n_heads, sizeof *m->lse);
    m->index_lse = arena_take(&a, n * s->n_kv_heads, sizeof *m->index_lse);
    m->pieces = arena_take(&a, PARTS * n * s->n_kv_heads * s->d_index, sizeof *m->pieces);
    m->excesses = arena_take(&a, PARTS * n * s->n_kv_heads, sizeof *m->excesses);
    m->main = arena_share(&a, sweep_lse_bytes(s, n, s->n_heads, s->d_head));
    m->index = arena_share(&a, sweep_lse_bytes(s, n, s->n_kv_heads, s->d_index));
    m->own = arena_take(&a, fast_max_threads(), own_bytes(s));
    return arena_bytes(&a);
}

size_t fast_kl_blocks_workspace(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* The log-sum-exps are found here: few callers have those of the index. */
msa_status fast_kl_blocks(const msa_shape *s, const float *q, const float *k, const float *qi,
                          const float *ki, const int32_t *ids, const float *lse, const float *index_lse,
                          double weight, double *loss, float *dqi, float *dki, void *work)
{
    (void)lse, (void)index_lse;
    MSA_TRY(ids ? msa_check_ids(s, ids) : msa_check_shape(s));
    if (!q || !k || !qi || !ki || !loss || !work || !dqi != !dki)
        return MSA_ERR_NULL;
    const int groups = s->n_kv_heads;
    const int64_t step = queries_at_once(s);
    const double share = 1 / kl_rows(s);
    scratch m;
    place(&m, s, work);
    const kl_call l = {.q = q,
                       .k = k,
                       .qi = qi,
                       .ki = ki,
                       .lse = m.lse,
                       .index_lse = m.index_lse,
                       .factor = (float)(weight * share),
                       .dki = dki};
    if (dki)
        memset(dki, 0, (size_t)(s->n_kv * s->d_index) * sizeof *dki);
    pad_queries(s, 1, (int64_t)groups * s->d_index, 0, dqi);
    *loss = 0;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int64_t i0 = 0; i0 < seq.n_q; i0 += step) {
            sweep_open(&m.w, &seq, i0, step, ids);
            sweep_lse(&m.w, q, s->n_heads, k, groups, s->d_head, m.lse, m.main);
            sweep_lse(&m.w, qi, groups, ki, 1, s->d_index, m.index_lse, m.index);
            *loss += share * kl_chunk(&m.w, &l, ids, dqi, m.pieces, m.excesses, m.own);
        }
    }
    if (kl_faint(s, qi, ki, weight) || !kl_held(s, *loss, dqi, dki))
        kl_again(s, q, k, qi, ki, ids, weight, loss, dqi, dki, m.again);
    return MSA_OK;
}
