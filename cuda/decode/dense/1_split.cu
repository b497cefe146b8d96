/**
 * @file 1_split.cu
 * @brief One step of generation by dense attention: the baseline that MSA's step is compared with.
 *
 * Idea: the split attention of split_attend.cuh over all visible tokens of a request, in two launches: new
 * tokens into their pages, then attention, whose last part of a row merges.
 * Bytes of a row (query, group) of n visible tokens in c parts, beside lengths: in 4 dh n of K and V, 2 dh G c
 * of Q, 4 a lane and warp for the page of each of its pieces; a head stores (8 + 4 dh) c, loads as much,
 * and stores O and LSE.
 * Floor: all of K and V once, 4 Hkv dh S a request: at S = 1M and M3's sizes 2.15 GB, 0.64 ms on an H800 (3.35
 * TB/s), 0.45 on an H200 (4.8). Nothing is measured; a CTA an SM has 64 KB on their way (chapter 15,
 * design notes).
 * Waste: each of T > 1 queries reads K and V again, though they could share the rows of a product; in a batch
 * of unequal lengths the short requests' CTAs are done early.
 */
#include "../split_attend.cuh"
#include "../update_cache.cuh"

namespace
{

template <int D, class Out>
__global__ void __launch_bounds__(attend_threads, 1)
    attend(Shape largest, Pages pages, const bf16 *q, const bf16 *k, const bf16 *v, Parts parts,
           uint32_t *tickets, Out *o, float *lse)
{
    AttendSmem<D> &m = shared<AttendSmem<D>>();
    const int query = (int)blockIdx.z, r = (int)blockIdx.y, n = query / largest.n_q, i = query % largest.n_q;
    const Shape s = request(largest, pages, n);
    const Part part = part_of(s.prefix + i + 1, (int)blockIdx.x, parts.count);
    const bool works = i < s.n_q && part.first < part.n;
    if (works)
        fetch_queries(m, s, q + q_at(s, query, r * s.group, D));
    grid_wait();
    if (i >= s.n_q && blockIdx.x == 0)
        pad_row(s, query, r, D, nullptr, o, lse);
    if (!works)
        return;
    const Attended<D> sum = attend_part(
        m, s, part, pages.piece, r, k, v, [&](int g) { return piece_of(pages, n, g); }, [] {});
    finish_part(m, s, part, query, r, sum, parts, tickets + (int64_t)query * s.n_kv_heads + r, o, lse);
}

struct Scratch {
    Parts parts;
    uint32_t *tickets;
    int n_tickets;
    size_t bytes;
};

Scratch layout(const Call &c)
{
    const int64_t queries = (int64_t)c.batch * c.s.n_q;
    Carve carve = {(uintptr_t)c.work};
    Scratch w;
    w.n_tickets = (int)queries * c.s.n_kv_heads;
    w.parts.count = parts_of(w.n_tickets, c.s.n_kv, attend_step);
    w.parts.ml = carve.take<float2>(queries * c.s.n_heads * w.parts.count);
    w.parts.o = carve.take<float>(queries * c.s.n_heads * w.parts.count * c.d_head);
    w.tickets = carve.take<uint32_t>(w.n_tickets);
    w.bytes = carve.used;
    return w;
}

size_t workspace(const Call &c)
{
    return layout(c).bytes;
}

msa_status run(const Call &c)
{
    if (!supported(c))
        return MSA_ERR_UNSUPPORTED;
    const Scratch w = layout(c);
    const dim3 grid((unsigned)w.parts.count, (unsigned)c.s.n_kv_heads, (unsigned)(c.batch * c.s.n_q));
    launch_update_cache(c, w.tickets, w.n_tickets);
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_output(c, [&](auto *o) {
            LAUNCH_DEPENDENT((attend<d.value, std::remove_pointer_t<decltype(o)>>), grid,
                             dim3(attend_threads), sizeof(AttendSmem<d.value>), c.stream, c.s, c.pages, c.a.q,
                             c.a.k, c.a.v, w.parts, w.tickets, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(dense_decode, split, run, workspace);
