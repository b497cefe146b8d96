/**
 * @file results_charts.h
 * @brief Pictures of files of results. Only in builds with jansson.
 */
#ifndef MSA_RESULTS_CHARTS_H
#define MSA_RESULTS_CHARTS_H

#include <jansson.h>
#include <stdbool.h>

#include "../picture/drawing.h"

/* A field of a result or of a file; 0 or "" for null or nothing. */
static inline double charts_number(const json_t *o, const char *name)
{
    return json_number_value(json_object_get(o, name));
}
static inline const char *charts_words(const json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

/* Reads a file of `msa bench` and checks it; the caller releases it, whatever the exit status that comes back. */
int charts_read(const char *command, const char *path, json_t **file);
/* A file of `msa bench` on a GPU. */
bool charts_is_gpu(const json_t *file);
/* In which type a result was computed, in words; results of different kinds stand in no table together. */
const char *charts_kind(const json_t *file, const json_t *r);
/* TFLOP/s of its run's large product of that type; 0: unknown. */
double charts_product(const json_t *file, const json_t *r);

/* How many times faster a whole MSA prefill is than the best dense kernel, by length; the paper's figure
 * beside it. Returns the exit status; after 0 the caller frees the drawing. */
int charts_speedup(const char *command, json_t *const *file, int n, drawing *d);

/* Where each result stands under the roof of its own run: operations a byte, operations a second. Likewise. */
int charts_roofline(const char *command, json_t *const *file, int n, drawing *d);

/* Writes a drawing to the path that an option has named; the exit status. */
int charts_write(const char *command, const char *option, const char *path, drawing *d);

#endif
