/**
 * @file fuzz_safetensors.c
 * @brief Any bytes as a safetensors file: either one line of error, or tensors that survive being written and
 * read.
 */
#include <string.h>

#include "../../ref/io/io.h"
#include "fuzz.h"

/* Reads every value: the sanitizers judge the pointers. */
static size_t check_tensors(const st_file *f)
{
    size_t total = 0, count = 0;
    for (int i = 0; i < f->n_tensors; i++) {
        const st_tensor *t = &f->tensor[i];
        fuzz_demand(io_count(t->ndim, t->dim, &count), "a shape that fits", t->name);
        for (size_t j = 0; j < count; j++)
            fuzz_demand(t->data[j] - t->data[j] == 0, "finite values", t->name);
        fuzz_demand(st_find(f, t->name) == t, "to find the tensor by name", t->name);
        total += count;
    }
    for (int i = 0; i < f->n_meta; i++)
        fuzz_demand(st_get_meta(f, f->meta[i].key) == f->meta[i].value, "to find the metadata",
                    f->meta[i].key);
    return total;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    st_file f, copy;
    io_error err = "";
    if (!st_read(fuzz_file(data, bytes), &f, err)) {
        fuzz_demand(*err && !strpbrk(err, "\r\n"), "one line", err);
        return 0;
    }
    size_t total = check_tensors(&f);
    size_t header = 8 + (data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16 | (size_t)data[3] << 24);
    fuzz_demand(header + 4 * total == bytes, "as much data as the file holds", "another amount");
    fuzz_demand(st_write(fuzz_copy(), &f, err), "a copy", err);
    fuzz_demand(st_read(fuzz_copy(), &copy, err), "to read the copy", err);
    fuzz_demand(copy.n_tensors == f.n_tensors && copy.n_meta == f.n_meta && check_tensors(&copy) == total,
                "an equal copy", "another");
    st_free(&copy);
    st_free(&f);
    return 0;
}
