/* Kernels stay within the workspace that their plan asks for: at thousands of shapes by what their host code
 * carves out, which takes no run; at small ones run over many chunks of queries with a page behind the
 * workspace that nobody may touch. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <stdio.h>

#include "support/check.h"

#ifndef HAVE_SIMT
int main(void)
{
    tap_skip("workspaces of kernels", "no C++ compiler here");
    return tap_done();
}
#else
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../cuda/host/msa_cuda.h"
#include "../ref/bench/trial.h"
#include "../ref/table/table.h"

#define SHAPES 1500

/* ---- At any size: nothing runs ----------------------------------------------------------------------- */

#define NOWHERE ((uintptr_t)1 << 44)

static int one_of(inputs_rng *rng, const int *x, int n)
{
    return x[inputs_below(rng, n)];
}

/* Half of the shapes large, and many of them with a KL part, where there is most to disagree about. */
static msa_shape draw_shape(inputs_rng *rng, int32_t cu[2][3])
{
    static const int width[] = {64, 128, 128}, block[] = {32, 64, 128, 128}, kv_heads[] = {1, 2, 4, 8};
    msa_shape s = {.n_q = 1 + inputs_below(rng, (int64_t)1 << (4 + inputs_below(rng, 15))),
                   .n_kv_heads = one_of(rng, kv_heads, 4),
                   .d_head = one_of(rng, width, 3),
                   .d_index = one_of(rng, width, 3),
                   .block = one_of(rng, block, 4),
                   .topk = 1 + (int)inputs_below(rng, 32),
                   .n_seqs = 1};
    s.n_heads = s.n_kv_heads * (1 + (int)inputs_below(rng, 16));
    s.n_kv = s.n_q + (inputs_below(rng, 2) ? inputs_below(rng, 1 << 16) : 0);
    if (s.n_q > 2 && inputs_below(rng, 4) == 0) { /* two sequences, of which one may be empty */
        cu[0][1] = (int32_t)inputs_below(rng, s.n_q + 1);
        cu[0][2] = (int32_t)s.n_q;
        cu[1][1] = cu[0][1] + (int32_t)inputs_below(rng, s.n_kv - s.n_q + 1);
        cu[1][2] = (int32_t)s.n_kv;
        s.n_seqs = 2;
        s.cu_q = cu[0];
        s.cu_kv = cu[1];
    }
    return s;
}

/* Arrays of nothing, some of them left out. */
static msa_arrays draw_arrays(inputs_rng *rng, msa_stage stage, const msa_shape *s, double *loss)
{
    void *const at = (void *)NOWHERE;
    const bool with_ids = inputs_below(rng, 2);
    const bool with_loss = stage == MSA_STAGE_KL || (stage == MSA_STAGE_BACKWARD && inputs_below(rng, 2));
    msa_arrays a = {.q = at,
                    .k = at,
                    .v = at,
                    .qi = at,
                    .ki = at,
                    .o = at,
                    .lse = at,
                    .dout = at,
                    .dq = at,
                    .dk = at,
                    .dv = at,
                    .first = at,
                    .entries = at,
                    .items = at,
                    .weight = 1};
    a.ids = stage == MSA_STAGE_BACKWARD || stage == MSA_STAGE_KL ? with_ids ? at : NULL : at;
    a.scores = stage == MSA_STAGE_TOPK ? at : NULL;
    a.index_lse = a.ids || inputs_below(rng, 2) ? at : NULL;
    a.loss = with_loss ? loss : NULL;
    a.dqi = a.dki = a.loss && inputs_below(rng, 4) ? at : NULL;
    if (stage != MSA_STAGE_REVERSE)
        a.first = NULL;
    if (stage != MSA_STAGE_BACKWARD && stage != MSA_STAGE_DENSE_BACKWARD)
        a.dq = a.dk = a.dv = NULL;
    if ((stage == MSA_STAGE_DECODE || stage == MSA_STAGE_DENSE_DECODE) && s->n_seqs == 1)
        a.pages = (msa_pages){.n_pages = (s->n_kv + s->block - 1) / s->block, .table = at, .lens = at};
    return a;
}

static bool carved_within(check_case *c, const msa_kernel *k, const msa_shape *s, inputs_rng *rng)
{
    char name[64], shape[INPUTS_NAME];
    double loss;
    msa_plan plan;
    snprintf(name, sizeof name, "%s/%s", msa_stage_name(k->stage), k->name);
    if (msa_plan_make(&plan, msa_engine(), name, s, MSA_BF16) != MSA_OK)
        return false;
    msa_arrays a = draw_arrays(rng, k->stage, s, &loss);
    msa_engine_reach();
    const msa_status status = msa_plan_run(&plan, &a, (void *)NOWHERE, NULL);
    const uintptr_t reach = msa_engine_reach();
    inputs_shape_name(s, shape);
    check_true(c, status == MSA_OK || status == MSA_ERR_UNSUPPORTED, "%s at %s: %s", name, shape,
               status == MSA_ERR_DEVICE ? msa_engine()->trouble() : msa_strerror(status));
    check_true(c, reach <= NOWHERE + plan.workspace, "%s at %s%s%s: planned %zu bytes, used %zu", name, shape,
               a.ids ? " ids" : "", a.loss ? " kl" : "", plan.workspace, (size_t)(reach - NOWHERE));
    return status == MSA_OK;
}

/* Where a run without a loss once took longer chunks than its plan: 7668 MB of 5102. */
static const msa_shape once_over = {131072, 131072, 64, 4, 128, 128, 128, 14, 1, NULL, NULL, NULL, NULL};

static void at_any_size(void)
{
    check_case c = check_begin("the workspace of %d shapes holds what every kernel carves out", SHAPES);
    inputs_rng rng = {check_seed(1)};
    int ran = 0;
    msa_engine_dry(true);
    for (int n = 0; n < SHAPES && c.ok; n++) {
        const msa_kernel *k;
        int32_t cu[2][3] = {{0}};
        const msa_shape s = n > 0 ? draw_shape(&rng, cu) : once_over;
        for (int i = 0; (k = table_at(i)) != NULL; i++)
            if (strcmp(k->backend, "simt") == 0)
                for (int again = 0; again < (n ? 1 : 8); again++)
                    ran += carved_within(&c, k, &s, &rng);
    }
    msa_engine_dry(false);
    check_true(&c, ran > 20 * SHAPES, "%d runs", ran);
    check_end(&c);
}

/* ---- At small ones, in many chunks: a page behind ------------------------------------------------------ */

/* `bytes` that end where a page begins that cannot be touched; NULL: no memory. */
static char *guarded(size_t bytes, size_t *mapped)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    char *start = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start + whole, page, PROT_NONE))
        return NULL;
    *mapped = whole + page;
    return start + whole - bytes;
}

static void within_guards(check_case *c, const trial *t, const msa_kernel *k)
{
    char name[64];
    msa_plan plan;
    msa_arrays a;
    size_t mapped;
    snprintf(name, sizeof name, "%s/%s", msa_stage_name(k->stage), k->name);
    if (msa_plan_make(&plan, t->engine, name, &t->shape, t->out) != MSA_OK || plan.workspace == 0 ||
        trial_run(t, k, &a) != MSA_OK)
        return;
    char *work = guarded(plan.workspace, &mapped);
    check_true(c, work && plan.workspace % 128 == 0, "%s: %zu bytes of workspace", name, plan.workspace);
    if (!work)
        return;
    memset(work, 0xff, plan.workspace);
    const msa_status status = msa_plan_run(&plan, &a, work, NULL);
    check_true(c, status == MSA_OK, "%s: %s", name, t->engine->trouble());
    munmap(work + plan.workspace + (size_t)sysconf(_SC_PAGESIZE) - mapped, mapped);
}

static void in_chunks(void)
{
    static const msa_shape shape = {10, 100, 4, 2, 64, 64, 64, 2, 1, NULL, NULL, NULL, NULL};
    const msa_kernel *k;
    trial t;
    check_case c = check_begin("kernels in chunks of 3 queries leave the page behind their workspace alone");
    msa_tune(msa_engine(), MSA_TUNE_sweep_chunk, 3);
    msa_tune(msa_engine(), MSA_TUNE_screen_rows, 6);
    msa_tune(msa_engine(), MSA_TUNE_kv_outer_chunk_most, 3);
    if (trial_begin(&t, &shape, SELECTION_RANDOM, 3, MSA_BF16)) {
        for (int i = 0; (k = table_at(i)) != NULL; i++)
            if (strcmp(k->backend, "simt") == 0)
                within_guards(&c, &t, k);
        trial_end(&t);
    }
    for (int i = 0; i < MSA_N_TUNABLES; i++)
        msa_tune(msa_engine(), i, msa_tune_preset(msa_engine(), i));
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    at_any_size();
    in_chunks();
    return check_done();
}
#endif
