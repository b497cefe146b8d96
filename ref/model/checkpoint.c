/* Checkpoints: the configuration as metadata, the parameters as named tensors, in a safetensors file. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

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
  config_real[] = {FIELD(theta), FIELD(eps)},
  config_variant[] = {FIELD(selector), FIELD(reverse_kl), FIELD(attached), FIELD(sink), FIELD(value_head)};

void config_to_meta(const model_config *c, checkpoint_meta *meta)
{
    checkpoint_put(meta, "format", "msa-model-1");
    for (size_t i = 0; i < sizeof config_int / sizeof *config_int; i++) {
        int value;
        memcpy(&value, (const char *)c + config_int[i].at, sizeof value);
        checkpoint_put_int(meta, config_int[i].key, value);
    }
    for (size_t i = 0; i < sizeof config_real / sizeof *config_real; i++) {
        double value;
        memcpy(&value, (const char *)c + config_real[i].at, sizeof value);
        checkpoint_put_real(meta, config_real[i].key, value);
    }
    for (size_t i = 0; i < sizeof config_variant / sizeof *config_variant; i++) {
        int value;
        memcpy(&value, (const char *)c + config_variant[i].at, sizeof value);
        if (value) /* a file of plain MSA says nothing about them */
            checkpoint_put_int(meta, config_variant[i].key, value);
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
    for (size_t i = 0; i < sizeof config_int / sizeof *config_int; i++) {
        int64_t value;
        if (!checkpoint_get_int(f, path, config_int[i].key, INT32_MAX, &value, err))
            return false;
        memcpy((char *)c + config_int[i].at, &(int){(int)value}, sizeof(int));
    }
    for (size_t i = 0; i < sizeof config_real / sizeof *config_real; i++) {
        double value;
        if (!checkpoint_get_real(f, path, config_real[i].key, &value, err))
            return false;
        memcpy((char *)c + config_real[i].at, &value, sizeof value);
    }
    for (size_t i = 0; i < sizeof config_variant / sizeof *config_variant; i++) {
        int64_t value = 0;
        if (st_get_meta(f, config_variant[i].key) &&
            !checkpoint_get_int(f, path, config_variant[i].key, INT32_MAX, &value, err))
            return false;
        memcpy((char *)c + config_variant[i].at, &(int){(int)value}, sizeof(int));
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

/* A file of another model, of more layers or of a variant, is not this model with something beside it. All
 * that was expected has been found, and names are distinct. */
bool checkpoint_no_others(const st_file *f, const char *path, const model *m, const char *const *prefix,
                          int n_prefixes, io_error err)
{
    const int expected = n_prefixes * m->n_tensors;
    for (int i = 0; f->n_tensors > expected && i < f->n_tensors; i++) {
        bool known = false;
        for (int p = 0; p < n_prefixes && !known; p++) {
            const size_t n = strlen(prefix[p]);
            for (int b = 0; b < m->n_tensors && !known; b++)
                known = strncmp(f->tensor[i].name, prefix[p], n) == 0 &&
                        strcmp(f->tensor[i].name + n, m->tensor[b].name) == 0;
        }
        if (!known)
            return io_fail(err, path,
                           "expected the %d tensors that its metadata describes, found also '%.80s'",
                           expected, f->tensor[i].name);
    }
    return true;
}

bool model_load(model *m, const char *path, io_error err)
{
    st_file f;
    model_config c;
    *m = (model){.params = NULL};
    if (!st_read(path, &f, err))
        return false;
    bool ok = config_from_meta(&f, path, &c, err) && model_allocate(m, &c, err);
    for (int i = 0; ok && i < m->n_tensors; i++)
        ok = checkpoint_read_tensor(&f, path, m->tensor[i].name, &m->tensor[i],
                                    m->params + m->tensor[i].offset, err);
    ok = ok && checkpoint_no_others(&f, path, m, &(const char *){""}, 1, err);
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
    for (int i = 0; i < m->n_tensors; i++)
        list[i] = checkpoint_tensor(&m->tensor[i], m->tensor[i].name, m->params);
    st_file f = {.n_tensors = m->n_tensors, .tensor = list, .n_meta = meta.n, .meta = meta.item};
    bool ok = st_write(path, &f, err);
    free(list);
    return ok;
}
