/* Kernels on tiles: which body of theirs this machine runs, and what is the same for both. */
#define _DEFAULT_SOURCE /* syscall */
#if defined __x86_64__ && defined __linux__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "../stages.h"
#include "amx_kernels.h"
#include "streams.h"

#ifdef __x86_64__
bool amx_vectors(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512cd");
}
#else
bool amx_vectors(void)
{
    return false;
}
#endif

/* ---- The processor ---------------------------------------------------------------------------------------------- */

#if defined __x86_64__ && defined __linux__ && defined HAVE_TILES
#define ASK_FOR 0x1023 /* arch_prctl: may this process use .. */
#define TILE_DATA 18   /* .. the tiles? The system saves 8 KB more a thread then */

/* CPUID's leaf 7 has tiles, their products of bf16 and of bytes; the compiler may use AVX-512 beside them. */
static bool has_tiles(void)
{
    const unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25;
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & wanted) == wanted && amx_vectors() &&
           syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
}
#else
static bool has_tiles(void)
{
    return false;
}
#endif

bool amx_at_hand(void)
{
    static int known = -1;
    if (known < 0)
        known = has_tiles();
    return known > 0;
}

static enum { ASK, PLAIN, TILED } choice;

void amx_choose(bool tiles)
{
    choice = tiles ? TILED : PLAIN;
}

/* ---- What plain bodies count -------------------------------------------------------------------------------------- */

static tile_counts counted;

void amx_add_counts(const tile_counts *n)
{
#pragma omp critical
    {
        counted.products += n->products;
        counted.loads += n->loads;
        counted.stores += n->stores;
        counted.exponentials += n->exponentials;
        counted.shrinks += n->shrinks;
    }
}

tile_counts amx_take_counts(void)
{
    const tile_counts n = counted;
    counted = (tile_counts){0};
    return n;
}

/* ---- The bodies ------------------------------------------------------------------------------------------------- */

typedef struct body {
    msa_half_fn *dense, *index, *index_screened, *index_floats, *sparse, *sparse_queries, *sparse_blocks,
        *backward;
    amx_step_fn *decode, *dense_decode;
    const kl_way *kl;
    const int64_t *rows_for_a_copy;
    tile_products_fn *products;
    tile_matrices_fn *matrices;
} body;

static const body plain = {.dense = dense_plain,
                           .index = index_plain,
                           .index_screened = index_screened_plain,
                           .index_floats = index_floats_plain,
                           .sparse = sparse_plain,
                           .sparse_queries = sparse_queries_plain,
                           .sparse_blocks = sparse_blocks_plain,
                           .backward = backward_plain,
                           .decode = decode_plain,
                           .dense_decode = dense_decode_plain,
                           .kl = &kl_plain,
                           .rows_for_a_copy = &rows_for_a_copy_plain,
                           .products = products_plain,
                           .matrices = matrices_plain};
#ifdef HAVE_TILES
static const body tiled = {.dense = dense_tiles,
                           .index = index_tiles,
                           .index_screened = index_screened_tiles,
                           .index_floats = index_floats_tiles,
                           .sparse = sparse_tiles,
                           .sparse_queries = sparse_queries_tiles,
                           .sparse_blocks = sparse_blocks_tiles,
                           .backward = backward_tiles,
                           .decode = decode_tiles,
                           .dense_decode = dense_decode_tiles,
                           .kl = &kl_tiles,
                           .rows_for_a_copy = &rows_for_a_copy_tiles,
                           .products = products_tiles,
                           .matrices = matrices_tiles};
#else
#define tiled plain
#endif

static const body *the_body(void)
{
    return choice == TILED || (choice == ASK && amx_at_hand()) ? &tiled : &plain;
}

/* ---- What they are measured by ------------------------------------------------------------------------------------ */

void amx_products(int64_t n, const struct tile_rows *factor, struct tile_rows *sum)
{
    the_body()->products(n, factor, sum);
}

void amx_matrices(int64_t n, const struct tile_rows *a, const struct tile_rows *b, float *c)
{
    the_body()->matrices(n, a, b, c);
}

/* ---- Stages: their calls have been checked --------------------------------------------------------------------- */

size_t fast_dense_amx_workspace(const msa_shape *s)
{
    return max_size(dense_plain_workspace(s), attend_again_workspace(s));
}

msa_status fast_dense_amx(const msa_shape *s, const msa_arrays *a, void *work)
{
    float *o = writable(a->o), *lse = writable(a->lse);
    pad_outputs(s, NULL, o, lse);
    MSA_TRY(the_body()->dense(s, a, work));
    attend_again(s, NULL, halves(a->q), halves(a->k), halves(a->v), NULL, o, lse, work);
    return MSA_OK;
}

size_t fast_index_amx_full_workspace(const msa_shape *s)
{
    return index_plain_workspace(s);
}

msa_status fast_index_amx_full(const msa_shape *s, const msa_arrays *a, void *work)
{
    if (a->index_lse)
        return MSA_ERR_UNSUPPORTED;
    pad_queries(s, s->n_kv_heads, msa_n_blocks(s), -INFINITY, writable(a->scores));
    pad_outputs(s, writable(a->ids), NULL, NULL);
    if (a->screening)
        *a->screening = (msa_screening){0};
    return the_body()->index(s, a, work);
}

size_t fast_index_amx_screened_workspace(const msa_shape *s)
{
    return index_screened_plain_workspace(s);
}

msa_status fast_index_amx_screened(const msa_shape *s, const msa_arrays *a, void *work)
{
    if (a->index_lse || a->scores)
        return MSA_ERR_UNSUPPORTED;
    if (!a->ids)
        return MSA_OK;
    pad_outputs(s, writable(a->ids), NULL, NULL);
    return the_body()->index_screened(s, a, work);
}

msa_status amx_index_floats(const msa_shape *s, const msa_arrays *a, void *work)
{
    return the_body()->index_floats(s, a, work);
}

/* Of few blocks most would be settled. */
#define SCREEN_FROM 256 /* blocks */

/* Rows that see all keys, of which the call's are worth so many. */
static int64_t whole_rows(const msa_shape *s)
{
    int64_t pairs = 0, keys = 0;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        pairs += seq.n_q * (2 * seq.n_kv - seq.n_q) / 2;
        keys += seq.n_kv;
    }
    return keys > 0 ? pairs * s->n_kv_heads / keys : 0;
}

static bool screens(const msa_shape *s, const msa_arrays *a)
{
    const int64_t wanted = *the_body()->rows_for_a_copy;
    return wanted < INT64_MAX && msa_n_blocks(s) >= SCREEN_FROM && !a->scores &&
           (a->index8 || whole_rows(s) >= wanted);
}

size_t fast_index_amx_workspace(const msa_shape *s)
{
    return max_size(fast_index_amx_full_workspace(s), fast_index_amx_screened_workspace(s));
}

msa_status fast_index_amx(const msa_shape *s, const msa_arrays *a, void *work)
{
    return (screens(s, a) ? fast_index_amx_screened : fast_index_amx_full)(s, a, work);
}

size_t fast_sparse_amx_workspace(const msa_shape *s)
{
    return max_size(sparse_plain_workspace(s), attend_again_workspace(s));
}

static msa_status sparse(const msa_shape *s, const msa_arrays *a, msa_half_fn *in_order, void *work)
{
    float *o = writable(a->o), *lse = writable(a->lse);
    MSA_TRY(msa_check_ids(s, a->ids));
    pad_outputs(s, NULL, o, lse);
    MSA_TRY(in_order(s, a, work));
    attend_again(s, NULL, halves(a->q), halves(a->k), halves(a->v), a->ids, o, lse, work);
    return MSA_OK;
}

msa_status fast_sparse_amx(const msa_shape *s, const msa_arrays *a, void *work)
{
    return sparse(s, a, the_body()->sparse, work);
}

msa_status fast_sparse_amx_queries(const msa_shape *s, const msa_arrays *a, void *work)
{
    return sparse(s, a, the_body()->sparse_queries, work);
}

msa_status fast_sparse_amx_blocks(const msa_shape *s, const msa_arrays *a, void *work)
{
    return sparse(s, a, the_body()->sparse_blocks, work);
}

size_t fast_prefill_amx_workspace(const msa_shape *s)
{
    return max_size(fast_index_amx_workspace(s), fast_sparse_amx_workspace(s));
}

msa_status fast_prefill_amx(const msa_shape *s, const msa_arrays *a, void *work)
{
    msa_arrays chosen = *a;
    chosen.scores = chosen.index_lse = NULL;
    MSA_TRY(fast_index_amx(s, &chosen, work));
    return fast_sparse_amx(s, &chosen, work);
}

/* ---- Steps of generation --------------------------------------------------------------------------------------------- */

/* Where nothing multiplies bf16, packing it for products that are made of float32 is lost: bf16 keys that become floats as
 * they stream by (streams.h) are faster, up to three times in sparse steps. That takes each query's heads of a group alone
 * for up to 16 rows; dense products take 16 together, which pays where that makes two columns of three, or fewer.
 * Whoever has chosen a body gets it. */
static bool streams_instead(void)
{
    return choice == ASK && !amx_at_hand() && !multiplies_bf16_plain;
}

static bool columns_are_few(const msa_shape *s)
{
    const int64_t queries = padded_queries(s), group = s->n_heads / s->n_kv_heads;
    return 3 * ((min_i64(FEW, queries) * group + 15) / 16) <= 2 * min_i64(FEW, queries) * slabs_of(s);
}

/* With ids or, NULL, to all keys. More queries than a few go through few by few, unless keys are contiguous. */
static msa_status steps(const msa_shape *s, const msa_arrays *a, int32_t *ids, amx_step_fn *step, void *work)
{
    const msa_pages *p = has_pages(a) ? &a->pages : NULL;
    float *o = writable(a->o), *lse = writable(a->lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const cache x = {s, get_request(s, p, b), halves(a->k), halves(a->v)};
        const msa_seq padded = padded_seq(s, b);
        for (int64_t i = 0; i < x.at.seq.n_q; i += FEW) {
            const cache few = few_of(&x, i);
            step(&few, a, work);
        }
        write_padding(s, padded.q0 + x.at.seq.n_q, padded.q0 + padded.n_q, ids, o, lse);
    }
    attend_again(s, p, halves(a->q), halves(a->k), halves(a->v), ids, o, lse, work);
    return MSA_OK;
}

size_t fast_dense_decode_amx_workspace(const msa_shape *s)
{
    const size_t few = max_size(max_size(dense_decode_plain_workspace(s), dense_decode_halves_workspace(s)),
                                attend_again_workspace(s));
    return padded_queries(s) > FEW ? max_size(few, fast_dense_amx_workspace(s)) : few;
}

msa_status fast_dense_decode_amx(const msa_shape *s, const msa_arrays *a, void *work)
{
    if (!has_pages(a) && !all_few(s))
        return fast_dense_amx(s, a, work);
    if (streams_instead() && !columns_are_few(s))
        return dense_decode_halves(s, a, work);
    return steps(s, a, NULL, the_body()->dense_decode, work);
}

size_t fast_decode_amx_workspace(const msa_shape *s)
{
    const size_t few =
        max_size(max_size(decode_plain_workspace(s), decode_halves_workspace(s)), attend_again_workspace(s));
    return padded_queries(s) > FEW ? max_size(few, fast_prefill_amx_workspace(s)) : few;
}

msa_status fast_decode_amx(const msa_shape *s, const msa_arrays *a, void *work)
{
    if (!a->ki && !(has_pages(a) && a->pages.ki8))
        return MSA_ERR_NULL;
    if (!has_pages(a) && !all_few(s))
        return fast_prefill_amx(s, a, work);
    if (a->screening)
        *a->screening = (msa_screening){0};
    if (streams_instead() && !a->index8)
        return decode_halves(s, a, work);
    return steps(s, a, writable(a->ids), the_body()->decode, work);
}

/* ---- Gradients ---------------------------------------------------------------------------------------------------- */

typedef struct scratch {
    float *o, *lse; /* for callers that do not have the forward's results */
    void *forward, *backward, *again;
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    m->o = arena_take(&a, s->n_q * s->n_heads * s->d_head, sizeof *m->o);
    m->lse = arena_take(&a, s->n_q * s->n_heads, sizeof *m->lse);
    m->forward = arena_share(&a, max_size(fast_dense_amx_workspace(s), fast_sparse_amx_workspace(s)));
    m->backward = arena_share(&a, backward_plain_workspace(s));
    m->again = arena_share(&a, backward_again_workspace(s));
    return arena_bytes(&a);
}

size_t fast_backward_amx_workspace(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

msa_status fast_backward_amx(const msa_shape *s, const msa_arrays *a, void *work)
{
    const size_t kv_bytes = (size_t)(s->n_kv * s->n_kv_heads * s->d_head) * sizeof(float);
    float *dq = writable(a->dq), *dk = writable(a->dk), *dv = writable(a->dv);
    msa_arrays known = *a;
    scratch m;
    MSA_TRY(a->ids ? msa_check_ids(s, a->ids) : MSA_OK);
    place(&m, s, work);
    if (!a->o || !a->lse) {
        known.o = m.o;
        known.lse = m.lse;
        MSA_TRY((a->ids ? fast_sparse_amx : fast_dense_amx)(s, &known, m.forward));
    }
    memset(dk, 0, kv_bytes);
    memset(dv, 0, kv_bytes);
    pad_queries(s, 1, (int64_t)s->n_heads * s->d_head, 0, dq);
    MSA_TRY(the_body()->backward(s, &known, m.backward));
    const cached q = halves(a->q), k = halves(a->k), v = halves(a->v), dout = halves(a->dout);
    if (backward_faint(s, q, k, v, dout) || !backward_held(s, dq, dk, dv))
        backward_again(s, q, k, v, a->ids, dout, dq, dk, dv, m.again);
    return MSA_OK;
}

msa_status fast_dense_backward_amx(const msa_shape *s, const msa_arrays *a, void *work)
{
    msa_arrays whole = *a;
    whole.ids = NULL;
    return fast_backward_amx(s, &whole, work);
}

size_t fast_kl_amx_workspace(const msa_shape *s)
{
    return kl_by_blocks_workspace(s, &kl_plain);
}

msa_status fast_kl_amx(const msa_shape *s, const msa_arrays *a, void *work)
{
    MSA_TRY(a->ids ? msa_check_ids(s, a->ids) : MSA_OK);
    return !a->loss || !a->dqi != !a->dki ? MSA_ERR_NULL : kl_by_blocks(the_body()->kl, s, a, work);
}
