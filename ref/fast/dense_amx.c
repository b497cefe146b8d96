/* Dense attention on tiles of bf16: walk_amx.h has the idea. A task is 512 rows of a group, 32 columns. It walks the
 * keys in chunks of 512, which stay in the L2 cache while its columns pass, four at a time.
 *
 * Why 512 rows: a key of 128 channels is 512 bytes from memory, with its value, and 256 clocks of products for them: 2
 * bytes a clock, of 128 rows it would be 8. Q and O of the task are 384 KB then, and a chunk, 256 KB, fits beside them.
 * On a Zen 4 both are flat: 128, 256 and 1024 rows take 1.02, 1.02 and 0.99 of the time, chunks of 128, 256, 1024 and
 * 2048 keys 0.99, 1.00, 1.02 and 1.01. */
#include "walk_amx.h"

#define TASK (32 * TILE_ROWS)
#define CHUNK (4 * KEYS)
#define STRIPS (TASK / TILE_ROWS / COLUMNS)

typedef struct scratch {
    walk w;
    column *column; /* [TASK/16] */
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    walk_take(&m->w, s->d_head, &a);
    m->column = columns_take(TASK / TILE_ROWS, 1, s->d_head, &a);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

size_t BODY_WORKSPACE(dense)(const msa_shape *s)
{
    panels x;
    arena a = arena_over(NULL);
    panels_take(&x, pieces_of(longest_kv(s)), s->d_head, &a);
    arena_take(&a, fast_max_threads(), scratch_bytes(s));
    return arena_bytes(&a);
}

/* The items of keys j0 .. j0 + CHUNK - 1, strip by strip. */
static int list_items(const scratch *m, const panels *x, int columns, int64_t j0, item *items)
{
    int n = 0;
    for (int c = 0; c < columns; c += COLUMNS) {
        const int wide = (int)min_i64(COLUMNS, columns - c);
        const int64_t end = min_i64(j0 + CHUNK, m->column[c + wide - 1].last[TILE_ROWS - 1] + 1);
        for (int64_t j = j0; j < end; n++) {
            j = item_begin(&items[n], x, m->w.steps, j, end);
            for (items[n].columns = 0; items[n].columns < wide; items[n].columns++)
                items[n].of[items[n].columns] = &m->column[c + items[n].columns];
        }
    }
    return n;
}

static void attend(const msa_shape *s, const msa_seq *seq, int r, const msa_arrays *a, const panels *x, void *work)
{
    const int64_t rows = seq->n_q * (s->n_heads / s->n_kv_heads), tasks = (rows + TASK - 1) / TASK;
#pragma omp parallel num_threads(fast_threads())
    {
        scratch m;
        tiles t;
        item items[STRIPS * (CHUNK / KEYS)];
        place(&m, s, own_part(work, scratch_bytes(s)));
        tiles_begin(&t);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < pieces_of(seq->n_kv); n++)
            pack_piece(x, n, s, seq, r, a->k, a->v);
            /* The last tasks are the longest: they go first. */
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < tasks; n++) {
            const int64_t first = (tasks - 1 - n) * TASK, count = min_i64(TASK, rows - first);
            const int columns = begin_rows(m.column, s, seq, r, first, count, a->q);
            for (int64_t j0 = 0; j0 <= m.column[columns - 1].last[TILE_ROWS - 1]; j0 += CHUNK)
                walk_items(&t, &m.w, items, list_items(&m, x, columns, j0, items));
            end_rows(m.column, s, seq, r, first, count, writable(a->o), writable(a->lse));
        }
        tiles_end(&t);
    }
}

msa_status BODY(dense)(const msa_shape *s, const msa_arrays *a, void *work)
{
    panels x;
    arena all = arena_over(work);
    panels_take(&x, pieces_of(longest_kv(s)), s->d_head, &all);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int r = 0; r < s->n_kv_heads; r++)
            attend(s, &seq, r, a, &x, all.base + all.used);
    }
    return MSA_OK;
}
