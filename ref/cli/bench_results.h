/**
 * @file bench_results.h
 * @brief What `msa bench` found: a table for people, a file for everything else.
 */
#ifndef MSA_BENCH_RESULTS_H
#define MSA_BENCH_RESULTS_H

#include "../bench/timing.h"

/** One timed kernel. */
typedef struct result {
    const msa_kernel *kernel;
    msa_shape shape;
    const char *distribution; /**< of the ids it was given; NULL where it takes none */
    double union8;            /**< of its ids; 0: it has none */
    bool lse, verified;
    bool kl;      /**< of backward, with the KL loss in its sweep */
    bool small;   /**< 8-bit index keys */
    bool half;    /**< keys, values and index keys stored as bf16 */
    msa_screening screening; /**< by 8-bit index keys; no rows: there was none */
    double copy_ms;          /**< what their copy took to make, on the device or one thread; 0: no copy */
    bool engine;  /**< ran on the CPU engine, whose time says nothing about a GPU */
    timing time;  /**< 0 repeats: it was not timed */
    double flops; /**< of the visible pairs it attended to; 0: unknown */
    double bytes; /**< every input it needs once and every output once; 0: unknown */
} result;

typedef struct results {
    msa_about about; /**< the machine */
    const msa_device *device; /**< NULL: its CPU */
    bool on_cpu;     /**< or on the engine */
    ceilings ceilings;
    int argc;
    char **argv; /**< of the subcommand */
    int n;
    result *item;
} results;

/** Of which type what it multiplies is: "f32" or "bf16". */
const char *result_dtype(const result *r);
/** TFLOP/s of a large product of that type; 0: unknown. */
double result_ceiling(const results *all, const result *r);

/** Whether this build writes files of results (it needs the JSON library jansson). */
bool results_have_json(void);
/** Writes the file, or says on stderr why not; results of the engine are left out. Returns the exit status.
 */
int results_write(const char *command, const char *path, const results *all);
void results_print(const results *all);
/** Draws the rates into a file that ends in .svg or .png, or says on stderr why not. Returns the exit status.
 */
int results_draw(const char *command, const char *path, const results *all);

/** NULL where the text is a file of results, with all fields and no other; else what is wrong with it. Only
 * in builds with jansson. */
const char *results_trouble(const char *text, size_t bytes);

#endif
