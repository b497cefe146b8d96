/**
 * @file 1_register_list.cu
 * @brief Selection from given scores, a thread per row with its list in registers.
 *
 * Idea: the thread of query i, group r reads its blocks' scores in order and keeps the best in a sorted list
 * of K >= k keys (selection.cuh). One comparison with the last entry turns a score down; K steps of min and
 * max without a branch insert it.
 * Bytes, a row of n = local blocks: 4 n of scores, in n sectors instead of n / 8; 4 k of ids. Nothing else
 * moves.
 * Floor: those bytes. About 10 instructions a score and 4 K an insertion, of which a row in random order has k
 * (1 + ln(n / k)).
 * Waste: neighbouring threads read addresses a whole row apart, so each load of a warp touches 32 sectors for
 * 4 bytes each; the rest of a sector is used by the thread's next 7 loads if the cache keeps it that long (1
 * KB a warp). And 32 rows share the branch: the warp inserts as often as any of its lanes wants to.
 */
#include "../kit/selection.cuh"

namespace
{

constexpr int threads = 128, ahead = 4; // loads in flight before the first comparison

template <int K>
__global__ void __launch_bounds__(threads) register_list(Shape s, const float *scores, int32_t *ids)
{
    s = actual(s);
    const int64_t row = (int64_t)blockIdx.x * threads + threadIdx.x;
    if (row >= (int64_t)s.n_q * s.n_kv_heads)
        return;
    const int r = (int)(row / s.n_q), i = (int)(row % s.n_q), local = local_block(s, i);
    const float *my_scores = scores + scores_at(s, i, r);

    uint64_t list[K];
    UNROLL
    for (int a = 0; a < K; a++)
        list[a] = first_entry(a, K, s.topk, local);
    for (int first = 0; first < local; first += ahead) {
        float x[ahead];
        UNROLL
        for (int a = 0; a < ahead; a++)
            if (first + a < local)
                x[a] = ld_global(my_scores + first + a);
        UNROLL
        for (int a = 0; a < ahead; a++) {
            const uint64_t key = first + a < local ? rank_key(x[a], first + a) : free_entry;
            if (key > list[K - 1])
                insert(list, key);
        }
    }
    write_ids(ids + row_at(s, i, r) * s.topk, list, s.topk);
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div((int64_t)c.s.n_q * c.s.n_kv_heads, (int64_t)threads));
    with_list_size(c.s.topk, [&](auto k) {
        LAUNCH((register_list<k.value>), grid, dim3(threads), 0, c.stream, c.s, c.a.scores, c.a.ids);
    });
    return MSA_OK;
}

} // namespace

ENTRY(topk, register_list, run, no_workspace);
