/**
 * @file npy.c
 * @brief NumPy's .npy: little-endian, C order, exactly as long as the header says.
 *
 * A file is the magic "\x93NUMPY", two version bytes, the length of the header (2 bytes in version 1,
 * 4 in 2 and 3), the header, which is a Python dict literal such as
 *     {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
 * and the elements. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
 */
#include <stdlib.h>
#include <string.h>

#include "io.h"

#define MAGIC "\x93NUMPY"
#define MAGIC_BYTES 6
#define MAX_HEADER 65535 /* what version 1 can express; real headers have about 120 bytes */

/* NumPy has no bfloat16. The package ml_dtypes adds one, which is saved as two bytes without a meaning. */
static const struct {
    const char *descr;
    io_element element;
} dtypes[] = {{"<f8", IO_F64}, {"<f4", IO_F32}, {"<f2", IO_F16}, {"<V2", IO_BF16}, {"|V2", IO_BF16},
              {"<i8", IO_I64}, {"<i4", IO_I32}, {"<i2", IO_I16}, {"|i1", IO_I8}};
static const char *const descr_of[] = {[NPY_F32] = "<f4", [NPY_I32] = "<i4"};

/* ---- The header: a dict literal ----------------------------------------------------------------- */

typedef struct parser {
    const char *path, *start, *at, *end; /* *end is a NUL */
    char *err;
} parser;

typedef struct header {
    char descr[32];
    bool fortran;
    int ndim;
    int64_t dim[IO_MAX_DIMS];
} header;

static bool unexpected(parser *p, const char *expected)
{
    if (p->at == p->end)
        return io_fail(p->err, p->path, "npy header: expected %s, found its end", expected);
    return io_fail(p->err, p->path, "npy header: expected %s at character %td, found %.12s", expected,
                   p->at - p->start, p->at);
}

static void skip_space(parser *p)
{
    while (*p->at && strchr(" \t\r\n", *p->at))
        p->at++;
}

static bool accept(parser *p, char c)
{
    skip_space(p);
    if (p->at == p->end || *p->at != c)
        return false;
    p->at++;
    return true;
}

static bool accept_word(parser *p, const char *word)
{
    skip_space(p);
    size_t length = strlen(word);
    if (strncmp(p->at, word, length) != 0)
        return false;
    p->at += length;
    return true;
}

static bool parse_string(parser *p, const char *expected, char *text, size_t size)
{
    skip_space(p);
    char quote = *p->at;
    const char *from = p->at + 1;
    const char *close = quote == '\'' || quote == '"' ? memchr(from, quote, (size_t)(p->end - from)) : NULL;
    if (!close || (size_t)(close - from) >= size || memchr(from, 0, (size_t)(close - from)))
        return unexpected(p, expected);
    memcpy(text, from, (size_t)(close - from));
    text[close - from] = 0;
    p->at = close + 1;
    return true;
}

static bool parse_length(parser *p, int64_t *length)
{
    skip_space(p);
    const char *from = p->at;
    *length = 0;
    for (; *p->at >= '0' && *p->at <= '9'; p->at++) {
        int digit = *p->at - '0';
        if (*length > (INT64_MAX - digit) / 10) {
            p->at = from;
            return unexpected(p, "a length below 2^63");
        }
        *length = *length * 10 + digit;
    }
    bool leading_zero = *from == '0' && p->at > from + 1;
    if (p->at == from || leading_zero) {
        p->at = from;
        return unexpected(p, "a length");
    }
    return true;
}

static bool parse_shape(parser *p, header *h)
{
    if (!accept(p, '('))
        return unexpected(p, "a tuple");
    bool comma = true;
    for (h->ndim = 0; !accept(p, ')'); h->ndim++) {
        if (!comma)
            return unexpected(p, "',' or ')'");
        if (h->ndim == IO_MAX_DIMS)
            return io_fail(p->err, p->path, "expected at most %d dimensions, found more", IO_MAX_DIMS);
        if (!parse_length(p, &h->dim[h->ndim]))
            return false;
        comma = accept(p, ',');
    }
    /* Python reads (3) as a number; the tuple is (3,). */
    return h->ndim != 1 || comma || unexpected(p, "a tuple such as (3,) before this");
}

static bool parse_order(parser *p, header *h)
{
    h->fortran = accept_word(p, "True");
    return h->fortran || accept_word(p, "False") || unexpected(p, "True or False");
}

enum { KEY_DESCR, KEY_ORDER, KEY_SHAPE, N_KEYS };
static const char *const key_name[N_KEYS] = {"descr", "fortran_order", "shape"};

static bool parse_item(parser *p, header *h, bool *seen)
{
    char text[16];
    if (!parse_string(p, "a quoted key", text, sizeof text))
        return false;
    int key = 0;
    while (key < N_KEYS && strcmp(text, key_name[key]) != 0)
        key++;
    if (key == N_KEYS || seen[key])
        return io_fail(p->err, p->path,
                       "npy header: expected descr, fortran_order and shape once each, found %s '%s'",
                       key == N_KEYS ? "the key" : "a second", text);
    seen[key] = true;
    if (!accept(p, ':'))
        return unexpected(p, "':'");
    return key == KEY_DESCR   ? parse_string(p, "a quoted dtype", h->descr, sizeof h->descr)
           : key == KEY_ORDER ? parse_order(p, h)
                              : parse_shape(p, h);
}

static bool parse_header(parser *p, header *h)
{
    bool seen[N_KEYS] = {false};
    if (!accept(p, '{'))
        return unexpected(p, "'{'");
    bool comma = true;
    while (!accept(p, '}')) {
        if (!comma)
            return unexpected(p, "',' or '}'");
        if (!parse_item(p, h, seen))
            return false;
        comma = accept(p, ',');
    }
    skip_space(p);
    if (p->at != p->end)
        return unexpected(p, "nothing after '}'");
    for (int key = 0; key < N_KEYS; key++)
        if (!seen[key])
            return io_fail(p->err, p->path,
                           "npy header: expected descr, fortran_order and shape, found no %s", key_name[key]);
    return true;
}

/* ---- Reading ------------------------------------------------------------------------------------ */

/* An open file, and how much of it is still to be read. */
typedef struct source {
    FILE *f;
    const char *path;
    size_t left;
    char *err;
} source;

static bool take(source *s, void *to, size_t bytes, const char *what)
{
    if (bytes > s->left)
        return io_fail(s->err, s->path, "truncated: expected %zu bytes of %s, found %zu", bytes, what,
                       s->left);
    s->left -= bytes;
    return io_read(s->f, s->path, to, bytes, s->err);
}

static bool read_header_length(source *s, size_t *length)
{
    unsigned char magic[MAGIC_BYTES + 2], le[4] = {0};
    if (!take(s, magic, sizeof magic, "npy magic and version"))
        return false;
    if (memcmp(magic, MAGIC, MAGIC_BYTES) != 0)
        return io_fail(s->err, s->path, "not a .npy file: expected it to start with \\x93NUMPY");
    int major = magic[MAGIC_BYTES], minor = magic[MAGIC_BYTES + 1];
    if (major < 1 || major > 3 || minor != 0)
        return io_fail(s->err, s->path, "expected npy version 1.0, 2.0 or 3.0, found %d.%d", major, minor);
    if (!take(s, le, major == 1 ? 2 : 4, "npy header length"))
        return false;
    *length = le[0] | (size_t)le[1] << 8 | (size_t)le[2] << 16 | (size_t)le[3] << 24;
    if (*length > MAX_HEADER)
        return io_fail(s->err, s->path, "expected an npy header of at most %d bytes, found %zu", MAX_HEADER,
                       *length);
    return true;
}

static bool read_header(source *s, header *h)
{
    size_t length = 0;
    if (!read_header_length(s, &length))
        return false;
    char *text = calloc(length + 1, 1);
    if (!text)
        return io_fail(s->err, s->path, "no memory for a header of %zu bytes", length);
    parser p = {s->path, text, text, text + length, s->err};
    bool ok = take(s, text, length, "npy header") && parse_header(&p, h);
    free(text);
    return ok;
}

static io_element element_of(const char *descr)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(descr, dtypes[i].descr) == 0)
            return dtypes[i].element;
    return IO_N_ELEMENTS;
}

/* The length of elements of another type is not known: whoever reads refuses them by their name. */
static bool check_header(const source *s, const header *h, io_stored *out)
{
    char shape[IO_PLACE];
    io_shape(h->ndim, h->dim, shape);
    if (h->fortran)
        return io_fail(s->err, s->path, "expected C order, found Fortran order (fortran_order: True)");
    if (!io_count(h->ndim, h->dim, &out->count))
        return io_fail(s->err, s->path, "expected an array that fits in memory, found shape %s", shape);
    out->element = element_of(h->descr);
    size_t bytes = out->element == IO_N_ELEMENTS ? s->left : out->count * io_element_bytes(out->element);
    if (bytes != s->left)
        return io_fail(s->err, s->path, "%s: shape %s takes %zu bytes of data, found %zu",
                       bytes > s->left ? "truncated" : "overlong", shape, bytes, s->left);
    return true;
}

bool npy_open(const char *path, io_stored *out, io_error err)
{
    *out = (io_stored){.path = path};
    source s = {.path = path, .err = err};
    s.f = io_open(path, &s.left, err);
    if (!s.f)
        return false;
    header h = {0};
    if (!read_header(&s, &h) || !check_header(&s, &h, out)) {
        fclose(s.f);
        return false;
    }
    out->f = s.f;
    memcpy(out->dtype, h.descr, sizeof h.descr);
    out->ndim = h.ndim;
    memcpy(out->dim, h.dim, sizeof h.dim);
    return true;
}

/* ---- Writing ------------------------------------------------------------------------------------ */

/* NumPy pads magic, length and dict to a multiple of 64, leaving room for the first dimension to grow to 21
 * digits. For up to 8 dimensions that hold fewer than 2^61 elements that is always: */
#define WRITTEN_HEADER 128

static void fill_header(char head[WRITTEN_HEADER], npy_type type, int ndim, const int64_t *dim)
{
    char shape[IO_PLACE], dict[WRITTEN_HEADER + IO_PLACE];
    io_shape(ndim, dim, shape);
    int length = snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                          descr_of[type], shape);
    static const char start[] = MAGIC "\x01\x00"; /* version 1.0; then the length of the rest, 2 bytes */
    const size_t before = sizeof start - 1 + 2;
    memset(head, ' ', WRITTEN_HEADER);
    memcpy(head, start, sizeof start - 1);
    head[before - 2] = (char)(WRITTEN_HEADER - before);
    head[before - 1] = 0;
    memcpy(head + before, dict, (size_t)length);
    head[WRITTEN_HEADER - 1] = '\n';
}

bool npy_write(const char *path, npy_type type, int ndim, const int64_t *dim, const void *data, io_error err)
{
    size_t count;
    if (ndim < 0 || ndim > IO_MAX_DIMS || !io_count(ndim, dim, &count))
        return io_fail(err, path, "cannot write: expected 0 to %d dimensions that fit in memory",
                       IO_MAX_DIMS);
    char head[WRITTEN_HEADER];
    fill_header(head, type, ndim, dim);
    const io_chunk chunks[] = {{head, sizeof head}, {data, count * sizeof(float)}};
    return io_write_file(path, chunks, 2, err);
}
