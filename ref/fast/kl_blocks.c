/* KL with the key blocks outside, and the rule that chooses between it and the tiles. The index keys are
 * shared by the groups, so a part of the blocks belongs to one piece of work with all of them. */
#include "exact.h"
#include "kl_way.h"
#include "online.h"

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
    const kl_way *by;
    const void *q, *k, *qi, *ki;
    const float *lse, *index_lse;   /* of the chunk: [n,Hq] and [n,Hkv] */
    float factor;                   /* of a gradient */
    float *dki;                     /* NULL: the loss alone */
    float *dqi, *excess;            /* [Hkv,n,di], [Hkv,n] of the part */
    double loss;                    /* of the part */
    float *t, *u, *rows_lse;        /* [queries,keys] twice, [rows] */
    float *samples, *centre;        /* [KEY_SAMPLES,di], [di] */
    void *main, *index, *gradients; /* of one after the other: buffers for teacher, logits and gradients */
} kl_call;

/* LSEs of the rows of a visit, from those of the chunk. */
static void pick(const block_visit *m, const float *lse, int n_heads, float *rows)
{
    const int count = n_heads / m->w->s->n_kv_heads;
    for (int64_t row = 0; row < m->queries * count; row++)
        rows[row] = lse[m->entry[row / count] * n_heads + m->r * count + row % count];
}

/* KL of one row's keys, log u taken from the logits x so that no underflow of u cuts it short; x becomes
 * the gradient factor * (u - t), which is added up to *excess. */
static double compare(int64_t n, const float *t, float lse, float factor, float *x, float *excess)
{
    const float smallest = 1.17549435e-38f;
    float sum = 0, rest = 0;
#pragma omp simd reduction(+ : sum, rest)
    for (int64_t c = 0; c < n; c++) {
        const float log_t = log_positive(t[c] > smallest ? t[c] : smallest), log_u = x[c] - lse;
        sum += t[c] * (log_t - log_u);
        x[c] = factor * (exp2_nonpositive((float)LOG2_E * log_u) - t[c]);
        rest += x[c];
    }
    *excess += rest;
    return (double)sum;
}

static void visit_block(const block_visit *m, void *own)
{
    kl_call *l = own;
    const msa_shape *s = m->w->s;
    const int groups = s->n_kv_heads;
    pick(m, l->lse, s->n_heads, l->rows_lse);
    l->by->teach(m, l->q, l->k, l->rows_lse, l->main, l->t);
    l->by->logits->make(m, l->qi, groups, l->ki, 1, s->d_index, l->index, l->u);
    pick(m, l->index_lse, groups, l->rows_lse);
    for (int64_t e = 0; e < m->queries; e++) {
        const int64_t seen = seen_by(m, e);
        float *u = l->u + e * m->cols;
        l->loss += compare(seen, l->t + e * m->cols, l->rows_lse[e], l->factor, u,
                           &l->excess[m->r * m->w->n + m->entry[e]]);
        for (int64_t c = seen; c < m->cols; c++)
            u[c] = 0;
    }
    if (l->dki)
        l->by->give(m, l->u, l->qi, l->ki, l->dqi + m->r * m->w->n * s->d_index, l->dki, l->gradients);
}

static size_t place_own(kl_call *l, const msa_shape *s, const kl_way *by, void *work)
{
    const int64_t n = visit_queries(s), rows = n * (s->n_heads / s->n_kv_heads);
    arena a = arena_over(work);
    l->t = arena_take(&a, n * SWEEP_KEYS, sizeof *l->t);
    l->u = arena_take(&a, n * SWEEP_KEYS, sizeof *l->u);
    l->rows_lse = arena_take(&a, rows, sizeof *l->rows_lse);
    l->samples = arena_take(&a, KEY_SAMPLES * (int64_t)s->d_index, sizeof *l->samples);
    l->centre = arena_take(&a, s->d_index, sizeof *l->centre);
    l->main = arena_share(&a, by->teach_bytes(s));
    l->index = arena_share(&a, by->logits->bytes(s, s->n_kv_heads, s->d_index));
    l->gradients = arena_share(&a, by->give_bytes(s));
    return arena_bytes(&a);
}

static size_t own_bytes(const msa_shape *s, const kl_way *by)
{
    kl_call l;
    return place_own(&l, s, by, NULL);
}

/* ---- One chunk of queries ------------------------------------------------------------------------------ */

static cached stored(const kl_way *by, const void *x)
{
    return by->bf16 ? halves(x) : floats(x);
}

/* Sums what the parts have of dQi, without what index keys have in common: centre.c. */
static void finish(const sweep *w, const kl_call *l, const int32_t *ids, const float *pieces,
                   const float *excesses, float *dqi)
{
    const int groups = w->s->n_kv_heads, di = w->s->d_index;
    const int64_t size = groups * w->n * di;
    const float scale = (float)(1 / sqrt(di));
#pragma omp for schedule(static)
    for (int64_t row = 0; row < w->n * groups; row++) {
        const int64_t i = row / groups, r = row % groups;
        float excess = 0;
        for (int part = 0; part < PARTS; part++)
            excess += excesses[(part * groups + r) * w->n + i];
        cached_centre(w->s, ids_row(w->s, ids, (int)r, w->seq.q0 + w->i0 + i), position(&w->seq, w->i0 + i),
                      stored(l->by, l->ki), 1, 0, w->seq.kv0, di, l->samples, l->centre);
        for (int c = 0; c < di; c++) {
            float sum = -excess * l->centre[c];
            for (int part = 0; part < PARTS; part++)
                sum += pieces[part * size + (r * w->n + i) * di + c];
            dqi[((w->seq.q0 + w->i0) * groups + row) * di + c] = scale * sum;
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
        place_own(&l, w->s, l.by, own_part(own, own_bytes(w->s, l.by)));
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
            finish(w, &l, ids, pieces, excesses, dqi);
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

static size_t place(scratch *m, const msa_shape *s, const kl_way *by, void *work)
{
    const int64_t n = queries_at_once(s);
    arena a = arena_over(work);
    m->again = arena_share(&a, kl_again_workspace(s));
    sweep_take(&m->w, s, n, &a);
    m->lse = arena_take(&a, n * s->n_heads, sizeof *m->lse);
    m->index_lse = arena_take(&a, n * s->n_kv_heads, sizeof *m->index_lse);
    m->pieces = arena_take(&a, PARTS * n * s->n_kv_heads * s->d_index, sizeof *m->pieces);
    m->excesses = arena_take(&a, PARTS * n * s->n_kv_heads, sizeof *m->excesses);
    m->main = arena_share(&a, sweep_lse_bytes(s, n, by->logits, s->n_heads, s->d_head));
    m->index = arena_share(&a, sweep_lse_bytes(s, n, by->logits, s->n_kv_heads, s->d_index));
    m->own = arena_take(&a, fast_max_threads(), own_bytes(s, by));
    return arena_bytes(&a);
}

size_t kl_by_blocks_workspace(const msa_shape *s, const kl_way *by)
{
    scratch m;
    return place(&m, s, by, NULL);
}

/* The chunk's LSEs, which are given or found. */
static void know_lse(const scratch *m, const msa_arrays *a, kl_call *l)
{
    const sweep *w = &m->w;
    const msa_shape *s = w->s;
    const float *lse = a->lse, *index_lse = a->index_lse;
    const int64_t first = w->seq.q0 + w->i0;
    l->lse = lse ? lse + first * s->n_heads : m->lse;
    l->index_lse = m->index_lse;
    if (!lse)
        sweep_lse(w, l->by->logits, l->q, s->n_heads, l->k, s->n_kv_heads, s->d_head, m->lse, m->main);
    if (!index_lse)
        sweep_lse(w, l->by->logits, l->qi, s->n_kv_heads, l->ki, 1, s->d_index, m->index_lse, m->index);
    for (int64_t i = 0; index_lse && i < w->n * s->n_kv_heads; i++)
        m->index_lse[i] = index_lse[i % s->n_kv_heads * s->n_q + first + i / s->n_kv_heads];
}

msa_status kl_by_blocks(const kl_way *by, const msa_shape *s, const msa_arrays *a, void *work)
{
    float *dqi = (float *)(uintptr_t)a->dqi, *dki = (float *)(uintptr_t)a->dki;
    const int64_t step = queries_at_once(s);
    const double share = 1 / kl_rows(s);
    scratch m;
    place(&m, s, by, work);
    kl_call l = {.by = by, .q = a->q, .k = a->k, .qi = a->qi, .ki = a->ki, .dki = dki};
    l.factor = (float)(a->weight * share);
    if (dki)
        memset(dki, 0, (size_t)(s->n_kv * s->d_index) * sizeof *dki);
    pad_queries(s, 1, (int64_t)s->n_kv_heads * s->d_index, 0, dqi);
    *a->loss = 0;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int64_t i0 = 0; i0 < seq.n_q; i0 += step) {
            sweep_open(&m.w, &seq, i0, step, a->ids);
            know_lse(&m, a, &l);
            *a->loss += share * kl_chunk(&m.w, &l, a->ids, dqi, m.pieces, m.excesses, m.own);
        }
    }
    const cached q = stored(by, a->q), k = stored(by, a->k), qi = stored(by, a->qi), ki = stored(by, a->ki);
    if (kl_faint(s, qi, ki, a->weight) || !kl_held(s, *a->loss, dqi, dki))
        kl_again(s, q, k, qi, ki, a->ids, a->weight, a->loss, dqi, dki, m.again);
    return MSA_OK;
}

/* ---- float32 ------------------------------------------------------------------------------------------- */

/* Logits of all rows, and what these are made with. */
typedef struct lesson {
    float *p; /* [queries*group,keys] */
    void *rest;
} lesson;

static size_t place_lesson(lesson *x, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    x->p = arena_take(&a, visit_queries(s) * (s->n_heads / s->n_kv_heads) * SWEEP_KEYS, sizeof *x->p);
    x->rest = arena_take(&a, 1, sweep_floats.bytes(s, s->n_heads, s->d_head));
    return arena_bytes(&a);
}

static size_t lesson_bytes(const msa_shape *s)
{
    lesson x;
    return place_lesson(&x, s, NULL);
}

/* What float32 could not hold is to show, and shows times 0: -inf less anything would weigh nothing. */
static void teach_floats(const block_visit *m, const void *q, const void *k, const float *lse, void *buffer,
                         float *t)
{
    const msa_shape *s = m->w->s;
    const int group = s->n_heads / s->n_kv_heads;
    const float share = 1 / (float)group;
    lesson l;
    place_lesson(&l, s, buffer);
    sweep_floats.make(m, q, s->n_heads, k, s->n_kv_heads, s->d_head, l.rest, l.p);
    for (int64_t e = 0; e < m->queries; e++, t += m->cols) {
        const int64_t seen = seen_by(m, e);
        for (int h = 0; h < group; h++) {
            const float base = fabsf(lse[e * group + h]) < MOST_LSE ? lse[e * group + h] : NAN;
            const float *x = l.p + (e * group + h) * m->cols;
            for (int64_t c = 0; c < seen; c++) {
                const float weight = exp2_nonpositive((float)LOG2_E * (x[c] - base)) + x[c] * 0;
                t[c] = h > 0 ? t[c] + weight : weight;
            }
        }
        for (int64_t c = 0; c < seen; c++)
            t[c] *= share;
    }
}

/* Rows [queries,di] of Qi, and of dQi. */
static size_t give_bytes(const msa_shape *s)
{
    return 2 * (size_t)(visit_queries(s) * s->d_index) * sizeof(float);
}

static void give_floats(const block_visit *m, const float *u, const void *qi, const void *ki, float *dqi,
                        float *dki, void *buffer)
{
    const int di = m->w->s->d_index;
    const int64_t first = (m->w->seq.kv0 + m->j0) * di;
    float *rows_qi = buffer, *rows_dqi = rows_qi + m->queries * di;
    visit_gather(m, qi, m->w->s->n_kv_heads, m->r, 1, di, (float)(1 / sqrt(di)), rows_qi);
    small_gemm(true, false, m->cols, di, m->queries, u, m->cols, rows_qi, di, 1, dki + first, di);
    small_gemm(false, false, m->queries, di, m->cols, u, m->cols, (const float *)ki + first, di, 0, rows_dqi,
               di);
    visit_scatter(m, rows_dqi, di, dqi);
}

static const kl_way by_floats = {&sweep_floats, false, teach_floats, lesson_bytes, give_floats, give_bytes};

size_t fast_kl_blocks_workspace(const msa_shape *s)
{
    return kl_by_blocks_workspace(s, &by_floats);
}

/* The log-sum-exps are found here, of these very logits: few callers have those of the index. */
msa_status fast_kl_blocks(const msa_shape *s, const float *q, const float *k, const float *qi,
                          const float *ki, const int32_t *ids, const float *lse, const float *index_lse,
                          double weight, double *loss, float *dqi, float *dki, void *work)
{
    (void)lse, (void)index_lse;
    MSA_TRY(ids ? msa_check_ids(s, ids) : msa_check_shape(s));
    if (!q || !k || !qi || !ki || !loss || !work || !dqi != !dki)
        return MSA_ERR_NULL;
    const msa_arrays a = {.q = q,
                          .k = k,
                          .qi = qi,
                          .ki = ki,
                          .ids = ids,
                          .weight = weight,
                          .loss = loss,
                          .dqi = dqi,
                          .dki = dki};
    return kl_by_blocks(&by_floats, s, &a, work);
}
