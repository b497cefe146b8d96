/* The 8-bit copies of a subject's index keys. */
#include <stdlib.h>
#include <string.h>

#include "subject.h"
#include "timing.h"

static int64_t numbers_of(const subject *t)
{
    return msa_n_seqs(t->s) * msa_n_blocks(t->s);
}

void subject_drop_code(subject *t, int c)
{
    free(t->index8[c].codes);
    free(t->index8[c].scale);
    t->index8[c] = (msa_index8){0};
}

msa_status subject_code(subject *t, int c)
{
    const size_t codes = (size_t)(t->s->n_kv * t->s->d_index), n = (size_t)numbers_of(t);
    msa_index8 *to = &t->index8[c];
    float *numbers = calloc(4 * n, sizeof *numbers);
    *to = (msa_index8){calloc(codes, 1), numbers, numbers + n, numbers + 2 * n, numbers + 3 * n};
    double *room = malloc((size_t)t->s->d_index * sizeof *room);
    msa_status status = to->codes && numbers && room ? MSA_OK : MSA_ERR_SIZE;
    if (status == MSA_OK && c > 0) {
        memcpy(to->codes, t->index8[0].codes, codes);
        memcpy(numbers, t->index8[0].scale, 4 * n * sizeof *numbers);
    } else if (status == MSA_OK) {
        const double begin = timing_now();
        status = msa_index8_keys(t->s, NULL, t->given[ARRAY_KI], NULL, to, room);
        t->copy_ms = 1e3 * (timing_now() - begin);
    }
    free(room);
    return status;
}
