/* What the example programs share: noise that is the same on every machine, and a way to stop. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <math.h>
#include <msa.h>
#include <stdio.h>
#include <stdlib.h>

/* n numbers from about a normal distribution, mean 0 and variance 1, the same for the same seed. */
static inline void noise(float *x, long n, unsigned seed)
{
    unsigned state = seed * 2654435761u + 12345u;
    for (long i = 0; i < n; i++) {
        int sum = 0;
        for (int a = 0; a < 12; a++) { /* twelve uniform numbers: variance 12/12 */
            state = state * 1664525u + 1013904223u;
            sum += (int)(state >> 16);
        }
        x[i] = (float)sum / 65536.0f - 6.0f;
    }
}

/* Memory, or the end of the program. */
static inline void *room(long n, size_t size)
{
    void *p = calloc((size_t)n, size);
    if (!p) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    return p;
}

/* Stops unless a call succeeded. */
static inline void must(msa_status status)
{
    if (status != MSA_OK) {
        fprintf(stderr, "%s\n", msa_strerror(status));
        exit(1);
    }
}

/* The largest difference between two arrays. NaN counts as infinite. */
static inline double distance(const float *a, const float *b, long n)
{
    double most = 0;
    for (long i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most))
            most = isnan(d) ? INFINITY : d;
    }
    return most;
}

#endif
