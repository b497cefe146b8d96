/* A kernel with its inputs and outputs, ready to be run again and again. */
#include "subject_inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../fast/fast.h"
#include "../table/table.h"

/* ---- Arrays -------------------------------------------------------------------------------------- */

/* On a device the float tensors of msa_arrays that are no log-sum-exps or scores are bf16; on a CPU what a
 * step of generation has stored, if it is to be, and what a kernel of bf16 tensors reads. */
bool subject_is_bf16(const subject *t, array_id a)
{
    if (!t->device && t->kernel->run_half)
        return array_is_half(a);
    if (t->half)
        return a == ARRAY_K || a == ARRAY_V || a == ARRAY_KI;
    return t->device && array_element(a) == ELEMENT_HALF;
}

static bool is_paged(const subject *t, array_id a)
{
    return t->paged && (a == ARRAY_K || a == ARRAY_V || a == ARRAY_KI);
}

/* Bytes of an element of an array where the kernel runs. */
static size_t element_bytes(const subject *t, array_id a)
{
    return t->small && a == ARRAY_KI ? 1 : subject_is_bf16(t, a) ? 2 : 4;
}

size_t subject_bytes(const subject *t, array_id a)
{
    int64_t n = array_count(t->s, NULL, a);
    if (is_paged(t, a))
        n = n / t->s->n_kv * t->g.p.n_pages * t->s->block;
    return (size_t)n * element_bytes(t, a);
}

/* ---- Where the kernel runs ----------------------------------------------------------------------- */

static void *take(const subject *t, size_t bytes)
{
    return t->device ? t->device->alloc(bytes) : malloc(bytes + 1);
}

static void give(const subject *t, void *p)
{
    if (p && t->device)
        t->device->free(p);
    else
        free(p);
}

#define CHUNK (INT64_C(1) << 22) /* elements that go up or down at once */

static msa_status send_bf16(const subject *t, void *to, const float *x, int64_t n)
{
    uint16_t *half = malloc((size_t)min_i64(n, CHUNK) * sizeof *half + 1);
    msa_status status = half ? MSA_OK : MSA_ERR_SIZE;
    for (int64_t first = 0; first < n && status == MSA_OK; first += CHUNK) {
        const int64_t m = min_i64(CHUNK, n - first);
        round_halves(half, x + first, m);
        status = t->device->upload((uint16_t *)to + first, half, (size_t)m * sizeof *half);
    }
    free(half);
    return status;
}

static msa_status send_page(subject *t, int64_t page, float *x, int64_t n, void *to)
{
    const int64_t rows = t->s->block, width = (int64_t)t->s->n_kv_heads * t->s->d_head;
    return send_bf16(t, (uint16_t *)to + page * rows * width, x, n);
}

static msa_status send_index_page(subject *t, int64_t page, float *x, int64_t n, void *to)
{
    return send_bf16(t, (uint16_t *)to + page * t->s->block * t->s->d_index, x, n);
}

static msa_status send_small_page(subject *t, int64_t page, float *x, int64_t n, void *to)
{
    float scale;
    uint8_t *bits = malloc((size_t)n);
    if (!bits)
        return MSA_ERR_SIZE;
    msa_e4m3_block(x, n, bits, &scale);
    msa_status status =
        t->device->upload((uint8_t *)to + page * t->s->block * t->s->d_index, bits, (size_t)n);
    if (status == MSA_OK)
        status = t->device->upload((float *)t->scale + page, &scale, sizeof scale);
    free(bits);
    return status;
}

static msa_status send_pages(subject *t, void *to, array_id a)
{
    t->device->fill(to, 0xff, subject_bytes(t, a));
    return subject_each_block(t, a, a != ARRAY_KI ? send_page : t->small ? send_small_page : send_index_page, to);
}

/* Page table and lengths, the same for all copies of the inputs. */
static msa_status make_pages(subject *t)
{
    const size_t n = (size_t)msa_n_seqs(t->s), table = n * (size_t)msa_n_blocks(&t->g.s) * sizeof(int32_t);
    t->table = t->device->alloc(table);
    t->lens = t->device->alloc(n * sizeof(int32_t));
    t->scale = t->device->alloc((size_t)t->g.p.n_pages * sizeof(float));
    if (!t->table || !t->lens || !t->scale)
        return MSA_ERR_SIZE;
    const msa_status status = t->device->upload(t->table, t->g.table, table);
    return status == MSA_OK ? t->device->upload(t->lens, t->g.lens, n * sizeof(int32_t)) : status;
}

static bool takes_by_block(const subject *t, array_id a)
{
    char name[KERNEL_NAME];
    kernel_name(t->kernel, name);
    return a == ARRAY_SCORES && t->device && msa_takes_scores_by_block(name);
}

static msa_status send_by_block(const subject *t, float *to, const float *scores)
{
    const msa_shape *s = t->s;
    const int64_t n_blocks = msa_n_blocks(s), step = CHUNK / s->n_q + 1;
    float *turned = malloc((size_t)(step * s->n_q) * sizeof *turned);
    msa_status status = turned ? MSA_OK : MSA_ERR_SIZE;
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t b = 0; b < n_blocks && status == MSA_OK; b += step) {
            const int64_t n = min_i64(step, n_blocks - b);
#pragma omp parallel for
            for (int64_t i = 0; i < n; i++)
                msa_scores_turn(s, scores, r, b + i, b + i + 1, turned + i * s->n_q);
            status = t->device->upload(to + (r * n_blocks + b) * s->n_q, turned,
                                       (size_t)(n * s->n_q) * sizeof *to);
        }
    free(turned);
    return status;
}

static msa_status fill_copy(subject *t, int c, array_id a)
{
    void *to = t->copy[c][a] = take(t, subject_bytes(t, a));
    if (!to)
        return MSA_ERR_SIZE;
    if (!t->device && subject_is_bf16(t, a))
        round_halves(to, t->given[a], array_count(t->s, NULL, a));
    else if (!t->device)
        memcpy(to, t->given[a], subject_bytes(t, a));
    else if (c > 0)
        return t->device->copy(to, t->copy[0][a], subject_bytes(t, a));
    else if (is_paged(t, a))
        return send_pages(t, to, a);
    else if (takes_by_block(t, a))
        return send_by_block(t, to, t->given[a]);
    else if (subject_is_bf16(t, a))
        return send_bf16(t, to, t->given[a], array_count(t->s, NULL, a));
    else
        return t->device->upload(to, t->given[a], subject_bytes(t, a));
    return MSA_OK;
}

static void drop_copy(subject *t, int c)
{
    subject_drop_code(t, c);
    for (int i = 0; i < ARRAY_N; i++) {
        give(t, t->copy[c][i]);
        t->copy[c][i] = NULL;
    }
}

#define MOST_COPIED ((size_t)8 << 30) /* bytes */

/* The most that a run can read of an array: of K and V no more blocks than its queries may choose. */
static size_t read_bytes(const subject *t, array_id a)
{
    const msa_shape *s = t->s;
    const msa_stage stage = t->kernel->stage;
    const bool chooses = stage == MSA_STAGE_SPARSE || stage == MSA_STAGE_PREFILL || stage == MSA_STAGE_DECODE;
    const size_t whole = subject_bytes(t, a);
    if (!chooses || (a != ARRAY_K && a != ARRAY_V))
        return whole;
    const double chosen = (double)s->n_q * s->topk * s->block / (double)s->n_kv;
    return chosen < 1 ? (size_t)(chosen * (double)whole) : whole;
}

/* So many that a copy has left the cache before its turn comes again, if there is memory for them. */
static msa_status make_copies(subject *t)
{
    size_t bytes = 0, read = 1;
    for (int i = 0; i < ARRAY_N; i++)
        if (HAS(t->in, i)) {
            bytes += subject_bytes(t, (array_id)i);
            read += read_bytes(t, (array_id)i);
        }
    const size_t wanted = 2 * t->cache / read + 1;
    for (size_t c = 0; c < wanted && c < SUBJECT_MAX_COPIES && (c == 0 || c * bytes < MOST_COPIED); c++) {
        msa_status status = MSA_OK;
        for (int i = 0; i < ARRAY_N && status == MSA_OK; i++)
            if (HAS(t->in, i))
                status = fill_copy(t, (int)c, (array_id)i);
        if (status == MSA_OK && t->codes)
            status = subject_code(t, (int)c);
        if (status != MSA_OK) {
            drop_copy(t, (int)c);
            return t->n_copies > 0 ? MSA_OK : status;
        }
        t->n_copies++;
    }
    return MSA_OK;
}

static void drop_output(subject *t, array_id a)
{
    give(t, t->found[a]);
    t->found[a] = NULL;
    t->out &= ~(1u << a);
}

static msa_status make_outputs(subject *t)
{
    const size_t bytes = t->device ? t->plan.workspace : t->kernel->workspace(t->s);
    for (int i = 0; i < ARRAY_N; i++)
        if (HAS(t->out, i)) {
            t->found[i] = take(t, subject_bytes(t, (array_id)i));
            if (!t->found[i])
                return MSA_ERR_SIZE;
        }
    t->work = take(t, bytes);
    const bool has_loss = t->device && HAS(t->out, ARRAY_DKI);
    if (has_loss)
        t->device_loss = take(t, sizeof *t->device_loss);
    return t->work && (t->device_loss || !has_loss) ? MSA_OK : MSA_ERR_SIZE;
}

/* An index kernel need not write everything: without log-sum-exps if it has none, and if it does not choose
 * it leaves its scores to one that does. */
static msa_status settle_index(subject *t)
{
    msa_status status = subject_run(t, 0);
    if (status == MSA_ERR_UNSUPPORTED && t->found[ARRAY_INDEX_LSE]) {
        drop_output(t, ARRAY_INDEX_LSE);
        status = subject_run(t, 0);
    }
    if (status != MSA_ERR_UNSUPPORTED)
        return status;
    drop_output(t, ARRAY_IDS);
    t->out |= ARRAY_BIT(SCORES);
    t->found[ARRAY_SCORES] = take(t, subject_bytes(t, ARRAY_SCORES));
    return t->found[ARRAY_SCORES] ? subject_run(t, 0) : MSA_ERR_SIZE;
}

static msa_status make_plan(subject *t)
{
    char name[KERNEL_NAME];
    return msa_plan_make(&t->plan, t->device, kernel_name(t->kernel, name), t->paged ? &t->g.s : t->s,
                         MSA_BF16);
}

msa_status subject_plan(subject *t)
{
    give(t, t->work);
    t->work = NULL;
    const msa_status status = make_plan(t);
    t->work = status == MSA_OK ? take(t, t->plan.workspace) : NULL;
    return status == MSA_OK && !t->work ? MSA_ERR_SIZE : status;
}

msa_status subject_open(subject *t)
{
    msa_status status = MSA_OK;
    const stage_line of = arrays_of(t->kernel->stage), kl = arrays_of(MSA_STAGE_KL);
    t->in = of.in;
    t->out = of.out & ~(ARRAY_BIT(SCORES) | (t->lse ? 0 : ARRAY_BIT(LSE) | ARRAY_BIT(INDEX_LSE)));
    t->device = table_device(t->kernel->backend);
    if (t->device && t->kernel->stage == MSA_STAGE_PREFILL)
        t->in |= ARRAY_BIT(IDS); /* of the distribution, in place of its own: see msa_arrays */
    if (t->kl) {
        if (!t->device || t->kernel->stage != MSA_STAGE_BACKWARD)
            return MSA_ERR_UNSUPPORTED;
        t->in |= kl.in;
        t->out |= kl.out;
    }
    t->paged = t->device && paging_possible(t->s) && stage_is_step(t->kernel->stage);
    if (t->small && !(t->paged && t->kernel->stage == MSA_STAGE_DECODE))
        return MSA_ERR_UNSUPPORTED;
    if (t->codes && !subject_takes_codes(t))
        return MSA_ERR_UNSUPPORTED;
    if (t->paged && !paging_layout(&t->g, t->s, 0, 0, t->seed))
        status = MSA_ERR_SIZE;
    if (t->device && status == MSA_OK)
        status = make_plan(t);
    if (t->paged && status == MSA_OK)
        status = make_pages(t);
    if (status == MSA_OK)
        status = subject_draw(t);
    if (status == MSA_OK)
        status = make_copies(t);
    if (status == MSA_OK)
        status = make_outputs(t);
    if (status == MSA_OK && (t->small || t->half || t->kl)) // a kernel may not take that
        status = subject_run(t, 0);
    return status == MSA_OK && t->kernel->stage == MSA_STAGE_INDEX ? settle_index(t) : status;
}

void subject_close(subject *t)
{
    for (int i = 0; i < ARRAY_N; i++) {
        free(t->given[i]);
        give(t, t->found[i]);
    }
    for (int c = 0; c < t->n_copies; c++)
        drop_copy(t, c);
    give(t, t->work);
    give(t, t->table);
    give(t, t->lens);
    give(t, t->scale);
    paging_free(&t->g);
    give(t, t->device_loss);
}

/* ---- A run ---------------------------------------------------------------------------------------- */

static msa_arrays arrays_for_run(subject *t, int copy)
{
    msa_arrays a = {.loss = t->device ? t->device_loss : &t->loss, .weight = SUBJECT_KL_WEIGHT};
    for (array_id i = 0; i < ARRAY_N; i++) {
        void *at = HAS(t->out, i) ? t->found[i] : t->copy[copy][i];
        array_set(&a, i, at);
    }
    a.index8 = t->codes ? &t->index8[copy] : NULL;
    a.screening = t->device ? NULL : &t->screening; /* which a device cannot write to */
    if (HAS(t->in & t->out, ARRAY_IDS))
        a.forced_ids = t->copy[copy][ARRAY_IDS];
    a.pages = (msa_pages){.n_pages = t->g.p.n_pages,
                          .table = t->table,
                          .lens = t->lens,
                          .ki8 = t->small ? t->copy[copy][ARRAY_KI] : NULL,
                          .scale = t->scale};
    return a;
}

msa_status subject_run(subject *t, int copy)
{
    const msa_arrays a = arrays_for_run(t, copy);
    if (t->device)
        return t->recorded ? t->device->replay(copy) : msa_plan_run(&t->plan, &a, t->work, NULL);
    if (t->kernel->run_half)
        return t->kernel->run_half(t->s, &a, t->work);
    if (t->half && t->kernel->stage == MSA_STAGE_DECODE)
        return msa_fast_decode_bf16(t->s, a.q, a.k, a.v, a.qi, a.ki, t->found[ARRAY_IDS], t->found[ARRAY_O],
                                    t->found[ARRAY_LSE], t->work);
    if (t->half)
        return msa_fast_dense_decode_bf16(t->s, a.q, a.k, a.v, t->found[ARRAY_O], t->found[ARRAY_LSE],
                                          t->work);
    return t->kernel->run(t->s, &a, t->work);
}

msa_status subject_record(subject *t)
{
    msa_status status = MSA_OK;
    if (!t->device || !stage_is_step(t->kernel->stage))
        return MSA_OK;
    for (int c = 0; c < t->n_copies && status == MSA_OK; c++) {
        const msa_arrays a = arrays_for_run(t, c);
        status = t->device->record(c, &t->plan, &a, t->work);
    }
    t->recorded = status == MSA_OK;
    return status;
}

msa_status subject_screening(subject *t)
{
    if (!t->device || !t->codes)
        return MSA_OK;
    msa_arrays a = arrays_for_run(t, 0);
    a.screening = t->device->alloc(sizeof *a.screening);
    msa_status status = a.screening ? msa_plan_run(&t->plan, &a, t->work, NULL) : MSA_ERR_SIZE;
    if (status == MSA_OK)
        status = t->device->download(&t->screening, a.screening, sizeof t->screening);
    give(t, a.screening);
    return status;
}

/* ---- Outputs -------------------------------------------------------------------------------------- */

/* As a float all ones is a NaN, but as an id it is -1, which belongs there. */
void subject_poison(subject *t)
{
    for (int i = 0; i < ARRAY_N; i++) {
        const int byte = i == ARRAY_IDS ? 0x7f : 0xff;
        if (t->found[i] && t->device)
            t->device->fill(t->found[i], byte, subject_bytes(t, (array_id)i));
        else if (t->found[i])
            memset(t->found[i], byte, subject_bytes(t, (array_id)i));
    }
    t->loss = NAN;
}

/* Widens bf16 in place, from the last to the first. */
static void widen(void *x, int64_t n)
{
    unsigned char *bytes = x;
    for (int64_t i = n - 1; i >= 0; i--) {
        uint16_t half;
        memcpy(&half, bytes + 2 * i, sizeof half);
        const uint32_t bits = (uint32_t)half << 16;
        memcpy(bytes + 4 * i, &bits, sizeof bits);
    }
}

msa_status subject_fetch_loss(subject *t)
{
    return t->device_loss ? t->device->download(&t->loss, t->device_loss, sizeof t->loss) : MSA_OK;
}

msa_status subject_fetch(const subject *t, array_id a, int64_t first, int64_t n, void *to)
{
    const size_t size = subject_is_bf16(t, a) ? 2 : 4;
    const unsigned char *from = (const unsigned char *)t->found[a] + (size_t)first * size;
    if (!t->device) {
        memcpy(to, from, (size_t)n * size);
        return MSA_OK;
    }
    const msa_status status = t->device->download(to, from, (size_t)n * size);
    if (status == MSA_OK && subject_is_bf16(t, a))
        widen(to, n);
    return status;
}
