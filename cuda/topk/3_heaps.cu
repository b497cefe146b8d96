/**
 * @file 3_heaps.cu
 * @brief Selection from given scores as the paper does it: a warp per row, a heap per lane.
 *
 * Idea: lane l keeps the best k - 1 of the blocks l, l + 32, l + 64, ... in a heap whose root is its worst and
 * lies in a register too: a score that does not beat it costs one comparison. At the end every lane sorts its
 * heap, and the best of the 32 heads is taken k - 1 times. 32 insertions go on at once, with no ballot or
 * shuffle in the loop.
 * Bytes, a row of n = local blocks: 4 n of scores in n / 8 sectors, 4 k of ids.
 * Floor: those bytes.
 * Waste: each lane's bar is that of its own n / 32 scores, so a warp inserts 32 k (1 + ln(n / 32 k)) scores a
 * row where a list of the warp inserts k (1 + ln(n / k)), and waits for the deepest sink; the heaps, 256 bytes
 * of shared memory an entry and warp, bound the warps that hide latency. Counts: chapter 13, design notes.
 */
#include "../kit/selection.cuh"

namespace
{

constexpr int warps = 4, ahead = 4; // loads in flight before the first comparison

template <int K> struct Smem {
    uint64_t heap[warps][K - 1][32];
};

/// A lane's heap: the children of entry a are 2 a + 1 and 2 a + 2, and no child is less than its parent.
struct Heap {
    uint64_t *entry; ///< its first; the next is 32 further on
};
PTX_INLINE uint64_t get(Heap heap, int a)
{
    return ld_shared(heap.entry + 32 * a);
}
PTX_INLINE void set(Heap heap, int a, uint64_t key)
{
    st_shared(heap.entry + 32 * a, key);
}

/// Replaces the root of a heap of n and restores the order; returns the new root.
PTX_INLINE uint64_t replace_root(Heap heap, int n, uint64_t key)
{
    uint64_t root = key;
    int a = 0;
    for (int child = 1; child < n; child = 2 * a + 1) {
        uint64_t smaller = get(heap, child);
        if (child + 1 < n) {
            const uint64_t right = get(heap, child + 1);
            child += right < smaller;
            smaller = right < smaller ? right : smaller;
        }
        if (key <= smaller)
            break;
        set(heap, a, smaller);
        root = a == 0 ? smaller : root;
        a = child;
    }
    set(heap, a, key);
    return root;
}

/// Turns the heap of n into a list, best first: the worst goes to the end, then the worst of the rest.
PTX_INLINE void sort_heap(Heap heap, int n)
{
    for (int last = n - 1; last > 0; last--) {
        const uint64_t worst = get(heap, 0);
        replace_root(heap, last, get(heap, last));
        set(heap, last, worst);
    }
}

/// The largest key of the warp.
PTX_INLINE uint64_t warp_best(uint64_t key)
{
    const uint32_t high = warp_max((uint32_t)(key >> 32));
    return (uint64_t)high << 32 | warp_max((uint32_t)(key >> 32) == high ? (uint32_t)key : 0);
}

template <int K>
__global__ void __launch_bounds__(32 * warps) heaps(Shape s, const float *scores, int32_t *ids)
{
    s = actual(s);
    const int64_t row = (int64_t)blockIdx.x * warps + threadIdx.x / 32;
    if (row >= (int64_t)s.n_q * s.n_kv_heads)
        return;
    const int r = (int)(row / s.n_q), i = (int)(row % s.n_q), local = local_block(s, i);
    const int lane = (int)threadIdx.x % 32, others = s.topk - 1;
    const float *my_scores = scores + scores_at(s, i, r);
    const Heap heap = {&shared<Smem<K>>().heap[threadIdx.x / 32][0][lane]};

    for (int a = 0; a < others; a++)
        set(heap, a, free_entry);
    uint64_t root = others > 0 ? free_entry : closed_entry;
    for (int first = lane; first < local; first += 32 * ahead) {
        float x[ahead];
        for (int a = 0; a < ahead; a++)
            x[a] = first + 32 * a < local ? ld_global(my_scores + first + 32 * a) : 0;
        for (int a = 0; a < ahead; a++) {
            const int b = first + 32 * a;
            const uint64_t key = b < local ? rank_key(x[a], b) : free_entry;
            if (key > root)
                root = replace_root(heap, others, key);
        }
    }
    sort_heap(heap, others);

    uint64_t entry = first_entry(lane, 32, 32, local); // the local block, then free entries
    int taken = 0;
    for (int a = 1; a <= others; a++) {
        const uint64_t head = taken < others ? get(heap, taken) : free_entry, best = warp_best(head);
        taken += head == best;
        entry = lane == a ? best : entry;
    }
    write_ids(ids + row_at(s, i, r) * s.topk, entry, s.topk);
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div((int64_t)c.s.n_q * c.s.n_kv_heads, (int64_t)warps));
    with_list_size(c.s.topk, [&](auto k) {
        LAUNCH((heaps<k.value>), grid, dim3(32 * warps), sizeof(Smem<k.value>), c.stream, c.s, c.a.scores,
               c.a.ids);
    });
    return MSA_OK;
}

} // namespace

ENTRY(topk, heaps, run, no_workspace);
