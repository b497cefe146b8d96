/**
 * @file candidates.cuh
 * @brief A warp's list of the best of some hundred candidates: a bound, then one sort.
 *
 * To offer them one by one (selection.cuh) takes 45 clocks for each that finds a place, one after the other, and 70 of
 * 2000 do. But of 32 lanes' best the (k - 1)-th is a bound that 20 of them reach on average at k = 16, and these are sorted
 * at once. More that do, as where scores tie, are sorted 32 at a time: slower, and right.
 */
#ifndef MSA_CANDIDATES_CUH
#define MSA_CANDIDATES_CUH

#include "selection.cuh"

/// Whether a lane has this bit; five answers, which stay in predicates.
PTX_INLINE bool lane_has(int bit)
{
    return ((int)threadIdx.x & bit) != 0;
}

PTX_INLINE uint64_t exchanged(uint64_t key, int step)
{
    const uint64_t other = shfl_xor(key, step);
    return lane_has(step) == (key < other) ? key : other;
}
/// The warp's list and 32 candidates, one a lane, in any order: the best 32 of both, best first.
PTX_INLINE uint64_t merged(uint64_t list, uint64_t key)
{
    UNROLL
    for (int run = 2; run <= 32; run *= 2) {
        key = lane_has(run % 32) ? ~key : key;
        UNROLL
        for (int step = run / 2; step > 0; step /= 2)
            key = exchanged(key, step);
        key = lane_has(run % 32) ? ~key : key;
    }
    const uint64_t backwards = shfl_xor(key, 31);
    list = list > backwards ? list : backwards; // first up, then down: one more run puts it in order
    UNROLL
    for (int step = 16; step > 0; step /= 2)
        list = exchanged(list, step);
    return list;
}

/// A key's score as a number that ascends with it; 0 of a free entry only.
PTX_INLINE uint32_t high_word(uint64_t key)
{
    return (uint32_t)(key >> 32);
}
/// The n-th largest (from 0) of the lanes' numbers: each counts those above its own, by shuffles of which none waits for
/// another.
PTX_INLINE uint32_t nth_largest(uint32_t x, int n)
{
    int above = 0;
    UNROLL
    for (int other = 0; other < 32; other++)
        above += shfl(x, other) > x;
    return warp_min(above <= n ? x : ~0u);
}
/// The place in a buffer for what a lane keeps, `n` being there before it; and how many there are then.
PTX_INLINE int next_place(bool keeps, int &n)
{
    const uint32_t kept = warp_ballot(keeps);
    const int place = n + __popc(kept & ((1u << threadIdx.x % 32) - 1));
    n += __popc(kept);
    return place;
}

constexpr int keys_per_lane = 12, lists_per_lane = 5;
struct KeptKeys { ///< of a warp, in shared memory
    uint64_t key[32 * keys_per_lane];
    int list[32 * lists_per_lane];
};

/// Takes n candidates into a warp's sorted list, in any order, 384 at a time; where(c) says where c lies, and lane c % 32
/// looks at it, if it is `there`. The (k - 1)-th largest of the lanes' best is not above k - 1 of them; nor is, where a
/// caller knows one, `bound`.
template <class Where>
PTX_INLINE uint64_t take(uint64_t list, KeptKeys &kept, int topk, int n, Where where, bool there = true,
                         uint32_t bound = 0)
{
    const int lane = (int)threadIdx.x % 32;
    ROLLED
    for (int first = 0; first < n; first += 32 * keys_per_lane) {
        uint64_t own[keys_per_lane];
        uint32_t best = 0;
        int left = 0;
        UNROLL
        for (int a = 0; a < keys_per_lane; a++) {
            const int c = first + 32 * a + lane;
            own[a] = ld_global_if(there && c < n, where(c < n ? c : n - 1));
        }
        UNROLL
        for (int a = 0; a < keys_per_lane; a++)
            best = high_word(own[a]) > best ? high_word(own[a]) : best;
        const uint32_t last = high_word(shfl(list, 31));
        bound = last > bound ? last : bound;
        bound = bound > 0 ? bound : nth_largest(best, topk - 2);
        UNROLL
        for (int a = 0; a < keys_per_lane; a++) {
            const bool keeps = own[a] != free_entry && high_word(own[a]) >= bound;
            const int place = next_place(keeps, left);
            st_shared_if(keeps, &kept.key[keeps ? place : 0], own[a]);
        }
        __syncwarp();
        ROLLED
        for (int c = lane; c - lane < left; c += 32) {
            const uint64_t next = c < left ? ld_shared(&kept.key[c]) : free_entry;
            if (warp_ballot(next > shfl(list, 31)))
                list = merged(list, next);
        }
        __syncwarp(); // read, before the next ones come
    }
    return list;
}

/// The same of n <= 160 sorted lists of `each` candidates, which begin so many keys apart. Their best give a bound, and
/// lists below it are not read further.
PTX_INLINE uint64_t take_lists(uint64_t list, KeptKeys &kept, int topk, int n, int each,
                               const uint64_t *lists, int apart)
{
    const int lane = (int)threadIdx.x % 32, shift = 32 - __clz(each - 1), place = lane & ((1 << shift) - 1);
    uint32_t head[lists_per_lane], best = 0;
    int left = 0;
    UNROLL
    for (int a = 0; a < lists_per_lane; a++)
        head[a] = high_word(ld_global_if(32 * a + lane < n, lists + (32 * a + lane) * apart));
    UNROLL
    for (int a = 0; a < lists_per_lane; a++)
        best = head[a] > best ? head[a] : best;
    const uint32_t bound = nth_largest(best, topk - 2);
    UNROLL
    for (int a = 0; a < lists_per_lane; a++) {
        const bool keeps = head[a] > 0 && head[a] >= bound;
        const int place = next_place(keeps, left);
        if (keeps)
            st_shared(&kept.list[place], 32 * a + lane);
    }
    __syncwarp();
    const auto where = [&](int c) { return lists + (ld_shared(&kept.list[c >> shift]) * apart + place); };
    return take(list, kept, topk, left << shift, where, place < each, bound);
}

#endif
