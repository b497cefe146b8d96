/* The 8-bit copy of a call's index keys. */
#include "copy8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"

int64_t copy8_codes(const msa_shape *s, const msa_pages *p)
{
    return array_count(s, p, ARRAY_KI);
}

int64_t copy8_numbers(const msa_shape *s, const msa_pages *p)
{
    return p ? copy8_codes(s, p) / s->d_index / piece_tokens(s, p) : msa_n_seqs(s) * msa_n_blocks(s);
}

msa_index8 copy8_room(const msa_shape *s, const msa_pages *p)
{
    const size_t n = (size_t)copy8_numbers(s, p);
    float *numbers = calloc(4 * n + 1, sizeof *numbers);
    int8_t *codes = calloc((size_t)copy8_codes(s, p) + 1, 1);
    if (!numbers || !codes) {
        free(numbers);
        free(codes);
        return (msa_index8){0};
    }
    return (msa_index8){codes, numbers, numbers + n, numbers + 2 * n, numbers + 3 * n};
}

msa_index8 copy8_new(const msa_shape *s, const msa_pages *p, const float *ki)
{
    msa_index8 copy = copy8_room(s, p);
    double *room = malloc((size_t)s->d_index * sizeof *room);
    if (copy.codes && (!room || msa_index8_keys(s, p, ki, NULL, &copy, room) != MSA_OK))
        copy8_free(&copy);
    free(room);
    return copy;
}

/* Sums of squares in another order, rounded up to a float. */
static bool are_near(const float *x, const float *y, int64_t n)
{
    bool near = true;
    for (int64_t i = 0; i < n; i++)
        near = near && (x[i] == y[i] || nextafterf(x[i], y[i]) == y[i]);
    return near;
}

bool copy8_same(const msa_shape *s, const msa_pages *p, const msa_index8 *x, const msa_index8 *y)
{
    const int64_t n = copy8_numbers(s, p);
    const size_t bytes = (size_t)n * sizeof(float);
    return memcmp(x->codes, y->codes, (size_t)copy8_codes(s, p)) == 0 &&
           memcmp(x->scale, y->scale, bytes) == 0 && memcmp(x->least, y->least, bytes) == 0 &&
           are_near(x->reach, y->reach, n) && are_near(x->error, y->error, n);
}

void copy8_free(msa_index8 *copy)
{
    free(copy->codes);
    free(copy->scale);
    *copy = (msa_index8){0};
}
