/**
 * @file copy_keys.cuh
 * @brief The 8-bit copy of all complete blocks of a prompt's index keys: msa_index8_keys() on a device. What a step of
 *        generation adds or takes back is update_cache.cuh's.
 *
 * Idea: a CTA a block, or a piece of one where keys lie in pages; its warps share the rows, once for the scale and once
 * for the codes.
 * Bytes: 4 di a key, of which the second half should come from L1, di and 12 a block written, 16 with `least`.
 * Floor: memory, 3 di a key: 0.1 ms of an H200 for M3's 1M keys.
 * Estimate: a warp takes 680 instructions for a row of 128 channels (233 for the scale, 447 for the codes; 240 of them in
 * double, 120 shuffles), 170 clocks of an SM that issues four: 0.8 ms for 1M keys at 1.75 GHz, where their prefill takes
 * 0.6 s.
 * Waste: the second rotation, in place of 32 registers or 32 KB for what the first one found.
 */
#ifndef MSA_COPY_KEYS_CUH
#define MSA_COPY_KEYS_CUH

#include "../index/codes.cuh"
#include "decode.cuh"

namespace
{

template <int D>
__global__ void __launch_bounds__(32 * code_warps) copy_keys(Shape s, const bf16 *ki, Pages p, Copy8 copy)
{
    const int request = (int)blockIdx.y, piece = (int)blockIdx.x;
    s = p.table ? checked_request(s, p, request) : actual(s);
    if ((piece + 1) * p.piece > s.n_kv) // only complete ones have codes
        return;
    const int at = piece_of(p, request, piece);
    const int64_t first = (int64_t)at * p.piece * D;
    make_codes<D>(shared<BlockNumbers<code_warps>>(), ki + first, p.piece, copy.codes + first, copy, at);
}

/// Enqueues it for one sequence, or for all requests of a paged call.
void launch_copy_keys(const Call &c)
{
    const dim3 grid((unsigned)(c.s.n_kv / c.pages.piece), (unsigned)c.batch);
    if (grid.x == 0)
        return;
    with_int<64, 128>(c.d_index, [&](auto d) {
        LAUNCH((copy_keys<d.value>), grid, dim3(32 * code_warps), sizeof(BlockNumbers<code_warps>), c.stream,
               c.s, c.a.ki, c.pages, c.a.copy);
    });
}

} // namespace

#endif
