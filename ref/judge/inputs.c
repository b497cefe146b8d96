/**
 * @file inputs.c
 * @brief The generators behind inputs.h.
 */
#include "inputs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../bf16.h"

/* ---- Random numbers ------------------------------------------------------------------------------ */

uint64_t inputs_u64(inputs_rng *rng)
{
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int64_t inputs_below(inputs_rng *rng, int64_t n)
{
    return (int64_t)(inputs_u64(rng) % (uint64_t)n);
}

// The sum of twelve 16-bit uniforms (Irwin-Hall): integers until the last step, so the same everywhere.
float inputs_normal(inputs_rng *rng)
{
    int64_t sum = 0;
    for (int word = 0; word < 3; word++) {
        uint64_t bits = inputs_u64(rng);
        for (int part = 0; part < 4; part++)
            sum += (int64_t)(bits >> (16 * part) & 0xffff);
    }
    return (float)(sum - 6 * 65535) / 65536.0f;
}

/* ---- Patterns ------------------------------------------------------------------------------------ */

const char *inputs_pattern_name(inputs_pattern p)
{
    static const char *const name[INPUTS_N_PATTERNS] = {"normal", "peaked", "distinct", "dyadic",
                                                        "ties",   "large",  "constant", "massive"};
    return name[p];
}

bool inputs_is_exact(inputs_pattern p)
{
    return p == INPUTS_DYADIC || p == INPUTS_TIES || p == INPUTS_CONSTANT;
}

static float element(inputs_pattern p, inputs_rng *rng)
{
    switch (p) {
    case INPUTS_PEAKED:
        return 3.5f * inputs_normal(rng);
    case INPUTS_LARGE:
        return 32.0f * inputs_normal(rng);
    case INPUTS_DYADIC:
    case INPUTS_TIES:
        return (float)(inputs_below(rng, 5) - 2);
    case INPUTS_CONSTANT:
        return 1.0f;
    default:
        return inputs_normal(rng);
    }
}

static float *draw(inputs_pattern p, int64_t rows, int64_t width, inputs_rng *rng)
{
    float *x = malloc((size_t)(rows * width) * sizeof *x);
    for (int64_t i = 0; x && i < rows * width; i++)
        x[i] = element(p, rng);
    return x;
}

// Row j of head r differs from every other row within 101, in every channel, and averages to about zero.
static void encode_position(const msa_shape *s, float *v)
{
    for (int64_t j = 0; j < s->n_kv; j++)
        for (int64_t r = 0; r < s->n_kv_heads; r++)
            for (int64_t c = 0; c < s->d_head; c++)
                *v++ = (float)((j * (7 * c % 100 + 1) + 11 * r) % 101 - 50) / 16.0f;
}

// All keys are copies of the first three, so that the maxima of whole blocks are equal.
static void repeat_three_keys(const msa_shape *s, float *ki, inputs_rng *rng)
{
    for (int64_t j = 3; j < s->n_kv; j++) {
        int64_t source = inputs_below(rng, 3);
        for (int64_t c = 0; c < s->d_index; c++)
            ki[j * s->d_index + c] = ki[source * s->d_index + c];
    }
}

// As in models with massive activations: a channel that is large in every row, and hardly varies.
static void enlarge_channel(float *x, int64_t rows, int width, float size, inputs_rng *rng)
{
    for (int64_t i = 0; i < rows; i++)
        x[i * width + width / 3] = size + (float)(inputs_below(rng, 3) - 1) / 2;
}

static void enlarge(const inputs *in, const msa_shape *s, inputs_rng *rng)
{
    enlarge_channel(in->q, s->n_q * s->n_heads, s->d_head, 100, rng);
    enlarge_channel(in->k, s->n_kv * s->n_kv_heads, s->d_head, -100, rng);
    enlarge_channel(in->qi, s->n_q * s->n_kv_heads, s->d_index, 100, rng);
    enlarge_channel(in->ki, s->n_kv, s->d_index, -100, rng);
}

// NaN in the rows of x [tokens,width] that a sequence has room for and does not have.
static void poison(float *x, int64_t width, int64_t first, int64_t n, int64_t end)
{
    for (int64_t c = (first + n) * width; c < end * width; c++)
        x[c] = NAN;
}

static void poison_padding(const msa_shape *s, inputs *in)
{
    const int64_t hq = s->n_heads, hkv = s->n_kv_heads, dh = s->d_head, di = s->d_index;
    for (int r = 0; r < msa_n_seqs(s) && s->len_q; r++) {
        const msa_seq seq = msa_get_seq(s, r);
        const int64_t end_q = s->cu_q[r + 1], end_kv = s->cu_kv[r + 1];
        poison(in->q, hq * dh, seq.q0, seq.n_q, end_q);
        poison(in->dout, hq * dh, seq.q0, seq.n_q, end_q);
        poison(in->qi, hkv * di, seq.q0, seq.n_q, end_q);
        poison(in->k, hkv * dh, seq.kv0, seq.n_kv, end_kv);
        poison(in->v, hkv * dh, seq.kv0, seq.n_kv, end_kv);
        poison(in->ki, di, seq.kv0, seq.n_kv, end_kv);
    }
}

bool inputs_new(inputs *in, const msa_shape *s, inputs_pattern p, uint64_t seed)
{
    inputs_rng rng = {seed};
    inputs_pattern values = p == INPUTS_PEAKED || p == INPUTS_LARGE ? INPUTS_NORMAL : p;
    int64_t hq = s->n_heads, hkv = s->n_kv_heads, dh = s->d_head, di = s->d_index;
    *in = (inputs){.q = draw(p, s->n_q * hq, dh, &rng),
                   .k = draw(p, s->n_kv * hkv, dh, &rng),
                   .v = draw(values, s->n_kv * hkv, dh, &rng),
                   .qi = draw(p, s->n_q * hkv, di, &rng),
                   .ki = draw(p, s->n_kv, di, &rng),
                   .dout = draw(values, s->n_q * hq, dh, &rng),
                   .pattern = p};
    if (!in->q || !in->k || !in->v || !in->qi || !in->ki || !in->dout) {
        inputs_free(in);
        return false;
    }
    if (p == INPUTS_DISTINCT)
        encode_position(s, in->v);
    if (p == INPUTS_TIES)
        repeat_three_keys(s, in->ki, &rng);
    if (p == INPUTS_MASSIVE)
        enlarge(in, s, &rng);
    poison_padding(s, in);
    return true;
}

bool inputs_rounded(inputs *out, const inputs *in, const msa_shape *s)
{
    const int64_t nq = s->n_q * s->n_heads * s->d_head, nk = s->n_kv * s->n_kv_heads * s->d_head;
    *out = (inputs){.q = bf16_copy(in->q, nq),
                    .k = bf16_copy(in->k, nk),
                    .v = bf16_copy(in->v, nk),
                    .qi = bf16_copy(in->qi, s->n_q * s->n_kv_heads * s->d_index),
                    .ki = bf16_copy(in->ki, s->n_kv * s->d_index),
                    .dout = bf16_copy(in->dout, nq),
                    .pattern = in->pattern};
    return out->q && out->k && out->v && out->qi && out->ki && out->dout;
}

float *inputs_other_ends(const msa_shape *s, const float *ki)
{
    const int64_t n = s->n_kv * s->d_index;
    float *other = malloc((size_t)n * sizeof *other);
    if (!other)
        return NULL;
    for (int64_t c = 0; c < n; c++)
        other[c] = ki[c];
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        const int64_t last = seq.n_kv > 0 ? (seq.n_kv - 1) / s->block * s->block : 0;
        for (int64_t c = (seq.kv0 + last) * s->d_index; c < (seq.kv0 + seq.n_kv) * s->d_index; c++)
            other[c] = -1 - ki[c];
    }
    return other;
}

msa_arrays inputs_arrays(const inputs *in)
{
    return (msa_arrays){.q = in->q, .k = in->k, .v = in->v, .qi = in->qi, .ki = in->ki, .dout = in->dout};
}

void inputs_free(inputs *in)
{
    free(in->q);
    free(in->k);
    free(in->v);
    free(in->qi);
    free(in->ki);
    free(in->dout);
    *in = (inputs){0};
}

/* ---- Shapes -------------------------------------------------------------------------------------- */

static const int32_t mixed_q[] = {0, 5, 6, 23, 26}, mixed_kv[] = {0, 5, 25, 42, 51};
static const int32_t tiny_q[] = {0, 1, 2, 14}, tiny_kv[] = {0, 1, 2, 32};
static const int32_t long_q[] = {0, 40, 40, 75}, long_kv[] = {0, 40, 73, 240};
static const int32_t parts_q[] = {0, 4, 9}, parts_kv[] = {0, 700, 1240};
static const int32_t step_q[] = {0, 1, 17, 18}, step_kv[] = {0, 65, 81, 333};

static const int32_t batch_q[] = {0, 1, 2, 3, 4, 5, 6}, batch_kv[] = {0, 127, 128, 256, 385, 525, 1450};
// rooms that are full, half empty, empty, of one query, without queries, and full again
static const int32_t padded_q[] = {0, 30, 70, 75, 90, 94, 101}, padded_kv[] = {0, 30, 130, 170, 270, 310, 410};
static const int32_t padded_len_q[] = {30, 17, 0, 1, 0, 7}, padded_len_kv[] = {30, 75, 0, 65, 33, 100};
// a tile of keys that ends in padding; rooms too small for what they have were there no lengths
static const int32_t room_q[] = {0, 9, 30, 32}, room_kv[] = {0, 300, 316, 450};
static const int32_t room_len_q[] = {6, 5, 0}, room_len_kv[] = {270, 14, 130};

static const int32_t pair_q[] = {0, 3, 6}, pair_kv[] = {0, 261, 264};

//         T    S  Hq Hkv  dh   di   Bk  k
const msa_shape inputs_shapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1, NULL, NULL, NULL, NULL},          // the smallest
    {1, 45, 4, 2, 16, 8, 8, 3, 1, NULL, NULL, NULL, NULL},        // decoding one token
    {5, 5, 2, 1, 8, 8, 16, 2, 1, NULL, NULL, NULL, NULL},         // less than a block, one KV head
    {37, 37, 4, 2, 16, 16, 8, 2, 1, NULL, NULL, NULL, NULL},      // a partial last block
    {29, 61, 6, 3, 12, 20, 8, 3, 1, NULL, NULL, NULL, NULL},      // a prefix, di > dh
    {33, 33, 3, 3, 7, 5, 4, 3, 1, NULL, NULL, NULL, NULL},        // Hq = Hkv, odd widths
    {40, 40, 4, 1, 16, 8, 8, 9, 1, NULL, NULL, NULL, NULL},       // k exceeds the number of blocks
    {19, 19, 4, 2, 8, 8, 1, 4, 1, NULL, NULL, NULL, NULL},        // block 1
    {23, 50, 4, 2, 8, 12, 7, 1, 1, NULL, NULL, NULL, NULL},       // k 1: the local block only; an odd block
    {50, 50, 4, 4, 16, 16, 8, 7, 1, NULL, NULL, NULL, NULL},      // S <= k * block: everything is selected
    {96, 96, 4, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL},     // widths of the shipped model
    {3, 300, 16, 1, 128, 128, 128, 2, 1, NULL, NULL, NULL, NULL}, // a group of MiniMax-M3
    {26, 51, 4, 2, 16, 8, 8, 2, 4, mixed_q, mixed_kv, NULL, NULL},
    {14, 32, 2, 2, 8, 8, 4, 3, 3, tiny_q, tiny_kv, NULL, NULL},
    // what the kernels of cuda/ take: widths 64 and 128, blocks of 32, 64 and 128
    {1, 1, 1, 1, 64, 64, 32, 1, 1, NULL, NULL, NULL, NULL},           // the smallest of these
    {37, 37, 4, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL},         // a partial tile
    {9, 301, 5, 1, 64, 128, 64, 2, 1, NULL, NULL, NULL, NULL},        // a group of 5, a prefix, di > dh
    {70, 330, 16, 1, 128, 64, 32, 5, 1, NULL, NULL, NULL, NULL},      // queries over three blocks
    {131, 131, 3, 3, 64, 64, 128, 1, 1, NULL, NULL, NULL, NULL},      // no grouping, three KV heads, k 1
    {16, 700, 8, 4, 128, 128, 128, 4, 1, NULL, NULL, NULL, NULL},     // as many queries as a decoding step may have
    {65, 1100, 2, 1, 64, 64, 32, 32, 1, NULL, NULL, NULL, NULL},      // the most blocks
    {1, 513, 32, 2, 128, 128, 64, 4, 1, NULL, NULL, NULL, NULL},      // one query just past a block
    {140, 150, 2, 1, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL},       // hot blocks of more queries than an item holds
    {75, 240, 4, 2, 64, 64, 32, 2, 3, long_q, long_kv, NULL, NULL},   // packed, one sequence without queries
    {18, 333, 6, 2, 128, 64, 32, 4, 3, step_q, step_kv, NULL, NULL},  // packed decoding steps
    {9, 1240, 4, 2, 64, 64, 32, 5, 2, parts_q, parts_kv, NULL, NULL}, // keys that several CTAs share, of 22 and 17 blocks
    {6, 1450, 16, 1, 128, 128, 128, 3, 6, batch_q, batch_kv, NULL, NULL}, // a batch of steps: 127, 1, 128, 129, 140, 925 keys
    {6, 264, 8, 4, 64, 128, 32, 4, 2, pair_q, pair_kv, NULL, NULL},       // three new tokens each, of which one has no others
    // padded
    {101, 410, 4, 2, 64, 64, 32, 2, 6, padded_q, padded_kv, padded_len_q, padded_len_kv},
    {32, 450, 16, 1, 128, 128, 128, 2, 3, room_q, room_kv, room_len_q, room_len_kv},
};
const int inputs_n_all_shapes = (int)(sizeof inputs_shapes / sizeof *inputs_shapes), inputs_n_shapes = 14,
          inputs_first_padded = (int)(sizeof inputs_shapes / sizeof *inputs_shapes) - 2;

void inputs_shape_name(const msa_shape *s, char name[INPUTS_NAME])
{
    snprintf(name, INPUTS_NAME, "T=%lld S=%lld heads=%d:%d width=%d:%d block=%d topk=%d seqs=%d%s",
             (long long)s->n_q, (long long)s->n_kv, s->n_heads, s->n_kv_heads, s->d_head, s->d_index,
             s->block, s->topk, msa_n_seqs(s), s->len_q ? " padded" : "");
}
