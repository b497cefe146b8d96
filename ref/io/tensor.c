/**
 * @file tensor.c
 * @brief Tensors of any file as float32 or int32: one reader, one conversion, whatever the elements are.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

#define CHUNK 4096 /* elements that are converted at a time */

static const struct {
    const char *name;
    size_t bytes;
    npy_type becomes;
} elements[IO_N_ELEMENTS] = {
    [IO_F64] = {"float64", 8, NPY_F32}, [IO_F32] = {"float32", 4, NPY_F32},
    [IO_F16] = {"float16", 2, NPY_F32}, [IO_BF16] = {"bfloat16", 2, NPY_F32},
    [IO_I64] = {"int64", 8, NPY_I32},   [IO_I32] = {"int32", 4, NPY_I32},
    [IO_I16] = {"int16", 2, NPY_I32},   [IO_I8] = {"int8", 1, NPY_I32},
};

size_t io_element_bytes(io_element e)
{
    return elements[e].bytes;
}

/* ---- One element ---------------------------------------------------------------------------------- */

static double from_half(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double size = exponent == 31  ? fraction ? NAN : HUGE_VAL
                        : exponent == 0 ? ldexp(fraction, -24)
                                        : ldexp(1024 + fraction, exponent - 25);
    return h >> 15 ? -size : size;
}

/* bf16 is the upper half of a float. */
static double from_bf16(uint16_t b)
{
    const uint32_t bits = (uint32_t)b << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static double real_at(io_element e, const unsigned char *from)
{
    double f64;
    float f32;
    uint16_t half;
    switch (e) {
    case IO_F64:
        memcpy(&f64, from, sizeof f64);
        return f64;
    case IO_F32:
        memcpy(&f32, from, sizeof f32);
        return (double)f32;
    default:
        memcpy(&half, from, sizeof half);
        return e == IO_F16 ? from_half(half) : from_bf16(half);
    }
}

void io_to_floats(io_element e, const unsigned char *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (float)real_at(e, from + i * elements[e].bytes);
}

/* Little-endian two's complement of any width: shifted up, and down again with its sign. */
static int64_t integer_at(io_element e, const unsigned char *from)
{
    uint64_t bits = 0;
    for (size_t i = elements[e].bytes; i-- > 0;)
        bits = bits << 8 | from[i];
    const uint64_t sign = (uint64_t)1 << (8 * elements[e].bytes - 1);
    return (int64_t)((bits ^ sign) - sign);
}

/* ---- All of them ---------------------------------------------------------------------------------- */

static bool too_large(const io_stored *s, size_t at, const char *type, io_error err)
{
    char where[IO_PLACE];
    io_place(s->ndim, s->dim, at, where);
    return io_fail(err, s->path, "%sthe %s at %s is beyond the range of %s", s->what,
                   elements[s->element].name, where, type);
}

/* Converts n elements, the first of which is number `at`; counts those that changed their value. */
static bool convert(const io_source *x, const unsigned char *from, size_t at, size_t n, void *to,
                    size_t *rounded, io_error err)
{
    const io_stored *s = &x->stored;
    const size_t width = elements[s->element].bytes;
    for (size_t i = 0; i < n; i++, from += width) {
        if (x->type == NPY_I32) {
            const int64_t whole = integer_at(s->element, from);
            if (whole < INT32_MIN || whole > INT32_MAX)
                return too_large(s, at + i, "int32", err);
            ((int32_t *)to)[i] = (int32_t)whole;
            continue;
        }
        const double real = real_at(s->element, from);
        const float y = (float)real;
        if (isfinite(real) && isinf(y))
            return too_large(s, at + i, "float32", err);
        *rounded += !isnan(real) && (double)y != real;
        ((float *)to)[i] = y;
    }
    return true;
}

/* Converted chunk by chunk: memory holds the result and little more. */
bool io_read_part(const io_source *x, size_t at, size_t n, void *to, size_t *rounded, io_error err)
{
    const io_stored *s = &x->stored;
    unsigned char chunk[CHUNK * 8];
    const size_t width = elements[s->element].bytes;
    if (s->element == (x->type == NPY_F32 ? IO_F32 : IO_I32))
        return io_read_at(s->f, s->path, x->begin + (off_t)(at * width), to, width * n, err);
    for (size_t done = 0, some; done < n; done += some) {
        some = n - done < CHUNK ? n - done : CHUNK;
        if (!io_read_at(s->f, s->path, x->begin + (off_t)((at + done) * width), chunk, some * width, err) ||
            !convert(x, chunk, at + done, some, (char *)to + 4 * done, rounded, err))
            return false;
    }
    return true;
}

static void say_converted(const io_source *x, size_t rounded, io_error note)
{
    const io_stored *s = &x->stored;
    const char *to = x->type == NPY_F32 ? "float32" : "int32", *from = elements[s->element].name;
    if (rounded)
        io_fail(note, s->path, "%s%s read as %s, %zu of %zu values rounded", s->what, from, to, rounded,
                s->count);
    else if (strstr(s->dtype, "V2"))
        io_fail(note, s->path, "%s%s, as which ml_dtypes saves %s, read as %s", s->what, s->dtype, from, to);
    else if (strcmp(from, to) != 0)
        io_fail(note, s->path, "%s%s read as %s", s->what, from, to);
}

/* ---- The reader ----------------------------------------------------------------------------------- */

/* "FILE.safetensors:NAME" is a tensor among others, any other name a .npy file. */
static bool find(const char *name, char **path, io_stored *s, io_error err)
{
    static const char ending[] = ".safetensors";
    const size_t ends = sizeof ending - 1;
    const char *at = strstr(name, ending);
    while (at && at[ends] && at[ends] != ':')
        at = strstr(at + 1, ending);
    const size_t length = at ? (size_t)(at - name) + ends : strlen(name);
    *path = malloc(length + 1);
    if (!*path)
        return io_fail(err, name, "no memory for its name");
    memcpy(*path, name, length);
    (*path)[length] = 0;
    return at ? st_open(*path, name[length] ? name + length + 1 : "", s, err) : npy_open(*path, s, err);
}

static bool check_kind(const io_stored *s, npy_type type, int ndim, io_error err)
{
    if (s->element == IO_N_ELEMENTS || elements[s->element].becomes != type)
        return io_fail(err, s->path, "%sexpected %s, found dtype '%s'", s->what,
                       type == NPY_F32 ? "float32, or float64, float16 or bfloat16 to convert"
                                       : "int32, or int64, int16 or int8 to convert",
                       s->dtype);
    if (ndim < 0 || s->ndim == ndim)
        return true;
    char shape[IO_PLACE];
    io_shape(s->ndim, s->dim, shape);
    return io_fail(err, s->path, "%sexpected %d dimension%s, found %d: shape %s", s->what, ndim,
                   ndim == 1 ? "" : "s", s->ndim, shape);
}

bool io_open_source(const char *name, npy_type type, int ndim, io_source *out, io_error err)
{
    *out = (io_source){.type = type};
    bool ok = find(name, &out->path, &out->stored, err) && check_kind(&out->stored, type, ndim, err);
    out->begin = ok ? ftello(out->stored.f) : 0;
    if (out->begin < 0)
        ok = io_fail(err, out->path, "cannot read: %s", strerror(errno));
    if (!ok)
        io_close_source(out);
    return ok;
}

void io_close_source(io_source *x)
{
    if (x->stored.f)
        fclose(x->stored.f);
    free(x->path);
    *x = (io_source){.type = x->type};
}

static bool check_part(const io_source *x, bool finite, const void *data, size_t at, size_t n, io_error err)
{
    const io_stored *s = &x->stored;
    return !finite || x->type != NPY_F32 ||
           io_check_finite(s->path, s->what, s->ndim, s->dim, data, at, n, err);
}

bool io_check_source(const io_source *x, bool finite, io_error note, io_error err)
{
    const io_stored *s = &x->stored;
    const size_t most = (size_t)64 * CHUNK;
    size_t rounded = 0;
    *note = 0;
    if (!finite && s->element == (x->type == NPY_F32 ? IO_F32 : IO_I32))
        return true; /* whatever it holds */
    float *part = malloc(most * sizeof *part);
    bool ok = part || io_fail(err, s->path, "%sno memory for a part of its data", s->what);
    for (size_t at = 0, n; ok && at < s->count; at += n) {
        n = s->count - at < most ? s->count - at : most;
        ok = io_read_part(x, at, n, part, &rounded, err) && check_part(x, finite, part, at, n, err);
    }
    if (ok)
        say_converted(x, rounded, note);
    free(part);
    return ok;
}

static bool read_all(const io_source *x, bool finite, npy_array *out, io_error note, io_error err)
{
    const io_stored *s = &x->stored;
    size_t rounded = 0;
    out->ndim = s->ndim;
    memcpy(out->dim, s->dim, sizeof s->dim);
    out->count = s->count;
    out->data = malloc(s->count ? 4 * s->count : 1);
    if (!out->data)
        return io_fail(err, s->path, "%sno memory for its %zu bytes of data", s->what, 4 * s->count);
    if (!io_read_part(x, 0, s->count, out->data, &rounded, err) ||
        !check_part(x, finite, out->data, 0, s->count, err))
        return false;
    say_converted(x, rounded, note);
    return true;
}

bool io_read_tensor(const char *name, npy_type type, int ndim, bool finite, npy_array *out, io_error note,
                    io_error err)
{
    io_source x;
    *out = (npy_array){.type = type};
    *note = 0;
    const bool ok = io_open_source(name, type, ndim, &x, err) && read_all(&x, finite, out, note, err);
    io_close_source(&x);
    if (!ok)
        npy_free(out);
    return ok;
}

void npy_free(npy_array *a)
{
    free(a->data);
    *a = (npy_array){.type = a->type};
}
