/* Answers to chapter 14: the three orders at other sizes, by the formulas, and what random neighbours share. */
#include "../examples/orders.h"

static void bytes_of(const char *name, msa_shape s, selection_kind kind)
{
    work of[ORDERS];
    int32_t *ids = room(s.n_q * s.n_kv_heads * s.topk, sizeof *ids);
    selection_draw(&s, kind, 1, ids);
    count_orders(&s, ids, of);
    printf("%s_q %.1f\n%s_union %.1f\n%s_kv %.1f\n", name, of[Q_OUTER].bytes / 1e9, name,
           of[UNION].bytes / 1e9, name, of[KV_OUTER].bytes / 1e9);
    free(ids);
}

/* u8 where 8 queries' union asks for as many bytes of K and V as KV-outer moves for an entry's `numbers` bytes a
 * channel and head. */
static double meeting(double k, double group, double block, double numbers)
{
    return 8 * k * numbers * group / (4 * block);
}

/* The sizes of the engine's table: u8 at which the union costs as much as KV-outer does on a random selection. */
static void small(void)
{
    const msa_shape s = {.n_q = 32,
                         .n_kv = 1024,
                         .n_heads = 16,
                         .n_kv_heads = 1,
                         .d_head = 64,
                         .d_index = 64,
                         .block = 64,
                         .topk = 4};
    int32_t ids[32 * 4];
    work of[ORDERS];
    selection_draw(&s, SELECTION_RANDOM, 1, ids);
    count_orders(&s, ids, of);
    const double runs = 4, block = 4.0 * 64 * 64, q_and_o = 4.0 * 32 * 16 * 64;
    printf("small_found %.1f\nsmall_limit %.1f\nsmall_k %.2f\n", unions(&s, ids, 8) / runs,
           (of[KV_OUTER].bytes - q_and_o) / runs / block, (of[KV_OUTER].bytes - q_and_o) / runs / block / 4);
    printf("small_entries %.0f\n", meeting(4, 16, 64, 6));
}

int main(void)
{
    msa_shape m3 = m3_chunk(), fine = m3;
    fine.block = 64;
    fine.topk = 32;
    bytes_of("m3_random", m3, SELECTION_RANDOM);
    bytes_of("random", fine, SELECTION_RANDOM);
    bytes_of("local", fine, SELECTION_LOCAL);
    printf("meet %.0f\nmeet_fine %.0f\n", meeting(16, 16, 128, 6), meeting(32, 16, 64, 6));
    printf("one_head %.2f\nmeet_one_head %.0f\n", 4 * 128 / (6 * 64.0), meeting(16, 64, 128, 6));
    printf("float_bytes %.2f\nmeet_float %.0f\nmeet_float_k %.1f\n", 10 / 6.0, meeting(16, 16, 128, 10),
           meeting(16, 16, 128, 10) / 16);
    const double earlier = 8191 - 64; /* of the middle query of the chunk */
    printf("random_union_estimate %.1f\n", 1 + earlier * (1 - pow(1 - 15 / earlier, 8)));
    small();
    return 0;
}
