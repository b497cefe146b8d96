/**
 * @file 3_wgmma.cu
 * @brief Block scores by Hopper's tensor cores, fed by TMA.
 *
 * Idea: wgmma multiplies 64 rows by a block of keys straight from the tiles that TMA wrote. 128 rows (M3: 32
 * queries x 4 groups) stay in shared memory while a producer warp streams the blocks that their last row sees
 * through a ring, for two consumer warpgroups of 64 rows each. A row's maximum is 32 numbers in each of four
 * lanes and two shuffles; only blocks on the diagonal are masked.
 * Bytes: 2 di a row, 2 di a key for each 128 rows; 4 for each score, 137 GB at a million tokens.
 * Floor: 2 di operations a visible key, query and group at wgmma's 4096 a clock and SM; L2: 32 bytes a clock
 * at di 128.
 * Waste: a warpgroup's products wait for its own maxima and the other way round, and only the second CTA of
 * the SM fills the gap; blocks of 64 or 32 keys, for which shared memory is too slow; the scores. Design
 * notes: chapter 13.
 */
#include "stream.cuh"

namespace
{

constexpr int rows = 128;
template <int D, int Block> using Smem = Stream<D, Block, rows, 64 << 10>;

/// The scores of a consumer's 64 rows from row0 on.
template <int D, int Block>
PTX_INLINE void consume(const Shape &s, Smem<D, Block> &m, const Span &span, float *scores)
{
    const int part = (int)threadIdx.x / 128, lane = (int)threadIdx.x % 4;
    timeline_role("consumer");
    int position[2];
    float *out[2]; // the row's scores, NULL for a row past the last
    for (int half = 0; half < 2; half++) {
        const int row = span.row0 + 64 * part + fragment_d((int)threadIdx.x % 128, 2 * half).row;
        position[half] = position_of(s, row);
        out[half] = row < span.end ? scores + row_scores_at(s, row) : nullptr;
    }
    float x[Block / 2], kept[2] = {};
    mbarrier_wait(&m.full_q, 0);
    for (int b = 0; b < span.n_tiles; b++) {
        issue_scores<Block>(x, m.q[part], wait_stage(m, b));
        wgmma_wait<0>();
        wgmma_pin(x);
        release_stage(m, b);
        for (int half = 0; half < 2; half++) {
            const float maximum = row_max<Block>(x, half, position[half] - b * Block) * scale<D>;
            if (b % 4 == lane) // a lane keeps one of four blocks, so that the quad writes 16 bytes in a row
                kept[half] = maximum;
            if ((b % 4 == 3 || b + 1 == span.n_tiles) && lane <= b % 4 && out[half])
                st_global(out[half] + b - b % 4 + lane, kept[half]);
        }
    }
    for (int half = 0; half < 2; half++)
        if (out[half])
            for (int64_t b = span.n_tiles + lane; b < s.n_scores; b += 4)
                st_global(out[half] + b, minus_infinity());
}

template <int D, int Block>
__global__ void __launch_bounds__(stream_threads, 2)
    wgmma(Shape s, const __grid_constant__ CUtensorMap row_map, const __grid_constant__ CUtensorMap key_map,
          float *scores)
{
    s = actual(s);
    Smem<D, Block> &m = shared<Smem<D, Block>>();
    const Span span = span_of<rows>(s);
    if (span.row0 >= span.end)
        return;
    prefetch_maps(row_map, key_map);
    stream_init(m);
    if (threadIdx.x < consumer_threads)
        consume<D, Block>(s, m, span, scores);
    else if (elect_one())
        produce(m, &row_map, &key_map, span);
}

msa_status run(const Call &c)
{
    CUtensorMap row_map, key_map;
    if (!only_scores(c))
        return MSA_ERR_UNSUPPORTED;
    const msa_status status = stream_maps(c, &row_map, &key_map);
    if (status != MSA_OK)
        return status;
    const dim3 grid((unsigned)ceil_div(n_rows(c.s), (int64_t)rows));
    with_int<64, 128>(c.d_index, [&](auto d) {
        with_int<32, 64, 128>(c.s.block, [&](auto block) {
            LAUNCH((wgmma<d.value, block.value>), grid, dim3(stream_threads),
                   sizeof(Smem<d.value, block.value>), c.stream, c.s, row_map, key_map, c.a.scores);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(index, wgmma, run, no_workspace);
