/**
 * @file safetensors_write.c
 * @brief The same file, written: safetensors.c says how it looks.
 */
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"

#ifndef HAVE_JANSSON

bool st_write(const char *path, const st_file *f, io_error err)
{
    (void)f;
    return io_fail(err, path,
                   "cannot write: this build has no safetensors; install libjansson-dev and build again");
}

#else

#include "json.h"

static bool add_metadata(json_t *header, const char *path, const st_file *f, io_error err)
{
    if (!f->n_meta)
        return true;
    json_t *map = json_object();
    json_object_set_new(header, ST_METADATA, map);
    for (int i = 0; i < f->n_meta; i++) {
        const st_meta *m = &f->meta[i];
        if (json_object_get(map, m->key) || json_object_set_new(map, m->key, json_string(m->value)) != 0)
            return io_fail(err, path,
                           "cannot write: expected metadata in UTF-8 with distinct keys, found '%.*s'",
                           ST_MAX_NAME, m->key);
    }
    return true;
}

static json_t *describe(const st_tensor *t, size_t begin, size_t end)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->ndim; i++)
        json_array_append_new(shape, json_integer(t->dim[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)end);
}

/* Adds t to the header, its data beginning at *at, which moves on. */
static bool add_tensor(json_t *header, const char *path, const st_tensor *t, size_t *at, io_error err)
{
    size_t count;
    if (t->ndim < 0 || t->ndim > IO_MAX_DIMS || !io_count(t->ndim, t->dim, &count))
        return io_fail(err, path,
                       "cannot write: tensor '%.*s': expected 0 to %d dimensions that fit in memory",
                       ST_MAX_NAME, t->name, IO_MAX_DIMS);
    if (!st_check_finite(path, t, count, err))
        return false;
    size_t end = *at + 4 * count;
    if (strlen(t->name) > ST_MAX_NAME || strcmp(t->name, ST_METADATA) == 0 || json_object_get(header, t->name) ||
        json_object_set_new(header, t->name, describe(t, *at, end)) != 0)
        return io_fail(err, path,
                       "cannot write: expected distinct names in UTF-8 of at most %d bytes, found '%.*s'",
                       ST_MAX_NAME, ST_MAX_NAME, t->name);
    *at = end;
    return true;
}

/* The header as text, padded with blanks so that the data begins at a multiple of 8. */
static char *print_header(const json_t *header, size_t *bytes)
{
    size_t length = json_dumpb(header, NULL, 0, JSON_COMPACT);
    *bytes = (length + 7) / 8 * 8;
    char *text = length ? malloc(*bytes) : NULL;
    if (text) {
        json_dumpb(header, text, length, JSON_COMPACT);
        memset(text + length, ' ', *bytes - length);
    }
    return text;
}

static bool write_chunks(const char *path, const json_t *header, const st_file *f, io_chunk *chunks,
                         io_error err)
{
    size_t bytes;
    char *text = print_header(header, &bytes);
    unsigned char le[ST_LENGTH_BYTES];
    for (int i = 0; i < ST_LENGTH_BYTES; i++)
        le[i] = (unsigned char)(bytes >> 8 * i);
    chunks[0] = (io_chunk){le, sizeof le};
    chunks[1] = (io_chunk){text, bytes};
    bool ok = text || io_fail(err, path, "cannot write: no memory");
    ok = ok && io_json_whole() && io_write_file(path, chunks, f->n_tensors + 2, err);
    free(text);
    return ok;
}

bool st_write(const char *path, const st_file *f, io_error err)
{
    io_json_begin();
    json_t *header = json_object();
    io_chunk *chunks = calloc((size_t)f->n_tensors + 2, sizeof *chunks);
    bool ok = (header && chunks) || io_fail(err, path, "cannot write: no memory");
    ok = ok && add_metadata(header, path, f, err);
    size_t at = 0;
    for (int i = 0; i < f->n_tensors && ok; i++) {
        size_t begin = at;
        ok = add_tensor(header, path, &f->tensor[i], &at, err);
        chunks[i + 2] = (io_chunk){f->tensor[i].data, at - begin};
    }
    ok = ok && write_chunks(path, header, f, chunks, err);
    if (!io_json_whole()) /* whatever was blamed for it */
        ok = io_fail(err, path, "cannot write: no memory");
    json_decref(header);
    free(chunks);
    return ok;
}

#endif
