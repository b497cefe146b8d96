/* The model as named tensors in one flat buffer: sizes, initial values, checkpoints. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "random.h"

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
    for (int a = 0; a < LAYER_TENSORS; a++) {
        char name[sizeof m->tensor->name];
        snprintf(name, sizeof name, "layers.%d.%s", layer, part[a].name);
        add(m, name, part[a].rows, part[a].cols, part[a].index);
    }
}

static bool check_config(const model_config *c, io_error err)
{
    const struct {
        const char *name;
        int value, most;
    } size[] = {
        {"n_layers", c->n_layers, 256},      {"d_model", c->d_model, 65536}, {"n_heads", c->n_heads, 1024},
        {"n_kv_heads", c->n_kv_heads, 1024}, {"d_head", c->d_head, 1024},    {"d_index", c->d_index, 1024},
        {"d_ff", c->d_ff, 1 << 18},          {"block", c->block, 1 << 20},   {"topk", c->topk, 1 << 20},
        {"context", c->context, 1 << 24},
    };
    for (size_t a = 0; a < sizeof size / sizeof *size; a++)
        if (size[a].value < 1 || size[a].value > size[a].most) {
            snprintf(err, IO_ERR, "model: %s must be 1..%d, found %d", size[a].name, size[a].most,
                     size[a].value);
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
    return true;
}

static bool allocate(model *m, const model_config *c, io_error err)
{
    *m = (model){.config = *c};
    if (!check_config(c, err))
        return false;
    m->tensor = calloc((size_t)(3 + LAYER_TENSORS * c->n_layers), sizeof *m->tensor);
    if (m->tensor) {
        add(m, "embed", MODEL_VOCAB, c->d_model, false);
        for (int l = 0; l < c->n_layers; l++)
            add_layer(m, l);
        add(m, "norm", c->d_model, 0, false);
        add(m, "head", c->d_model, MODEL_VOCAB, false);
        if (memory_holds((double)m->n_params * sizeof *m->params))
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
    if (!allocate(m, c, err))
        return false;
    for (int a = 0; a < m->n_tensors; a++) {
        const model_tensor *t = &m->tensor[a];
        if (t->ndim == 1)
            continue;
        const char *leaf = strrchr(t->name, '.');
        double std = 1 / sqrt((double)t->dim[0]);
        if (a == 0)
            std = 0.5;
        else if (leaf && (strcmp(leaf, ".wo") == 0 || strcmp(leaf, ".w_down") == 0))
            std /= sqrt(2.0 * c->n_layers);
        for (size_t i = 0; i < t->count; i++)
            m->params[t->offset + i] = (float)(std * random_normal(seed, t->offset + i));
    }
    return true;
}

/* ---- Checkpoints ------------------------------------------------------------------------------------- */

#define FIELD(f)                                                                                             \
    {                                                                                                        \
#f, offsetof(model_config, f)                                                                        \
    }
static const struct {
    const char *key;
    size_t at;
} config_int[] = {FIELD(n_layers), FIELD(d_model), FIELD(n_heads), FIELD(n_kv_heads),
                  FIELD(d_head),   FIELD(d_index), FIELD(d_ff),    FIELD(block),
                  FIELD(topk),     FIELD(context), FIELD(sparse)},
  config_real[] = {FIELD(theta), FIELD(eps)};

void config_to_meta(const model_config *c, checkpoint_meta *meta)
{
    checkpoint_put(meta, "format", "msa-model-1");
    for (size_t a = 0; a < sizeof config_int / sizeof *config_int; a++) {
        int value;
        memcpy(&value, (const char *)c + config_int[a].at, sizeof value);
        checkpoint_put_int(meta, config_int[a].key, value);
    }
    for (size_t a = 0; a < sizeof config_real / sizeof *config_real; a++) {
        double value;
        memcpy(&value, (const char *)c + config_real[a].at, sizeof value);
        checkpoint_put_real(meta, config_real[a].key, value);
    }
}

bool config_from_meta(const st_file *f, const char *path, model_config *c, io_error err)
{
    const char *format = st_get_meta(f, "format");
    if (!format || strcmp(format, "msa-model-1") != 0) {
        snprintf(err, IO_ERR, "%s: expected metadata format msa-model-1, found %.32s", path,
                 format ? format : "none");
        return false;
    }
    for (size_t a = 0; a < sizeof config_int / sizeof *config_int; a++) {
        int64_t value;
        if (!checkpoint_get_int(f, path, config_int[a].key, INT32_MAX, &value, err))
            return false;
        memcpy((char *)c + config_int[a].at, &(int){(int)value}, sizeof(int));
    }
    for (size_t a = 0; a < sizeof config_real / sizeof *config_real; a++) {
        double value;
        if (!checkpoint_get_real(f, path, config_real[a].key, &value, err))
            return false;
        memcpy((char *)c + config_real[a].at, &value, sizeof value);
    }
    return true;
}

void checkpoint_put(checkpoint_meta *meta, const char *key, const char *value)
{
    if (meta->n == CHECKPOINT_META)
        abort(); /* a constant of this program is too small */
    snprintf(meta->text[meta->n], sizeof meta->text[0], "%s", value);
    meta->item[meta->n] = (st_meta){key, meta->text[meta->n]};
    meta->n++;
}

void checkpoint_put_int(checkpoint_meta *meta, const char *key, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    checkpoint_put(meta, key, text);
}

void checkpoint_put_real(checkpoint_meta *meta, const char *key, double value)
{
    char text[40];
    snprintf(text, sizeof text, "%.17g", value);
    checkpoint_put(meta, key, text);
}

bool checkpoint_get_int(const st_file *f, const char *path, const char *key, int64_t most, int64_t *value,
                        io_error err)
{
    const char *text = st_get_meta(f, key);
    char *end = NULL;
    long long x = text ? strtoll(text, &end, 10) : 0;
    if (!text || end == text || *end || x < 0 || x > most) {
        snprintf(err, IO_ERR, "%s: expected metadata %s to be an integer 0..%" PRId64 ", found %.32s", path,
                 key, most, text ? text : "none");
        return false;
    }
    *value = x;
    return true;
}

bool checkpoint_get_real(const st_file *f, const char *path, const char *key, double *value, io_error err)
{
    const char *text = st_get_meta(f, key);
    char *end = NULL;
    double x = text ? strtod(text, &end) : 0;
    if (!text || end == text || *end || !isfinite(x)) {
        snprintf(err, IO_ERR, "%s: expected metadata %s to be a number, found %.32s", path, key,
                 text ? text : "none");
        return false;
    }
    *value = x;
    return true;
}

/* The tensor of that name with the model's shape and finite values, copied to `to`. */
bool checkpoint_read_tensor(const st_file *f, const char *path, const char *name, const model_tensor *t,
                            float *to, io_error err)
{
    const st_tensor *x = st_find(f, name);
    if (!x) {
        snprintf(err, IO_ERR, "%s: expected a tensor %s, found none", path, name);
        return false;
    }
    if (x->ndim != t->ndim || x->dim[0] != t->dim[0] || (t->ndim == 2 && x->dim[1] != t->dim[1])) {
        snprintf(err, IO_ERR, "%s: tensor %s has another shape than the model's configuration says", path,
                 name);
        return false;
    }
    for (size_t i = 0; i < t->count; i++)
        if (!isfinite(x->data[i])) {
            snprintf(err, IO_ERR, "%s: tensor %s: expected finite values, found %g at element %zu", path,
                     name, (double)x->data[i], i);
            return false;
        }
    memcpy(to, x->data, t->count * sizeof *to);
    return true;
}

bool model_load(model *m, const char *path, io_error err)
{
    st_file f;
    model_config c;
    *m = (model){.params = NULL};
    if (!st_read(path, &f, err))
        return false;
    bool ok = config_from_meta(&f, path, &c, err) && allocate(m, &c, err);
    for (int a = 0; ok && a < m->n_tensors; a++)
        ok = checkpoint_read_tensor(&f, path, m->tensor[a].name, &m->tensor[a],
                                    m->params + m->tensor[a].offset, err);
    st_free(&f);
    if (!ok)
        model_free(m);
    return ok;
}

st_tensor checkpoint_tensor(const model_tensor *t, const char *name, float *buffer)
{
    return (st_tensor){
        .name = name, .ndim = t->ndim, .dim = {t->dim[0], t->dim[1]}, .data = buffer + t->offset};
}

bool model_save(const model *m, const char *path, io_error err)
{
    checkpoint_meta meta = {.n = 0};
    config_to_meta(&m->config, &meta);
    st_tensor *list = malloc((size_t)m->n_tensors * sizeof *list);
    if (!list) {
        snprintf(err, IO_ERR, "%s: no memory to write it", path);
        return false;
    }
    for (int a = 0; a < m->n_tensors; a++)
        list[a] = checkpoint_tensor(&m->tensor[a], m->tensor[a].name, m->params);
    st_file f = {.n_tensors = m->n_tensors, .tensor = list, .n_meta = meta.n, .meta = meta.item};
    bool ok = st_write(path, &f, err);
    free(list);
    return ok;
}
