/**
 * @file safetensors.c
 * @brief Named tensors and text metadata in one file, read: float32, or one tensor of any type.
 *
 * The format is https://github.com/huggingface/safetensors#format: a file is the length of the header (8
 * bytes), the header, which is a JSON object such as
 *     {"__metadata__":{"step":"700"},"wq":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}
 * and the data, which the tensors tile without a gap. The JSON is left to the library jansson.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"

const st_tensor *st_find(const st_file *f, const char *name)
{
    for (int i = 0; i < f->n_tensors; i++)
        if (strcmp(f->tensor[i].name, name) == 0)
            return &f->tensor[i];
    return NULL;
}

const char *st_get_meta(const st_file *f, const char *key)
{
    for (int i = 0; i < f->n_meta; i++)
        if (strcmp(f->meta[i].key, key) == 0)
            return f->meta[i].value;
    return NULL;
}

#ifndef HAVE_JANSSON

bool st_available(void)
{
    return false;
}

static bool without(const char *path, io_error err)
{
    return io_fail(err, path,
                   "cannot read: this build has no safetensors; install libjansson-dev and build again");
}

bool st_read(const char *path, st_file *out, io_error err)
{
    *out = (st_file){0};
    return without(path, err);
}

bool st_open(const char *path, const char *name, io_stored *out, io_error err)
{
    (void)name;
    *out = (io_stored){.path = path};
    return without(path, err);
}

bool st_list(const char *path, st_listing *out, io_error err)
{
    *out = (st_listing){0};
    return without(path, err);
}

void st_list_free(st_listing *l)
{
    *l = (st_listing){0};
}

void st_free(st_file *f)
{
    *f = (st_file){0};
}

#else

#include "json.h"

bool st_available(void)
{
    return true;
}

/* ---- Reading ------------------------------------------------------------------------------------ */

/* The types whose size is known, and what their elements are. */
static const struct {
    const char *dtype;
    size_t bytes;
    io_element element;
} dtypes[] = {{"F64", 8, IO_F64},
              {"F32", 4, IO_F32},
              {"F16", 2, IO_F16},
              {"BF16", 2, IO_BF16},
              {"I64", 8, IO_I64},
              {"I32", 4, IO_I32},
              {"I16", 2, IO_I16},
              {"I8", 1, IO_I8},
              {"U64", 8, IO_N_ELEMENTS},
              {"U32", 4, IO_N_ELEMENTS},
              {"U16", 2, IO_N_ELEMENTS},
              {"U8", 1, IO_N_ELEMENTS},
              {"BOOL", 1, IO_N_ELEMENTS},
              {"C64", 8, IO_N_ELEMENTS},
              {"F8_E4M3", 1, IO_N_ELEMENTS},
              {"F8_E5M2", 1, IO_N_ELEMENTS},
              {"F8_E8M0", 1, IO_N_ELEMENTS}};
#define N_DTYPES (sizeof dtypes / sizeof *dtypes)

/* One entry of the header: a tensor and where its data lies. */
typedef struct entry {
    st_tensor tensor;
    const char *dtype;
    io_element element;
    size_t count, begin, end;
} entry;

/* What an st_file that was read owns: names and metadata point into the JSON, tensors into the data. */
typedef struct content {
    json_t *header;
    entry *entries;
    float *data;
    size_t start, bytes; /* of all data in the file */
} content;

void st_free(st_file *f)
{
    content *owned = f->owned;
    if (owned) {
        json_decref(owned->header);
        free(owned->entries);
        free(owned->data);
        free(owned);
    }
    free(f->tensor);
    free(f->meta);
    *f = (st_file){0};
}

static bool read_header(FILE *f, const char *path, size_t left, content *c, io_error err)
{
    unsigned char le[ST_LENGTH_BYTES];
    if (left < ST_LENGTH_BYTES)
        return io_fail(err, path, "not a safetensors file: expected at least %d bytes, found %zu",
                       ST_LENGTH_BYTES, left);
    if (!io_read(f, path, le, sizeof le, err))
        return false;
    left -= ST_LENGTH_BYTES;
    uint64_t length = 0;
    for (int i = ST_LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | le[i];
    if (length > IO_MAX_JSON || length > left)
        return io_fail(err, path,
                       "expected a safetensors header of at most %zu bytes, found a length of %llu",
                       left < IO_MAX_JSON ? left : (size_t)IO_MAX_JSON, (unsigned long long)length);
    char *text = malloc(length + 1);
    if (!text)
        return io_fail(err, path, "no memory for a header of %llu bytes", (unsigned long long)length);
    if (io_read(f, path, text, length, err))
        c->header = io_json_parse(path, "safetensors header: ", text, length, err);
    free(text);
    c->start = ST_LENGTH_BYTES + length;
    c->bytes = left - length;
    return c->header != NULL;
}

static bool parse_metadata(json_t *map, const char *path, st_file *out, io_error err)
{
    if (!map)
        return true;
    if (!json_is_object(map))
        return io_fail(err, path, ST_METADATA ": expected an object of strings");
    out->meta = calloc(json_object_size(map) + 1, sizeof *out->meta);
    if (!out->meta)
        return io_fail(err, path, "no memory for its metadata");
    for (void *at = json_object_iter(map); at; at = json_object_iter_next(map, at)) {
        const char *key = json_object_iter_key(at), *value = json_string_value(json_object_iter_value(at));
        if (!value)
            return io_fail(err, path, ST_METADATA ": expected a string for '%.*s'", ST_MAX_NAME, key);
        out->meta[out->n_meta++] = (st_meta){key, value};
    }
    return true;
}

/* An array of at most `max` integers from 0 up; their number, or -1. */
static int parse_integers(const json_t *array, int max, int64_t *to)
{
    if (!json_is_array(array) || json_array_size(array) > (size_t)max)
        return -1;
    int n = (int)json_array_size(array);
    for (int i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, (size_t)i);
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            return -1;
        to[i] = json_integer_value(item);
    }
    return n;
}

/* The number of bytes, where the type is one whose elements have a known size. */
static bool check_size(const char *path, entry *e, io_error err)
{
    size_t i = 0;
    while (i < N_DTYPES && strcmp(e->dtype, dtypes[i].dtype) != 0)
        i++;
    e->element = i < N_DTYPES ? dtypes[i].element : IO_N_ELEMENTS;
    if (i < N_DTYPES && e->end - e->begin != dtypes[i].bytes * e->count)
        return io_fail(err, path, "tensor '%s': expected %zu bytes for its shape, found %zu", e->tensor.name,
                       dtypes[i].bytes * e->count, e->end - e->begin);
    return true;
}

static bool parse_tensor(const char *name, const json_t *info, const char *path, size_t bytes, entry *e,
                         io_error err)
{
    const json_t *dtype = json_object_get(info, "dtype");
    st_tensor *t = &e->tensor;
    int64_t offset[2];
    t->name = name;
    if (strlen(name) > ST_MAX_NAME)
        return io_fail(err, path, "expected names of at most %d bytes, found '%.40s...'", ST_MAX_NAME, name);
    if (!json_is_object(info) || json_object_size(info) != 3 || !json_is_string(dtype))
        return io_fail(err, path, "tensor '%s': expected an object of dtype, shape and data_offsets", name);
    e->dtype = json_string_value(dtype);
    t->ndim = parse_integers(json_object_get(info, "shape"), IO_MAX_DIMS, t->dim);
    if (t->ndim < 0)
        return io_fail(err, path, "tensor '%s': expected a shape of 0 to %d whole numbers", name,
                       IO_MAX_DIMS);
    if (!io_count(t->ndim, t->dim, &e->count))
        return io_fail(err, path, "tensor '%s': expected a shape that fits in memory", name);
    if (parse_integers(json_object_get(info, "data_offsets"), 2, offset) != 2 || offset[0] > offset[1])
        return io_fail(err, path, "tensor '%s': expected data_offsets [begin, end] with 0 <= begin <= end",
                       name);
    if ((uint64_t)offset[1] > bytes)
        return io_fail(err, path, "tensor '%s': truncated: expected %lld bytes of data, found %zu", name,
                       (long long)offset[1], bytes);
    e->begin = (size_t)offset[0];
    e->end = (size_t)offset[1];
    return check_size(path, e, err);
}

/* Ascending data; of the entries at one place the empty ones come first. */
static int by_place(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

static bool check_tiling(const entry *e, int n, const char *path, size_t bytes, io_error err)
{
    size_t at = 0;
    for (int i = 0; i < n; at = e[i++].end)
        if (e[i].begin != at)
            return io_fail(err, path, "tensor '%s': expected its data at byte %zu, found it at %zu: %s",
                           e[i].tensor.name, at, e[i].begin, e[i].begin > at ? "a hole" : "an overlap");
    if (at != bytes)
        return io_fail(err, path, "overlong: expected %zu bytes of data, found %zu", at, bytes);
    return true;
}

static bool parse_tensors(content *c, const char *path, st_file *out, io_error err)
{
    size_t most = json_object_size(c->header) + 1;
    c->entries = calloc(most, sizeof *c->entries);
    out->tensor = calloc(most, sizeof *out->tensor);
    if (!c->entries || !out->tensor)
        return io_fail(err, path, "no memory for its table of tensors");
    int n = 0;
    for (void *at = json_object_iter(c->header); at; at = json_object_iter_next(c->header, at)) {
        const char *name = json_object_iter_key(at);
        if (strcmp(name, ST_METADATA) == 0)
            continue;
        if (!parse_tensor(name, json_object_iter_value(at), path, c->bytes, &c->entries[n++], err))
            return false;
    }
    qsort(c->entries, (size_t)n, sizeof *c->entries, by_place);
    out->n_tensors = n;
    for (int i = 0; i < n; i++)
        out->tensor[i] = c->entries[i].tensor;
    return check_tiling(c->entries, n, path, c->bytes, err);
}

bool st_check_finite(const char *path, const st_tensor *t, size_t count, io_error err)
{
    char what[ST_MAX_NAME + 32];
    snprintf(what, sizeof what, "tensor '%.*s': ", ST_MAX_NAME, t->name);
    return io_check_finite(path, what, t->ndim, t->dim, t->data, 0, count, err);
}

/* Of a model: float32 throughout. The tiling has then made every offset a multiple of 4. */
static bool read_data(FILE *f, const char *path, content *c, st_file *out, io_error err)
{
    for (int i = 0; i < out->n_tensors; i++)
        if (c->entries[i].element != IO_F32)
            return io_fail(err, path, "tensor '%s': expected dtype F32, found %.20s",
                           c->entries[i].tensor.name, c->entries[i].dtype);
    c->data = malloc(c->bytes ? c->bytes : 1);
    if (!c->data)
        return io_fail(err, path, "no memory for its %zu bytes of data", c->bytes);
    bool ok = io_read(f, path, c->data, c->bytes, err);
    for (int i = 0; i < out->n_tensors && ok; i++) {
        const entry *e = &c->entries[i];
        out->tensor[i].data = c->data + e->begin / 4;
        ok = st_check_finite(path, &out->tensor[i], e->count, err);
    }
    return ok;
}

/* Opens a file and reads all but its data. */
static FILE *open_header(const char *path, content *c, st_file *out, io_error err)
{
    size_t bytes = 0;
    FILE *f = io_open(path, &bytes, err);
    if (f && read_header(f, path, bytes, c, err) &&
        parse_metadata(json_object_get(c->header, ST_METADATA), path, out, err) &&
        parse_tensors(c, path, out, err))
        return f;
    if (f)
        fclose(f);
    return NULL;
}

bool st_read(const char *path, st_file *out, io_error err)
{
    content *c = calloc(1, sizeof *c);
    *out = (st_file){.owned = c};
    if (!c)
        return io_fail(err, path, "cannot read: no memory");
    FILE *f = open_header(path, c, out, err);
    bool ok = f && read_data(f, path, c, out, err);
    if (f)
        fclose(f);
    if (!ok)
        st_free(out);
    return ok;
}

/* ---- All names ------------------------------------------------------------------------------------- */

void st_list_free(st_listing *l)
{
    st_file names = {.owned = l->owned};
    st_free(&names);
    free(l->place);
    *l = (st_listing){0};
}

bool st_list(const char *path, st_listing *out, io_error err)
{
    content *c = calloc(1, sizeof *c);
    st_file table = {.owned = c};
    *out = (st_listing){.owned = c};
    if (!c)
        return io_fail(err, path, "cannot read: no memory");
    FILE *f = open_header(path, c, &table, err);
    if (f)
        fclose(f);
    out->place = f ? calloc((size_t)table.n_tensors + 1, sizeof *out->place) : NULL;
    if (f && !out->place)
        io_fail(err, path, "no memory for its table of tensors");
    out->n = out->place ? table.n_tensors : 0;
    for (int i = 0; i < out->n; i++) {
        const entry *e = &c->entries[i];
        st_place *p = &out->place[i];
        *p = (st_place){
            .name = e->tensor.name, .dtype = e->dtype, .element = e->element, .ndim = e->tensor.ndim};
        memcpy(p->dim, e->tensor.dim, sizeof p->dim);
        p->count = e->count, p->at = c->start + e->begin, p->bytes = e->end - e->begin;
    }
    const bool ok = out->place != NULL;
    table.owned = NULL; /* the names are the listing's now */
    st_free(&table);
    if (!ok)
        st_list_free(out);
    return ok;
}

/* ---- One tensor of many --------------------------------------------------------------------------- */

static bool not_there(const char *path, const char *name, const content *c, int n, io_error err)
{
    char names[160] = "";
    size_t used = 0;
    for (int i = 0; i < n && used < sizeof names - 1; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 c->entries[i].tensor.name);
    return io_fail(err, path,
                   "expected the name of one of its %d tensors, as in FILE:NAME, found '%.60s'; "
                   "it has %s%s",
                   n, name, n ? names : "none", used >= sizeof names ? "..." : "");
}

/* Where the data begins the file is, once its header was read. */
static bool seek_tensor(FILE *f, const char *path, const entry *e, io_stored *out, io_error err)
{
    if (fseeko(f, (off_t)e->begin, SEEK_CUR) != 0)
        return io_fail(err, path, "cannot read: %s", strerror(errno));
    out->element = e->element;
    out->ndim = e->tensor.ndim;
    memcpy(out->dim, e->tensor.dim, sizeof out->dim);
    out->count = e->count;
    snprintf(out->what, sizeof out->what, "tensor '%s': ", e->tensor.name);
    snprintf(out->dtype, sizeof out->dtype, "%s", e->dtype);
    out->f = f;
    return true;
}

bool st_open(const char *path, const char *name, io_stored *out, io_error err)
{
    content *c = calloc(1, sizeof *c);
    st_file table = {.owned = c};
    *out = (io_stored){.path = path};
    if (!c)
        return io_fail(err, path, "cannot read: no memory");
    FILE *f = open_header(path, c, &table, err);
    int i = 0;
    while (f && i < table.n_tensors && strcmp(table.tensor[i].name, name) != 0)
        i++;
    bool ok = f && (i < table.n_tensors ? seek_tensor(f, path, &c->entries[i], out, err)
                                        : not_there(path, name, c, table.n_tensors, err));
    if (f && !ok)
        fclose(f);
    st_free(&table);
    return ok;
}

#endif
