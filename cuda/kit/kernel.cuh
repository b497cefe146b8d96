/**
 * @file kernel.cuh
 * @brief What every kernel file starts from: one sequence's sizes and arrays, where things lie in them, and
 *        the entry by which the table finds the kernel.
 *
 * A kernel file defines its __global__ functions, a host function `run` that launches them, and ends with
 *
 *     ENTRY(dense, naive, run, no_workspace);
 *
 * The same file is compiled by nvcc for the GPU and by a C++ compiler for the engine.
 *
 * M3's sizes, in the heads of kernel files: 64 query and 4 key-value heads of 128, 4 index heads of 128, blocks
 * of 128 keys, k = 16 (book/notation.md); with a number of tokens, T = S = that many. An estimate is arithmetic,
 * never a measurement.
 */
#ifndef MSA_KERNEL_CUH
#define MSA_KERNEL_CUH

#include "../../ref/stages.h"
#include "../host/msa_cuda.h"
#include "fragment.cuh"
#include "launch.cuh"

#include <type_traits>

// A call has two vocabularies. Whoever calls, in C, has msa_shape, msa_arrays and msa_pages: all sequences, sizes as
// given. A kernel has Shape, Arrays and Pages, which host/sequences.cuh makes of them: one sequence, what follows from
// its sizes, and pointers of the types that kernels read and write. So with the table: msa_kernel (msa.h) is a row that
// takes float32 arrays on the host, and its `run` ends in that of an msa_entry, which takes what lies on the device.

/// A condition that is known on the device only: `sum` not above the limit or, where `above`, above it.
struct Gate {
    const uint32_t *sum; ///< NULL: always open
    uint32_t limit;
    bool above;
};

/// What a sequence of a padded batch has in the arrays, its capacity, and where on the device it says how many queries
/// and keys it uses. The host knows the capacity alone: grids and workspaces are made for that.
struct Padding {
    const int32_t *len_q, *len_kv; ///< of this sequence; NULL: all of the capacity
    int n_q, n_kv;                 ///< capacity of the whole sequence...
    int first;                     ///< ...and its query with which this part of the call begins
};

/// Sizes of one sequence. Counts of tokens fit an int; products of sizes may not: see the functions below.
struct Shape {
    int n_q, n_kv;    ///< T, S
    int prefix;       ///< S - T: the position of query 0
    int n_heads;      ///< Hq
    int n_kv_heads;   ///< Hkv
    int group;        ///< G = Hq / Hkv
    int block;        ///< Bk
    int topk;         ///< k
    int n_blocks;     ///< ceil(S / Bk), of this sequence
    int64_t rows;     ///< queries of the whole call: from one group's ids, scores or index LSE to the next's
    int64_t n_scores; ///< blocks of the call's longest sequence: from one query's scores to the next's
    Gate gate;        ///< of the kernels that prefill/auto chooses from
    int capacity;     ///< queries that the arrays are made for: n_q, until a kernel knows better
    int item_limit;   ///< entries of an item of reverse's worklist at most: msa_item_limit(), or what its caller sets
    Padding padding;
};

/// An 8-bit copy of index keys, of one sequence: msa_index8.
struct Copy8 {
    int8_t *codes; ///< NULL: the kernel makes its own
    float *scale, *reach, *error;
    float *least; ///< NULL: nobody asks; no kernel reads it
};

/// One sequence's arrays: they start at its first query or key.
struct Arrays {
    const bf16 *q, *k, *v, *qi, *ki;
    Copy8 copy;
    msa_screening *screening; ///< to which every sequence adds
    float *scores;
    const float *scores_by_block; ///< the same array, of a kernel that takes it so
    int32_t *ids;
    const int32_t *forced_ids;
    float *index_lse;
    void *o;
    float *lse;
    int32_t *first;
    uint32_t *entries;
    msa_item *items;
    const bf16 *dout;
    float *dq, *dk, *dv, *dqi, *dki;
    double *loss, weight;
};

/// Where keys lie that are paged (msa_pages), on the device, and how many queries and keys a request has.
/// Blocks and pages consist of pieces, runs of tokens that lie side by side: a page, or a block of it.
struct Pages {
    const int32_t *table, *lens, *len_q; ///< NULL: contiguous; the shape says how many there are
    int n_pages, max_pages;
    int piece, pieces; ///< tokens of a piece, pieces of a page
    uint8_t *ki8;
    float *scale;    ///< of each piece
    int32_t *status; ///< where to say that something is out of range
};

/// Tokens that a step appends to the pages first, and how many it takes back before; NULL: none.
struct NewTokens {
    const bf16 *k, *v, *ki;
    const int32_t *rejected;
};

/// What `run` is given: one sequence, or all requests of a paged call. Then the shape is that of the largest
/// request there may be, and the arrays start at the first request's query and at page 0.
struct Call {
    Shape s;
    int d_head, d_index;
    msa_dtype out;
    Arrays a;
    int batch; ///< requests
    Pages pages;
    NewTokens fresh;
    void *work;
    cudaStream_t stream;
};

/// A kernel on one device: what ENTRY makes, and msa_device lists.
struct msa_entry {
    const char *name;                   ///< "dense/naive"
    msa_stage stage;
    size_t (*workspace)(const Call &c); ///< bytes; called without arrays
    msa_status (*run)(const Call &c);
};
static inline size_t no_workspace(const Call &)
{
    return 0;
}
/// What the kernels of both devices have, of the one that this file is compiled for: simt_index_fused on the engine,
/// cuda_index_fused on the GPU.
#ifdef __CUDACC__
#define ON_SIDE(stage, name) cuda_##stage##_##name
#else
#define ON_SIDE(stage, name) simt_##stage##_##name
#endif
/// The stage of a kernel that is in no table; of the others, stages.h has STAGE_dense and so on.
enum { STAGE_exercise = MSA_N_STAGES };
#define ENTRY(stage, name, run, workspace)                                                                   \
    extern const msa_entry ON_SIDE(stage, name);                                                             \
    const msa_entry ON_SIDE(stage, name) = {#stage "/" #name, (msa_stage)STAGE_##stage, workspace, run}

/* ---- Where things lie, in elements; 64 bits, since a million tokens times heads times width is more -- */

PTX_INLINE int64_t q_at(const Shape &s, int64_t i, int h, int d) ///< Q and O: query i, query head h
{
    return (i * s.n_heads + h) * d;
}
PTX_INLINE int64_t kv_at(const Shape &s, int64_t j, int r, int d) ///< K and V: key j, KV head r
{
    return (j * s.n_kv_heads + r) * d;
}
PTX_INLINE int64_t qi_at(const Shape &s, int64_t i, int r, int d) ///< index queries
{
    return (i * s.n_kv_heads + r) * d;
}
PTX_INLINE int64_t lse_at(const Shape &s, int64_t i, int h) ///< LSE
{
    return i * s.n_heads + h;
}
PTX_INLINE int64_t row_at(const Shape &s, int64_t i, int r) ///< index LSE; times topk: ids
{
    return r * s.rows + i;
}
PTX_INLINE int64_t scores_at(const Shape &s, int64_t i, int r) ///< a query's first score
{
    return row_at(s, i, r) * s.n_scores;
}

/// Whether a row of ids goes on with this one: it ends with the first that is no block of the sequence, so
/// that ids which break the contract lead nowhere outside the arrays.
PTX_INLINE bool is_block(const Shape &s, int id)
{
    return (unsigned)id < (unsigned)s.n_blocks;
}

/// What there is of a shape: every kernel begins with it, and then looks at no query or key of the padding. A
/// sequence with a length out of range has none of either, and msa_arrays' status tells.
PTX_INLINE Shape actual(Shape s)
{
    const Padding &p = s.padding;
    if (!p.len_q && !p.len_kv)
        return s;
    int n_q = p.len_q ? ld_global(p.len_q) : p.n_q, n_kv = p.len_kv ? ld_global(p.len_kv) : p.n_kv;
    if (n_q < 0 || n_q > p.n_q || n_kv < n_q || n_kv > p.n_kv)
        n_q = n_kv = 0;
    const int left = n_q > p.first ? n_q - p.first : 0;
    s.n_q = left < s.n_q ? left : s.n_q;
    s.prefix = n_kv - n_q + p.first;
    s.n_kv = s.prefix + s.n_q;
    s.n_blocks = (s.n_kv + s.block - 1) / s.block;
    return s;
}

/// Whether a kernel that may be passed over has to return at once.
PTX_INLINE bool closed(const Gate &gate)
{
    return gate.sum && (ld_global(gate.sum) > gate.limit) != gate.above;
}

/* ---- Small things -------------------------------------------------------------------------------- */

/// Neighbouring elements that one instruction loads or stores.
struct alignas(8) bf16x4 {
    bf16 x[4];
};
struct alignas(16) bf16x8 {
    bf16 x[8];
};

constexpr float log2_e = 1.44269504088896341f, ln_2 = 0.693147180559945309f;

/// 1 / sqrt(d), and the same times log2(e): softmax is computed in base 2, which is what the hardware has.
template <int D> constexpr float scale = D == 64 ? 0.125f : 0.0883883476483184406f;
template <int D> constexpr float scale2 = scale<D> *log2_e;

/// The two floats that are no numbers to compute with.
PTX_INLINE float minus_infinity()
{
    PTX(return __int_as_float((int)0xff800000);)
    CPU(return -INFINITY;)
}
PTX_INLINE float not_a_number()
{
    PTX(return __int_as_float(0x7fffffff);)
    CPU(return NAN;)
}

/// Where the running maximum of a softmax starts. Every finite logit is as large, and -inf, which a logit may
/// be itself, minus this is -inf: a weight of 0, where -inf minus -inf would be NaN. A maximum drops NaN, but
/// the weights do not, so the sum of weights tells: 0 where all logits were -inf or there were none, NaN
/// where one was NaN or +inf.
constexpr float lowest = -3.40282346638528859812e38f;
/// The natural logarithm of a row's sum l of weights 2^(x - m). Where all that the row attends to weighs
/// nothing the formula has no value, as O = 0 / 0 has none.
PTX_INLINE float lse_of(float m, float l)
{
    return l == 0 ? not_a_number() : m * ln_2 + logf(l);
}

/// The same number: float32 holds every bf16.
PTX_INLINE float to_float(bf16 x)
{
    return __bfloat162float(x);
}
/// Stores one element of O, which is float32 or bf16.
PTX_INLINE void store(float *p, float x SITE)
{
    st_global(p, x PASS_SITE);
}
PTX_INLINE void store(bf16 *p, float x SITE)
{
    st_global(p, __float2bfloat16_rn(x) PASS_SITE);
}

/// Stores two neighbouring elements of O.
PTX_INLINE void store_2(float *p, float2 x SITE)
{
    st_global((float2 *)p, x PASS_SITE);
}
PTX_INLINE void store_2(bf16 *p, float2 x SITE)
{
    st_global((uint32_t *)p, pack_bf16(x.x, x.y) PASS_SITE);
}
/// Stores four neighbouring elements of O.
PTX_INLINE void store_4(float *p, float4 x SITE)
{
    st_global((float4 *)p, x PASS_SITE);
}
PTX_INLINE void store_4(bf16 *p, float4 x SITE)
{
    const uint2 packed = {pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)};
    st_global((uint2 *)p, packed PASS_SITE);
}
/// Loads four neighbouring channels.
PTX_INLINE float4 load_4(const bf16 *p SITE)
{
    const bf16x4 a = ld_global((const bf16x4 *)p PASS_SITE);
    return make_float4(to_float(a.x[0]), to_float(a.x[1]), to_float(a.x[2]), to_float(a.x[3]));
}
PTX_INLINE float4 load_4(const float *p SITE)
{
    return ld_global((const float4 *)p PASS_SITE);
}

/// a / b, rounded up.
template <class T> MSA_BOTH_SIDES constexpr T ceil_div(T a, T b)
{
    return (a + b - 1) / b;
}

/* ---- Parts of the workspace (host) ------------------------------------------------------------------ */

/// Hands out 128-byte aligned parts of a workspace; of none, to learn how many bytes it takes. Whoever plans
/// and whoever runs must carve by the same function, or one day they disagree.
struct Carve {
    uintptr_t start;
    size_t used = 0;
    template <class T> T *take(int64_t n)
    {
        T *p = (T *)(start + used);
        used += ceil_div((size_t)n * sizeof(T), (size_t)128) * 128;
        CPU(simt::reach = start + used > simt::reach ? start + used : simt::reach;)
        return p;
    }
    template <class T> T *take_if(bool wanted, int64_t n)
    {
        return wanted ? take<T>(n) : nullptr;
    }
};

/* ---- A part of a call; from run-time sizes to template arguments (host) ------------------------------ */

/// The value of a parameter of tunables.def on this device: MSA_TUNE_sweep_chunk, for example.
extern int ON_SIDE(kernels, tuned)[];
inline int tuned(int parameter)
{
    return ON_SIDE(kernels, tuned)[parameter];
}

/// The rule of length: whether a call that brings a copy is screened. A workspace is made for both ways.
static inline bool may_screen(const Call &c)
{
    return c.s.n_blocks >= tuned(MSA_TUNE_screen_from);
}
static inline bool screens(const Call &c)
{
    return c.a.copy.codes && may_screen(c);
}

/// Queries q0 .. q0 + n - 1 as a call of their own: a sequence that ends with the last of them.
static inline Call chunk_of(const Call &c, int q0, int n)
{
    const int64_t rows = (int64_t)q0 * c.s.n_heads;
    Call part = c;
    part.s.n_q = part.s.capacity = n;
    part.s.prefix = c.s.prefix + q0;
    part.s.padding.first = c.s.padding.first + q0;
    if (!c.s.padding.len_q && !c.s.padding.len_kv) { // else its last query may be anywhere
        part.s.n_kv = part.s.prefix + n;
        part.s.n_blocks = ceil_div(part.s.n_kv, c.s.block);
    }
    part.s.n_scores = part.s.n_blocks;
    auto skip = [](auto *&p, int64_t elements) { p = p ? p + elements : nullptr; };
    skip(part.a.q, rows * c.d_head);
    skip(part.a.dout, rows * c.d_head);
    skip(part.a.dq, rows * c.d_head);
    skip(part.a.lse, rows);
    skip(part.a.qi, (int64_t)q0 * c.s.n_kv_heads * c.d_index);
    skip(part.a.dqi, (int64_t)q0 * c.s.n_kv_heads * c.d_index);
    skip(part.a.ids, (int64_t)q0 * c.s.topk);
    skip(part.a.index_lse, q0);
    if (c.a.o)
        part.a.o = (char *)c.a.o + rows * c.d_head * (c.out == MSA_BF16 ? 2 : 4);
    return part;
}

/// The same call with items of so many entries.
static inline Call with_items(Call c, int limit)
{
    c.s.item_limit = limit;
    return c;
}

/// Calls f(std::integral_constant<int, N>) for the N in the list that equals n; plans admit no other n.
template <int... N, class F> static void with_int(int n, const F &f)
{
    (void)((n == N && (f(std::integral_constant<int, N>()), true)) || ...);
}
/// Calls f(float *) or f(bf16 *), the output's type.
template <class F> static void with_output(const Call &c, const F &f)
{
    if (c.out == MSA_F32)
        f((float *)c.a.o);
    else
        f((bf16 *)c.a.o);
}

#endif
