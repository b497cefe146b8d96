/**
 * @file chunks.cuh
 * @brief The launches around a sweep over key blocks, whichever instruction multiplies (mma_sync.cuh,
 * backward/4_hopper.cu), for one chunk of queries after the other.
 */
#ifndef MSA_CHUNKS_CUH
#define MSA_CHUNKS_CUH

#include "parts.cuh"

namespace
{

/* ---- Chunks ---------------------------------------------------------------------------------------- */

constexpr size_t scratch_limit = (size_t)1 << 33; ///< bytes, about, that a chunk of queries may take

/// Entries of an item.
inline int sweep_item(const Shape &s)
{
    const int most = tuned(MSA_TUNE_sweep_item);
    return most < s.item_limit ? most : s.item_limit;
}
/// As many queries as the scratch allows: the last of a sequence, which see most.
inline int chunk_length(const Call &c, const Task &task, bool full)
{
    int n = c.s.n_q < tuned(MSA_TUNE_sweep_chunk) ? c.s.n_q : tuned(MSA_TUNE_sweep_chunk);
    while (n > 1 && layout(chunk_of(c, c.s.n_q - n, n), task, full, nullptr).bytes > scratch_limit)
        n = ceil_div(n, 2);
    return n;
}

/* ---- The stage ------------------------------------------------------------------------------------- */

/// One chunk of queries; launch_sweep(c, items, out) multiplies.
template <int D, int DI, int N, bool main, bool kl, class Launch>
msa_status sweep_chunk(const Call &call, const Task &task, bool full, const Launch &launch_sweep)
{
    Call c = call;
    const Shape &s = c.s;
    const Scratch w = layout(c, task, full, c.work);
    const float factor = kl ? (float)(c.a.weight * loss_share(s)) * scale<DI> : 0;
    const unsigned items = full ? (unsigned)(s.n_kv_heads * s.n_blocks) : (unsigned)reverse_items(s);
    if (!full)
        ON_SIDE(reverse, launch)(s, c.a.ids, w.first, w.entries, w.items, w.reverse, c.stream);
    if (main)
        launch_deltas<D>(c, w.delta);
    if (main)
        launch_centres<D>(c, c.a.k, s.n_kv_heads, w.centres);
    if (kl)
        launch_centres<DI>(c, c.a.ki, 1, w.index_centres);
    if (kl && !c.a.index_lse)
        c.a.index_lse = launch_index_lse<DI>(c, w.index_lse);
    const msa_status status = launch_sweep(c, items, Out{w, c.a.dq, c.a.dk, c.a.dv, c.a.dqi, factor});
    if (status != MSA_OK)
        return status;
    if (main && !full)
        LAUNCH((merge<D, N>), dim3((unsigned)s.n_blocks, (unsigned)s.n_kv_heads), dim3(merge_threads), 0,
               c.stream, s, w, c.a.dk, c.a.dv);
    if (main && task.deterministic)
        launch_sum_slots(c, w, s.group, D, w.part_dq, c.a.dq);
    if (kl && c.a.dqi && task.deterministic)
        launch_sum_slots(c, w, 1, DI, w.part_dqi, c.a.dqi);
    if (kl && c.a.dqi) // after merge(), whose scratch it takes
        launch_index_keys<DI, N>(c, w, items, factor);
    if (kl)
        launch_add_up(c, items, w.loss);
    return MSA_OK;
}

/// The bytes for the largest chunk: the last one.
inline size_t chunk_workspace(const Call &call, const Task &task, bool full)
{
    const Call c = with_items(call, sweep_item(call.s));
    const int n = chunk_length(c, task, full);
    return n > 0 ? layout(chunk_of(c, c.s.n_q - n, n), task, full, nullptr).bytes : 0;
}

/// Whether there will be ids or not.
inline size_t sweep_workspace(const Call &c, const Task &task)
{
    const size_t some = task.ids ? chunk_workspace(c, task, false) : 0, all = chunk_workspace(c, task, true);
    return some > all ? some : all;
}

/// Chunk after chunk of queries. `task` is what the workspace was planned for; this run does `main` and `kl`.
template <int D, int DI, int N, bool main, bool kl, class Launch>
msa_status sweep_all(const Call &call, const Task &task, const Launch &launch_sweep)
{
    const Call c = with_items(call, sweep_item(call.s));
    const bool full = !c.a.ids;
    const int step = chunk_length(c, task, full);
    const Task mine = {main, kl, task.deterministic, task.ids};
    msa_status status = MSA_OK;
    Call reduced = c;
    if (task.deterministic)
        reduced.a.dq = reduced.a.dqi = nullptr; // sum_slots() stores every row
    clear_gradients(reduced);
    for (int q0 = 0; q0 < c.s.n_q && status == MSA_OK; q0 += step)
        status = sweep_chunk<D, DI, N, main, kl>(chunk_of(c, q0, c.s.n_q - q0 < step ? c.s.n_q - q0 : step),
                                                 mine, full, launch_sweep);
    return status;
}

} // namespace

#endif
