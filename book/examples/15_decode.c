/* Chapter 15: one step of generation: its bytes, its splits, what merging them costs, and a batch. */
#include "engine.h"
#include "../../ref/judge/paging.h"

#include <string.h>

static const double KIB = 1024;

static float *widen(const uint16_t *x, long n)
{
    float *y = room(n, sizeof *y);
    for (long i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(y + i, &bits, sizeof bits);
    }
    return y;
}

/* The step by the reference: ids and O. */
static void reference(const trial *t, int32_t *ids, float *o)
{
    const msa_shape *s = &t->shape;
    long rows = (long)s->n_q, keys = (long)s->n_kv;
    float *q = widen(t->in.q, rows * s->n_heads * s->d_head),
          *qi = widen(t->in.qi, rows * s->n_kv_heads * s->d_index);
    float *k = widen(t->in.k, keys * s->n_kv_heads * s->d_head),
          *v = widen(t->in.v, keys * s->n_kv_heads * s->d_head);
    float *ki = widen(t->in.ki, keys * s->d_index), *lse = room(rows * s->n_heads, sizeof *lse);
    void *w = room(1, msa_workspace(NULL, s));
    must(msa_decode(s, NULL, q, k, v, qi, ki, ids, o, lse, w));
    void *all[] = {q, qi, k, v, ki, lse, w};
    for (int a = 0; a < 7; a++)
        free(all[a]);
}

/* [bytes] */
/* Bytes that a step at n tokens must read: keys and values of all tokens, or index keys of all
 * and keys and values of k blocks. */
static double dense_bytes(const msa_shape *s, double n)
{
    return 2 * s->n_kv_heads * s->d_head * 2 * n;
}
static double msa_bytes(const msa_shape *s, double n, double index_element)
{
    return index_element * s->d_index * n + dense_bytes(s, s->topk * s->block);
}
/* [bytes] */

/* [merge_bytes] */
/* What so many parts a head cost: a vector with its maximum and sum is written, and read by who
 * merges. */
static double merge_bytes(const msa_shape *s, int parts)
{
    return (double)parts * s->n_heads * 2 * (8 + 4 * s->d_head);
}
/* [merge_bytes] */

static void one_step(void)
{
    static const char *const kernels[] = {"dense/hopper", "decode/naive", "decode/split", "decode/swapped"};
    msa_shape shape = {.n_q = 1,
                       .n_kv = 8192,
                       .n_heads = 64,
                       .n_kv_heads = 4,
                       .d_head = 64,
                       .d_index = 64,
                       .block = 64,
                       .topk = 4};
    trial t = engine_inputs(&shape, "random");
    t.out = MSA_F32;
    const msa_shape *s = &t.shape;
    int32_t ids[4 * 4];
    float o[64 * 64];
    reference(&t, ids, o);
    printf("one token at 8192, 64 heads of 64 in 4 groups, 4 blocks of 64\nby the formulas: dense %.0f KiB, "
           "MSA %.0f KiB\n",
           dense_bytes(s, 8192) / KIB, msa_bytes(s, 8192, 2) / KIB);
    printf("kernel          launches  CTAs  KiB read  over formula  KiB written  ids    output\n");
    for (int a = 0; a < 4; a++) {
        msa_arrays ran;
        must(trial_run(&t, table_find(kernels[a], "simt"), &ran));
        simt_counters n = *simt_counts();
        double need = a ? msa_bytes(s, 8192, 2) : dense_bytes(s, 8192);
        printf("%-15s %8d %5d %9.0f %13.2f %12.0f", kernels[a], (int)n.launches, (int)n.blocks,
               (double)n.load_bytes / KIB, (double)n.load_bytes / need, (double)n.store_bytes / KIB);
        if (a)
            printf("  %-5s  off by %.4f\n", memcmp(ids, ran.ids, sizeof ids) ? "DIFFERENT" : "equal",
                   distance(o, ran.o, 64 * 64));
        else
            printf("\n");
    }
    trial_end(&t);
}

static void at_m3(void)
{
    msa_shape s = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};
    printf("\nM3's sizes, MiB of one step by the formulas\n");
    printf("tokens   dense  index keys  16 blocks  ratio  index keys of 1 byte: ratio\n");
    for (double n = 1 << 15; n <= 1 << 20; n *= 2)
        printf("%7.0f %6.0f %11.0f %10.0f %6.2f %12.2f\n", n, dense_bytes(&s, n) / KIB / KIB,
               2 * s.d_index * n / KIB / KIB, dense_bytes(&s, s.topk * s.block) / KIB / KIB,
               dense_bytes(&s, n) / msa_bytes(&s, n, 2), dense_bytes(&s, n) / msa_bytes(&s, n, 1));

    printf("\nparts of the 2048 chosen tokens, and the bytes of merging them\n");
    printf("parts a head  tokens each  CTAs  KiB moved  of 16 blocks  of a step at 32K   at 1M\n");
    for (int parts = 1; parts <= 32; parts *= 2)
        printf("%12d %12d %5d %10.0f %10.1f %% %15.1f %% %6.2f %%\n", parts, 2048 / parts, 4 * parts,
               merge_bytes(&s, parts) / KIB, 100 * merge_bytes(&s, parts) / dense_bytes(&s, 2048),
               100 * merge_bytes(&s, parts) / msa_bytes(&s, 1 << 15, 2),
               100 * merge_bytes(&s, parts) / msa_bytes(&s, 1 << 20, 2));
}

/* The same requests with their keys in pages of random order: one call of a kernel for all of them. */
static void in_pages(const msa_shape *packed, bool small, const char *what)
{
    const msa_kernel *k = table_find("decode/swapped", "simt");
    inputs in;
    paging g;
    if (!inputs_new(&in, packed, INPUTS_NORMAL, 1) || !paging_new(&g, packed, &in, 0, 1, small))
        exit(1);
    int32_t ids[4 * 4], right[4 * 4];
    float o[4 * 16 * 64];
    void *w = room(1, msa_workspace(NULL, &g.s)), *own = room(1, k->workspace(&g.s));
    must(k->run(&g.s,
                &(msa_arrays){.pages = g.p,
                              .q = in.q,
                              .k = g.k,
                              .v = g.v,
                              .qi = in.qi,
                              .ki = small ? NULL : g.ki,
                              .ids = ids,
                              .o = o},
                own));
    const simt_counters n = *simt_counts();
    must(msa_decode(&g.s, &g.p, in.q, g.k, g.v, in.qi, g.ki, right, o, NULL, w)); /* the reference, of the same pages */
    printf("  %-28s %6.0f KiB read, %2d launches, ids %s\n", what, (double)n.load_bytes / KIB, (int)n.launches,
           memcmp(ids, right, sizeof ids) ? "DIFFERENT" : "equal");
    free(w), free(own);
    paging_free(&g);
    inputs_free(&in);
}

/* The baseline: the same without a selection. */
static void dense_in_pages(const msa_shape *packed)
{
    const msa_kernel *k = table_find("dense_decode/split", "simt");
    inputs in;
    paging g;
    if (!inputs_new(&in, packed, INPUTS_NORMAL, 1) || !paging_new(&g, packed, &in, 0, 1, false))
        exit(1);
    float o[4 * 16 * 64];
    void *w = room(1, k->workspace(&g.s));
    must(k->run(&g.s, &(msa_arrays){.pages = g.p, .q = in.q, .k = g.k, .v = g.v, .o = o}, w));
    printf("  %-28s %6.0f KiB read, %2d launches\n", "in pages, dense attention", (double)simt_counts()->load_bytes / KIB,
           (int)simt_counts()->launches);
    free(w);
    paging_free(&g);
    inputs_free(&in);
}

/* Four requests, packed one after the other, filled up to the longest, or in pages. */
static void batch(void)
{
    static const int32_t tokens[] = {100, 500, 1200, 4096}, queries[] = {0, 1, 2, 3, 4}; /* the last one is the longest */
    int32_t begins[2][5] = {{0}};
    for (int a = 0; a < 4; a++) {
        begins[0][a + 1] = begins[0][a] + tokens[a];
        begins[1][a + 1] = begins[1][a] + tokens[3];
    }
    msa_shape packed = {0};
    printf("\nfour requests of %d, %d, %d and %d tokens, decode/swapped\n", tokens[0], tokens[1], tokens[2], tokens[3]);
    for (int padded = 1; padded >= 0; padded--) {
        msa_shape shape = {.n_q = 4,
                           .n_kv = begins[padded][4],
                           .n_heads = 16,
                           .n_kv_heads = 1,
                           .d_head = 64,
                           .d_index = 64,
                           .block = 64,
                           .topk = 4,
                           .n_seqs = 4,
                           .cu_q = queries,
                           .cu_kv = begins[padded]};
        trial t = engine_inputs(&shape, "random");
        simt_counters n = engine_count(&t, "decode/swapped");
        printf("  %-28s %6.0f KiB read, %2d launches\n", padded ? "filled up to the longest" : "packed",
               (double)n.load_bytes / KIB, (int)n.launches);
        packed = t.shape;
        trial_end(&t);
    }
    in_pages(&packed, false, "in pages");
    in_pages(&packed, true, "in pages, keys of 8 bits");
    dense_in_pages(&packed);
}

int main(void)
{
    one_step();
    at_m3();
    batch();
    return 0;
}
