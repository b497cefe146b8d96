/**
 * @file test_selections.c
 * @brief The selections that kernels are timed with: valid, replayable, and shared among neighbours as said.
 */
#include <string.h>

#include "../ref/judge/inputs.h"
#include "../ref/judge/selections.h"
#include "support/check.h"

// Full rows with the local block last, as the selection rule has them.
static bool rows_are_full(const msa_shape *s, const int32_t *ids)
{
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int n = 0; n < msa_n_seqs(s); n++) {
            const msa_seq seq = msa_get_seq(s, n);
            for (int64_t i = 0; i < seq.n_q; i++) {
                const int64_t local = (seq.n_kv - seq.n_q + i) / s->block;
                const int64_t count = local + 1 < s->topk ? local + 1 : s->topk;
                if (ids[(r * s->n_q + seq.q0 + i) * s->topk + count - 1] != local)
                    return false;
            }
        }
    return msa_check_ids(s, ids) == MSA_OK;
}

static void every_shape(selection_kind kind)
{
    bool valid = true, same = true;
    for (int a = 0; a < inputs_n_all_shapes; a++) {
        const msa_shape *s = &inputs_shapes[a];
        const int64_t n = s->n_kv_heads * s->n_q * s->topk;
        int32_t *ids = check_ints(n), *again = check_ints(n);
        selection_draw(s, kind, check_seed((uint64_t)a), ids);
        selection_draw(s, kind, check_seed((uint64_t)a), again);
        valid = valid && rows_are_full(s, ids);
        same = same && memcmp(ids, again, (size_t)n * sizeof *ids) == 0;
    }
    tap(valid, "%s: full rows of visible blocks, the local one last", selection_name(kind));
    tap(same, "%s: the same seed draws the same", selection_name(kind));
}

// Queries of group r, past the first tenth of the blocks, that take the block most of them take.
static double hottest_share(const msa_shape *s, const int32_t *ids, int r)
{
    const int64_t n_blocks = msa_n_blocks(s), first = s->n_q / 4;
    int64_t *count = check_alloc(n_blocks, sizeof *count), most = 0;
    for (int64_t i = first; i < s->n_q; i++)
        for (int slot = 0; slot < s->topk; slot++)
            most += ++count[ids[(r * s->n_q + i) * s->topk + slot]] > most;
    return (double)most / (double)(s->n_q - first);
}

static void long_context(void)
{
    const msa_shape s = {8192, 8192, 4, 2, 64, 64, 32, 16, 1, NULL, NULL, NULL, NULL};
    const int64_t n = s.n_kv_heads * s.n_q * s.topk;
    int32_t *ids = check_ints(n);
    double size[SELECTION_N], hot[SELECTION_N];
    bool differ = true;
    for (int kind = 0; kind < SELECTION_N; kind++) {
        selection_draw(&s, (selection_kind)kind, check_seed(7), ids);
        size[kind] = selection_union8(&s, ids);
        hot[kind] = hottest_share(&s, ids, 1);
        differ = differ && (kind == SELECTION_LOCAL || memcmp(ids, ids + n / 2, (size_t)n * 2) != 0);
        tap_note("%s: the union of 8 queries is %.1f blocks", selection_name((selection_kind)kind),
                 size[kind]);
    }
    tap(size[SELECTION_RANDOM] > 65, "random: neighbours share little");
    tap(size[SELECTION_LOCAL] > 15 && size[SELECTION_LOCAL] < 16, "local: neighbours share all");
    tap(size[SELECTION_STRUCTURED] > 16 && size[SELECTION_STRUCTURED] < 32, "structured: most");
    tap(size[SELECTION_HOT] > 55 && size[SELECTION_HOT] < size[SELECTION_RANDOM], "hot: some");
    tap(hot[SELECTION_HOT] > 0.87 && hot[SELECTION_HOT] < 0.94, "hot: a block that 90%% of queries take");
    tap(hot[SELECTION_STRUCTURED] > 0.87, "structured: so is block 0");
    tap(hot[SELECTION_RANDOM] < 0.2 && hot[SELECTION_LOCAL] < 0.2, "random, local: none is");
    tap(differ, "the groups differ");
}

static void counts(void)
{
    // Ten queries at positions 2..11, blocks of 4, two ids a row, one group.
    const msa_shape s = {10, 12, 1, 1, 8, 8, 4, 2, 1, NULL, NULL, NULL, NULL};
    const int32_t ids[20] = {0, -1, 0, -1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 2, 0, 2, 0, 2, 1, 2};
    tap(selection_union8(&s, ids) == 3, "union8 counts blocks of full eights once");
    tap(selection_pairs(&s, ids) == 3 + 4 + (5 + 6 + 7 + 8) + (5 + 6 + 7 + 8),
        "pairs are cut at the diagonal");
    tap(selection_pairs(&s, NULL) == 75, "no ids: every visible pair");
    tap(selection_blocks(&s, ids) == 3 && selection_blocks(&s, NULL) == 3, "blocks that somebody selected");
    const int32_t one[20] = {0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1};
    tap(selection_blocks(&s, one) == 1, "... one of them");
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    for (int kind = 0; kind < SELECTION_N; kind++)
        every_shape((selection_kind)kind);
    long_context();
    counts();
    return check_done();
}
