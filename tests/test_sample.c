/**
 * @file test_sample.c
 * @brief The verdict of `msa bench` checked: it accepts the reference, and no output with one wrong element.
 */
#include <math.h>
#include <string.h>

#include "../ref/bench/sample.h"
#include "../ref/bench/timing.h"
#include "../ref/call.h"
#include "../ref/table/table.h"
#include "support/check.h"

static const msa_shape shape = {24, 60, 4, 2, 16, 8, 8, 3, 1, NULL, NULL, NULL, NULL};

// The array whose middle element the kernels below spoil, and how; ARRAY_N: none.
static array_id victim;
static enum { OFF, NOT_WRITTEN } damage;
static bool spoil_loss;

static void spoil(array_id a, void *x)
{
    const int64_t middle = array_count(&shape, NULL, a) / 2;
    if (a != victim)
        return;
    if (damage == NOT_WRITTEN)
        memset((float *)x + middle, a == ARRAY_IDS ? 0x7f : 0xff, 4);
    else if (a == ARRAY_IDS || a == ARRAY_FIRST || a == ARRAY_ENTRIES || a == ARRAY_ITEMS)
        ((int32_t *)x)[middle] += 1;
    else
        ((float *)x)[middle] += 0.02f * (1 + fabsf(((float *)x)[middle]));
}

/* ---- The reference, spoiled ------------------------------------------------------------------------ */

static msa_status dense(const msa_shape *s, const float *q, const float *k, const float *v, float *o,
                        float *lse, void *work)
{
    msa_dense(s, q, k, v, o, lse, work);
    spoil(ARRAY_O, o);
    spoil(ARRAY_LSE, lse);
    return MSA_OK;
}
RUN(dense, dense)

static msa_status index_branch(const msa_shape *s, const float *qi, const float *ki, float *scores,
                               int32_t *ids, float *index_lse, void *work)
{
    msa_index(s, qi, ki, scores, ids, index_lse, work);
    spoil(ARRAY_IDS, ids);
    spoil(ARRAY_INDEX_LSE, index_lse);
    return MSA_OK;
}
RUN(index, index_branch)

static msa_status topk(const msa_shape *s, const float *scores, int32_t *ids, void *work)
{
    msa_topk(s, scores, ids, work);
    spoil(ARRAY_IDS, ids);
    return MSA_OK;
}
RUN(topk, topk)

static msa_status reverse(const msa_shape *s, const int32_t *ids, int32_t *first, uint32_t *entries,
                          msa_item *items, void *work)
{
    msa_reverse(s, ids, first, entries, items, work);
    spoil(ARRAY_FIRST, first);
    spoil(ARRAY_ENTRIES, entries);
    spoil(ARRAY_ITEMS, items);
    return MSA_OK;
}
RUN(reverse, reverse)

static msa_status sparse(const msa_shape *s, const float *q, const float *k, const float *v,
                         const int32_t *ids, float *o, float *lse, void *work)
{
    msa_sparse(s, q, k, v, ids, o, lse, work);
    spoil(ARRAY_O, o);
    spoil(ARRAY_LSE, lse);
    return MSA_OK;
}
RUN(sparse, sparse)

static msa_status decode(const msa_shape *s, const msa_pages *p, const float *q, const float *k,
                         const float *v, const float *qi, const float *ki, int32_t *ids, float *o, float *lse,
                         void *work)
{
    msa_decode(s, p, q, k, v, qi, ki, ids, o, lse, work);
    spoil(ARRAY_IDS, ids);
    spoil(ARRAY_O, o);
    return MSA_OK;
}
RUN(decode, decode)

static msa_status dense_decode(const msa_shape *s, const msa_pages *p, const float *q, const float *k,
                               const float *v, float *o, float *lse, void *work)
{
    msa_dense_decode(s, p, q, k, v, o, lse, work);
    spoil(ARRAY_O, o);
    spoil(ARRAY_LSE, lse);
    return MSA_OK;
}
RUN(dense_decode, dense_decode)

static msa_status backward(const msa_shape *s, const float *q, const float *k, const float *v,
                           const int32_t *ids, const float *o, const float *lse, const float *dout, float *dq,
                           float *dk, float *dv, void *work)
{
    msa_backward(s, q, k, v, ids, o, lse, dout, dq, dk, dv, work);
    spoil(ARRAY_DQ, dq);
    spoil(ARRAY_DK, dk);
    spoil(ARRAY_DV, dv);
    return MSA_OK;
}
RUN(backward, backward)

static msa_status dense_backward(const msa_shape *s, const float *q, const float *k, const float *v,
                                 const float *o, const float *lse, const float *dout, float *dq, float *dk,
                                 float *dv, void *work)
{
    return backward(s, q, k, v, NULL, o, lse, dout, dq, dk, dv, work);
}
RUN(dense_backward, dense_backward)

static msa_status kl(const msa_shape *s, const float *q, const float *k, const float *qi, const float *ki,
                     const int32_t *ids, const float *lse, const float *index_lse, double weight,
                     double *loss, float *dqi, float *dki, void *work)
{
    msa_kl(s, q, k, qi, ki, ids, lse, index_lse, weight, loss, dqi, dki, work);
    spoil(ARRAY_DQI, dqi);
    spoil(ARRAY_DKI, dki);
    *loss *= spoil_loss ? 1.001 : 1;
    return MSA_OK;
}
RUN(kl, kl)

/* ---- The verdict ----------------------------------------------------------------------------------- */

static bool passes(msa_kernel *kernel)
{
    subject t = {.kernel = kernel, .s = &shape, .lse = true, .seed = check_seed(kernel->stage), .cache = 1};
    const bool ok = subject_open(&t) == MSA_OK;
    const sample_verdict v = ok ? sample_judge(&t) : (sample_verdict){.pass = false};
    if (victim == ARRAY_N && !v.pass)
        tap_note("%s", v.text);
    subject_close(&t);
    return v.pass;
}

static void stage(msa_kernel kernel, unsigned outputs)
{
    const char *name = msa_stage_name(kernel.stage);
    kernel.name = "spoiled";
    kernel.backend = "ref";
    kernel.workspace = msa_ref_ops.stage[kernel.stage]->workspace;
    victim = ARRAY_N;
    tap(passes(&kernel), "%s: the reference passes", name);
    for (int a = 0; a < ARRAY_N; a++) {
        victim = (array_id)a;
        if (!HAS(outputs, a))
            continue;
        damage = OFF;
        tap(!passes(&kernel), "%s: one wrong element of %s is found", name, array_name(victim));
        damage = NOT_WRITTEN;
        tap(!passes(&kernel), "%s: ... and one that was not written", name);
    }
    victim = ARRAY_N;
}

#ifdef HAVE_SIMT
/* ---- What is timed ---------------------------------------------------------------------------------- */

static int replays;
static msa_status replay(int i)
{
    replays++;
    return msa_engine()->replay(i);
}

// A step's launches are recorded before it is timed, those of other stages are not.
static void recorded(const char *name, bool is)
{
    const msa_shape one = {1, 300, 4, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL};
    subject t = {.kernel = table_find(name, "simt"), .s = &one, .seed = check_seed(1), .cache = 1};
    timing found;
    msa_device device = *msa_engine();
    device.replay = replay;
    replays = 0;
    bool ok = subject_open(&t) == MSA_OK;
    t.device = &device;
    ok = ok && timing_of(&t, 1e-6, NULL, &found) == MSA_OK;
    tap(ok && (is ? replays >= found.repeats : replays == 0) && !t.recorded, "%s: %d replays", name, replays);
    subject_close(&t);
}
#endif

int main(int argc, char **argv)
{
    check_start(argc, argv);
    stage((msa_kernel){.stage = MSA_STAGE_DENSE, .run = dense_run}, ARRAY_BIT(O) | ARRAY_BIT(LSE));
    stage((msa_kernel){.stage = MSA_STAGE_INDEX, .run = index_branch_run},
          ARRAY_BIT(IDS) | ARRAY_BIT(INDEX_LSE));
    stage((msa_kernel){.stage = MSA_STAGE_TOPK, .run = topk_run}, ARRAY_BIT(IDS));
    stage((msa_kernel){.stage = MSA_STAGE_REVERSE, .run = reverse_run},
          ARRAY_BIT(FIRST) | ARRAY_BIT(ENTRIES) | ARRAY_BIT(ITEMS));
    stage((msa_kernel){.stage = MSA_STAGE_SPARSE, .run = sparse_run}, ARRAY_BIT(O) | ARRAY_BIT(LSE));
    stage((msa_kernel){.stage = MSA_STAGE_DECODE, .run = decode_run}, ARRAY_BIT(IDS) | ARRAY_BIT(O));
    stage((msa_kernel){.stage = MSA_STAGE_DENSE_DECODE, .run = dense_decode_run},
          ARRAY_BIT(O) | ARRAY_BIT(LSE));
    stage((msa_kernel){.stage = MSA_STAGE_BACKWARD, .run = backward_run},
          ARRAY_BIT(DQ) | ARRAY_BIT(DK) | ARRAY_BIT(DV));
    stage((msa_kernel){.stage = MSA_STAGE_DENSE_BACKWARD, .run = dense_backward_run},
          ARRAY_BIT(DQ) | ARRAY_BIT(DK) | ARRAY_BIT(DV));
    stage((msa_kernel){.stage = MSA_STAGE_KL, .run = kl_run}, ARRAY_BIT(DQI) | ARRAY_BIT(DKI));
#ifdef HAVE_SIMT
    recorded("decode/swapped", true);
    recorded("sparse/naive", false);
#endif
    spoil_loss = true;
    msa_kernel loss = {.stage = MSA_STAGE_KL, .name = "spoiled", .backend = "ref", .run = kl_run};
    loss.workspace = msa_ref_ops.stage[MSA_STAGE_KL]->workspace;
    tap(!passes(&loss), "kl: a loss off by a thousandth is found");
    return check_done();
}
