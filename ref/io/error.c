/**
 * @file error.c
 * @brief What every reader and writer shares: one clear line for what is wrong, sizes that cannot
 *        overflow, and the search for values that are not numbers.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io.h"

/* A name longer than this keeps only its end, so that the message behind it is never cut off. */
#define SHOWN_PATH 200

bool io_fail(io_error err, const char *path, const char *format, ...)
{
    size_t length = strlen(path);
    int used = length > SHOWN_PATH ? snprintf(err, IO_ERR, "...%s: ", path + length - SHOWN_PATH)
                                   : snprintf(err, IO_ERR, "%s: ", length ? path : "''");
    va_list args;
    va_start(args, format);
    vsnprintf(err + used, (size_t)(IO_ERR - used), format, args);
    va_end(args);
    io_make_printable(err);
    return false;
}

/* Bytes of the UTF-8 character that starts here, if it is one that can be shown; else 0. */
static int shown_bytes(const unsigned char *c)
{
    static const unsigned least[] = {0, 0x20, 0xa0, 0x800,
                                     0x10000}; /* by length; U+0080 to U+009F control terminals */
    const int n = *c < 0x80                 ? 1
                  : *c >= 0xc0 && *c < 0xe0 ? 2
                  : *c >= 0xe0 && *c < 0xf0 ? 3
                  : *c >= 0xf0 && *c < 0xf8 ? 4
                                            : 0;
    unsigned code = n > 1 ? *c & (0x7fu >> n) : *c;
    for (int i = 1; i < n; i++) {
        if ((c[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (c[i] & 0x3fu);
    }
    return n == 0 || code < least[n] || code == 0x7f || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff
               ? 0
               : n;
}

void io_make_printable(char *line)
{
    for (char *c = line; *c;) {
        const int n = shown_bytes((const unsigned char *)c);
        if (n == 0)
            *c = '?';
        c += n ? n : 1;
    }
}

bool io_count(int ndim, const int64_t *dim, size_t *count)
{
    /* An axis of length 0 empties the array but does not excuse the others from fitting. */
    size_t most = PTRDIFF_MAX / sizeof(float), product = 1;
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        empty |= dim[i] == 0;
        size_t length = dim[i] > 0 ? (size_t)dim[i] : 1;
        if (dim[i] < 0 || length > most / product)
            return false;
        product *= length;
    }
    *count = empty ? 0 : product;
    return true;
}

void io_place(int ndim, const int64_t *dim, size_t at, char text[IO_PLACE])
{
    size_t place[IO_MAX_DIMS] = {0};
    for (int i = ndim - 1; i >= 0; i--) {
        place[i] = at % (size_t)dim[i];
        at /= (size_t)dim[i];
    }
    size_t used = (size_t)snprintf(text, IO_PLACE, "[");
    for (int i = 0; i < ndim; i++)
        used += (size_t)snprintf(text + used, IO_PLACE - used, i ? ", %zu" : "%zu", place[i]);
    snprintf(text + used, IO_PLACE - used, "]");
}

void io_shape(int ndim, const int64_t *dim, char text[IO_PLACE])
{
    size_t used = (size_t)snprintf(text, IO_PLACE, "(");
    for (int i = 0; i < ndim; i++)
        used += (size_t)snprintf(text + used, IO_PLACE - used, i ? ", %lld" : "%lld", (long long)dim[i]);
    snprintf(text + used, IO_PLACE - used, ndim == 1 ? ",)" : ")");
}

bool io_check_finite(const char *path, const char *what, int ndim, const int64_t *dim, const float *x,
                     size_t at, size_t n, io_error err)
{
    size_t i = 0;
    while (i < n && isfinite(x[i]))
        i++;
    if (i == n)
        return true;
    char where[IO_PLACE];
    io_place(ndim, dim, at + i, where);
    const char *found = isnan(x[i]) ? "nan" : x[i] > 0 ? "inf" : "-inf";
    return io_fail(err, path, "%s%s at %s, expected finite numbers", what, found, where);
}
