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

/* Room on the device, the numbers in one buffer, each at a multiple of 128 bytes. */
static msa_status device_room(subject *t, msa_index8 *to)
{
    const size_t n = (size_t)copy8_numbers(shape_of(t), pages(t)) * sizeof(float),
                 step = (n + 127) / 128 * 128;
    to->codes = t->device->alloc((size_t)copy8_codes(shape_of(t), pages(t)));
    char *numbers = t->device->alloc(3 * step);
    to->scale = (float *)(void *)numbers;
    if (!to->codes || !numbers)
        return MSA_ERR_SIZE;
    to->reach = (float *)(void *)(numbers + step);
    to->error = (float *)(void *)(numbers + 2 * step);
    return MSA_OK;
}

/* A device makes each from the keys that it has. The first time also loads the kernel: the last one counts. */
static msa_status make_on_device(subject *t, int c)
{
    enum { BEGIN, END };
    const msa_arrays a = {.ki = t->copy[c][ARRAY_KI],
                          .index8 = &t->index8[c],
                          .pages = {.n_pages = t->g.p.n_pages, .table = t->table, .lens = t->lens}};
    msa_status status = device_room(t, &t->index8[c]);
    for (int i = 0; i < 2 && status == MSA_OK; i++) {
        status = t->device->mark(BEGIN, NULL);
        if (status == MSA_OK)
            status = msa_index8_make(t->device, shape_of(t), &a, NULL);
        if (status == MSA_OK)
            status = t->device->mark(END, NULL);
        if (status == MSA_OK)
            status = t->device->between(BEGIN, END, &t->copy_ms);
    }
    return status;
}

static msa_status make_on_host(subject *t, int c)
{
    msa_index8 *to = &t->index8[c];
    const double begin = timing_now();
    *to = c == 0 ? copy8_new(t->s, NULL, t->given[ARRAY_KI]) : copy8_room(t->s, NULL);
    if (!to->codes)
        return MSA_ERR_SIZE;
    if (c == 0) {
        t->copy_ms = 1e3 * (timing_now() - begin);
        return MSA_OK;
    }
    memcpy(to->codes, t->index8[0].codes, (size_t)copy8_codes(t->s, NULL));
    memcpy(to->scale, t->index8[0].scale, 4 * (size_t)copy8_numbers(t->s, NULL) * sizeof *to->scale);
    return MSA_OK;
}

msa_status subject_code(subject *t, int c)
{
    return t->device ? make_on_device(t, c) : make_on_host(t, c);
}
