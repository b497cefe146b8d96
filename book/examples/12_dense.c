/* Chapter 12: the four rungs of dense attention, counted by the engine and by a formula. */
#include "engine.h"

#include <string.h>

/* What a rung is to the formula: a tile of `queries` neighbouring queries, of one head or of a whole group,
 * reads its keys in steps of `keys`. */
typedef struct rung {
    const char *name;
    int of_group, queries, keys;
} rung;
static const rung ladder[] = {
    {"naive", 0, 1, 1}, {"tiled", 0, 64, 64}, {"tensor_core", 1, 4, 64}, {"hopper", 1, 8, 128}};
enum { RUNGS = 4, NAIVE = 0, TILED = 1 };

/* Bytes of Q, K and V that a rung reads; G = 16. */
static double read_bytes(const rung *r, const msa_shape *s)
{
    const double d = s->d_head, tiles_side_by_side = r->of_group ? s->n_kv_heads : s->n_heads;
    double keys = 0, pairs = 0;
    /* [formula] */
    for (int64_t first = 0; first < s->n_q; first += r->queries) {
        int64_t last = first + r->queries < s->n_q ? first + r->queries : s->n_q;
        int64_t end = s->n_kv - s->n_q + last; /* keys 0 .. end-1 are visible to some query */
        keys += (double)((end + r->keys - 1) / r->keys * r->keys); /* whole tiles of them */
    }
    double kv = tiles_side_by_side * keys * 2 * d * 2; /* K and V, d numbers each, 2 bytes a number */
    /* [formula] */
    for (int64_t i = 0; i < s->n_q; i++)
        pairs += (double)(s->n_kv - s->n_q + i + 1);
    return kv + (r == &ladder[NAIVE] ? pairs * s->n_heads : (double)s->n_q * s->n_heads) * d * 2;
}

/* 4 d operations for each head and visible pair. */
static double operations(const msa_shape *s)
{
    const double before = (double)(s->n_kv - s->n_q), n = (double)s->n_q;
    return 4.0 * s->d_head * s->n_heads * (n * before + n * (n + 1) / 2);
}

static simt_counters count(const trial *t, const rung *r)
{
    char kernel[32] = "dense/";
    strcat(kernel, r->name);
    return engine_count(t, kernel);
}

int main(void)
{
    /* One group of M3: 16 queries at the end of 256 tokens. */
    const msa_shape small = {.n_q = 16,
                             .n_kv = 256,
                             .n_heads = 16,
                             .n_kv_heads = 1,
                             .d_head = 128,
                             .d_index = 128,
                             .block = 128,
                             .topk = 2,
                             .n_seqs = 1};
    trial t = engine_inputs(&small, "random");
    printf("%d queries at the end of %d tokens, one group of %d heads\n", (int)small.n_q, (int)small.n_kv, (int)small.n_heads);
    printf("             CTAs  bytes read  formula   sectors  operations    shared  conflicts  "
           "multiply-adds,\n");
    printf(
        "                                                      a byte  accesses             useful share\n");
    for (int r = 0; r < RUNGS; r++) {
        const simt_counters n = count(&t, &ladder[r]);
        printf(
            "%-11s %5ld %11ld %8s %9ld %11.2f %9ld %10ld", ladder[r].name, (long)n.blocks, (long)n.load_bytes,
            (double)n.load_bytes == read_bytes(&ladder[r], &small) ? "same" : "differs", (long)n.load_sectors,
            operations(&small) / (double)n.load_bytes, (long)n.shared_accesses, (long)n.shared_conflicts);
        if (n.tensor_fma)
            printf("  %ld, %2.0f %%", (long)n.tensor_fma, 50 * operations(&small) / (double)n.tensor_fma);
        printf("\n");
    }
    trial_end(&t);

    msa_shape start = small;
    start.n_q = start.n_kv = 128;
    t = engine_inputs(&start, "random");
    printf("\nthe first 128 tokens of a text: useful multiply-adds, and (N + 1) / (N + keys of a tile)\n");
    for (int r = TILED + 1; r < RUNGS; r++)
        printf("%-11s %5.1f %%, %5.1f %%\n", ladder[r].name,
               50 * operations(&start) / (double)count(&t, &ladder[r]).tensor_fma,
               100.0 * (128 + 1) / (128 + ladder[r].keys));
    trial_end(&t);

    msa_shape m3 = {.n_q = 1 << 17, .n_kv = 1 << 17, .n_heads = 64, .n_kv_heads = 4, .d_head = 128};
    const double compute = operations(&m3) / 989.4e12;
    printf("\nestimate for 131072 tokens in M3's layer: %.2e operations, at least %.2f s at 989 TFLOP/s\n",
           operations(&m3), compute);
    for (int r = 0; r < RUNGS; r++) {
        const double bytes = read_bytes(&ladder[r], &m3);
        printf("%-11s %9.2e bytes, %6.2f operations a byte; with no cache %6.2f s at 3.35 TB/s\n",
               ladder[r].name, bytes, operations(&m3) / bytes, bytes / 3.35e12);
    }
    return 0;
}
