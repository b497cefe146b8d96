/**
 * @file selection.cuh
 * @brief The order in which blocks are chosen, and lists of the best, for every kernel that selects.
 *
 * A candidate is one 64-bit number, its key: the score's bits made to ascend with the score, then the
 * complement of the id. So a larger key is better, equal scores prefer the lower id, and no two keys are
 * equal (chapter 5). A list starts with its fixed entries, which no candidate beats: the
 * local block and, where the list has more entries than k, closed entries. What is left is free; closed and
 * free entries read as id -1, which as an unsigned number comes after every id. Hence a row of ids is its list
 * sorted by unsigned id, with no special case.
 */
#ifndef MSA_SELECTION_CUH
#define MSA_SELECTION_CUH

#include "bits.cuh"
#include "kernel.cuh"

constexpr uint64_t free_entry = 0, closed_entry = 0xffffffffull << 32;

/// A candidate. NaN ranks as -inf, and the two zeros are equal.
// [rank_key]
PTX_INLINE uint64_t rank_key(float score, int id)
{
    const float x = score == score ? score + 0.0f : minus_infinity();
    uint32_t bits = bits_of(x);
    bits ^= bits >> 31 ? ~0u : 1u << 31;
    return (uint64_t)bits << 32 | ~(uint32_t)id;
}
// [rank_key]
/// The same of a score that is not NaN, and in fewer steps one after the other.
PTX_INLINE uint64_t rank_key_of_number(float score, int id)
{
    const uint32_t bits = bits_of(score + 0.0f), sign = (uint32_t)((int32_t)bits >> 31);
    return (uint64_t)(bits ^ (sign | 1u << 31)) << 32 | ~(uint32_t)id;
}
/// A candidate's score; NaN for an entry that is free or closed.
PTX_INLINE float score_of(uint64_t key)
{
    const uint32_t high = (uint32_t)(key >> 32), negative = (uint32_t)((int32_t)~high >> 31);
    return float_of(high ^ (negative | 1u << 31));
}
/// The id of a candidate or of the local block, ~0 of any other entry.
PTX_INLINE uint32_t id_of(uint64_t key)
{
    return ~(uint32_t)key;
}
/// What entry `a` of a list of `size` holds before the first candidate.
PTX_INLINE uint64_t first_entry(int a, int size, int topk, int local)
{
    return a == 0 ? closed_entry | ~(uint32_t)local : a <= size - topk ? closed_entry : free_entry;
}
/// The local block of query i.
PTX_INLINE int local_block(const Shape &s, int64_t i)
{
    return (int)((s.prefix + i) / s.block);
}

/// Calls f(std::integral_constant<int, size>()) for a list of k (host).
template <class F> static void with_list_size(int topk, const F &f)
{
    with_int<8, 16, 32>(topk <= 8 ? 8 : topk <= 16 ? 16 : 32, f);
}

/* ---- A thread's list: K entries in registers, best first ---------------------------------------------- */

// It stays there if every loop over it is unrolled to the end: so K is 8, 16 or 32, and a smaller k closes entries.

/// Puts a candidate that beats the last entry where it belongs; the last falls off.
template <int K> PTX_INLINE void insert(uint64_t (&list)[K], uint64_t key)
{
    UNROLL
    for (int a = K - 1; a > 0; a--) {
        const uint64_t moved = list[a - 1] < key ? list[a - 1] : key;
        list[a] = list[a] > moved ? list[a] : moved;
    }
    list[0] = list[0] > key ? list[0] : key;
}

/// Writes the row of ids, sorted by a bitonic network.
template <int K> PTX_INLINE void write_ids(int32_t *ids, const uint64_t (&list)[K], int topk)
{
    uint32_t id[K];
    UNROLL
    for (int a = 0; a < K; a++)
        id[a] = id_of(list[a]);
    UNROLL
    for (int run = 2; run <= K; run *= 2)
        UNROLL
    for (int step = run / 2; step > 0; step /= 2)
        UNROLL
    for (int a = 0; a < K; a++)
        if ((a & step) == 0) {
            const uint32_t x = id[a], y = id[a + step], lo = x < y ? x : y, hi = x < y ? y : x;
            id[a] = a & run ? hi : lo;
            id[a + step] = a & run ? lo : hi;
        }
    UNROLL
    for (int a = 0; a < K; a++)
        if (a < topk)
            st_global(ids + a, (int32_t)id[a]);
}

/* ---- A thread's list with a buffer of candidates ------------------------------------------------------- */

/// An insertion takes a warp's time as soon as one lane wants it: in random order some lane of 32 does at 677
/// of 1024 blocks (k = 16), though a row needs 78. So a candidate that beats the last entry waits in shared
/// memory until some lane has `buffer_size` of them; then all lanes insert: 170 insertions, for 85 candidates a
/// row, since the last entry is out of date meanwhile (a simulation of 40 warps; of 4096 blocks 228 instead
/// of 1263).
constexpr int buffer_size = 8;
using CandidateBuffer = uint64_t[buffer_size][32]; ///< of a warp

template <int K> struct BufferedList {
    uint64_t entry[K];
    float threshold; ///< the score of the last entry; NaN while that is free
    int n;           ///< candidates in the buffer
};

template <int K> PTX_INLINE BufferedList<K> buffered_list(int topk, int local)
{
    BufferedList<K> list;
    UNROLL
    for (int a = 0; a < K; a++)
        list.entry[a] = first_entry(a, K, topk, local);
    list.threshold = score_of(list.entry[K - 1]);
    list.n = 0;
    return list;
}
/// Inserts what the lanes have in their buffers. The whole warp calls it.
template <int K> PTX_INLINE void flush(BufferedList<K> &list, const CandidateBuffer &buffer)
{
    const int longest = (int)warp_max((uint32_t)list.n);
    for (int a = 0; a < longest; a++)
        insert(list.entry, a < list.n ? ld_shared(&buffer[a][threadIdx.x % 32]) : free_entry);
    list.threshold = score_of(list.entry[K - 1]);
    list.n = 0;
}
/// Offers block b's score, where there is one for this lane. The whole warp calls it.
template <int K>
PTX_INLINE void offer(BufferedList<K> &list, CandidateBuffer &buffer, bool there, float x, int b)
{
    if (there && !(x <= list.threshold)) // where either is NaN the keys decide
        st_shared(&buffer[list.n++][threadIdx.x % 32], rank_key(x, b));
    if (warp_ballot(list.n == buffer_size))
        flush(list, buffer);
}

/* ---- A warp's list: 32 places, lane = rank ----------------------------------------------------------- */

struct WarpList {
    uint64_t entry;     ///< this lane's
    uint64_t threshold; ///< the last lane's: what a candidate has to beat
};

PTX_INLINE WarpList warp_list(int topk, int local)
{
    return {first_entry((int)threadIdx.x % 32, 32, topk, local), first_entry(31, 32, topk, local)};
}

/// Offers a candidate of each lane, in any order of ids. Most are turned down by one comparison and one
/// ballot; one that is not takes its rank, and those behind it move down a lane.
PTX_INLINE void offer(WarpList &list, uint64_t key)
{
    const int lane = (int)threadIdx.x % 32;
    uint32_t better = warp_ballot(key > list.threshold);
    while (better) {
        const uint64_t next = shfl(key, __ffs((int)better) - 1);
        const int rank = __popc(warp_ballot(list.entry > next));
        const uint64_t above = __shfl_up_sync(~0u, list.entry, 1);
        list.entry = lane < rank ? list.entry : lane == rank ? next : above;
        list.threshold = shfl(list.entry, 31);
        better = better & (better - 1) & warp_ballot(key > list.threshold);
    }
}

/// Offers the candidates key(c) of c = first + lane, then `step` further on, and so on below n. Four loads
/// are in flight before the first comparison.
template <class Key> PTX_INLINE void offer_all(WarpList &list, int first, int step, int n, Key key)
{
    constexpr int ahead = 4;
    for (; first < n; first += ahead * step) {
        uint64_t next[ahead];
        for (int a = 0; a < ahead; a++) {
            const int c = first + a * step + (int)threadIdx.x % 32;
            next[a] = c < n ? key(c) : free_entry;
        }
        for (int a = 0; a < ahead; a++)
            offer(list, next[a]);
    }
}

/// Calls store(slot, id) for the row of ids: a lane's slot is the number of smaller ids.
template <class Store> PTX_INLINE void store_ids(uint64_t entry, int topk, Store store)
{
    const int lane = (int)threadIdx.x % 32;
    const uint32_t id = id_of(entry);
    int slot = 0;
    for (int other = 0; other < 32; other++)
        slot += shfl(id, other) < id;
    const int chosen = __popc(warp_ballot(id != ~0u));
    if (id != ~0u)
        store(slot, (int32_t)id);
    if (lane >= chosen && lane < topk)
        store(lane, -1);
}
PTX_INLINE void write_ids(int32_t *ids, uint64_t entry, int topk)
{
    store_ids(entry, topk, [&](int slot, int32_t id) { st_global(ids + slot, id); });
}

/// The same by a whole CTA, for a row that is too long for one warp: each warp makes a list of
/// its share of the n candidates, then warp 0 merges the lists and stores. `lists` is shared memory.
template <int warps, class Key, class Store>
PTX_INLINE void select_by_block(uint64_t (&lists)[warps][32], int topk, int local, int n, Key key,
                                Store store)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    WarpList list = warp_list(topk, local);
    offer_all(list, 32 * warp, 32 * warps, n, key);
    st_shared(&lists[warp][lane], list.entry);
    __syncthreads();
    if (warp > 0)
        return;
    for (int w = 1; w < warps; w++) {
        const uint64_t entry = ld_shared(&lists[w][lane]);
        offer(list, entry < closed_entry ? entry : free_entry);
    }
    store_ids(list.entry, topk, store);
}

#endif
