/* The stages of MSA as points under a roofline: chapter 10's table and its figure. */
#ifndef STAGES_H
#define STAGES_H

#include "../../ref/bench/roofline.h"
#include "../../ref/judge/selections.h"
#include "example.h"

#include <string.h>

enum { STAGES = 8, STAGE_TOKENS = 1 << 17 };

typedef struct stage_point {
    const char *name;
    double operations, bytes;
} stage_point;

/* A prefill of STAGE_TOKENS tokens with a random selection, and one token decoded after as many. */
static inline void stages_of(stage_point p[STAGES])
{
    msa_shape s = {STAGE_TOKENS, STAGE_TOKENS, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL}, one = s;
    one.n_q = 1;
    int32_t *ids = room(4L * STAGE_TOKENS * 16, sizeof *ids), last[4 * 16];
    selection_draw(&s, SELECTION_RANDOM, 1, ids);
    selection_draw(&one, SELECTION_RANDOM, 1, last);
    float scores; /* only its being there is looked at */
    const msa_arrays none = {0}, chosen = {.ids = ids}, decoding = {.ids = last}, writing = {.scores = &scores};
    const msa_kernel dense = {.stage = MSA_STAGE_DENSE, .name = ""}, index = {.stage = MSA_STAGE_INDEX, .name = ""},
                     query = {.stage = MSA_STAGE_SPARSE, .name = "q_outer"}, key = {.stage = MSA_STAGE_SPARSE, .name = "kv_outer"},
                     decode = {.stage = MSA_STAGE_DECODE, .name = ""};
    const roofline_need n[] = {roofline_of(&dense, &s, MSA_BF16, &none),     roofline_of(&index, &s, MSA_BF16, &writing),
                               roofline_of(&index, &s, MSA_BF16, &none),     roofline_of(&query, &s, MSA_BF16, &chosen),
                               roofline_of(&key, &s, MSA_BF16, &chosen),     roofline_of(&dense, &one, MSA_BF16, &none),
                               roofline_of(&decode, &one, MSA_BF16, &decoding)};
    const stage_point all[STAGES] = {
        {"dense prefill, arrays once", 2 * n[0].fma, n[0].bytes},
        {"index, scores written", 2 * n[1].fma, n[1].bytes},
        {"index, only ids written", 2 * n[2].fma, n[2].bytes},
        {"sparse prefill, blocks read per query", 2 * n[3].fma, n[3].order_bytes},
        {"sparse prefill, queries gathered per block", 2 * n[4].fma, n[4].order_bytes},
        {"sparse prefill, arrays once", 2 * n[3].fma, n[3].bytes},
        {"decode, dense", 2 * n[5].fma, n[5].bytes},
        {"decode, MSA", 2 * n[6].fma, n[6].order_bytes}};
    memcpy(p, all, sizeof all);
    free(ids);
}

#endif
