/* The gradient of attention on tiles of bf16, key blocks outside. Again everything is turned (walk_amx.h): keys in the
 * rows, 16 (query, head) rows, a column, in the lanes. Up to four columns that attend to a block meet 128 keys of it:
 *
 *     S^T = K Q^T        P^T = exp(S^T / sqrt(d) - LSE)        dP^T = V dO^T        dS^T = P^T * (dP^T - delta)
 *     dV += P^T dO       dK += dS^T Q                          dQ^T += K^T dS^T     (both over sqrt(d))
 *
 * Two rows of keys, rounded and interleaved, are dS^T as a right factor. Two columns interleaved, lane by lane, are P^T
 * and dS^T as left ones, 32 (query, head) rows long; so rows of Q and dO are laid side by side in the same order. No
 * maximum is wanted and no sum: the LSE of the forward pass is given.
 *
 * Pace, for 128 keys, 64 rows and d = 128: five products are 640 of tiles, 10240 clocks of the tile unit. The vector
 * unit has 512 vectors of pairs P and dS, some 37 instructions each: 16 of them are the exponential, 10 round, 5
 * interleave. On two ports that is 9500 clocks, and 1300 more lay 32 tiles of Q and dO side by side. So both units are
 * as busy as can be, if they work at the same time: products of one visit are woven into the exponentials of the next
 * (walk_amx.h). Loads are 5 tiles for 4 products of S, dP and dQ, 4 for 4 of dV and dK, whose sums come and go every 2
 * products: 900 tiles of 8 clocks, beside them. A visit takes 32 KB of dQ from a cache and brings them back, 6.4 bytes
 * a clock.
 *
 * A piece of work is a part of a group's blocks (sweep.h): it owns dK and dV of their keys, and sums of dQ that are
 * added up over the parts. So results do not depend on the number of threads. */
#include "asks_amx.h"
#include "walk_amx.h"

#define TOGETHER (4 * KEYS) /* keys whose panels and gradients stay in the L2 cache: 900 KB at d = 128 */
#define PAIRS (COLUMNS / 2)
#define ALIVE 3 /* visits under way */

/* ---- Memory of a thread ------------------------------------------------------------------------------------------------ */

/* Up to four columns that attend to a block; an even number, the last of which may be of no rows. */
typedef struct strip {
    const ask *of[COLUMNS];
    column logits[COLUMNS], slopes[COLUMNS]; /* they ask for S^T and dP^T; what the first sum up is dQ^T */
    float *excess[COLUMNS];
    tile_rows *q, *dout; /* [PAIRS][2 steps], right factors: rows of two columns side by side */
} strip;

/* A strip meets up to 128 keys. */
typedef struct visit {
    strip *of;
    item logits, slopes;
    tile_rows *dk, *dv; /* [..][2 steps], each [16 keys][16 channels] of float32 */
    bool first;         /* the strip's first */
} visit;

/* What lies between the products of a visit, beside that of walk_amx.h. */
typedef struct beside {
    tile_rows *slopes; /* [KEYS/16][COLUMNS], dP^T */
    tile_rows *p, *ds; /* [KEYS/16][PAIRS], left factors */
} beside;

typedef struct scratch {
    walk w;
    beside at[2];
    panels k;           /* K, and K turned, of TOGETHER keys */
    tile_rows *v;       /* V as K */
    tile_rows *dk, *dv; /* [TOGETHER/16][2 steps] */
    strip strip[ALIVE];
    visit visit[ALIVE];
    ask nobody;
    tile_rows *nothing;            /* [2 steps], dQ^T of nobody */
    float nowhere[LANES];          /* its excess */
    float *row, *centre, *samples; /* [d], [d], [KEY_SAMPLES,d] */
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int d = s->d_head, steps = steps_of(d);
    arena a = arena_over(work);
    walk_take(&m->w, d, &a);
    for (int n = 0; n < 2; n++) {
        m->at[n].slopes = arena_take(&a, KEYS / TILE_ROWS * COLUMNS, sizeof(tile_rows));
        m->at[n].p = arena_take(&a, KEYS / TILE_ROWS * PAIRS, sizeof(tile_rows));
        m->at[n].ds = arena_take(&a, KEYS / TILE_ROWS * PAIRS, sizeof(tile_rows));
    }
    panels_take(&m->k, TOGETHER / TILE_HALVES, d, &a);
    m->v = arena_take(&a, TOGETHER / TILE_ROWS * steps, sizeof *m->v);
    m->dk = arena_take(&a, TOGETHER / TILE_ROWS * 2 * steps, sizeof *m->dk);
    m->dv = arena_take(&a, TOGETHER / TILE_ROWS * 2 * steps, sizeof *m->dv);
    for (int n = 0; n < ALIVE; n++) {
        m->strip[n].q = arena_take(&a, PAIRS * 2 * steps, sizeof(tile_rows));
        m->strip[n].dout = arena_take(&a, PAIRS * 2 * steps, sizeof(tile_rows));
    }
    m->nobody.q = m->nobody.dout = arena_take(&a, steps, sizeof(tile_rows));
    m->nothing = arena_take(&a, 2 * steps, sizeof *m->nothing);
    m->row = arena_take(&a, d, sizeof *m->row);
    m->centre = arena_take(&a, d, sizeof *m->centre);
    m->samples = arena_take(&a, KEY_SAMPLES * (int64_t)d, sizeof *m->samples);
    return arena_bytes(&a);
}

static size_t own_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

size_t BODY_WORKSPACE(backward)(const msa_shape *s)
{
    shared h;
    return shared_take(&h, s, own_bytes(s), NULL);
}

/* ---- A visit --------------------------------------------------------------------------------------------------------- */

/* A part of the blocks of a group. */
typedef struct share {
    const shared *h;
    scratch *m;
    tiles *t;
    int r;
    int64_t piece, strips, visits;
} share;

/* Some of the rows of Q and dO side by side, an eighth of them. */
static void lay_rows(const share *k, const visit *e, int eighth)
{
    const int d = k->h->s->d_head, wide = 2 * k->m->w.steps, all = e->logits.columns * wide;
    for (int at = eighth * all / 8; at < (eighth + 1) * all / 8; at++) {
        const int pair = at / (2 * wide), c = at / 2 % wide;
        const uint16_t *from = at % 2 ? k->h->a->dout : k->h->a->q, *row[2][TILE_ROWS];
        for (int n = 0; n < 2; n++)
            for (int l = 0; l < TILE_ROWS; l++) {
                const int64_t of = e->of->of[2 * pair + n]->row[l];
                row[n][l] = of < 0 ? NULL : from + of * d;
            }
        put_beside((at % 2 ? e->of->dout : e->of->q) + pair * wide + c, row[0], row[1], c * TILE_ROWS, d);
    }
}

/* P and dS of two columns for 16 keys; sums of the dS that are used are added to `excess`. A logit of -inf is one that
 * float32 could not hold: times 0 it shows. */
static inline void weigh_pair(const walk *w, const visit *e, int part, int pair, const between *b,
                              const beside *x, lanes *excess)
{
    const ask *of[2] = {e->of->of[2 * pair], e->of->of[2 * pair + 1]};
    const float scale = w->scale / (float)LOG2_E;
    const lanes lse[2] = {load(of[0]->lse), load(of[1]->lse)},
                delta[2] = {load(of[0]->delta), load(of[1]->delta)};
    tile_rows *p = x->p + part * PAIRS + pair, *ds = x->ds + part * PAIRS + pair;
    for (int key = 0; key < TILE_ROWS; key += 2) {
        int_lanes slope[2][2];
        for (int i = 0; i < 2; i++) {
            int_lanes weight[2];
            for (int n = 0; n < 2; n++) {
                const lanes s = load(logits_of(b->logits, 2 * pair + n, part * TILE_ROWS + key + i));
                const lanes dp = load(logits_of(x->slopes, 2 * pair + n, part * TILE_ROWS + key + i));
                const lanes exact = exp2_lanes((float)LOG2_E * (s * scale - lse[n])) + s * 0;
                weight[n] = halved(exact);
                slope[i][n] = halved(exact * (dp - delta[n]));
                excess[n] += (lanes)slope[i][n];
            }
            const int_lanes weights = joined(weight[0], weight[1]), slopes = joined(slope[i][0], slope[i][1]);
            memcpy(p->word[key + i], &weights, sizeof weights);
            memcpy(ds->word[key + i], &slopes, sizeof slopes);
        }
        for (int n = 0; n < 2; n++) {
            const int_lanes slopes = joined(slope[0][n], slope[1][n]);
            memcpy(b->p[part / 2 * COLUMNS + 2 * pair + n].word[part % 2 * 8 + key / 2], &slopes,
                   sizeof slopes);
        }
    }
}

/* Adds weights of 32 keys times rows to 32 channels of those keys' gradients. */
static inline void multiply_rows(tiles *t, int pairs, int wide, const tile_rows *weights,
                                 const tile_rows *rows, tile_rows *sum)
{
    tile_load(t, 0, sum, TILE_BYTES);
    tile_load(t, 1, sum + 1, TILE_BYTES);
    tile_load(t, 2, sum + wide, TILE_BYTES);
    tile_load(t, 3, sum + wide + 1, TILE_BYTES);
    for (int pair = 0; pair < pairs; pair++, rows += wide) {
        tile_load(t, 4, weights + pair, TILE_BYTES);
        tile_load(t, 5, weights + PAIRS + pair, TILE_BYTES);
        tile_load(t, 6, rows, TILE_BYTES);
        tile_load(t, 7, rows + 1, TILE_BYTES);
        tile_bf16(t, 0, 4, 6);
        tile_bf16(t, 1, 4, 7);
        tile_bf16(t, 2, 5, 6);
        tile_bf16(t, 3, 5, 7);
    }
    tile_store(t, 0, sum, TILE_BYTES);
    tile_store(t, 1, sum + 1, TILE_BYTES);
    tile_store(t, 2, sum + wide, TILE_BYTES);
    tile_store(t, 3, sum + wide + 1, TILE_BYTES);
}

/* The gradients of a visit are made in so many steps, of 8 or 16 products: dQ, then dV, then dK. */
static int steps_of_visit(const walk *w, const visit *e)
{
    return 2 * w->steps + parts_of(&e->logits) * w->steps;
}

static inline void step_of_visit(tiles *t, const walk *w, const visit *e, int n, const between *b,
                                 const beside *x)
{
    const int wide = 2 * w->steps, half = parts_of(&e->logits) / 2 * w->steps;
    if (n < wide) {
        multiply_values(t, w, &e->logits, n, b->p);
        return;
    }
    const int at = (n - wide) % half, part = at / w->steps * 2, c = at % w->steps * 2;
    if (n - wide < half)
        multiply_rows(t, e->logits.columns / 2, wide, x->p + part * PAIRS, e->of->dout + c,
                      e->dv + part * wide + c);
    else
        multiply_rows(t, e->logits.columns / 2, wide, x->ds + part * PAIRS, e->of->q + c,
                      e->dk + part * wide + c);
}

/* Visit number n, if there is one and it is not yet over. */
static const visit *visit_at(const share *k, int64_t n)
{
    return n >= 0 && n < k->visits ? &k->m->visit[n % ALIVE] : NULL;
}

/* The products with K and V of visit n, the weights of the one before, and the gradients of the one before that. */
static void turn_visits(share *k, int64_t n)
{
    const walk *w = &k->m->w;
    const visit *after = visit_at(k, n), *now = visit_at(k, n - 1), *before = visit_at(k, n - 2);
    const between *there = &w->at[n % 2], *here = &w->at[(n + 1) % 2];
    const beside *there_too = &k->m->at[n % 2], *here_too = &k->m->at[(n + 1) % 2];
    const int columns = now ? now->logits.columns : 0, more = after ? parts_of(&after->logits) : 0,
              parts = now ? parts_of(&now->logits) : 0, steps = before ? steps_of_visit(w, before) : 0;
    lanes excess[COLUMNS];
    int done = 0;
    for (int c = 0; c < columns; c++) {
        excess[c] = load(now->of->excess[c]);
        hide(&now->logits, c, here->logits);
    }
    for (int part = 0; part < KEYS / TILE_ROWS; part++) {
        if (part < more)
            multiply_keys(k->t, w, &after->logits, part, there->logits);
        if (part < parts)
            weigh_pair(w, now, part, 0, here, here_too, excess);
        if (part < more)
            multiply_keys(k->t, w, &after->slopes, part, there_too->slopes);
        if (part < parts && columns > 2)
            weigh_pair(w, now, part, 1, here, here_too, excess + 2);
        if (now && now->first)
            lay_rows(k, now, part);
        for (; done < (part + 1) * steps / (KEYS / TILE_ROWS); done++)
            step_of_visit(k->t, w, before, done, there, there_too);
    }
    for (int c = 0; c < columns; c++)
        store(now->of->excess[c], excess[c]);
}

/* ---- A part of the blocks -------------------------------------------------------------------------------------------- */

/* The next strip: the columns number c[0 .. n-1] of the group. */
static strip *begin_strip(share *k, const int64_t *c, int n)
{
    strip *x = &k->m->strip[k->strips++ % ALIVE];
    for (int i = 0; i < n + n % 2; i++) {
        const ask *of = i < n ? &k->h->ask[k->r * k->h->columns + c[i]] : &k->m->nobody;
        x->of[i] = of;
        x->excess[i] = i < n ? k->h->excess + (k->piece * k->h->columns + c[i]) * LANES : k->m->nowhere;
        x->logits[i].q = of->q;
        x->logits[i].o = i < n ? meet_column(k->h, k->piece, c[i]) : k->m->nothing;
        x->slopes[i].q = of->dout;
        memcpy(x->logits[i].last, of->last, sizeof of->last);
    }
    return x;
}

/* A strip of n columns meets keys j .. j + keys - 1, which are number `at` and up of those that are packed. */
static void begin_visit(share *k, strip *x, int n, int64_t j, int64_t at, int keys)
{
    const int steps = k->m->w.steps;
    const int64_t first = at / TILE_ROWS * steps;
    visit *e = &k->m->visit[k->visits % ALIVE];
    *e = (visit){.of = x, .dk = k->m->dk + 2 * first, .dv = k->m->dv + 2 * first, .first = at == 0};
    e->logits = (item){k->m->k.k + first, k->m->k.v + first, j, 0, keys, n + n % 2, {0}};
    e->slopes = (item){k->m->v + first, NULL, j, 0, keys, n + n % 2, {0}};
    for (int i = 0; i < n + n % 2; i++) {
        e->logits.of[i] = &x->logits[i];
        e->slopes.of[i] = &x->slopes[i];
    }
    turn_visits(k, k->visits++);
}

static void end_visits(share *k)
{
    turn_visits(k, k->visits);
    turn_visits(k, k->visits + 1);
    k->visits = 0;
}

/* Keys j0 .. j0 + n - 1, and zeros for their gradients. */
static void begin_keys(share *k, int64_t j0, int64_t n)
{
    const msa_shape *s = k->h->s;
    const int d = s->d_head, steps = k->m->w.steps;
    const int64_t first = k->h->w.seq.kv0 + j0, tiles_high = (n + TILE_HALVES - 1) / TILE_HALVES * 2;
    const uint16_t *v = k->h->a->v;
    for (int64_t j = 0; j < n; j += TILE_HALVES)
        pack_run(&k->m->k, j / TILE_HALVES, s, k->r, first + j, min_i64(TILE_HALVES, n - j), k->h->a->k,
                 k->h->a->k);
    memset(k->m->v, 0, (size_t)(tiles_high * steps) * sizeof *k->m->v);
    for (int64_t j = 0; j < n; j++)
        put_left(k->m->v + j / TILE_ROWS * steps, (int)(j % TILE_ROWS),
                 v + ((first + j) * s->n_kv_heads + k->r) * d, d);
    memset(k->m->dk, 0, (size_t)(tiles_high * 2 * steps) * sizeof *k->m->dk);
    memset(k->m->dv, 0, (size_t)(tiles_high * 2 * steps) * sizeof *k->m->dv);
}

/* Adds what they have been given to dK or dV. */
static void leave_keys(const share *k, int64_t j0, int64_t n, const tile_rows *sum, float scale, float *to)
{
    const msa_shape *s = k->h->s;
    const int d = s->d_head, wide = 2 * k->m->w.steps;
    for (int64_t j = 0; j < n; j++) {
        float *row = to + ((k->h->w.seq.kv0 + j0 + j) * s->n_kv_heads + k->r) * d;
        for (int c = 0; c < d; c++) {
            float x;
            memcpy(&x, &sum[j / TILE_ROWS * wide + c / TILE_ROWS].word[j % TILE_ROWS][c % TILE_ROWS],
                   sizeof x);
            row[c] += scale * x;
        }
    }
}

static void walk_block(share *k, int64_t block)
{
    const sweep *w = &k->h->w;
    const int group = k->h->s->n_heads / k->h->s->n_kv_heads;
    int64_t entries;
    const int32_t *entry = sweep_entries(w, k->r, block, &entries);
    const int64_t first = w->full && entries > 0 ? (int64_t)entry[0] * group / TILE_ROWS : 0;
    const int64_t count = w->full ? (entries > 0) * (k->h->columns - first) : entries * k->h->slabs;
    const int64_t end = min_i64((block + 1) * w->width, position(&w->seq, w->i0 + w->n - 1) + 1);
    for (int64_t j0 = block * w->width; count > 0 && j0 < end; j0 += TOGETHER) {
        const int64_t n = min_i64(TOGETHER, end - j0);
        begin_keys(k, j0, n);
        for (int64_t i = 0; i < count; i += COLUMNS) {
            const int wide = (int)min_i64(COLUMNS, count - i);
            int64_t c[COLUMNS];
            for (int b = 0; b < wide; b++)
                c[b] = w->full ? first + i + b
                               : entry[(i + b) / k->h->slabs] * k->h->slabs + (i + b) % k->h->slabs;
            strip *x = begin_strip(k, c, wide);
            for (int64_t j = 0; j < n && j0 + j <= x->of[wide - 1]->last[TILE_ROWS - 1]; j += KEYS)
                begin_visit(k, x, wide, j0 + j, j, (int)min_i64(KEYS, n - j));
        }
        end_visits(k);
        leave_keys(k, j0, n, k->m->dk, (float)(1 / sqrt(k->h->s->d_head)), writable(k->h->a->dk));
        leave_keys(k, j0, n, k->m->dv, 1, writable(k->h->a->dv));
    }
}

static void walk_part(const shared *h, scratch *m, tiles *t, int piece)
{
    const int r = piece / h->parts, part = piece % h->parts;
    const int64_t end = sweep_cut(&h->w, r, r + 1, part + 1, h->parts);
    share k = {.h = h, .m = m, .t = t, .r = r, .piece = piece};
    memset(h->met + piece * h->columns, 0, (size_t)h->columns * sizeof *h->met);
    for (int64_t b = sweep_cut(&h->w, r, r + 1, part, h->parts); b < end; b++)
        walk_block(&k, b);
}

/* ---- A chunk --------------------------------------------------------------------------------------------------------- */

static void nobody_asks(scratch *m)
{
    for (int l = 0; l < LANES; l++)
        no_row(&m->nobody, l, INT32_MAX);
    memset(m->nobody.q, 0, (size_t)m->w.steps * sizeof(tile_rows));
    memset(m->nothing, 0, (size_t)(2 * m->w.steps) * sizeof(tile_rows));
    memset(m->nowhere, 0, sizeof m->nowhere);
}

static void backward_chunk(const shared *h)
{
    const msa_shape *s = h->s;
    const int64_t columns = h->columns * s->n_kv_heads;
#pragma omp parallel num_threads(fast_threads())
    {
        scratch m;
        tiles t;
        place(&m, s, own_part(h->own, own_bytes(s)));
        nobody_asks(&m);
        tiles_begin(&t);
#pragma omp for schedule(static)
        for (int64_t c = 0; c < columns; c++)
            open_ask(h, (int)(c / h->columns), c % h->columns, m.row);
#pragma omp for schedule(dynamic)
        for (int n = 0; n < s->n_kv_heads * h->parts; n++)
            walk_part(h, &m, &t, n);
#pragma omp for schedule(static)
        for (int64_t c = 0; c < columns; c++)
            end_ask(h, (int)(c / h->columns), c % h->columns, m.samples, m.centre);
        tiles_end(&t);
    }
}

/* Adds to dK and dV. */
msa_status BODY(backward)(const msa_shape *s, const msa_arrays *a, void *work)
{
    const int64_t step = queries_at_once(s), group = s->n_heads / s->n_kv_heads;
    shared h;
    shared_take(&h, s, own_bytes(s), work);
    h.s = s;
    h.a = a;
    h.slabs = slabs_per_query(s);
    h.parts = parts_of_group(s);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int64_t i0 = 0; i0 < seq.n_q; i0 += step) {
            sweep_open(&h.w, &seq, i0, step, a->ids);
            h.columns = h.w.full ? (h.w.n * group + TILE_ROWS - 1) / TILE_ROWS : h.w.n * h.slabs;
            backward_chunk(&h);
        }
    }
    return MSA_OK;
}
