/* Shared by the steps of generation: requests, and the parts of a query. */
#include "streams.h"

int64_t padded_queries(const msa_shape *s)
{
    int64_t most = 1;
    for (int b = 0; b < msa_n_seqs(s); b++)
        most = max_i64(most, padded_seq(s, b).n_q);
    return most;
}
int64_t most_queries(const msa_shape *s)
{
    return min_i64(FEW, padded_queries(s));
}

bool all_few(const msa_shape *s)
{
    bool few = true;
    for (int b = 0; b < msa_n_seqs(s); b++)
        few = few && msa_get_seq(s, b).n_q <= FEW;
    return few;
}

/* ---- Index --------------------------------------------------------------------------------------------- */

void scorer_take(scorer *y, const msa_shape *s, arena *a)
{
    const int64_t rows = most_queries(s) * s->n_kv_heads;
    y->fitted_qi = arena_take(a, rows * s->d_index, sizeof *y->fitted_qi);
    y->fit = arena_take(a, rows, sizeof *y->fit);
    y->scores = arena_take(a, rows * msa_n_blocks(s), sizeof *y->scores);
}

void scorer_begin(scorer *y, const cache *x, const float *qi, cached ki, float held)
{
    const int d = x->s->d_index;
    y->s = x->s;
    y->at = x->at;
    y->qi = qi;
    y->ki = ki;
    y->held = held;
    for (int64_t row = 0; row < y->at.seq.n_q * x->s->n_kv_heads; row++)
        y->fit[row] = fit_query(y->qi + row * d, d, y->fitted_qi + row * d);
}

void topk_blocks(const scorer *x, int64_t row, best_list *best, chooser again, int32_t *ids)
{
    const msa_shape *s = x->s;
    const int64_t i = row / s->n_kv_heads, r = row % s->n_kv_heads,
                  local = position(&x->at.seq, i) / s->block;
    const float *scores = x->scores + row * msa_n_blocks(s);
    met_keys keys = {.ki = x->ki, .at = &x->at, .n = local * s->block};
    int32_t *chosen = ids + (r * s->n_q + x->at.seq.q0 + i) * s->topk;
    best->n = 0;
    for (int64_t b = 0; b < local; b++) {
        fit_count(&x->fit[row], scores[b] * x->held);
        best_insert(best, min_i64(s->topk - 1, local), scores[b], (int32_t)b);
    }
    best_write(s, best, local, chosen);
    if (fit_doubtful(&x->fit[row], 1, &keys, s->d_index, again.room))
        choose_again(s, &x->at, position(&x->at.seq, i), x->qi + row * s->d_index, x->ki, again, NULL,
                     chosen);
}

/* ---- Parts --------------------------------------------------------------------------------------------- */

#define PART_KEYS 1024
#define ROUND_KEYS 128

int64_t part_keys(int64_t visible)
{
    const int64_t keys = (visible + KEY_PARTS - 1) / KEY_PARTS;
    return max_i64(PART_KEYS, (keys + ROUND_KEYS - 1) / ROUND_KEYS * ROUND_KEYS);
}

int slots_of(const msa_shape *s)
{
    return (int)min_i64(s->topk, msa_n_blocks(s));
}

/* ---- Heads of a part, parts of a query ------------------------------------------------------------- */

static int count_in(const msa_shape *s, int slab)
{
    return (int)min_i64(LANES, s->n_heads / s->n_kv_heads - slab * LANES);
}

/* The row of q and o where a slab of query `row` begins. */
static int64_t first_head(const msa_shape *s, int64_t row, int r, int slab)
{
    return row * s->n_heads + (int64_t)r * (s->n_heads / s->n_kv_heads) + (int64_t)slab * LANES;
}

unpacked unpacked_take(const msa_shape *s, arena *a)
{
    unpacked u;
    u.k = arena_take(a, HEADS_KEYS * (int64_t)s->d_head, sizeof *u.k);
    u.v = arena_take(a, HEADS_KEYS * (int64_t)s->d_head, sizeof *u.v);
    return u;
}

int64_t most_heads(const msa_shape *s, int parts)
{
    return most_queries(s) * s->n_kv_heads * parts * slabs_of(s);
}

void parts_begin(const msa_shape *s, heads *h, int parts, const float *q, int64_t row, int r)
{
    const int slabs = slabs_of(s);
    for (int part = 0; part < parts; part++)
        for (int slab = 0; slab < slabs; slab++)
            heads_begin(&h[part * slabs + slab], s, q + first_head(s, row, r, slab) * s->d_head,
                        count_in(s, slab));
}

void attend_keys(const cache *x, int r, run keys, int64_t seen, heads *h, int64_t queries, int64_t apart,
                 int next_r, run next, unpacked u)
{
    const int d = x->s->d_head, slabs = slabs_of(x->s), groups = x->s->n_kv_heads;
    const float *k = rows_of(x->k, groups, r, d, keys.row, keys.n, u.k);
    const float *v = rows_of(x->v, groups, r, d, keys.row, keys.n, u.v);
    ahead next_k = rows_ahead(x->k, groups, next_r, d, next.row, next.n);
    ahead next_v = rows_ahead(x->v, groups, next_r, d, next.row, next.n);
    for (int64_t i = 0; i < queries; i++) {
        const int64_t n = min_i64(keys.n, seen + i);
        for (int slab = 0; slab < slabs && n > 0; slab++) {
            heads_attend(&h[i * apart + slab], d, k, v, n, next_k, next_v);
            next_k.n = next_v.n = 0; /* asked for */
        }
    }
}

void parts_finish(const msa_shape *s, heads *h, int parts, int64_t row, int r, float *o, float *lse)
{
    const int slabs = slabs_of(s), d = s->d_head;
    for (int slab = 0; slab < slabs; slab++) {
        for (int part = 1; part < parts; part++)
            heads_merge(&h[slab], &h[part * slabs + slab], d);
        const int64_t at = first_head(s, row, r, slab);
        heads_end(&h[slab], s, count_in(s, slab), o + at * d, lse ? lse + at : NULL);
    }
}

/* ---- Many queries over pages ----------------------------------------------------------------------- */

void set_alone(alone *a, const msa_shape *s, const request *at)
{
    a->s = *s;
    a->s.n_seqs = 1;
    a->s.cu_q = a->s.cu_kv = NULL;
    a->s.n_q = padded_queries(s);
    a->s.n_kv = longest_kv(s);
    a->s.len_q = at ? &a->len_q : NULL;
    a->s.len_kv = at ? &a->len_kv : NULL;
    a->len_q = at ? (int32_t)at->seq.n_q : 0;
    a->len_kv = at ? (int32_t)at->seq.n_kv : 0;
}

#define MOST_GATHERED (INT64_C(1) << 25) /* numbers of K */

bool worth_gathering(const msa_shape *s, int64_t n_q)
{
    return n_q > FEW && longest_kv(s) <= MOST_GATHERED / s->n_kv_heads / s->d_head;
}

void gather_rows(const request *at, cached x, int width, float *to)
{
    const int64_t n = at->seq.n_kv, chunks = (n + HEADS_KEYS - 1) / HEADS_KEYS;
#pragma omp parallel for num_threads(fast_threads())
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t end = min_i64(n, (c + 1) * HEADS_KEYS);
        int64_t keys = 0;
        for (int64_t j = c * HEADS_KEYS; j < end; j += keys) {
            keys = keys_together(at, j, end);
            const float *from = rows_of(x, 1, 0, width, key_row(at, j), keys, to + j * width);
            if (from != to + j * width)
                memcpy(to + j * width, from, (size_t)(keys * width) * sizeof *to);
        }
    }
}

cache few_of(const cache *x, int64_t i)
{
    cache part = *x;
    part.at.seq.q0 += i;
    part.at.seq.n_q = min_i64(FEW, x->at.seq.n_q - i);
    part.at.seq.n_kv = position(&x->at.seq, i + part.at.seq.n_q - 1) + 1;
    return part;
}
