/* Key blocks go round; queries zigzag. */
#include "deal.h"

#include <stdlib.h>

int64_t deal_slice(int ranks, int64_t n_q, int z)
{
    return (n_q * z + 2 * ranks - 1) / (2 * ranks);
}

int deal_home(int ranks, int n, int64_t i, int64_t n_q)
{
    const int slice = (int)(i * 2 * ranks / n_q);
    return (n + (slice < ranks ? slice : 2 * ranks - 1 - slice)) % ranks;
}

int deal_owner(int ranks, int n, int64_t b)
{
    return (int)((n + b) % ranks);
}

int64_t deal_block(int rank, int ranks, int n, int64_t j)
{
    return (rank + ranks - n % ranks) % ranks + j * ranks;
}

int64_t deal_blocks_before(int rank, int ranks, int n, int64_t b)
{
    const int64_t first = deal_block(rank, ranks, n, 0);
    return b > first ? (b - 1 - first) / ranks + 1 : 0;
}

/* ---- Keys ----------------------------------------------------------------------------------------- */

/* The blocks of sequence n, if it has queries. */
static int64_t blocks_of(const msa_shape *s, int n)
{
    const msa_seq seq = msa_get_seq(s, n);
    return seq.n_q ? (seq.n_kv + s->block - 1) / s->block : 0;
}

msa_shape deal_padded(const msa_shape *s, const msa_pages *p, int32_t *len_q)
{
    msa_shape padded = *s;
    for (int n = 0; n < msa_n_seqs(s); n++)
        len_q[n] = (int32_t)get_request(s, p, n).seq.n_q;
    padded.len_q = len_q;
    padded.len_kv = p->lens;
    return padded;
}

const float *deal_tokens(const deal_source *from, deal_array which, int64_t row, int64_t n, float *room)
{
    const msa_shape *s = from->s;
    if (from->read)
        return from->read(from->files, which, row, n, room);
    return which == DEAL_KI ? from->ki + row * s->d_index
                            : (which == DEAL_K ? from->k : from->v) + row * s->n_kv_heads * s->d_head;
}

/* The heads of a token become its row of a page. */
static bool copy_block(const deal_source *from, deal_array which, const request *req, int64_t b, float *page,
                       float *room)
{
    const msa_shape *s = from->s;
    const int64_t first = b * s->block, end = min_i64(first + s->block, req->seq.n_kv);
    const int64_t heads = which == DEAL_KI ? 1 : s->n_kv_heads, d = which == DEAL_KI ? s->d_index : s->d_head;
    for (int64_t j = first, n; j < end; j += n) {
        n = keys_together(req, j, end);
        const float *x = deal_tokens(from, which, key_row(req, j), n, room);
        if (!x)
            return false;
        for (int64_t t = j - first; t < j - first + n; t++)
            for (int64_t r = 0; r < heads; r++, x += d)
                memcpy(page + (r * s->block + t) * d, x, (size_t)d * sizeof *page);
    }
    return true;
}

/* All of a rank's blocks. */
static bool copy_blocks(deal_shard *to, const deal_source *from, float *room)
{
    const msa_shape *s = &to->s;
    const int64_t kv = (int64_t)s->block * s->n_kv_heads * s->d_head, index = (int64_t)s->block * s->d_index;
    const bool has_index = from->read ? from->index : from->ki != NULL;
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const request req = get_request(from->s, from->p, n);
        for (int64_t page = to->first[n]; page < to->first[n + 1]; page++) {
            const int64_t b = deal_block(to->rank, to->ranks, n, page - to->first[n]);
            to->page[page] = (int32_t)page;
            if (!copy_block(from, DEAL_K, &req, b, to->k + page * kv, room) ||
                !copy_block(from, DEAL_V, &req, b, to->v + page * kv, room) ||
                (has_index && !copy_block(from, DEAL_KI, &req, b, to->ki + page * index, room)))
                return false;
        }
    }
    return true;
}

bool deal_new_shard(deal_shard *to, int rank, int ranks, const msa_shape *s, const deal_source *from)
{
    const int seqs = msa_n_seqs(s);
    *to = (deal_shard){
        .rank = rank, .ranks = ranks, .s = *s, .first = malloc((size_t)(seqs + 1) * sizeof(int64_t))};
    if (!to->first)
        return false;
    to->first[0] = 0;
    for (int n = 0; n < seqs; n++)
        to->first[n + 1] = to->first[n] + deal_blocks_before(rank, ranks, n, blocks_of(s, n));
    const size_t own = (size_t)to->first[seqs] + 1, block = (size_t)s->block, /* calloc(0) may be NULL */
        width = (size_t)s->n_kv_heads * (size_t)s->d_head;
    to->n_pages = (int64_t)own;
    to->page = calloc(own, sizeof *to->page);
    to->k = calloc(own * block, width * sizeof *to->k);
    to->v = calloc(own * block, width * sizeof *to->v);
    to->ki = calloc(own * block, (size_t)s->d_index * sizeof *to->ki);
    const size_t index = (size_t)s->d_index, most = width > index ? width : index;
    float *room = malloc(block * most * sizeof *room);
    const bool ok = to->page && to->k && to->v && to->ki && room && copy_blocks(to, from, room);
    free(room);
    return ok;
}

void deal_free_shard(deal_shard *shard)
{
    free(shard->first), free(shard->page), free(shard->k), free(shard->v), free(shard->ki);
    free(shard->ki8.codes), free(shard->ki8.scale);
}

bool deal_screen(deal_shard *shard)
{
    const msa_shape *s = &shard->s;
    const int64_t own = shard->first[msa_n_seqs(s)], size = (int64_t)s->block * s->d_index;
    double *room = malloc((size_t)s->d_index * sizeof *room);
    float *numbers = calloc(4 * (size_t)own + 1, sizeof *numbers);
    const msa_index8 to = {calloc((size_t)(own * size) + 1, 1), numbers, numbers + own, numbers + 2 * own,
                           numbers + 3 * own};
    shard->ki8 = to;
    const bool ok = room && numbers && to.codes;
    for (int n = 0; ok && n < msa_n_seqs(s); n++)
        for (int64_t at = shard->first[n]; at < shard->first[n + 1]; at++)
            if ((deal_block(shard->rank, shard->ranks, n, at - shard->first[n]) + 1) * s->block <=
                msa_get_seq(s, n).n_kv)
                msa_index8_block(shard->ki + shard->page[at] * size, s->block, s->d_index,
                                 (msa_index8){to.codes + at * size, to.scale + at, to.reach + at,
                                              to.error + at, to.least + at},
                                 room);
    free(room);
    return ok;
}

/* ---- Queries -------------------------------------------------------------------------------------- */

static void add_slice(deal_rows *to, int ranks, const msa_shape *s, int n, int z)
{
    const msa_seq seq = msa_get_seq(s, n);
    for (int64_t i = deal_slice(ranks, seq.n_q, z); i < deal_slice(ranks, seq.n_q, z + 1); i++) {
        to->row[to->n] = (int32_t)(seq.q0 + i);
        to->seq[to->n] = n;
        to->at[to->n++] = position(&seq, i);
    }
}

bool deal_new_rows(deal_rows *to, int ranks, const msa_shape *s)
{
    const size_t most = (size_t)s->n_q;
    *to = (deal_rows){.first = calloc((size_t)ranks + 1, sizeof(int64_t)),
                      .row = malloc(most * sizeof(int32_t)),
                      .seq = malloc(most * sizeof(int32_t)),
                      .at = malloc(most * sizeof(int64_t))};
    if (!to->first || !to->row || !to->seq || !to->at)
        return false;
    for (int home = 0; home < ranks; home++) {
        for (int n = 0; n < msa_n_seqs(s); n++) {
            const int z = (home + ranks - n % ranks) % ranks;
            add_slice(to, ranks, s, n, z);
            add_slice(to, ranks, s, n, 2 * ranks - 1 - z);
        }
        to->first[home + 1] = to->n;
    }
    return true;
}

void deal_free_rows(deal_rows *rows)
{
    free(rows->first), free(rows->row), free(rows->seq), free(rows->at);
}

void deal_take(const deal_rows *rows, int home, size_t bytes, const void *from, void *to)
{
    for (int64_t x = rows->first[home]; x < rows->first[home + 1]; x++)
        memcpy((char *)to + (size_t)(x - rows->first[home]) * bytes,
               (const char *)from + (size_t)rows->row[x] * bytes, bytes);
}

void deal_give(const deal_rows *rows, size_t bytes, const void *from, void *to)
{
    for (int64_t x = 0; x < rows->n; x++)
        memcpy((char *)to + (size_t)rows->row[x] * bytes, (const char *)from + (size_t)x * bytes, bytes);
}
