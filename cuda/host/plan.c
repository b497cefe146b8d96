/* Binding a kernel of kernels.def to a device and a shape; what all of them take. */
#include "plan.h"

#include <string.h>

static const struct {
    msa_stage stage;
    const char *name;
} kernel[] = {
#define KERNEL(stage, name, sm, precision, idea) {STAGE_##stage, #stage "/" #name},
#include "../kernels.def"
#undef KERNEL
};

static bool is_width(int d)
{
    return d == 64 || d == 128;
}

static bool is_block(int n)
{
    return n == 32 || n == 64 || n == 128;
}

bool plan_takes(msa_stage stage, const msa_shape *s)
{
    const bool select = s->topk <= 32, group = s->n_heads / s->n_kv_heads <= 16;
    const bool main_branch = is_width(s->d_head) && group;
    if (s->n_q > INT32_MAX / 2 || s->n_kv > INT32_MAX / 2)
        return false;
    switch (stage) {
    case MSA_STAGE_DENSE:
        return main_branch;
    case MSA_STAGE_INDEX:
        return is_width(s->d_index) && is_block(s->block) && select;
    case MSA_STAGE_TOPK:
        return select;
    case MSA_STAGE_REVERSE:
        return select && s->n_q <= 1 << 27 && s->n_q * s->topk <= INT32_MAX;
    case MSA_STAGE_SPARSE:
        return main_branch && is_block(s->block) && select;
    case MSA_STAGE_PREFILL:
        return main_branch && is_width(s->d_index) && is_block(s->block) && select;
    case MSA_STAGE_DECODE:
    case MSA_STAGE_DENSE_DECODE:
        for (int r = 0; r < msa_n_seqs(s); r++)
            if ((s->cu_q ? s->cu_q[r + 1] - s->cu_q[r] : s->n_q) >
                16) // with lengths on the device: room for so many
                return false;
        return main_branch && is_block(s->block) &&
               (stage == MSA_STAGE_DENSE_DECODE || (is_width(s->d_index) && select));
    case MSA_STAGE_DENSE_BACKWARD:
        return main_branch && is_block(s->block);
    case MSA_STAGE_BACKWARD:
    case MSA_STAGE_KL:
        return main_branch && (stage == MSA_STAGE_BACKWARD || is_width(s->d_index)) && is_block(s->block) &&
               plan_takes(MSA_STAGE_REVERSE, s);
    default:
        return false;
    }
}

msa_status msa_plan_make(msa_plan *plan, const msa_device *device, const char *name, const msa_shape *s,
                         msa_dtype out)
{
    if (!plan || !name)
        return MSA_ERR_NULL;
    const msa_status status = msa_check_shape(s);
    if (status != MSA_OK)
        return status;
    if (!device || device->missing())
        return MSA_ERR_DEVICE;
    for (size_t i = 0; i < sizeof kernel / sizeof *kernel; i++)
        if (strcmp(kernel[i].name, name) == 0 && plan_takes(kernel[i].stage, s)) {
            *plan = (msa_plan){.device = device, .entry = device->entries[i], .shape = *s, .out = out};
            plan->workspace = device->workspace(plan->entry, s, out);
            return MSA_OK;
        }
    return MSA_ERR_UNSUPPORTED;
}

void msa_scores_turn(const msa_shape *s, const float *scores, int r, int64_t first, int64_t end,
                     float *by_block)
{
    const int64_t n_blocks = msa_n_blocks(s);
    for (int64_t b = first; b < end; b++)
        for (int64_t i = 0; i < s->n_q; i++)
            by_block[(b - first) * s->n_q + i] = scores[(r * s->n_q + i) * n_blocks + b];
}

bool msa_takes_scores_by_block(const char *name)
{
    return strcmp(name, "topk/columns") == 0;
}

msa_status msa_plan_run(const msa_plan *plan, const msa_arrays *arrays, void *work, void *stream)
{
    if (!plan || !arrays || (!work && plan->workspace) || (plan->shape.len_q && !arrays->len_q) ||
        (plan->shape.len_kv && !arrays->len_kv && !arrays->pages.table) ||
        (arrays->pages.table && !arrays->pages.lens))
        return MSA_ERR_NULL;
    return plan->device->run(plan->entry, &plan->shape, plan->out, arrays, work, stream);
}

/* A device that this build lacks: a program that asks for it links all the same. */
#ifndef HAVE_SIMT
const msa_device *msa_engine(void)
{
    return NULL;
}
#endif
#ifndef HAVE_CUDA
const msa_device *msa_gpu(void)
{
    return NULL;
}
#endif
