/* Binding a kernel of kernels.def to a device and a shape that it takes. */
#include "plan.h"

#include <stdio.h>
#include <string.h>

static struct {
    const char *name;
    int sm;
    unsigned takes;
    char text[256]; /* plan_text(), once somebody has asked */
} kernels[] = {
#define T(word) | TAKES_##word
#define KERNEL(stage, name, sm, precision, takes, idea) {#stage "/" #name, sm, 0 takes, ""},
#include "../kernels.def"
#undef T
};
#define N_KERNELS ((int)(sizeof kernels / sizeof *kernels))

/* The number of a kernel, or -1. */
static int find(const char *name)
{
    int i = 0;
    while (i < N_KERNELS && strcmp(kernels[i].name, name) != 0)
        i++;
    return i < N_KERNELS ? i : -1;
}

unsigned plan_takes(const char *name)
{
    const int kernel = find(name);
    return kernel < 0 ? 0 : kernels[kernel].takes;
}

int plan_sm(const char *name)
{
    const int kernel = find(name);
    return kernel < 0 ? 0 : kernels[kernel].sm;
}

/* ---- What takes.def says of a shape ------------------------------------------------------------------ */

static bool is_width(int d)
{
    return d == 64 || d == 128;
}

static bool is_block(int n)
{
    return n == 32 || n == 64 || n == 128;
}

/* Queries that the longest sequence has room for. */
static int64_t longest(const msa_shape *s)
{
    int64_t most = s->cu_q ? 0 : s->n_q;
    for (int r = 0; s->cu_q && r < msa_n_seqs(s); r++)
        most = s->cu_q[r + 1] - s->cu_q[r] > most ? s->cu_q[r + 1] - s->cu_q[r] : most;
    return most;
}

/* Whether a kernel takes this (valid) shape. */
static bool fits(unsigned takes, const msa_shape *s)
{
    bool all = s->n_q <= INT32_MAX / 2 && s->n_kv <= INT32_MAX / 2;
#define TAKES(word, text, fits, ...) all = all && (!(takes & TAKES_##word) || (fits));
#include "../takes.def"
    return all;
}

static void append(char *list, size_t size, const char *part)
{
    const size_t n = strlen(list);
    snprintf(list + n, size - n, "%s%s", n ? ", " : "", part);
}

#define DIGITS(number) QUOTED(number)
#define QUOTED(word) #word

const char *plan_text(const char *name)
{
    static const struct {
        unsigned bit;
        const char *text;
    } words[] = {
#define TAKES(word, text, ...) {TAKES_##word, text},
#include "../takes.def"
    };
    const int kernel = find(name);
    if (kernel < 0)
        return "any shape";
    char *text = kernels[kernel].text;
    if (text[0])
        return text;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (kernels[kernel].takes & words[i].bit && words[i].text[0])
            append(text, sizeof kernels->text, words[i].text);
    return text[0] ? text : strcpy(text, "any shape");
}

#define NONE                                                                                                 \
    {                                                                                                        \
        NULL, 0                                                                                              \
    }

char *plan_sizes(const char *name, const msa_shape *s, char *text, size_t size)
{
    const struct {
        unsigned bit;
        struct {
            const char *name;
            int64_t found;
        } sizes[2];
    } words[] = {
#define TAKES(word, text, fits, ...) {TAKES_##word, {__VA_ARGS__}},
#include "../takes.def"
    };
    const unsigned takes = plan_takes(name);
    text[0] = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        for (int n = 0; n < 2 && takes & words[i].bit && words[i].sizes[n].name; n++) {
            char part[64];
            snprintf(part, sizeof part, "%s %lld", words[i].sizes[n].name,
                     (long long)words[i].sizes[n].found);
            append(text, size, part);
        }
    return text;
}

/* ---- A plan ------------------------------------------------------------------------------------------ */

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
    const int kernel = find(name);
    if (kernel < 0 || kernels[kernel].sm > device->sm() || !fits(kernels[kernel].takes, s))
        return MSA_ERR_UNSUPPORTED;
    *plan = (msa_plan){.device = device, .entry = device->entries[kernel], .shape = *s, .out = out};
    plan->workspace = device->workspace(plan->entry, s, out);
    return MSA_OK;
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
    return plan_takes(name) & TAKES_BY_BLOCK;
}

msa_status msa_plan_run(const msa_plan *plan, const msa_arrays *arrays, void *work, void *stream)
{
    if (!plan || !arrays || (!work && plan->workspace) || (plan->shape.len_q && !arrays->len_q) ||
        (plan->shape.len_kv && !arrays->len_kv && !arrays->pages.table) ||
        (arrays->pages.table && !arrays->pages.lens))
        return MSA_ERR_NULL;
    return plan->device->run(plan->entry, &plan->shape, plan->out, arrays, work, stream);
}

static bool has_room(const msa_index8 *copy)
{
    return copy && copy->codes && copy->scale && copy->reach && copy->error;
}

msa_status msa_index8_make(const msa_device *device, const msa_shape *s, const msa_arrays *a, void *stream)
{
    if (!s || !a || !a->ki || !has_room(a->index8) || (a->pages.table && !a->pages.lens) ||
        (s->len_kv && !a->len_kv && !a->pages.table))
        return MSA_ERR_NULL;
    const msa_status status = msa_check_shape(s);
    if (status != MSA_OK)
        return status;
    if (!device || device->missing())
        return MSA_ERR_DEVICE;
    const int64_t page = a->pages.page ? a->pages.page : s->block;
    if (!is_width(s->d_index) || s->n_kv > INT32_MAX / 2 || msa_n_seqs(s) > UINT16_MAX || page < 1 ||
        (page % s->block && s->block % page))
        return MSA_ERR_UNSUPPORTED;
    return device->index8(s, a, stream);
}

/* ---- Parameters --------------------------------------------------------------------------------------- */

const msa_tunable msa_tunables[MSA_N_TUNABLES] = {
#define TRIES(...)                                                                                           \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }
#define TUNABLE(name, preset, on_engine, least, most, tries, reason)                                         \
    {#name, reason, preset, on_engine, least, most, tries},
#include "../tunables.def"
};

const msa_trial msa_trials[] = {
#define TUNABLE(...)
#define TRIAL(name, ...) {MSA_TUNE_##name, __VA_ARGS__},
#include "../tunables.def"
    {MSA_N_TUNABLES, NULL, NULL, NULL, NULL, NULL}};

msa_status msa_tune(const msa_device *device, int parameter, int value)
{
    if (!device)
        return MSA_ERR_NULL;
    if (parameter < 0 || parameter >= MSA_N_TUNABLES || value < msa_tunables[parameter].least ||
        value > msa_tunables[parameter].most)
        return MSA_ERR_SIZE;
    device->tuned[parameter] = value;
    return MSA_OK;
}

int msa_tune_preset(const msa_device *device, int parameter)
{
    const msa_tunable *t = &msa_tunables[parameter];
    return device == msa_engine() ? t->on_engine : t->preset;
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
