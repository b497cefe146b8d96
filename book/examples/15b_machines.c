/* Chapter 15b: four ranks share the keys of a text; what has to move for one token, for a chunk, for a whole prompt. */
#include <parallel/parallel.h>

#include "example.h"

enum { RANKS = 4, TOKENS = 2048, HQ = 16, HKV = 2, D = 16, BLOCK = 32, K = 8 };

/* The last T queries of the text, and what one process makes of them. */
typedef struct chunk {
    msa_shape s;
    const float *q, *k, *v, *qi, *ki;
    int32_t *ids; /* [T,Hkv,k] */
    float *o, *lse;
    msa_status (*way)(transport *, parallel_call *);
    double sent[RANKS][TRAFFIC_N_KINDS], pairs[RANKS];
} chunk;

/* [rank] */
/* What each of four machines does; here they are threads. */
static void rank(transport *t, void *context)
{
    chunk *c = context;
    const msa_shape *s = &c->s;
    deal_shard keys; /* this rank's blocks */
    deal_rows rows;  /* who is the home of which query */
    const deal_source all = {.s = s, .k = c->k, .v = c->v, .ki = c->ki};
    if (!deal_new_shard(&keys, t->rank, t->ranks, s, &all) ||
        !deal_new_rows(&rows, t->ranks, s))
        exit(1);
    const long n = rows.first[t->rank + 1] - rows.first[t->rank] + 1;
    float *q = room(n * HQ * D, 4), *qi = room(n * HKV * D, 4);
    float *o = room(n * HQ * D, 4), *lse = room(n * HQ, 4);
    int32_t *ids = room(n * HKV * K, 4);
    deal_take(&rows, t->rank, HQ * D * 4, c->q, q);
    deal_take(&rows, t->rank, HKV * D * 4, c->qi, qi);
    parallel_call call = {&msa_ref_ops, &keys, &rows, false, q, qi, ids, o, lse, 0, {0}};
    must(c->way(t, &call));
    memcpy(c->sent[t->rank], t->sent, sizeof t->sent);
    c->pairs[t->rank] = call.pairs;
    must(parallel_collect(t, &rows, HKV * K * 4, ids, c->ids));
    must(parallel_collect(t, &rows, HQ * D * 4, o, c->o));
    free(q), free(qi), free(o), free(lse), free(ids);
    deal_free_shard(&keys), deal_free_rows(&rows);
}
/* [rank] */

static double run(chunk *c, msa_status (*way)(transport *, parallel_call *))
{
    double sum = 0;
    c->way = way;
    if (!transport_threads(RANKS, rank, c))
        exit(1);
    for (int r = 0; r < RANKS; r++)
        for (int kind = 0; kind < TRAFFIC_OTHER; kind++)
            sum += c->sent[r][kind];
    return sum;
}

/* Whether the ids are those of one process, and O within float32's rounding. */
static const char *compare(const chunk *c)
{
    const long T = c->s.n_q;
    int32_t *ids = room(HKV * T * K, 4);
    float *o = room(T * HQ * D, 4);
    void *work = room((long)msa_workspace(NULL, &c->s), 1);
    must(msa_forward(NULL, &c->s, c->q, c->k, c->v, c->qi, c->ki, NULL, ids, o, NULL, NULL, work));
    bool same = true;
    for (long i = 0; i < T; i++)
        for (long r = 0; r < HKV; r++)
            same &= memcmp(ids + (r * T + i) * K, c->ids + (i * HKV + r) * K, K * 4) == 0;
    const double off = distance(o, c->o, T * HQ * D);
    free(ids), free(o), free(work);
    return !same ? "other ids" : off < 1e-6 ? "ids equal, O within 1e-6" : "another O";
}

static chunk last(long T, const float *q, const float *k, const float *v, const float *qi, const float *ki)
{
    return (chunk){.s = {T, TOKENS, HQ, HKV, D, D, BLOCK, K, 1, NULL, NULL, NULL, NULL},
                   .q = q + (TOKENS - T) * HQ * D,
                   .qi = qi + (TOKENS - T) * HKV * D,
                   .k = k,
                   .v = v,
                   .ki = ki,
                   .ids = room(T * HKV * K, 4),
                   .o = room(T * HQ * D, 4)};
}

static void one_token(chunk *c)
{
    run(c, parallel_pass_q);
    printf("one token, its query travels: bytes that each rank sends\n%26s", "");
    for (int r = 0; r < RANKS; r++)
        printf("  rank %d", r);
    for (int kind = 0; kind < TRAFFIC_INDEX_KEYS; kind++) {
        printf("\n  %-24s", traffic_name((traffic_kind)kind));
        for (int r = 0; r < RANKS; r++)
            printf("%8.0f", c->sent[r][kind]);
    }
    printf("\n%s\n", compare(c));
}

static void a_chunk(chunk *c)
{
    double model[TRAFFIC_N_KINDS], pairs = 0;
    traffic_call call = {&c->s, RANKS, (double)c->s.n_q, TOKENS, 4, 4, false, 0};
    const double kv = run(c, parallel_pass_kv), q = run(c, parallel_pass_q);
    for (int r = 0; r < RANKS; r++)
        pairs += c->pairs[r];
    printf("%8lld %12.0f %12.0f", (long long)c->s.n_q, kv, q);
    traffic_pass_kv(&call, model);
    const bool exact = traffic_sum(model) == kv;
    traffic_pass_q(&call, pairs, model);
    printf("%10s %14.3f   %-8s %s\n", exact && traffic_sum(model) == q ? "yes" : "NO", pairs / traffic_expected_pairs(&call),
           traffic_moves_queries(&call) ? "queries" : "keys", compare(c));
}

/* Keys that a rank's queries see, in percent of the mean. */
static void balance(const char *name, bool zigzag)
{
    double seen[RANKS] = {0}, all = 0;
    for (int64_t i = 0; i < TOKENS; i++) {
        seen[zigzag ? deal_home(RANKS, 0, i, TOKENS) : i * RANKS / TOKENS] += (double)(i + 1);
        all += (double)(i + 1);
    }
    printf("  %-24s", name);
    for (int r = 0; r < RANKS; r++)
        printf("%8.1f", 100 * RANKS * seen[r] / all);
    printf("\n");
}

static void at_m3(void)
{
    const msa_shape m3 = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};
    printf("\nM3's heads, 2 bytes an element: chunks up to this part of the keys move queries\n   ranks     dense       MSA   owners asked by a row and group\n");
    for (int ranks = 2; ranks <= 1024; ranks *= ranks < 16 ? 2 : 8) {
        const traffic_call msa = {&m3, ranks, 1, 1 << 20, 2, 2, false, 0},
                           dense = {&m3, ranks, 1, 1 << 20, 2, 2, true, 0};
        printf("%8d %9.4f %9.4f   %.2f of %d\n", ranks, traffic_crossing(&dense) / dense.keys, traffic_crossing(&msa) / msa.keys,
               traffic_expected_pairs(&msa) / m3.n_kv_heads, ranks - 1);
    }
}

int main(void)
{
    float *q = room(TOKENS * HQ * D, 4), *k = room(TOKENS * HKV * D, 4), *v = room(TOKENS * HKV * D, 4);
    float *qi = room(TOKENS * HKV * D, 4), *ki = room(TOKENS * D, 4);
    noise(q, TOKENS * HQ * D, 1);
    noise(k, TOKENS * HKV * D, 2);
    noise(v, TOKENS * HKV * D, 3);
    noise(qi, TOKENS * HKV * D, 4);
    noise(ki, TOKENS * D, 5);
    chunk token = last(1, q, k, v, qi, ki);
    one_token(&token);
    printf("\nthe last T of %d tokens, %d ranks: bytes that all of them send\n       T    keys move queries move  as model  pairs/expected   cheaper  one process\n", TOKENS, RANKS);
    for (long T = 1; T <= TOKENS; T *= T < 64 ? 64 : 2) {
        chunk c = last(T, q, k, v, qi, ki);
        a_chunk(&c);
        free(c.ids), free(c.o);
    }
    printf("\nkeys that the queries of each rank see, in percent of the mean\n");
    balance("slices in order", false);
    balance("zigzag", true);
    at_m3();
    free(token.ids), free(token.o);
    free(q), free(k), free(v), free(qi), free(ki);
    return 0;
}
