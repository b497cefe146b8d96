/**
 * @file fuzz_npy.c
 * @brief Any bytes as a .npy file: either one line of error, or an array that survives being written and
 * read.
 */
#include <string.h>

#include "../../ref/io/io.h"
#include "fuzz.h"

static void check_error(const char *err)
{
    fuzz_demand(*err && !strpbrk(err, "\r\n"), "one line", err);
}

/* How much of the file is not data. */
static size_t header_bytes(const uint8_t *data)
{
    size_t length = data[8] | (size_t)data[9]
                                  << 8; // the longest that is read fits two bytes in every version
    return length + (data[6] == 1 ? 10 : 12);
}

static void check_array(const npy_array *a, const uint8_t *data, size_t bytes)
{
    io_error err = "", note;
    npy_array copy;
    size_t count = 0;
    fuzz_demand(a->data && io_count(a->ndim, a->dim, &count) && count == a->count, "count to be the product",
                "another");
    const size_t stored = bytes - header_bytes(data);
    fuzz_demand(stored == count || stored == 2 * count || stored == 4 * count || stored == 8 * count,
                "an array as long as the file", "another");
    fuzz_demand(npy_write(fuzz_copy(), a->type, a->ndim, a->dim, a->data, err), "a copy", err);
    fuzz_demand(io_read_tensor(fuzz_copy(), a->type, a->ndim, true, &copy, note, err), "to read the copy",
                err);
    fuzz_demand(copy.count == count && memcmp(copy.data, a->data, 4 * count) == 0, "an equal copy",
                "another");
    npy_free(&copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *path = fuzz_file(data, bytes);
    for (npy_type type = NPY_F32; type <= NPY_I32; type++)
        for (int ndim = -1; ndim <= 2; ndim += 3) {
            npy_array a;
            io_error err = "", note;
            if (io_read_tensor(path, type, ndim, true, &a, note, err)) {
                check_array(&a, data, bytes);
                npy_free(&a);
            } else {
                check_error(err);
            }
        }
    return 0;
}
