/**
 * @file 1_naive.cu
 * @brief The selection turned around, a thread per key block.
 *
 * Idea: the thread of (group, block) walks all ids of its group and counts its own; a thread a group sums the
 * counts to `first`; the same walk again writes each block's entries, ascending because the walk is; one
 * thread lists the items.
 * Bytes read: 8 Hkv B T k (ids) + 4 Hkv B (sum) + 8 Hkv B (write) + 8 Hkv B (list); written: 4 Hkv (2 B + 1)
 * (first) + 4 Hkv T k (entries) + 16 per item of the capacity.
 * Floor: the ids read once and the entries written once, 8 Hkv T k bytes.
 * Waste: it reads every id 2 B times, once a pass and block (a warp's reads coincide, so the caches serve
 * them), and the sums and the list are single threads.
 */
#include "../kit/kernel.cuh"
#include "reverse.cuh"

namespace
{

constexpr int threads = 128;

/// `first` of group r.
__device__ int32_t *first_of(const Shape &s, int32_t *first, int r)
{
    return first + r * (s.n_scores + 1);
}

__global__ void __launch_bounds__(threads) count(Shape s, const int32_t *ids, int32_t *first)
{
    s = actual(s);
    const int b = (int)(blockIdx.x * threads + threadIdx.x), r = (int)blockIdx.y;
    if (b >= s.n_scores)
        return;
    const int32_t *mine = ids + row_at(s, 0, r) * s.topk;
    int n = 0;
    for (int a = 0; a < s.n_q * s.topk; a++)
        n += ld_global(mine + a) == b;
    st_global(first_of(s, first, r) + b + 1, n);
}

__global__ void __launch_bounds__(threads) sum(Shape s, int32_t *first)
{
    const int r = (int)(blockIdx.x * threads + threadIdx.x);
    if (r >= s.n_kv_heads)
        return;
    int32_t *mine = first_of(s, first, r), total = 0;
    st_global(mine, 0);
    for (int b = 1; b <= s.n_scores; b++) {
        total += ld_global(mine + b);
        st_global(mine + b, total);
    }
}

__global__ void __launch_bounds__(threads)
    write(Shape s, const int32_t *ids, const int32_t *first, uint32_t *entries)
{
    s = actual(s);
    const int b = (int)(blockIdx.x * threads + threadIdx.x), r = (int)blockIdx.y, n = s.n_q * s.topk;
    const int capacity = s.capacity * s.topk;
    if (b >= s.n_scores)
        return;
    const int32_t *mine = ids + row_at(s, 0, r) * s.topk, *start = first + r * (s.n_scores + 1);
    uint32_t *out = entries + (int64_t)r * capacity;
    int at = ld_global(start + b);
    for (int a = 0; a < n; a++)
        if (ld_global(mine + a) == b)
            st_global(out + at++, (uint32_t)(a / s.topk) << 5 | (uint32_t)(a % s.topk));
    for (int64_t a = ld_global(start + s.n_scores) + b; a < capacity; a += s.n_scores)
        st_global(out + a, ~0u);
}

__global__ void list(Shape s, const int32_t *first, msa_item *items)
{
    int4 *out = (int4 *)items, *end = out + reverse_items(s);
    for (int r = 0; r < s.n_kv_heads; r++)
        for (int b = 0; b < s.n_scores; b++) {
            const int32_t *start = first + r * (s.n_scores + 1) + b;
            out = list_items(s, r, b, ld_global(start), ld_global(start + 1), out);
        }
    for (; out < end; out++)
        st_global(out, no_item());
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div(c.s.n_scores, (int64_t)threads), (unsigned)c.s.n_kv_heads);
    LAUNCH(count, grid, dim3(threads), 0, c.stream, c.s, c.a.ids, c.a.first);
    LAUNCH(sum, dim3((unsigned)ceil_div(c.s.n_kv_heads, threads)), dim3(threads), 0, c.stream, c.s,
           c.a.first);
    LAUNCH(write, grid, dim3(threads), 0, c.stream, c.s, c.a.ids, c.a.first, c.a.entries);
    LAUNCH(list, dim3(1), dim3(1), 0, c.stream, c.s, c.a.first, c.a.items);
    return MSA_OK;
}

} // namespace

ENTRY(reverse, naive, run, no_workspace);
