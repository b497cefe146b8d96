/* Chapter 13: the index ladder and top-k, counted by the engine; and how often a running list takes a block.
 */
#include "engine.h"

/* ---- The ladders ------------------------------------------------------------------------------------ */

static const char *const rungs[] = {"index/naive", "index/tiled", "index/wgmma", "index/fused"};
static const char *const selections[] = {"topk/register_list", "topk/warp", "topk/heaps", "topk/staged"};

/* Multiply-adds that are needed: d for each visible pair of query and key, in each group. */
static double needed(const msa_shape *s)
{
    const double before = (double)(s->n_kv - s->n_q), n = (double)s->n_q;
    return (n * before + n * (n + 1) / 2) * s->n_kv_heads * s->d_index;
}

static void show(const trial *t, const char *kernel)
{
    const simt_counters n = engine_count(t, kernel);
    printf("%-18s %5ld %6ld %12ld %13ld %10.2f", kernel, (long)t->shape.n_q, (long)t->shape.n_kv,
           (long)n.load_bytes, (long)n.store_bytes, 2 * needed(&t->shape) / (double)n.load_bytes);
    if (n.tensor_fma)
        printf("  %4.1f %% of %ld", 100 * needed(&t->shape) / (double)n.tensor_fma, (long)n.tensor_fma);
    printf("\n");
}

/* 64 queries of M3's four groups are 256 rows. Naive is slow on the engine too, and gets fewer keys. */
static void index_ladder(void)
{
    msa_shape s = {.n_q = 64,
                   .n_kv = 256,
                   .n_heads = 4,
                   .n_kv_heads = 4,
                   .d_head = 64,
                   .d_index = 128,
                   .block = 128,
                   .topk = 4,
                   .n_seqs = 1};
    printf("kernel                 T      S   bytes read bytes written operations  useful multiply-adds\n");
    printf("                                                              a byte\n");
    trial t = engine_inputs(&s, "random");
    show(&t, rungs[0]);
    trial_end(&t);
    s.n_kv = 1920; /* 15 blocks: too few for several CTAs to share them */
    t = engine_inputs(&s, "random");
    for (int r = 1; r < 4; r++)
        show(&t, rungs[r]);
    const simt_counters choose = engine_count(&t, "topk/staged");
    printf("%-18s %5d %6d %12ld %13ld\n", "topk/staged", 64, 1920, (long)choose.load_bytes,
           (long)choose.store_bytes);
    trial_end(&t);
}

static void topk_ladder(void)
{
    const msa_shape s = {.n_q = 64,
                         .n_kv = 16384,
                         .n_heads = 1,
                         .n_kv_heads = 1,
                         .d_head = 64,
                         .d_index = 64,
                         .block = 32,
                         .topk = 16,
                         .n_seqs = 1};
    trial t = engine_inputs(&s, "random");
    printf("\n64 rows of about 511 scores, the best 16\n                     bytes read  sectors read  "
           "sectors written  shared accesses\n");
    for (int r = 0; r < 4; r++) {
        const simt_counters n = engine_count(&t, selections[r]);
        printf("%-18s %12ld %13ld %16ld %16ld\n", selections[r], (long)n.load_bytes, (long)n.load_sectors,
               (long)n.store_sectors, (long)n.shared_accesses);
    }
    trial_end(&t);
}

/* ---- How often a block gets into the list ------------------------------------------------------------ */

enum {
    B = 8192,
    PLACES = 15,
    ROWS = 128,
    WARP = 8
}; /* 16 blocks less the local one; a warp of the kernel looks at 8 rows at once */

/* [offer] */
/* Whether a score gets into the list of the best so far, whose worst has to leave. */
static int offer(float list[PLACES], float score)
{
    int worst = 0;
    for (int a = 1; a < PLACES; a++)
        if (list[a] < list[worst])
            worst = a;
    if (!(score > list[worst]))
        return 0;
    list[worst] = score;
    return 1;
}
/* [offer] */

static void print_list(const char *order, double enter, double stops)
{
    printf("%-11s %7.1f of %d blocks enter; a warp of %d rows stops for %7.1f\n", order, enter, B, WARP,
           stops);
}

static void running(const char *order, const float *score)
{
    static float list[ROWS][PLACES];
    long taken = 0, disturbed = 0;
    for (int row = 0; row < ROWS; row++)
        for (int a = 0; a < PLACES; a++)
            list[row][a] = -INFINITY;
    for (int b = 0; b < B; b++)
        for (int first = 0; first < ROWS; first += WARP) {
            int some = 0;
            for (int row = first; row < first + WARP; row++) {
                const int in = offer(list[row], score[row * B + b]);
                taken += in;
                some |= in;
            }
            disturbed += some;
        }
    print_list(order, (double)taken / ROWS, (double)disturbed / (ROWS / WARP));
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void threshold(void)
{
    float *score = room((long)ROWS * B, sizeof *score);
    double alone = 0, together = 0;
    /* [expected] */
    for (int b = 1; b <= B; b++) {
        const double enters =
            b <= PLACES ? 1 : (double)PLACES / b; /* among the best PLACES of b in random order */
        alone += enters;
        together += 1 - pow(1 - enters, WARP);
    }
    /* [expected] */
    noise(score, (long)ROWS * B, 1);
    printf("\na running list of the best %d\n", PLACES);
    print_list("formula", alone, together);
    running("random", score);
    for (int row = 0; row < ROWS; row++)
        qsort(score + row * B, B, sizeof *score, ascending);
    running("ascending", score);
    for (int row = 0; row < ROWS; row++)
        for (int a = 0; a < B / 2; a++) {
            const float x = score[row * B + a];
            score[row * B + a] = score[row * B + B - 1 - a];
            score[row * B + B - 1 - a] = x;
        }
    running("descending", score);
    free(score);
}

int main(void)
{
    index_ladder();
    topk_ladder();
    threshold();

    const double N = 1 << 20, groups = 4, k = 16, scores = 4 * groups * N * B;
    printf("\nM3, one layer, N = 1048576: scores written %.1f GB, read %.1f GB; ids %.2f GB\n", scores / 1e9,
           scores * (B - 1) / (2 * B) / 1e9, 4 * groups * N * k / 1e9);
    printf("moved at 3.35 TB/s: %.3f s; the products at 989 TFLOP/s: %.3f s (estimates)\n",
           (scores + scores / 2) / 3.35e12, groups * 128 * N * N / 989.4e12);
    return 0;
}
