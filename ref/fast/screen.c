/* The 8-bit copy of index keys, for a call that brings none. */
#include "screen.h"

typedef struct scratch {
    float *keys;  /* [block,di] */
    double *room; /* [di] */
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    m->keys = arena_take(&a, min_i64(s->block, longest_kv(s)) * s->d_index, sizeof *m->keys);
    m->room = arena_take(&a, s->d_index, sizeof *m->room);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

size_t screen_copy_workspace(const msa_shape *s)
{
    return (size_t)fast_max_threads() * scratch_bytes(s);
}

void screen_copy(const msa_shape *s, int r, cached ki, const msa_index8 *to, void *work)
{
    const msa_seq seq = msa_get_seq(s, r);
    const int64_t n = (int64_t)s->block * s->d_index, at = r * msa_n_blocks(s);
#pragma omp parallel num_threads(fast_threads())
    {
        scratch m;
        place(&m, s, own_part(work, scratch_bytes(s)));
#pragma omp for schedule(static)
        for (int64_t b = 0; b < seq.n_kv / s->block; b++) {
            const int64_t first = seq.kv0 * s->d_index + b * n;
            const msa_index8 part = {to->codes + first, to->scale + at + b, to->reach + at + b,
                                     to->error + at + b, to->least + at + b};
            const float *keys = rows_of(ki, 1, 0, s->d_index, seq.kv0 + b * s->block, s->block, m.keys);
            msa_index8_block(keys, s->block, s->d_index, part, m.room);
        }
    }
}

float screen_least(const msa_shape *s, int r, const msa_index8 *copy)
{
    float least = INFINITY;
    for (int64_t b = 0; b < msa_get_seq(s, r).n_kv / s->block; b++)
        least = fminf(least, copy->least[r * msa_n_blocks(s) + b]);
    return least;
}

void screening_add(msa_screening *sum, const msa_screening *own)
{
    sum->rows += own->rows;
    sum->blocks += own->blocks;
    sum->settled += own->settled;
    sum->fell_back += own->fell_back;
}
