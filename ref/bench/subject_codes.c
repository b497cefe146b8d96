/* The 8-bit copies of a subject's index keys. */
#include <stdlib.h>
#include <string.h>

#include "../judge/copy8.h"
#include "../table/table.h"
#include "subject_inputs.h"
#include "timing.h"

/* On the host by kernels of bf16 tensors that choose for themselves. */
bool subject_takes_codes(const subject *t)
{
    return t->device ? table_screens(t->kernel)
                     : t->kernel->run_half && HAS(t->in, ARRAY_KI) && !HAS(t->in, ARRAY_IDS);
}

static const msa_shape *shape_of(const subject *t)
{
    return t->paged ? &t->g.s : t->s;
}
static const msa_pages *pages(const subject *t)
{
    return t->paged ? &t->g.p : NULL;
}

void subject_drop_code(subject *t, int c)
{
    msa_index8 *copy = &t->index8[c];
    if (t->device && copy->codes)
        t->device->free(copy->codes);
    if (t->device && copy->scale)
        t->device->free(copy->scale);
    if (!t->device)
        copy8_free(copy);
    *copy = (msa_index8){0};
}

/* A page is a block, and only complete ones have codes. */
static msa_status code_page(subject *t, int64_t page, float *x, int64_t n, void *to)
{
    const msa_index8 *all = to;
    const int64_t block = t->s->block, di = t->s->d_index;
    double room[256];
    if (di > 256)
        return MSA_ERR_UNSUPPORTED;
    if (n == block * di)
        msa_index8_block(x, block, t->s->d_index,
                         (msa_index8){all->codes + page * n, all->scale + page, all->reach + page,
                                      all->error + page, all->least + page},
                         room);
    return MSA_OK;
}

static msa_status make_code(subject *t, msa_index8 *to)
{
    const double begin = timing_now();
    *to = t->paged ? copy8_room(shape_of(t), pages(t)) : copy8_new(t->s, NULL, t->given[ARRAY_KI]);
    if (!to->codes)
        return MSA_ERR_SIZE;
    const msa_status status = t->paged ? subject_each_block(t, ARRAY_KI, code_page, to) : MSA_OK;
    t->copy_ms = t->device ? 0 : 1e3 * (timing_now() - begin); /* a device makes its own as tokens come */
    return status;
}

/* The numbers in one buffer of the device, each at a multiple of 128 bytes. */
static msa_status send_code(subject *t, const msa_index8 *from, msa_index8 *to)
{
    const size_t codes = (size_t)copy8_codes(shape_of(t), pages(t)),
                 n = (size_t)copy8_numbers(shape_of(t), pages(t)) * sizeof(float),
                 step = (n + 127) / 128 * 128;
    const float *const number[] = {from->scale, from->reach, from->error};
    to->codes = t->device->alloc(codes);
    char *numbers = t->device->alloc(3 * step);
    to->scale = (float *)(void *)numbers;
    if (!to->codes || !numbers)
        return MSA_ERR_SIZE;
    to->reach = (float *)(void *)(numbers + step);
    to->error = (float *)(void *)(numbers + 2 * step);
    msa_status status = t->device->upload(to->codes, from->codes, codes);
    for (size_t i = 0; i < 3 && status == MSA_OK; i++)
        status = t->device->upload(numbers + i * step, number[i], n);
    return status;
}

msa_status subject_code(subject *t, int c)
{
    msa_index8 own = {0}, *to = &t->index8[c];
    if (!t->device && c > 0) {
        *to = copy8_room(t->s, NULL);
        if (!to->codes)
            return MSA_ERR_SIZE;
        memcpy(to->codes, t->index8[0].codes, (size_t)copy8_codes(t->s, NULL));
        memcpy(to->scale, t->index8[0].scale, 4 * (size_t)copy8_numbers(t->s, NULL) * sizeof *to->scale);
        return MSA_OK;
    }
    msa_status status = make_code(t, t->device ? &own : to);
    if (status == MSA_OK && t->device)
        status = send_code(t, &own, to);
    copy8_free(&own);
    return status;
}
