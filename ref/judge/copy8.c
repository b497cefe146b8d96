/* The 8-bit copy of a call's index keys. */
#include "copy8.h"

#include <stdlib.h>

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

void copy8_free(msa_index8 *copy)
{
    free(copy->codes);
    free(copy->scale);
    *copy = (msa_index8){0};
}
