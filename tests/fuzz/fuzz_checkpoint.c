/**
 * @file fuzz_checkpoint.c
 * @brief Any bytes as config.json, index and shard of a checkpoint: either one line of error, or layers whose
 *        weights can be multiplied with.
 *
 * An input is the three files in a row, each but the last behind its length (two bytes); an index of length 0 is
 * none, and the shard is then model.safetensors.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../ref/checkpoint/checkpoint.h"
#include "fuzz.h"

#define MOST (1 << 20) /* values of a product */

static void put(const char *dir, const char *name, const uint8_t *data, size_t bytes)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    fuzz_demand(f != NULL, "a file for the input", path);
    fuzz_demand(fwrite(data, 1, bytes, f) == bytes && fclose(f) == 0, "room for the input", path);
}

static void unput(const char *dir, const char *name)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
}

/* The part that begins here; moves on. */
static size_t take(const uint8_t **data, size_t *left)
{
    const size_t length = *left < 2 ? 0 : (size_t)((*data)[0] | (*data)[1] << 8);
    const size_t head = *left < 2 ? *left : 2;
    *data += head, *left -= head;
    return length < *left ? length : *left;
}

static void check_error(const char *err)
{
    fuzz_demand(*err && !strpbrk(err, "\r\n"), "one line", err);
}

/* Every weight of it: the sanitizers judge where that reads. */
static void multiply(const checkpoint_layer *l)
{
    for (int part = 0; part < CHECKPOINT_N_PARTS; part++) {
        const checkpoint_weight *w = &l->weight[part];
        io_error err = "";
        if (!*w->name || w->cols > MOST || w->rows > MOST)
            continue;
        float *x = calloc((size_t)w->cols, sizeof *x), *y = calloc((size_t)w->rows, sizeof *y);
        fuzz_demand(x && y, "memory", "none");
        if (!checkpoint_project(w, 1, x, y, err))
            check_error(err);
        if (w->rows == 1 && !checkpoint_read_gain(w, x, err))
            check_error(err);
        free(x);
        free(y);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *dir = fuzz_copy();
    checkpoint c;
    io_error err = "";
    mkdir(dir, 0700);
    size_t length = take(&data, &bytes);
    put(dir, "config.json", data, length);
    data += length, bytes -= length;
    length = take(&data, &bytes);
    unput(dir, "model.safetensors.index.json");
    if (length)
        put(dir, "model.safetensors.index.json", data, length);
    put(dir, length ? "a.safetensors" : "model.safetensors", data + length, bytes - length);
    if (!checkpoint_open(dir, &c, err)) {
        check_error(err);
        return 0;
    }
    for (int layer = 0; layer < c.config.n_layers && layer < 3; layer++) {
        checkpoint_layer l;
        if (checkpoint_find_layer(&c, layer, true, &l, err))
            multiply(&l);
        else
            check_error(err);
    }
    checkpoint_close(&c);
    return 0;
}
