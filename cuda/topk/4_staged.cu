/**
 * @file 4_staged.cu
 * @brief Selection from given scores, a thread per row, read by the warp and passed on in shared memory.
 *
 * What it does: a warp has 32 rows. It copies 32 scores of each at a time, a row a copy, into a tile in
 * shared memory whose rows are one word longer than 32, and each lane then reads its own row there. The
 * next tile is on its way meanwhile. The list is that of the thread per row; before a key is made, the
 * score is compared with that of the last place.
 *
 * Why better: reads are those of the warp per row, 128 bytes in a row; but one instruction compares for
 * 32 rows, and an insertion costs 4 K instructions for all lanes that want one, where the warp's list
 * takes about 20 for each. Estimated from these counts, for k = 16 in random order: 900 instructions a
 * row of n = 512 against 2200, and 2000 a row of n = 2048 against 4700.
 *
 * Its floor: every score of the blocks before the local one once, 4 bytes each, and 4 k bytes of ids a
 * row.
 *
 * What it wastes: a warp needs 32 rows, so that a call of few queries leaves the GPU idle; and all lanes
 * wait while one inserts, which happens for a share 1 - (1 - k / n)^32 of the scores.
 *
 * Predicted, a row of n = local blocks: 4 n bytes in n / 8 sectors (5 instead of 4 for 32 scores where a
 * row starts inside a sector); two shared accesses for 32 scores of a row, nearly free of conflicts.
 */
#include "../selection.cuh"

namespace
{

constexpr int warps = 4;

struct Smem {
    float tile[warps][2][32][33];
};

template <int K>
__global__ void __launch_bounds__(32 * warps) staged(Shape s, const float *scores, int32_t *ids)
{
    const int64_t rows = (int64_t)s.n_q * s.n_kv_heads,
                  row0 = (int64_t)blockIdx.x * (32 * warps) + threadIdx.x / 32 * 32;
    const int lane = (int)threadIdx.x % 32;
    const int r = (int)((row0 + lane) / s.n_q), i = (int)((row0 + lane) % s.n_q);
    const int local = row0 + lane < rows ? local_block(s, i) : 0, most = (int)warp_max((uint32_t)local);
    const int64_t my_scores = scores_at(s, i, r);
    float(&tile)[2][32][33] = shared<Smem>().tile[threadIdx.x / 32];

    auto fetch = [&](int first) { // scores first .. first + 31 of every row that has them
        for (int row = 0; row < 32; row++) {
            const float *from = scores + shfl(my_scores, row);
            if (first + lane < shfl(local, row))
                cp_async_4(&tile[first / 32 % 2][row][lane], from + first + lane, 4);
        }
        cp_async_commit();
    };
    uint64_t list[K];
    UNROLL
    for (int a = 0; a < K; a++)
        list[a] = first_entry(a, K, s.topk, local);
    float last = score_of(list[K - 1]);
    fetch(0);
    for (int first = 0; first < most; first += 32) {
        fetch(first + 32);
        cp_async_wait<1>();
        __syncwarp();
        for (int b = first; b < first + 32 && b < local; b++) {
            const float x = ld_shared(&tile[first / 32 % 2][lane][b - first]);
            if (x <= last) // false where either is NaN: then the keys decide
                continue;
            const uint64_t key = rank_key(x, b);
            if (key > list[K - 1]) {
                insert(list, key);
                last = score_of(list[K - 1]);
            }
        }
        __syncwarp();
    }
    if (row0 + lane < rows)
        write_ids(ids + row_at(s, i, r) * s.topk, list, s.topk);
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div((int64_t)c.s.n_q * c.s.n_kv_heads, (int64_t)(32 * warps)));
    with_int<8, 16, 32>(c.s.topk <= 8    ? 8
                        : c.s.topk <= 16 ? 16
                                         : 32,
                        [&](auto k) {
                            LAUNCH((staged<k.value>), grid, dim3(32 * warps), sizeof(Smem), c.stream, c.s,
                                   c.a.scores, c.a.ids);
                        });
    return MSA_OK;
}

} // namespace

ENTRY(topk, staged, run, no_workspace);
