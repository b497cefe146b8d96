/* A program that runs a kernel on the engine through msa_cuda.h: blocks from scores, by a plan and by the
 * reference. C and C++. */
#include <msa_cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { T = 600, HKV = 2, K = 4, BLOCK = 32, B = (T + BLOCK - 1) / BLOCK };
static float scores[HKV * T * B];
static int32_t want[HKV * T * K], found[HKV * T * K];

static int fail(const char *what, msa_status status)
{
    fprintf(stderr, "%s: %s\n", what, msa_strerror(status));
    return 1;
}

int main(void)
{
    msa_shape s;
    memset(&s, 0, sizeof s);
    s.n_q = s.n_kv = T, s.n_heads = s.n_kv_heads = HKV, s.d_head = s.d_index = 64, s.block = BLOCK, s.topk = K;
    for (unsigned i = 0; i < HKV * T * B; i++)
        scores[i] = (float)(i * 2654435761u >> 16);
    const msa_device *device = msa_engine();
    msa_plan plan;
    static const int32_t cu_q[2] = {0, T}, cu_kv[2] = {0, T - 1};
    msa_shape cut = s;
    cut.cu_q = cu_q, cut.cu_kv = cu_kv;
    if (msa_plan_make(&plan, device, "topk/warp", &cut, MSA_F32) != MSA_ERR_SEQLENS)
        return fail("one sequence of fewer keys than there are", MSA_OK);
    msa_status status = msa_plan_make(&plan, msa_gpu(), "topk/warp", &s, MSA_F32);
    if (status != MSA_OK && status != MSA_ERR_DEVICE)
        return fail("a GPU that may be missing", status);
    status = msa_plan_make(&plan, device, "topk/warp", &s, MSA_F32);
    if (status != MSA_OK)
        return fail("msa_plan_make", status);
    msa_arrays a;
    memset(&a, 0, sizeof a);
    void *work = device->alloc(plan.workspace + 1);
    void *given = device->alloc(sizeof scores), *chosen = device->alloc(sizeof found);
    a.scores = given, a.ids = chosen;
    if (!work || !given || !chosen || device->upload(given, scores, sizeof scores) != MSA_OK)
        return fail("upload", MSA_ERR_DEVICE);
    if ((status = msa_plan_run(&plan, &a, work, NULL)) != MSA_OK)
        return fail("msa_plan_run", status);
    if ((status = device->download(found, a.ids, sizeof found)) != MSA_OK)
        return fail("download", status);
    device->free(work), device->free(given), device->free(chosen);
    work = malloc(msa_ref_ops.stage[MSA_STAGE_TOPK]->workspace(&s));
    status = msa_topk(&s, scores, want, work);
    free(work);
    const int same = status == MSA_OK && memcmp(found, want, sizeof found) == 0;
    printf("%s\n", same ? "reference and kernel agree" : "DISAGREE");
    return !same;
}
