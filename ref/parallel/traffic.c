/* The model of what moves between machines in the attention of one layer. T rows (queries) of sequences with S keys in
 * all; key blocks are dealt to R ranks, and every row has a home, which holds its query and wants its output. All
 * formulas count what the R ranks together send; a rank sends the R-th part of that, where there are enough rows.
 *
 * Pass-KV. Every key goes to the R - 1 ranks that do not own it:
 *
 *     S (R-1) (2 Hkv dh e + di e')          e, e' bytes of an element; dense attention needs no index keys
 *
 * In a whole prompt the rows of a rank choose, together, nearly every block: T k / (R B) of them fall on a block, so that
 * nothing can be left at home, and MSA sends an eighth more than dense attention at the heads of M3. It saves arithmetic.
 *
 * Pass-Q. Each of T rows asks R - 1 others, group by group:
 *
 *     T Hkv di e                      its index query goes to all, as all own index keys
 *     T Hkv (R-1) (k-1) c                   each answers with its best k - 1 blocks (score and int32: c is 12 with double,
 *                                           8 with float32, on a device): whatever is among the best k - 1 of all is among
 *                                           the best of its owner; the local block needs no score
 *     T Hkv 4 k                       the winners are told to all, who so know what they own of them
 *     P G dh e                              the heads of the group go to those who own a chosen block: P pairs
 *     P G (dh e + 4)                        whose partial output comes back with its LSE
 *
 * Who attends to all of the n blocks that it sees asks all of their owners, which are min(R, n): so do rows of dense attention,
 * and with MSA those of at most k blocks. Of more blocks MSA asks at most k - 1 or k others, however many ranks there are. If a
 * block's owner is any rank with equal chance, one given rank is missed by all k with (1 - 1/R)^k. The home is one of the R:
 *
 *     P = T Hkv min(1, n/R)           all n blocks
 *     P = T Hkv (R-1) (1 - (1 - 1/R)^k)     k of more. R = 4, k = 16: 2.97 of 3 others.  R = 64: 14.0 of 63
 *
 * The backward pass of a whole prompt moves keys as pass-KV does; each rank then has a part of the gradient of every key that
 * its rows see, and sends S (R-1) (2 Hkv dh + di) floats to the owners, which add up.
 *
 * A step of training on R ranks, C of which share each window: both of these for every layer and each R/C-th of the windows'
 * tokens. Then P parameters' gradients: each rank adds up an R-th of them and tells the sums, 2 P floats.
 *
 * Pass-Q grows with T and pass-KV with S, so that they cross at a fixed ratio T/S:
 *
 *     dense, many ranks:  T/S = 2 Hkv dh e / (Hq (2 dh e + 4)), nearly Hkv/Hq: the K and V of a token against its G times
 *                         as many queries and outputs
 *
 * Pass-KV and pass-Q of dense attention, and that a formula should choose between them: arXiv 2411.01783. */
#include "traffic.h"

#include <math.h>
#include <string.h>

const char *traffic_name(traffic_kind kind)
{
    static const char *const name[] = {"index queries", "candidates", "winners",   "queries", "partials",
                                       "index keys",    "keys",       "gradients", "weights", "other"};
    return name[kind];
}

/* T Hkv */
static double others(const traffic_call *c)
{
    return c->rows * c->s->n_kv_heads * (c->ranks - 1);
}

double traffic_candidate(const traffic_call *c)
{
    return (double)(sizeof(int32_t) + (c->element < 4 ? sizeof(float) : sizeof(double)));
}

double traffic_owners(const traffic_call *c, double blocks)
{
    const double ranks = c->ranks;
    return c->dense || blocks <= c->s->topk ? fmin(ranks, blocks)
                                            : ranks * (1 - pow(1 - 1 / ranks, c->s->topk));
}

/* The mean over the last rows of one sequence. From some block on, all ask as many. */
static double last_owners(const traffic_call *c)
{
    const double begin = c->keys - c->rows, block = c->s->block, most = c->dense ? c->ranks : c->s->topk;
    double sum = 0, end = fmin(begin, c->keys);
    for (double n = floor(begin / block) + 1; n <= most && end < c->keys; n++) {
        const double next = fmin(n * block, c->keys);
        sum += (next - end) * traffic_owners(c, n);
        end = next;
    }
    return (sum + (c->keys - end) * traffic_owners(c, most + 1)) / c->rows;
}

double traffic_expected_pairs(const traffic_call *c)
{
    return others(c) * (c->owners > 0 ? c->owners : last_owners(c)) / c->ranks;
}

/* [pass_q] */
void traffic_pass_q(const traffic_call *c, double pairs, double bytes[TRAFFIC_N_KINDS])
{
    const msa_shape *s = c->s;
    const double group = s->n_heads / s->n_kv_heads, asked = c->dense ? 0 : others(c);
    memset(bytes, 0, TRAFFIC_N_KINDS * sizeof *bytes);
    bytes[TRAFFIC_INDEX_QUERIES] = asked * s->d_index * c->element;
    bytes[TRAFFIC_CANDIDATES] = asked * (s->topk - 1) * traffic_candidate(c);
    bytes[TRAFFIC_WINNERS] = asked * s->topk * (double)sizeof(int32_t);
    bytes[TRAFFIC_QUERIES] = pairs * group * s->d_head * c->element;
    bytes[TRAFFIC_PARTIALS] = pairs * group * (s->d_head * c->element + (double)sizeof(float));
}
/* [pass_q] */

/* [pass_kv] */
void traffic_pass_kv(const traffic_call *c, double bytes[TRAFFIC_N_KINDS])
{
    const msa_shape *s = c->s;
    const double copies = c->keys * (c->ranks - 1);
    const double scale = c->index_key == 1 ? (double)sizeof(float) / s->block : 0;
    memset(bytes, 0, TRAFFIC_N_KINDS * sizeof *bytes);
    bytes[TRAFFIC_KEYS] = copies * 2 * s->n_kv_heads * s->d_head * c->element;
    bytes[TRAFFIC_INDEX_KEYS] = c->dense ? 0 : copies * (s->d_index * c->index_key + scale);
}
/* [pass_kv] */

double traffic_most_kv(const traffic_call *c)
{
    double bytes[TRAFFIC_N_KINDS];
    const double block = c->s->block, own = fmin(ceil(ceil(c->keys / block) / c->ranks) * block, c->keys);
    traffic_pass_kv(c, bytes);
    return traffic_sum(bytes) / c->keys * own;
}

double traffic_held(const traffic_call *c)
{
    const double width = (double)c->s->n_kv_heads * c->s->d_head * c->element,
                 index = c->dense ? 0 : c->s->d_index * c->index_key;
    return c->keys * (2 * width + index + fmax(width, index));
}

void traffic_backward(const traffic_call *c, double bytes[TRAFFIC_N_KINDS])
{
    const double width = 2.0 * c->s->n_kv_heads * c->s->d_head + (c->dense ? 0 : c->s->d_index);
    traffic_pass_kv(c, bytes);
    bytes[TRAFFIC_GRADIENTS] = c->keys * (c->ranks - 1) * width * (double)sizeof(float);
}

void traffic_step(const traffic_call *c, const traffic_training *t, double bytes[TRAFFIC_N_KINDS])
{
    traffic_call forward = *c;
    double there[TRAFFIC_N_KINDS];
    forward.dense = c->dense || !t->selects;
    traffic_pass_kv(&forward, there);
    traffic_backward(c, bytes);
    for (int kind = 0; kind < TRAFFIC_N_KINDS; kind++)
        bytes[kind] = (there[kind] + bytes[kind]) * t->layers * t->ranks / c->ranks;
    bytes[TRAFFIC_WEIGHTS] = 2 * t->parameters * (t->ranks - 1) * (double)sizeof(float);
}

double traffic_sum(const double bytes[TRAFFIC_N_KINDS])
{
    double sum = 0;
    for (int kind = 0; kind < TRAFFIC_N_KINDS; kind++)
        sum += bytes[kind];
    return sum;
}

static double sum_q(const traffic_call *c)
{
    double bytes[TRAFFIC_N_KINDS];
    traffic_pass_q(c, traffic_expected_pairs(c), bytes);
    return traffic_sum(bytes);
}

static double sum_kv(const traffic_call *c)
{
    double bytes[TRAFFIC_N_KINDS];
    traffic_pass_kv(c, bytes);
    return traffic_sum(bytes);
}

double traffic_most_q(const traffic_call *c)
{
    double bytes[TRAFFIC_N_KINDS];
    const double most = ceil(c->rows / c->ranks); /* rows that it is the home of */
    traffic_pass_q(c, traffic_expected_pairs(c), bytes);
    const double answers = bytes[TRAFFIC_CANDIDATES] + bytes[TRAFFIC_PARTIALS];
    return (traffic_sum(bytes) - answers) / c->rows * most +
           answers / c->rows * (c->rows - most) / (c->ranks - 1);
}

bool traffic_moves_queries(const traffic_call *c)
{
    traffic_call two = *c;
    if (c->ranks == 1)
        two.ranks = 2, two.owners = 0;
    return sum_q(&two) < sum_kv(&two);
}

double traffic_crossing(const traffic_call *c)
{
    traffic_call one = *c;
    one.rows = 1;
    return sum_kv(c) / sum_q(&one);
}
