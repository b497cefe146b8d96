/**
 * @file check.c
 * @brief The seed, the memory and the cases of a test program.
 */
#include "check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- The run ------------------------------------------------------------------------------------- */

static uint64_t run_seed;

void check_start(int argc, char **argv)
{
    const char *given = argc > 1 ? argv[1] : getenv("MSA_SEED");
    run_seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    tap_note("seed %llu; to replay: %s %llu", (unsigned long long)run_seed, argv[0],
             (unsigned long long)run_seed);
}

uint64_t check_seed(uint64_t salt)
{
    inputs_rng rng = {run_seed};
    rng.state = inputs_u64(&rng) + salt;
    return inputs_u64(&rng);
}

int check_done(void)
{
    check_release(NULL);
    return tap_done();
}

/* ---- Memory -------------------------------------------------------------------------------------- */

// Each allocation is remembered in a list, so that a case need not free what it allocates; behind it is a
// fence that nobody may write to.
static struct block {
    struct block *next;
    void *memory;
    size_t bytes;
} * blocks;

#define FENCE "what is behind a block is not whose block it is"

void *check_alloc(int64_t count, size_t size)
{
    struct block *b = malloc(sizeof *b);
    const size_t bytes = (size_t)count * size;
    char *memory = calloc(bytes + sizeof FENCE, 1);
    if (!b || !memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    memcpy(memory + bytes, FENCE, sizeof FENCE);
    *b = (struct block){blocks, memory, bytes};
    blocks = b;
    return memory;
}

const void *check_mark(void)
{
    return blocks;
}

void check_release(const void *mark)
{
    while (blocks != mark) {
        struct block *b = blocks;
        blocks = b->next;
        if (memcmp((char *)b->memory + b->bytes, FENCE, sizeof FENCE) != 0)
            tap(false, "nothing is written behind a block of %zu bytes", b->bytes);
        free(b->memory);
        free(b);
    }
}

double *check_doubles(int64_t count)
{
    return check_alloc(count, sizeof(double));
}

float *check_floats(int64_t count)
{
    return check_alloc(count, sizeof(float));
}

int32_t *check_ints(int64_t count)
{
    return check_alloc(count, sizeof(int32_t));
}

double *check_widen(const float *x, int64_t count)
{
    double *wide = check_doubles(count);
    for (int64_t i = 0; i < count; i++)
        wide[i] = (double)x[i];
    return wide;
}

float *check_narrow(const double *x, int64_t count)
{
    float *narrow = check_floats(count);
    for (int64_t i = 0; i < count; i++)
        narrow[i] = (float)x[i];
    return narrow;
}

/* ---- Cases --------------------------------------------------------------------------------------- */

check_case check_begin(const char *fmt, ...)
{
    check_case c = {.ok = true};
    va_list args;
    va_start(args, fmt);
    vsnprintf(c.name, sizeof c.name, fmt, args);
    va_end(args);
    return c;
}

static void take_verdict(check_case *c, const char *what, const verdict *v)
{
    char text[VERDICT_TEXT];
    verdict_text(what, v, text);
    if (!v->pass)
        tap_note("%s: %s; seed %llu", c->name, text, (unsigned long long)run_seed);
    c->n++;
    c->ok = c->ok && v->pass;
    if (v->used >= c->used) {
        c->used = v->used;
        snprintf(c->worst, sizeof c->worst, "%s", what);
    }
}

void check_tensor(check_case *c, const char *what, verdict_dims n, const double *oracle, const float *found,
                  verdict_budget budget)
{
    verdict v = verdict_compare(n, oracle, found, budget);
    take_verdict(c, what, &v);
}

// The comparer reads floats: hand it the difference, which loses nothing that matters, against zero.
void check_doubles_near(check_case *c, const char *what, int64_t n, const double *oracle, const double *found,
                        verdict_budget budget)
{
    double scale = 0, *zero = calloc((size_t)n + !n, sizeof *zero);
    float *difference = calloc((size_t)n + !n, sizeof *difference);
    for (int64_t i = 0; i < n && difference; i++) {
        scale = fmax(scale, fabs(oracle[i]));
        difference[i] = (float)(found[i] - oracle[i]);
    }
    verdict v = {0};
    if (zero && difference)
        v = verdict_compare((verdict_dims){1, 1, n}, zero, difference,
                            (verdict_budget){0, budget.relative * scale + budget.absolute, NULL});
    take_verdict(c, what, &v);
    free(zero);
    free(difference);
}

void check_same(check_case *c, const char *what, const void *expected, const void *found, size_t bytes)
{
    check_true(c, bytes > 0 && memcmp(expected, found, bytes) == 0, "%s: same bits", what);
}

void check_true(check_case *c, bool ok, const char *fmt, ...)
{
    c->n++;
    c->ok = c->ok && ok;
    if (ok)
        return;
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    tap_note("%s: not true: %s; seed %llu", c->name, text, (unsigned long long)run_seed);
}

void check_end(const check_case *c)
{
    if (c->used > 0)
        tap(c->ok && c->n > 0, "%s (%d verdicts, %.1f%% of a budget used by %s)", c->name, c->n,
            100 * c->used, c->worst);
    else
        tap(c->ok && c->n > 0, "%s (%d verdicts)", c->name, c->n);
}
