/**
 * @file 5_columns.cu
 * @brief Selection from scores that lie by block, [Hkv,B,T]: a thread per row, and a warp's rows are
 *        neighbours.
 *
 * Idea: the scores of one block for 32 neighbouring queries are 128 bytes in a row, so every lane reads its
 * own row straight into registers, 16 scores ahead of the one that it compares. The rest is 4_staged: the list
 * in registers, the buffer of candidates, which alone passes through shared memory.
 * Bytes, a row of n = local blocks: 4 n of scores, in n / 8 sectors where T is a multiple of 8; 4 k of ids.
 * The paper's four sizes (N, B, k = 128K, 1024, 16; 128K, 2048, 32; 512K, 4096, 16; 512K, 8192, 32) are 0.54,
 * 1.1, 8.6 and 17.2 GB.
 * Floor: those bytes. 32 KB and more an SM are in flight; by Little's law 4.8 TB/s at 700 ns of latency want
 * 25 KB.
 * Waste: ids leave in rows of 4 k bytes, each lane's its own: k stores of 32 scattered words a warp. A
 * producer that writes scores by block has to gather them from 32 queries first.
 */
#include "../kit/selection.cuh"

namespace
{

constexpr int warps = 4, ahead = 16;

template <int K>
__global__ void __launch_bounds__(32 * warps) columns(Shape s, const float *scores, int32_t *ids)
{
    s = actual(s);
    CandidateBuffer &buffer = shared<CandidateBuffer[warps]>()[threadIdx.x / 32];
    const int64_t rows = (int64_t)s.n_q * s.n_kv_heads,
                  row = (int64_t)blockIdx.x * (32 * warps) + threadIdx.x;
    if (rows == 0)
        return;
    const int r = (int)(row / s.n_q), i = (int)(row % s.n_q);
    const int local = row < rows ? local_block(s, i) : 0, longest = (int)warp_max((uint32_t)local);
    const float *my_scores = scores + (int64_t)r * s.n_scores * s.rows + i;

    BufferedList<K> list = buffered_list<K>(s.topk, local);
    float next[ahead], now[ahead];
    auto fetch = [&](int first) {
        UNROLL
        for (int a = 0; a < ahead; a++)
            next[a] = first + a < local ? ld_global(my_scores + (first + a) * s.rows) : 0;
    };
    fetch(0);
    for (int first = 0; first < longest; first += ahead) {
        UNROLL
        for (int a = 0; a < ahead; a++)
            now[a] = next[a];
        fetch(first + ahead);
        UNROLL
        for (int a = 0; a < ahead; a++)
            offer(list, buffer, first + a < local, now[a], first + a);
    }
    flush(list, buffer);
    if (row < rows)
        write_ids(ids + row_at(s, i, r) * s.topk, list.entry, s.topk);
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div((int64_t)c.s.n_q * c.s.n_kv_heads, (int64_t)(32 * warps)));
    with_list_size(c.s.topk, [&](auto k) {
        LAUNCH((columns<k.value>), grid, dim3(32 * warps), sizeof(CandidateBuffer[warps]), c.stream, c.s,
               c.a.scores_by_block, c.a.ids);
    });
    return MSA_OK;
}

} // namespace

ENTRY(topk, columns, run, no_workspace);
