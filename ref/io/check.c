/**
 * @file check.c
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
    /* Names and excerpts come from outside: no line break or escape code in one may reach the terminal. */
    for (char *c = err; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    return false;
}

bool io_count(int ndim, const int64_t *dim, size_t *count)
{
    /* An axis of length 0 empties the array but does not excuse the others from fitting. */
    size_t room = PTRDIFF_MAX / sizeof(float), product = 1;
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        empty |= dim[i] == 0;
        size_t length = dim[i] > 0 ? (size_t)dim[i] : 1;
        if (dim[i] < 0 || length > room / product)
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
                     size_t n, io_error err)
{
    size_t i = 0;
    while (i < n && isfinite(x[i]))
        i++;
    if (i == n)
        return true;
    char where[IO_PLACE];
    io_place(ndim, dim, i, where);
    const char *found = isnan(x[i]) ? "nan" : x[i] > 0 ? "inf" : "-inf";
    return io_fail(err, path, "%s%s at %s, expected finite numbers", what, found, where);
}
