/**
 * @file 4_staged.cu
 * @brief Selection from given scores, a thread per row, read by the warp and passed on in shared memory.
 *
 * Idea: a warp has 32 rows. It copies 32 scores of each, a row a copy, into a tile in shared memory whose rows
 * are one word longer than 32, and each lane reads its own row there; the next tile is on its way meanwhile.
 * Candidates wait in a buffer until an insertion is worth the warp's time (selection.cuh).
 * Bytes, a row of n = local blocks: 4 n of scores in n / 8 sectors (5 for 32 scores where a row starts inside
 * one); 4 k of ids. Two shared accesses for 32 scores of a row, nearly free of conflicts, and two for each
 * candidate.
 * Floor: those bytes; instructions are nearer: 20,000 clocks where memory takes an SM 6,500 (chapter 13, design
 * notes).
 * Waste: a warp needs 32 rows, so that a call of few queries leaves the GPU idle; every score is written to
 * shared memory and read from it, which 5_columns does without.
 */
#include "../kit/selection.cuh"

namespace
{

constexpr int warps = 4;

struct Smem {
    float tile[warps][2][32][33];
    CandidateBuffer buffer[warps];
};

template <int K>
__global__ void __launch_bounds__(32 * warps) staged(Shape s, const float *scores, int32_t *ids)
{
    s = actual(s);
    const int64_t rows = (int64_t)s.n_q * s.n_kv_heads,
                  row0 = (int64_t)blockIdx.x * (32 * warps) + threadIdx.x / 32 * 32;
    if (row0 >= rows)
        return;
    const int lane = (int)threadIdx.x % 32;
    const int r = (int)((row0 + lane) / s.n_q), i = (int)((row0 + lane) % s.n_q);
    const int local = row0 + lane < rows ? local_block(s, i) : 0, longest = (int)warp_max((uint32_t)local);
    const int64_t my_scores = scores_at(s, i, r);
    float(&tile)[2][32][33] = shared<Smem>().tile[threadIdx.x / 32];
    CandidateBuffer &buffer = shared<Smem>().buffer[threadIdx.x / 32];

    auto fetch = [&](int first) { // scores first .. first + 31 of every row that has them
        for (int row = 0; row < 32; row++) {
            const float *from = scores + shfl(my_scores, row);
            if (first + lane < shfl(local, row))
                cp_async_4(&tile[first / 32 % 2][row][lane], from + first + lane, 4);
        }
        cp_async_commit();
    };
    BufferedList<K> list = buffered_list<K>(s.topk, local);
    fetch(0);
    for (int first = 0; first < longest; first += 32) {
        fetch(first + 32);
        cp_async_wait<1>();
        __syncwarp();
        for (int b = first; b < first + 32 && b < longest; b++)
            offer(list, buffer, b < local, b < local ? ld_shared(&tile[first / 32 % 2][lane][b - first]) : 0,
                  b);
        __syncwarp();
    }
    flush(list, buffer);
    if (row0 + lane < rows)
        write_ids(ids + row_at(s, i, r) * s.topk, list.entry, s.topk);
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div((int64_t)c.s.n_q * c.s.n_kv_heads, (int64_t)(32 * warps)));
    with_list_size(c.s.topk, [&](auto k) {
        LAUNCH((staged<k.value>), grid, dim3(32 * warps), sizeof(Smem), c.stream, c.s, c.a.scores, c.a.ids);
    });
    return MSA_OK;
}

} // namespace

ENTRY(topk, staged, run, no_workspace);
