/* O and LSE, and the bytes read: keys and values of the union of eight queries' blocks, once. The picture
 * shows how often the first head's keys were read, by query tile. */
#include "../kernel.h"

#define TILE 8     // queries
#define VECTOR 128 // bytes of a key, value or query

static const msa_shape shape = {44, 250, 2, 2, 64, 64, 16, 6, 1, NULL, NULL, NULL, NULL};

static void see(kernel_view *view, const simt_access *a)
{
    const uint64_t vector = (a->address - view->k) / VECTOR, tiles = ((uint64_t)shape.n_q + TILE - 1) / TILE;
    if (!a->shared && vector < (uint64_t)(shape.n_kv * shape.n_kv_heads) && a->block < tiles)
        touched_mark(&view->picture, (int64_t)a->block * TILE + a->thread / 32,
                     (int64_t)vector / shape.n_kv_heads / shape.block);
}

/* The keys in the blocks that some query of a tile of so many rows chose, all tiles together; up to the last of the text or,
 * where `seen`, to the last that the tile sees. */
static uint64_t keys_of_unions(int64_t tile, bool seen)
{
    int32_t *ids = exercise_alloc(shape.n_kv_heads * shape.n_q * shape.topk * (int64_t)sizeof *ids);
    bool *chosen = exercise_alloc(msa_n_blocks(&shape));
    uint64_t keys = 0;
    selection_draw(&shape, SELECTION_ANY, exercise_seed(), ids);
    for (int64_t row = 0; row < shape.n_kv_heads * shape.n_q; row++) {
        if (row % shape.n_q % tile == 0)
            memset(chosen, 0, (size_t)msa_n_blocks(&shape));
        for (int64_t slot = row * shape.topk; slot < (row + 1) * shape.topk && ids[slot] >= 0; slot++) {
            const int64_t i = row % shape.n_q / tile * tile + tile - 1,
                          ends = shape.n_q - 1 - (i < shape.n_q ? i : shape.n_q - 1);
            const int64_t after = shape.n_kv - (seen ? ends : 0) - (int64_t)ids[slot] * shape.block;
            if (!chosen[ids[slot]])
                keys += (uint64_t)(after < shape.block ? after : shape.block);
            chosen[ids[slot]] = true;
        }
    }
    return keys;
}

/* Ids that a warp reads which stops at the first that is none, all warps together. */
static uint64_t ids_read(void)
{
    const int64_t n = shape.n_kv_heads * shape.n_q * shape.topk;
    int32_t *ids = exercise_alloc(n * (int64_t)sizeof *ids);
    uint64_t count = 0;
    selection_draw(&shape, SELECTION_ANY, exercise_seed(), ids);
    for (int64_t a = 0; a < n; a++)
        count += ids[a] >= 0 || a % shape.topk == 0 || ids[a - 1] >= 0;
    return count;
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const kernel_case scored = {.shape = shape,
                                .pattern = INPUTS_NORMAL,
                                .task = KERNEL_ATTEND,
                                .selection = SELECTION_ANY,
                                .timing = KERNEL_AT_RANDOM};
    kernel_view view = {.picture =
                            touched_new((shape.n_q + TILE - 1) / TILE * TILE, msa_n_blocks(&shape),
                                        "warp, 8 a CTA", "key block; colour: reads of its keys, head 0")};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = shape,
                                .pattern = INPUTS_DISTINCT,
                                .task = KERNEL_ATTEND,
                                .selection = SELECTION_LOCAL,
                                .timing = KERNEL_LATE},
                 NULL, NULL);
    kernel_check(&(kernel_case){.shape = shape,
                                .pattern = INPUTS_PEAKED,
                                .task = KERNEL_ATTEND,
                                .selection = SELECTION_ENDS,
                                .timing = KERNEL_EARLY},
                 NULL, NULL);
    /* K and V of the unions; each query once; and each of the eight warps may read all ids of its CTA. */
    const uint64_t rows = (uint64_t)(shape.n_q * shape.n_kv_heads);
    /* Nobody can do without each chosen key and value once; of the last block some lie behind all queries. */
    const uint64_t least = keys_of_unions(shape.n_q, false) - (uint64_t)(shape.n_kv_heads * shape.block);
    if (kernel_counts(&n)) {
        const uint64_t ids = 4 * 32 * ids_read();
        exercise_ladder(
            "bytes read or copied", n.load_bytes, 4,
            (exercise_rung[]){{"the stub", 2 * VECTOR * keys_of_unions(1, true) + VECTOR * rows + ids},
                              {"2 queries share", 2 * VECTOR * keys_of_unions(2, true) + VECTOR * rows},
                              {"4 queries share", 2 * VECTOR * keys_of_unions(4, true) + VECTOR * rows},
                              {"8 queries share", 2 * VECTOR * keys_of_unions(8, true) + VECTOR * rows}});
        exercise_bar((exercise_count){
            "bytes read or copied", n.load_bytes, 2 * VECTOR * least + VECTOR * rows,
            2 * VECTOR * keys_of_unions(TILE, false) + VECTOR * rows + 4 * (uint64_t)shape.topk * rows * TILE,
            "ld_global(&k[i])"});
    }
    return kernel_end(&scored, &view.picture);
}
