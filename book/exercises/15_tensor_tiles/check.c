/* Scores of one new token and of a short text; then the multiply-adds of the tensor cores: tiles of 16 keys and the 8 groups of a
 * token. The picture shows the keys that were read for each token of the text. */
#include "../kernel.h"

#define GROUPS 8

static msa_shape of(int64_t n_q, int64_t n_kv)
{
    return (msa_shape){n_q, n_kv, GROUPS, GROUPS, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};
}

static const int64_t text_keys = 100;

static void see(kernel_view *view, const simt_access *a)
{
    const uint64_t key = (a->address - view->ki) / 128, ctas = (uint64_t)view->picture.rows * 4;
    if (!a->shared && !a->write && key < (uint64_t)text_keys && a->block < ctas)
        touched_mark(&view->picture, (int64_t)a->block / 4, (int64_t)key);
}

/* Of tiles in which a token sees a key, and of pairs alone. */
static uint64_t least(const msa_shape *s, int64_t keys)
{
    uint64_t tiles = 0;
    for (int64_t i = 0; i < s->n_q; i++)
        tiles += (uint64_t)((s->n_kv - s->n_q + i + keys) / keys * keys);
    return tiles * GROUPS * (uint64_t)s->d_index;
}

static void count(const char *what, const msa_shape *s, uint64_t found, uint64_t stub, uint64_t wgmma)
{
    exercise_ladder(what, found, 3,
                    (exercise_rung[]){{"the stub", stub},
                                      {"index/wgmma", wgmma},
                                      {"keys as rows, nothing unseen", least(s, 16)}});
    exercise_bar((exercise_count){what, found, least(s, 1), least(s, 16), "mma_m16n8k16()"});
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    kernel_view view = {.picture =
                            touched_new(13, text_keys, "tile of index queries, in order", "index key read")};
    const kernel_case token = {.shape = of(1, 200), .pattern = INPUTS_NORMAL},
                      text = {.shape = of(13, text_keys), .pattern = INPUTS_NORMAL};
    const simt_counters one = kernel_check(&token, NULL, NULL).n, all = kernel_check(&text, &view, see).n;
    kernel_check(&(kernel_case){.shape = of(3, 77), .pattern = INPUTS_DYADIC}, NULL, NULL);
    if (kernel_counts(&all)) {
        count("multiply-adds for one token", &token.shape, one.tensor_fma, 229376, 1835008);
        count("multiply-adds for 13 tokens", &text.shape, all.tensor_fma, 917504, 1048576);
    }
    return kernel_end(&text, &view.picture);
}
