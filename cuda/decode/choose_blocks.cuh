/**
 * @file choose_blocks.cuh
 * @brief A row's blocks by a whole CTA, from lists of candidates, and where their keys and values lie.
 *
 * A CTA that attends can do nothing before it knows its blocks, so what counts is how often it waits for memory: once
 * for all candidates, which its threads load together, and once for pages. Between, the threads' best, eight at a
 * time, have a (k - 1)-th largest: a bound that about 20 candidates of 2000 reach (candidates.cuh). Each of these
 * looks its pages up while it counts who is better. L2 has their numbers by then, having been asked for all of them before
 * the candidates were there; and what divides by the pieces of a page was computed then.
 */
#ifndef MSA_CHOOSE_BLOCKS_CUH
#define MSA_CHOOSE_BLOCKS_CUH

#include "../kit/candidates.cuh"
#include "decode.cuh"

constexpr int choosers = 256,
              keys_each = 9; ///< threads; a thread's keys in one turn: 132 lists of 15 are one
constexpr int most_kept = max_blocks + choosers * keys_each,
              most_pieces = 128 / min_piece; ///< the last of a block

/// n lists of `each` candidates, of which the last has `last`; they begin so many keys apart.
struct Lists {
    const uint64_t *key;
    int n, each, last, apart;
};
/// One list of n candidates, as lists of one a thread.
PTX_INLINE Lists one_list(const uint64_t *key, int n)
{
    const int lists = ceil_div(n, choosers);
    return {key, lists, choosers, n - (lists - 1) * choosers, choosers};
}
/// A list has a power of two of slots.
PTX_INLINE int slot_bits(const Lists &lists)
{
    return lists.each > 1 ? 32 - __clz(lists.each - 1) : 0;
}

struct ChooseSmem {
    uint64_t kept[most_kept];               ///< those that may be chosen, in any order, then free entries
    uint64_t best[max_blocks];              ///< of these, the best first
    alignas(16) uint32_t top[choosers];     ///< scores of the threads' best
    int32_t page[max_blocks * most_pieces]; ///< pieces of the best
    int n_kept;
};

/// Keeps the candidates of one turn, from slot `first` on, that may be chosen, behind `chosen` earlier ones. Ends with a
/// barrier.
PTX_INLINE void keep_candidates(ChooseSmem &m, const Lists &lists, int topk, int first, int chosen)
{
    const int t = (int)threadIdx.x, bits = slot_bits(lists), place = t & ((1 << bits) - 1),
              list = (first + t) >> bits, next = choosers >> bits;
    const int end = place < lists.each ? lists.n - (place >= lists.last) : 0; // of lists that have this place
    const uint64_t *const from = lists.key + (int64_t)list * lists.apart + place;
    // [choose]
    uint64_t own[keys_each];
    uint32_t best = 0, most = 0;
    UNROLL
    for (int a = 0; a < keys_each; a++)
        own[a] = ld_global_if(list + a * next < end, from + a * next * lists.apart);
    UNROLL
    for (int a = t; a < most_kept; a += choosers) // meanwhile
        if (a >= chosen)
            st_shared(&m.kept[a], free_entry);
    UNROLL
    for (int a = 0; a < keys_each; a++)
        best = high_word(own[a]) > best ? high_word(own[a]) : best;
    st_shared(&m.top[t], best);
    __syncthreads(); // the best of all threads are there, and the earlier ones
    for (int half = 0; half < 2; half++) {
        const uint4 x = ld_shared((const uint4 *)&m.top[t % 32 * 4 + half * choosers / 2]);
        const uint32_t a = x.x > x.y ? x.x : x.y, b = x.z > x.w ? x.z : x.w, c = a > b ? a : b;
        most = c > most ? c : most;
    }
    const uint32_t nth = topk > 1 ? nth_largest(most, topk - 2) : ~0u,
                   least = chosen == topk ? high_word(ld_shared(&m.kept[topk - 1])) : 0;
    const uint32_t bound = nth > least ? nth : least;
    int n = 0;
    UNROLL
    for (int a = 0; a < keys_each; a++) {
        own[a] = high_word(own[a]) >= bound ? own[a] : free_entry;
        n += own[a] != free_entry;
    }
    if (n > 0) { // of one thread in ten
        int at = atomicAdd(&m.n_kept, n);
        UNROLL
        for (int a = 0; a < keys_each; a++) {
            st_shared_if(own[a] != free_entry, &m.kept[at], own[a]);
            at += own[a] != free_entry;
        }
    }
    __syncthreads(); // all that is kept is there
    // [choose]
}

/// Of the number of pieces of a block, which is a power of two as both are.
PTX_INLINE int piece_bits(const Shape &s, const Pages &pages)
{
    return __ffs(s.block) - __ffs(pages.piece);
}

/// The best k of what was kept, in their order, and their pieces; how many there are. Ends with a barrier.
PTX_INLINE int rank_kept(ChooseSmem &m, const Shape &s, const Pages &pages, uint32_t reciprocal, int request)
{
    const int bits = piece_bits(s, pages), n = ld_shared(&m.n_kept);
    // [rank]
    ROLLED
    for (int a = (int)threadIdx.x; a < n << bits; a += choosers) {
        const uint64_t key = ld_shared(&m.kept[a >> bits]);
        const int piece = a & ((1 << bits) - 1), g = (int)(id_of(key) << bits) + piece;
        const bool there = g * pages.piece < s.n_kv;
        const Place place = place_of(pages, g, reciprocal);
        const int page = there ? page_at(pages, request, place.page) : 0;
        int rank = 0, first = 0;
        do { // what is kept ends with free entries
            UNROLL
            for (int other = 0; other < max_blocks; other++)
                rank += ld_shared(&m.kept[first + other]) > key;
            first += max_blocks;
        } while (first < n);
        bool good = true; // the page has come meanwhile
        const int at = there ? piece_in(pages, page, g, place.piece, good) : 0;
        check_page(pages, good);
        if (rank < s.topk) {
            if (piece == 0)
                st_shared(&m.best[rank], key);
            st_shared(&m.page[(rank << bits) + piece], at);
        }
    }
    __syncthreads(); // the best are there, and all have read what was kept
    // [rank]
    return smaller(n, s.topk);
}

/// Asks L2 for the numbers of a request's pages, which the choice waits for; by the CTAs of a row together. They are inputs of
/// the step: so before grid_wait().
PTX_INLINE void expect_pages(const Pages &pages, const Shape &s, int request)
{
    constexpr int line = 32; // numbers
    if (!pages.table || s.n_kv == 0)
        return;
    const int n = ceil_div(s.n_kv, pages.piece * pages.pieces);
    for (int a = line * (int)(blockIdx.x * choosers + threadIdx.x); a < n + line - 1;
         a += line * choosers * (int)gridDim.x) // the last line may begin in between
        prefetch_l2(pages.table + (int64_t)request * pages.max_pages + smaller(a, n - 1));
}

/// The blocks of a row of a request: the local one, and the best k - 1 of its candidates; how many. `reciprocal` is
/// per_piece()'s. Ends with a barrier.
PTX_INLINE int choose_blocks(ChooseSmem &m, const Shape &s, const Pages &pages, uint32_t reciprocal,
                             int request, int local, const Lists &lists)
{
    const int t = (int)threadIdx.x, slots = s.topk > 1 ? lists.n << slot_bits(lists) : 0;
    uint64_t earlier = t == 0 ? closed_entry | ~(uint32_t)local : free_entry; // which no candidate beats
    int chosen = 1, first = 0;
    do {
        if (t < chosen)
            st_shared(&m.kept[t], earlier);
        if (t == 0)
            st_shared(&m.n_kept, chosen);
        keep_candidates(m, lists, s.topk, first, chosen);
        chosen = rank_kept(m, s, pages, reciprocal, request);
        earlier = t < chosen ? ld_shared(&m.best[t]) : free_entry; // competes with the next turn's
        first += choosers * keys_each;
    } while (first < slots);
    return chosen;
}

/// Where piece g of the chosen blocks lies, in the order in which they are attended to: the local one is the last.
PTX_INLINE int chosen_piece(const ChooseSmem &m, int bits, int chosen, int g)
{
    const int next = (g >> bits) + 1, rank = next < chosen ? next : 0;
    return ld_shared(&m.page[(rank << bits) + (g & ((1 << bits) - 1))]);
}

/// The row of ids, by the first warp: ascending, then -1.
PTX_INLINE void store_chosen(const ChooseSmem &m, int topk, int chosen, int32_t *ids)
{
    const int lane = (int)threadIdx.x;
    if (lane < 32)
        write_ids(ids, lane < chosen ? ld_shared(&m.best[lane]) : free_entry, topk);
}

#endif
