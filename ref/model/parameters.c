/* The model as named tensors in one flat buffer: sizes and initial values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../random.h"
#include "internal.h"

model_config model_default_config(void)
{
    return (model_config){.n_layers = 4,
                          .d_model = 128,
                          .n_heads = 4,
                          .n_kv_heads = 2,
                          .d_head = 64,
                          .d_index = 64,
                          .d_ff = 384,
                          .block = 32,
                          .topk = 8,
                          .context = 1024,
                          .sparse = 1,
                          .theta = 10000,
                          .eps = 1e-6};
}

/* ---- The table of tensors ------------------------------------------------------------------------- */

static void add(model *m, const char *name, int64_t rows, int64_t cols, bool index)
{
    model_tensor *t = &m->tensor[m->n_tensors++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->ndim = cols ? 2 : 1;
    t->dim[0] = rows;
    t->dim[1] = cols;
    t->offset = m->n_params;
    t->count = (size_t)rows * (size_t)(cols ? cols : 1);
    t->decay = cols != 0;
    t->index = index;
    m->n_params += t->count;
}

static void add_layer(model *m, int layer)
{
    const model_config *c = &m->config;
    const int64_t d = c->d_model, q = (int64_t)c->n_heads * c->d_head,
                  kv = (int64_t)c->n_kv_heads * c->d_head, iq = (int64_t)c->n_kv_heads * c->d_index;
    const struct {
        const char *name;
        int64_t rows, cols;
        bool index;
    } part[LAYER_TENSORS] = {
        {"attn_norm", d, 0, false},
        {"wq", d, q, false},
        {"wk", d, kv, false},
        {"wv", d, kv, false},
        {"wo", q, d, false},
        {"q_norm", c->d_head, 0, false},
        {"k_norm", c->d_head, 0, false},
        {"wiq", d, iq, true},
        {"wik", d, c->d_index, true},
        {"iq_norm", c->d_index, 0, true},
        {"ik_norm", c->d_index, 0, true},
        {"mlp_norm", d, 0, false},
        {"w_gate", d, c->d_ff, false},
        {"w_up", d, c->d_ff, false},
        {"w_down", c->d_ff, d, false},
    };
    for (int i = 0; i < LAYER_TENSORS; i++) {
        char name[sizeof m->tensor->name];
        snprintf(name, sizeof name, "layers.%d.%s", layer, part[i].name);
        add(m, name, part[i].rows, part[i].cols, part[i].index);
    }
}

/* Behind the rest, so that a variant starts from the same weights as MSA. */
static void add_extra(model *m, int layer)
{
    const model_config *c = &m->config;
    char name[sizeof m->tensor->name];
    if (c->sink) {
        snprintf(name, sizeof name, "layers.%d.sink", layer);
        add(m, name, c->n_heads, 0, false);
    }
    if (c->value_head) {
        snprintf(name, sizeof name, "layers.%d.wiv", layer);
        add(m, name, c->d_model, c->d_index, false);
        snprintf(name, sizeof name, "layers.%d.wio", layer);
        add(m, name, (int64_t)c->n_kv_heads * c->d_index, c->d_model, false);
    }
}

static bool check_config(const model_config *c, io_error err)
{
    const struct {
        const char *name;
        int value, most;
    } size[] = {
        {"n_layers", c->n_layers, MODEL_MAX_LAYERS},
        {"d_model", c->d_model, 65536},
        {"n_heads", c->n_heads, 1024},
        {"n_kv_heads", c->n_kv_heads, 1024},
        {"d_head", c->d_head, 1024},
        {"d_index", c->d_index, 1024},
        {"d_ff", c->d_ff, 1 << 18},
        {"block", c->block, 1 << 20},
        {"topk", c->topk, 1 << 20},
        {"context", c->context, 1 << 24},
    };
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        if (size[i].value < 1 || size[i].value > size[i].most) {
            snprintf(err, IO_ERR, "model: %s must be 1..%d, found %d", size[i].name, size[i].most,
                     size[i].value);
            return false;
        }
    if (c->n_heads % c->n_kv_heads != 0) {
        snprintf(err, IO_ERR, "model: n_heads must be a multiple of n_kv_heads, found %d and %d", c->n_heads,
                 c->n_kv_heads);
        return false;
    }
    if (c->d_head % 4 != 0 || c->d_index % 4 != 0) {
        snprintf(err, IO_ERR, "model: d_head and d_index must be multiples of 4, found %d and %d", c->d_head,
                 c->d_index);
        return false;
    }
    if (!(c->theta > 1) || !(c->eps > 0) || !(c->theta < 1e12) || !(c->eps < 1)) {
        snprintf(err, IO_ERR, "model: expected theta in (1,1e12) and eps in (0,1), found %g and %g", c->theta,
                 c->eps);
        return false;
    }
    if (c->selector < 0 || c->selector >= N_SELECTORS) {
        snprintf(err, IO_ERR, "model: selector must be 0..%d, found %d", N_SELECTORS - 1, c->selector);
        return false;
    }
    return true;
}

bool model_allocate(model *m, const model_config *c, io_error err)
{
    *m = (model){.config = *c};
    if (!check_config(c, err))
        return false;
    m->tensor = calloc((size_t)(3 + (LAYER_TENSORS + extra_tensors(c)) * c->n_layers), sizeof *m->tensor);
    if (m->tensor) {
        add(m, "embed", MODEL_VOCAB, c->d_model, false);
        for (int l = 0; l < c->n_layers; l++)
            add_layer(m, l);
        add(m, "norm", c->d_model, 0, false);
        add(m, "head", c->d_model, MODEL_VOCAB, false);
        for (int l = 0; l < c->n_layers; l++)
            add_extra(m, l);
        if ((double)m->n_params * sizeof *m->params <= io_memory_left())
            m->params = calloc(m->n_params, sizeof *m->params);
    }
    if (!m->params) {
        snprintf(err, IO_ERR, "model: no memory for %zu parameters", m->n_params);
        model_free(m);
        return false;
    }
    return true;
}

void model_free(model *m)
{
    free(m->tensor);
    free(m->params);
    *m = (model){.params = NULL};
}

/* Normal with standard deviation 1/sqrt(inputs); the two matrices that write to the residual stream are
 * smaller by sqrt(2 layers), so that its variance does not grow with depth. Norm gains start at w = 0. */
bool model_new(model *m, const model_config *c, uint64_t seed, io_error err)
{
    if (!model_allocate(m, c, err))
        return false;
    for (int n = 0; n < m->n_tensors; n++) {
        const model_tensor *t = &m->tensor[n];
        if (t->ndim == 1)
            continue;
        const char *leaf = strrchr(t->name, '.');
        double std = 1 / sqrt((double)t->dim[0]);
        if (n == 0)
            std = 0.5;
        else if (leaf &&
                 (strcmp(leaf, ".wo") == 0 || strcmp(leaf, ".wio") == 0 || strcmp(leaf, ".w_down") == 0))
            std /= sqrt(2.0 * c->n_layers);
        for (size_t i = 0; i < t->count; i++)
            m->params[t->offset + i] = (float)(std * random_normal(seed, t->offset + i));
    }
    return true;
}
