/* Chapter 14: the selection turned around, and what three loop orders cost for four kinds of selections,
 * and which of them the whole prefill takes. */
#include "../../ref/bench/roofline.h"
#include "engine.h"
#include "orders.h"

static const char *const kernels[ORDERS] = {"sparse/q_outer", "sparse/union", "sparse/kv_outer"};

/* Six queries choose three of six blocks each. */
static void turn_around(void)
{
    /* [example] */
    enum { T = 6, B = 6, K = 3 };
    static const int32_t ids[T * K] = {0, 1, 3, 0, 2, 3, 0, 3, 4, 1, 3, 4, 0, 4, 5, 0, 2, 5};
    msa_shape s = {.n_q = T,
                   .n_kv = 12,
                   .n_heads = 1,
                   .n_kv_heads = 1,
                   .d_head = 1,
                   .d_index = 1,
                   .block = 2,
                   .topk = K};
    int32_t first[B + 1];
    uint32_t entries[T * K];
    msa_item *items = room(msa_first_item(&s, 1), sizeof *items);
    void *w = room(1, msa_workspace(NULL, &s));
    must(msa_reverse(&s, ids, first, entries, items, w));
    /* [example] */
    printf("query  chose       block  how many  first  its queries (slot)\n");
    for (int b = 0; b < B; b++) {
        printf("%5d  %d %d %d %11d %9d %6d ", b, ids[b * K], ids[b * K + 1], ids[b * K + 2], b,
               first[b + 1] - first[b], first[b]);
        for (int a = first[b]; a < first[b + 1]; a++)
            printf(" %u (%u)", entries[a] >> 5, entries[a] & 31);
        printf("\n");
    }
    free(items);
    free(w);
}

static msa_shape small_shape(int64_t n_q)
{
    return (msa_shape){.n_q = n_q,
                       .n_kv = 1024,
                       .n_heads = 16,
                       .n_kv_heads = 1,
                       .d_head = 64,
                       .d_index = 64,
                       .block = 64,
                       .topk = 4};
}

/* Kernels on the engine against the formulas. */
static void small(const char *distribution)
{
    msa_shape shape = small_shape(32);
    trial t = engine_inputs(&shape, distribution);
    work of[ORDERS];
    count_orders(&t.shape, t.in.ids, of);
    for (int order = 0; order < ORDERS; order++) {
        simt_counters n = engine_count(&t, kernels[order]);
        double bytes = (double)(n.load_bytes + n.store_bytes), fma = (double)n.tensor_fma;
        printf("%-10s  %-15s %6.0f %8.0f %6.1f %% %19.1f  %s\n", order ? "" : distribution, kernels[order],
               bytes / 1024, of[order].bytes / 1024, 100 * (bytes / of[order].bytes - 1), fma / 1e6,
               fma == of[order].fma ? "equal" : "DIFFERENT");
    }
    trial_end(&t);
}

/* The whole prefill on the engine: whose bytes does auto write? The index chooses, but its choice is replaced
 * by the selection. */
static void chosen(const char *distribution)
{
    msa_shape shape = small_shape(8);
    trial t = engine_inputs(&shape, distribution);
    double kib[3];
    static const char *const name[3] = {"prefill/union", "prefill/kv_outer", "prefill/auto"};
    for (int i = 0; i < 3; i++)
        kib[i] = (double)engine_count(&t, name[i]).store_bytes / 1024;
    printf("%-10s %7.1f %9.1f %9.1f %9.1f\n", distribution, selection_union8(&t.shape, t.in.ids), kib[0],
           kib[1], kib[2]);
    trial_end(&t);
}

/* What a caller has to bring for a prompt of M3's heads. */
static double workspace_gb(int64_t tokens)
{
    msa_shape s = m3_chunk();
    msa_plan plan;
    s.n_q = s.n_kv = tokens;
    must(msa_plan_make(&plan, table_device("simt"), "prefill/auto", &s, MSA_BF16));
    return (double)plan.workspace / 1e9;
}

/* The least time of some work on a GPU: its products or its bytes. */
static double least_ms(const work *a, const roofline_gpu *gpu)
{
    return 1e3 * fmax(2 * a->fma / gpu->flops, a->bytes / gpu->bytes);
}

/* The formulas at the sizes of M3. */
static void large(int kind)
{
    static const char *const name[ORDERS] = {"Q-outer", "union", "KV-outer"};
    msa_shape s = m3_chunk();
    int32_t *ids = room(s.n_kv_heads * s.n_q * s.topk, sizeof *ids);
    work of[ORDERS];
    selection_draw(&s, (selection_kind)kind, 1, ids);
    count_orders(&s, ids, of);
    double useful = useful_fma(&s, ids);
    for (int order = 0; order < ORDERS; order++) {
        if (order == 0)
            printf("%-10s %7.1f %13.0f", selection_name((selection_kind)kind), selection_union8(&s, ids),
                   batches(&s, ids, 1) / batches(&s, ids, s.n_q * s.topk));
        printf("%*s   %-9s %7.1f %9.0f %% %10.0f %10.1f %6.1f\n", order ? 32 : 0, "", name[order],
               of[order].bytes / 1e9, 100 * useful / of[order].fma, 2 * useful / of[order].bytes,
               least_ms(&of[order], &roofline_gpus[0]), least_ms(&of[order], &roofline_gpus[1]));
    }
    free(ids);
}

int main(void)
{
    static const char *const distributions[SELECTION_N] = {"random", "hot", "local", "structured"};
    turn_around();

    printf("\n32 queries at the end of 1024 tokens, 16 heads of 64 in one group, 4 blocks of 64\n");
    printf("selection   kernel             KiB  formula  more by  10^6 multiply-adds  formula\n");
    for (int kind = 0; kind < SELECTION_N; kind++)
        small(distributions[kind]);

    printf("\nKiB written by the whole prefill of the last 8 of these queries; 2 k = 8\n");
    printf("selection   union8     union  KV-outer      auto\n");
    for (int kind = 0; kind < SELECTION_N; kind++)
        chosen(distributions[kind]);

    printf("\nworkspace with M3's heads: %.2f GB at 8192 tokens, %.2f GB at 2^20\n", workspace_gb(8192),
           workspace_gb(1 << 20));

    printf("\nM3's sizes, 16384 queries at the end of 2^20 tokens, by the formulas\n");
    printf("                    queries of                            useful useful op-      estimate, ms\n");
    printf("selection   union8  a chosen block  order         GB    products  s. a byte       H800   H200\n");
    for (int kind = 0; kind < SELECTION_N; kind++)
        large(kind);
    return 0;
}
