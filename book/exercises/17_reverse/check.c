/* The lists of three selections against msa_reverse, exactly, and how many ids were read. The picture is the
 * selection turned around: a dot for each entry, brighter the more often its id was read. */
#include "task.h"

#define UNWRITTEN UINT32_MAX // no entry looks like this

static const msa_shape shape = {60, 60, 1, 1, 16, 8, 4, 4, 1, NULL, NULL, NULL, NULL};

/* In the judge's process, for each id that is asked for. */
static void note_id(void *context, int64_t query, int64_t slot)
{
    const choices *c = context;
    c->seen->reads++;
    touched_mark(c->seen, c->ids[query * c->topk + slot], query);
}

int32_t chosen(const choices *c, int64_t query, int slot)
{
    return *(const int32_t *)answer_ask(c->ids, query, slot);
}

static void compare(const choices *c, const int32_t *first, const uint32_t *entry, const int32_t *found_first,
                    const uint32_t *found_entry)
{
    for (int64_t b = 0; b <= c->n_blocks; b++)
        exercise_true(found_first[b] == first[b], "first[%lld]: expected %d, found %d", (long long)b,
                      first[b], found_first[b]);
    for (int64_t b = 0; b < c->n_blocks; b++)
        for (int32_t a = first[b]; a < first[b + 1]; a++) {
            const uint32_t want = entry[a], got = found_entry[a];
            exercise_true(got != UNWRITTEN, "entry[%d], number %d of block %lld: nothing was written", a,
                          a - first[b], (long long)b);
            exercise_true(
                got == want,
                "entry[%d], number %d of block %lld: expected query %u slot %u, found query %u slot %u", a,
                a - first[b], (long long)b, want >> 5, want & 31, got >> 5, got & 31);
        }
}

/* Returns how many ids there are to be read: behind a -1 there are no more. */
static uint64_t judge(selection_kind kind, touched *seen)
{
    const int64_t n = shape.n_q * shape.topk, blocks = msa_n_blocks(&shape);
    int32_t *ids = answer_hidden(n * 4, "ids", "chosen(c, query, slot)");
    int32_t *first[2] = {exercise_alloc((blocks + 1) * 4), answer_wanted((blocks + 1) * 4, "first")};
    uint32_t *entry[2] = {exercise_alloc(n * 4), answer_wanted(n * 4, "entry")};
    memset(first[1], 0x80, (size_t)(blocks + 1) * 4);
    choices c = {shape.n_q, blocks, shape.topk, ids, seen};
    selection_draw(&shape, kind, exercise_seed(), ids);
    answer_offer(&(answer_source){ids, shape.n_q, shape.topk, 4, "chosen(c, %lld, %lld)", note_id, &c});
    msa_reverse(&shape, ids, first[0], entry[0],
                exercise_alloc(msa_first_item(&shape, 1) * (int64_t)sizeof(msa_item)),
                exercise_alloc((int64_t)msa_workspace(NULL, &shape)));
    ANSWER(reverse(&c, first[1], entry[1]));
    compare(&c, first[0], entry[0], first[1], entry[1]);
    return (uint64_t)first[0][blocks];
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const int64_t blocks = msa_n_blocks(&shape);
    touched seen =
        touched_new(blocks, shape.n_q, "block", "query that chose it, by how often its id was read");
    touched unseen = touched_new(blocks, shape.n_q, "", "");
    uint64_t used = judge(SELECTION_ENDS, &unseen) + judge(SELECTION_LOCAL, &unseen);
    used += judge(SELECTION_ANY, &seen);
    const uint64_t ids = (uint64_t)(3 * shape.n_q * shape.topk);
    exercise_ladder("ids read", seen.reads + unseen.reads, 2,
                    (exercise_rung[]){{"the stub", (uint64_t)blocks * ids}, {"count, then place", 2 * ids}});
    exercise_bar(
        (exercise_count){"ids read", seen.reads + unseen.reads, used, 2 * ids, "chosen(c, query, slot)"});
    return exercise_end(&seen);
}
