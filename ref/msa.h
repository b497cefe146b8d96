/**
 * @file msa.h
 * @brief MiniMax Sparse Attention (arXiv 2606.13392): the public C interface. msa_layer.h has what surrounds the
 *        attention: norm, rotary embedding, the whole layer. Part of this: msa_quality.h and msa_index8.h.
 *
 * MSA is causal grouped-query attention in which every query attends to `topk` blocks of `block`
 * keys instead of to all keys. A small Index Branch scores the blocks, each GQA group keeps its own,
 * and the Main Branch runs exact softmax attention on those only.
 *
 * Conventions, valid for every function here:
 * - Tensors are dense, C-ordered, token-major float32; block ids are int32.
 *   Q [T,Hq,dh]  K,V [S,Hkv,dh]  Qi [T,Hkv,di]  Ki [S,di]  O [T,Hq,dh]  LSE [T,Hq]
 *   scores and mass [Hkv,T,B]  ids [Hkv,T,k]  index LSE [Hkv,T].
 * - Query i of a sequence with T queries and S keys sits at position p(i) = S - T + i and sees the
 *   keys j <= p(i): a prefix of S - T tokens is already cached.
 * - Query head h belongs to group (and KV head) r = h / (Hq/Hkv).
 * - Logits are scaled by 1/sqrt(width); every LSE is a natural logarithm.
 * - The library keeps no state and allocates nothing: a caller asks a stage for its workspace size
 *   and passes that much memory, 64-byte aligned or not. Input and output may not overlap. No setting of the
 *   process is another afterwards; while a fast kernel runs, OpenBLAS is on one thread, its own number.
 * - Non-finite input is not an error here. (The program `msa` refuses such files.) What a query attends to
 *   follows IEEE arithmetic: where a NaN or an infinity in an attended key or value makes the formula's LSE
 *   or element of O not finite, every implementation's is not finite either (NaN or an infinity, which one is
 *   not promised), and it is never taken for "no token": -inf is the LSE of a query that sees nothing, and
 *   where all logits are -inf, O is 0 / 0 and LSE NaN. Of what a query does not attend to, queries, keys
 *   and index keys never matter; a NaN or an infinity in the VALUE of a token of the query's own sequence may
 *   turn that channel of O into NaN where an implementation multiplies it by a weight of 0, never into another
 *   number, and LSE not at all. Other sequences, padding and the unwritten rest of a page never matter.
 * - Finite inputs may be as large and as small as float32 goes. The fast path computes in float32; what that
 *   could not hold (rows of O that overflowed or all but vanished, index scores that cannot be told apart,
 *   gradients of such inputs) it does again in double: right, and as slow as the reference.
 * - A product of index query and key that is NaN counts as -inf. Every row of ids is well formed whatever
 *   the input: min(k, local+1) blocks, ascending, then -1.
 * - Every function returns an ::msa_status and touches no output unless it returns ::MSA_OK.
 */
#ifndef MSA_H
#define MSA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MSA_VERSION "0.1.0"

/* ---- Status --------------------------------------------------------------------------------- */

typedef enum msa_status {
    MSA_OK = 0,
    MSA_ERR_NULL,        /**< a required pointer is NULL */
    MSA_ERR_SIZE,        /**< a size is below 1, or larger than msa_check_shape() admits */
    MSA_ERR_HEADS,       /**< n_heads is not a multiple of n_kv_heads */
    MSA_ERR_CAUSAL,      /**< more queries than keys */
    MSA_ERR_SEQLENS,     /**< cu_q or cu_kv does not rise from 0 to n_q or n_kv, or a length does not fit in */
    MSA_ERR_IDS,         /**< a row of ids is not ascending visible blocks followed by -1 */
    MSA_ERR_PAGES,       /**< a page id or a length of a paged call is out of range */
    MSA_ERR_ROTARY,      /**< rot is odd, negative or wider than the head */
    MSA_ERR_UNSUPPORTED, /**< this implementation does not take this shape or output */
    MSA_ERR_DEVICE       /**< the device is missing, has no memory left or reported an error */
} msa_status;

/** One line of English for a status; never NULL. */
const char *msa_strerror(msa_status status);

/* ---- Shape ---------------------------------------------------------------------------------- */

/** The sizes of one call. `n_seqs` <= 1 means one sequence, which needs no cu_q and cu_kv.
 *
 *  A padded batch: len_q and len_kv say how many of each sequence's queries and keys there are, the first ones
 *  of its part of the arrays; 0 <= len_q[r] <= len_kv[r]. All that was said of T and S then holds for these
 *  numbers: query i sits at position len_kv[r] - len_q[r] + i. Padding is never read, and the rows of padding
 *  queries are written as those of a query that sees nothing: ids -1, O and gradients 0, LSE and scores -inf.
 *  A stage that takes ids wants -1 in those rows. Means over queries (the KL loss, recall) do not count them. */
typedef struct msa_shape {
    int64_t n_q;           /**< T: queries, of all sequences together */
    int64_t n_kv;          /**< S: keys, of all sequences together; S >= T */
    int n_heads;           /**< Hq: query heads */
    int n_kv_heads;        /**< Hkv: key-value heads = GQA groups = index query heads */
    int d_head;            /**< dh: width of a main head */
    int d_index;           /**< di: width of an index head */
    int block;             /**< Bk: tokens in a key block */
    int topk;              /**< k: blocks kept per query and group, the local one included */
    int n_seqs;            /**< R: packed sequences */
    const int32_t *cu_q;   /**< [R+1] first query of each sequence, then n_q */
    const int32_t *cu_kv;  /**< [R+1] first key of each sequence, then n_kv */
    const int32_t *len_q;  /**< [R] queries of each sequence, or NULL: all that cu_q has room for */
    const int32_t *len_kv; /**< [R] keys of each sequence, or NULL: all that cu_kv has room for */
} msa_shape;

/** One sequence of a packed batch: queries q0 .. q0+n_q-1 and keys kv0 .. kv0+n_kv-1, padding left out. */
typedef struct msa_seq {
    int64_t q0, n_q, kv0, n_kv;
} msa_seq;

/** Checks sizes, divisibility, causality, cu_seqlens and lengths. T and S may be up to 2^31 - 1, R Hkv, Hq dh and
 *  Hq di up to 2^30, a tensor up to 2^44 elements (scores: PTRDIFF_MAX bytes). */
msa_status msa_check_shape(const msa_shape *s);

/* Sizes and workspaces may be asked for before the shape is checked: of one that msa_check_shape() refuses, NULL
 * for one, a workspace is 0 bytes and the number of items 0; blocks and sequences are counted as far as the
 * fields that count them make sense. */

/** Number of sequences, at least 1. */
int msa_n_seqs(const msa_shape *s);

/** Sequence r of the batch; nothing where there is none. */
msa_seq msa_get_seq(const msa_shape *s, int r);

/** B = ceil(most keys a sequence has room for / block), the width of scores and mass. Ids count from its start. */
int64_t msa_n_blocks(const msa_shape *s);

/** Checks that each [Hkv,T,k] row has 1..k strictly ascending visible blocks, then -1; a padding query's, -1 alone. */
msa_status msa_check_ids(const msa_shape *s, const int32_t *ids);

/* ---- Pages: a KV cache in pieces --------------------------------------------------------------- */

/** Where the keys of a paged call lie. Keys and values are [P,page,Hkv,dh] (in files of `msa decode` the heads are
 *  outside, [P,Hkv,page,dh], as serving stacks keep them; here an appended token is one row), index keys
 *  [P,page,di], pages in any physical order; key j of request r is row j % page of page table[r, j / page]. A page
 *  holds `page` tokens, of which the block is a multiple or which are a multiple of the block. The shape of the
 *  call is the largest that may come: n_seqs requests of equally many queries T/R, the newest tokens, and equal
 *  room for keys, max_pages whole pages; len_kv is NULL. A request has lens[r] keys, of which the last len_q[r]
 *  are its queries' (NULL: T/R, none where lens[r] is 0). One without queries is not read at all.
 *
 *  Index keys may have 8-bit codes beside them, floats of 3 bits behind the point (E4M3), which a step reads
 *  instead: a key is then scale times what its bytes say. A scale belongs to a piece, min(page, block) tokens of a
 *  page, and only complete pieces have codes: they are made once, from all of the piece's keys, when its last
 *  token comes (of the local block nothing is ever scored), so that no scale grows and no key is rounded twice.
 *  Queries stay as they are. */
typedef struct msa_pages {
    int64_t n_pages;      /**< P */
    const int32_t *table; /**< [R,max_pages]; what follows a request's last page is not read */
    const int32_t *lens;  /**< [R], the new tokens included; 0: a place in the batch that is not used */
    uint8_t *ki8;         /**< [P,page,di] E4M3 index keys, read instead of ki; or NULL */
    float *scale;         /**< [P, page / min(page, block)] with ki8; NaN where one of the codes is */
    int page;             /**< tokens of a page; 0: a block */
} msa_pages;

/** Checks the shape, every length and every page id that a call will read. */
msa_status msa_check_pages(const msa_shape *s, const msa_pages *p);

/** Stores the newest tokens of every request into the pages: new_k and new_v [T,Hkv,dh], new_ki [T,di] (NULL
 *  where there is no Index Branch; then ki may be NULL too). With ki8 the pieces that become complete get their
 *  codes, from ki, which holds all keys. */
msa_status msa_append(const msa_shape *s, const msa_pages *p, const float *new_k, const float *new_v,
                      const float *new_ki, float *k, float *v, float *ki);

/** Takes tokens back, such as a draft that was rejected: of lens[r] tokens the first keep[r] stay, and a caller
 *  sets the length to that. What the others left, keys, values, index keys, and the codes and scale of a piece
 *  that is no longer complete, becomes zero: a cache that began with zeros is bit for bit what it were if they
 *  had never come. Their pages have to be the request's own.
 *  @param ki NULL where there is no Index Branch
 *  @return ::MSA_ERR_PAGES unless 0 <= keep[r] <= lens[r] */
msa_status msa_rollback(const msa_shape *s, const msa_pages *p, const int32_t *keep, float *k, float *v,
                        float *ki);

/** The nearest E4M3 (ties to even); what is larger than 448 becomes 448. NaN stays NaN. */
uint8_t msa_e4m3_bits(float x);
/** What its bits say. */
float msa_e4m3(uint8_t bits);
/** n numbers of the index keys of a piece. The scale is the smallest power of two that brings all within 448: then
 *  none costs a bit, and products are exact. NaN where one is not finite: a device looks for no NaN among codes. */
void msa_e4m3_block(const float *x, int64_t n, uint8_t *bits, float *scale);

/* ---- Stages: one signature each, whoever implements it ----------------------------------------
 *
 * Every stage returns ::MSA_ERR_NULL where a required pointer is NULL, what msa_check_shape() finds, what
 * msa_check_ids() finds where it reads ids and msa_check_pages() where it reads pages, and
 * ::MSA_ERR_UNSUPPORTED for a shape that an implementation does not take. */

/** Dense causal GQA: O = softmax(Q K^T / sqrt(dh)) V over all visible keys.
 *  @param q   [T,Hq,dh]; k and v [S,Hkv,dh]
 *  @param o   [T,Hq,dh]
 *  @param lse [T,Hq] log sum exp of a head's logits; may be NULL
 *  @param work as many bytes as the entry's workspace says, and so in every stage
 *  @return ::MSA_OK, or the error of the shape or of a pointer */
typedef msa_status msa_dense_fn(const msa_shape *s, const float *q, const float *k, const float *v, float *o,
                                float *lse, void *work);

/** Index Branch. Any of the outputs may be NULL; an implementation that cannot produce one that is
 *  asked for returns ::MSA_ERR_UNSUPPORTED.
 *  @param scores    [Hkv,T,B] m = max over the visible j of the block of Qi.Ki/sqrt(di); -inf where none
 *  @param ids       [Hkv,T,k] the selection (see ::msa_topk_fn), ranked on the unrounded scores
 *  @param index_lse [Hkv,T]   log sum exp of the index logits over the visible tokens of the selection */
typedef msa_status msa_index_fn(const msa_shape *s, const float *qi, const float *ki, float *scores,
                                int32_t *ids, float *index_lse, void *work);

/** Selection from float32 scores: the local block always, then the k-1 best visible blocks before it
 *  by (score descending, id ascending). Writes min(k, local+1) ids ascending, then -1. */
typedef msa_status msa_topk_fn(const msa_shape *s, const float *scores, int32_t *ids, void *work);

/** Some of the queries that chose a key block: entries begin..end-1 of the block's group. */
typedef struct msa_item {
    int32_t group, block, begin, end;
} msa_item;

/** A hot block is split into items of at most so many queries: twice the mean, 2 k Bk. */
int64_t msa_item_limit(const msa_shape *s);

/** Where sequence r's items start; msa_first_item(s, msa_n_seqs(s)) is how many there may be in all: for
 *  each sequence Hkv (B + T k / limit). */
int64_t msa_first_item(const msa_shape *s, int r);

/** Block -> queries, the selection turned around, for kernels that walk the key blocks. All sizes are those
 *  of one sequence, padding included, and sequences follow each other in every array.
 *  @param first   [Hkv,B+1] the entries of block b of group r are first[r,b] .. first[r,b+1]-1 of its group
 *  @param entries [Hkv,T*k] query << 5 | slot: which query (of the sequence) and where in its ids; a block's
 *      entries ascend; the tail of a group that holds no entry is filled with ~0. Needs k <= 32, T <= 2^27.
 *  @param items   the worklist in order of (group, block, begin), each group's blocks in items of at most
 *      msa_item_limit() entries; the tail is filled with {-1,-1,-1,-1} */
typedef msa_status msa_reverse_fn(const msa_shape *s, const int32_t *ids, int32_t *first, uint32_t *entries,
                                  msa_item *items, void *work);

/** Main Branch: exact softmax attention over the visible tokens of the selected blocks.
 *  @param q   [T,Hq,dh]; k and v [S,Hkv,dh]
 *  @param ids [Hkv,T,k] the selection, of each group its own
 *  @param o   [T,Hq,dh]
 *  @param lse [T,Hq] log sum exp over the selection; may be NULL
 *  @return ::MSA_OK; ::MSA_ERR_IDS where a row of ids is not as msa_check_ids() wants it */
typedef msa_status msa_sparse_fn(const msa_shape *s, const float *q, const float *k, const float *v,
                                 const int32_t *ids, float *o, float *lse, void *work);

/** The whole attention of a layer in one call: index, selection and Main Branch.
 *  @param q   [T,Hq,dh]; k and v [S,Hkv,dh]
 *  @param qi  [T,Hkv,di] index queries; ki [S,di] index keys
 *  @param ids [Hkv,T,k] the selection, written
 *  @param o   [T,Hq,dh]
 *  @param lse [T,Hq]; may be NULL
 *  @return ::MSA_OK, or the error of the shape or of a pointer */
typedef msa_status msa_prefill_fn(const msa_shape *s, const float *q, const float *k, const float *v,
                                  const float *qi, const float *ki, int32_t *ids, float *o, float *lse,
                                  void *work);

/** One step of generation, the whole attention for the newest tokens of each sequence: index, selection and
 *  Main Branch. Implementations may limit the queries of a sequence (to 16).
 *  @param p   NULL: keys, values and index keys are contiguous, as everywhere else
 *  @param q   [T,Hq,dh] of the newest tokens
 *  @param k   and v [S,Hkv,dh], or pages [P,page,Hkv,dh]
 *  @param qi  [T,Hkv,di]
 *  @param ki  [S,di], or pages [P,page,di]; may be NULL where p has 8-bit index keys
 *  @param ids [Hkv,T,k] the selection, written
 *  @param o   [T,Hq,dh]
 *  @param lse [T,Hq]; may be NULL
 *  @return ::MSA_OK; ::MSA_ERR_PAGES where msa_check_pages() refuses a length or a page */
typedef msa_status msa_decode_fn(const msa_shape *s, const msa_pages *p, const float *q, const float *k,
                                 const float *v, const float *qi, const float *ki, int32_t *ids, float *o,
                                 float *lse, void *work);

/** The same step by dense attention: what MSA's is compared with. */
typedef msa_status msa_dense_decode_fn(const msa_shape *s, const msa_pages *p, const float *q, const float *k,
                                       const float *v, float *o, float *lse, void *work);

/** Gradient of the Main Branch: dP = dO V^T, dS = P*(dP - rowsum(dP*P)), dQ = dS K/sqrt(dh),
 *  dK = dS^T Q/sqrt(dh), dV = P^T dO; dK and dV sum over the heads of a group.
 *  @param ids NULL means full support: every visible token (dense attention).
 *  @param o,lse the forward's results; an implementation that recomputes them takes NULL. */
typedef msa_status msa_backward_fn(const msa_shape *s, const float *q, const float *k, const float *v,
                                   const int32_t *ids, const float *o, const float *lse, const float *dout,
                                   float *dq, float *dk, float *dv, void *work);

/** The same with full support: the gradient of dense attention, what MSA's is compared with. */
typedef msa_status msa_dense_backward_fn(const msa_shape *s, const float *q, const float *k, const float *v,
                                         const float *o, const float *lse, const float *dout, float *dq,
                                         float *dk, float *dv, void *work);

/** The selector's loss and its gradient. Student u = softmax of the index logits, teacher t = mean over
 *  the group's heads of softmax of the main logits, both over the support of (i,r):
 *  L_KL = 1/(T Hkv) sum_ir KL(t || u), dL/dlogit = (u - t)/(T Hkv), T without padding.
 *  @param ids    NULL means full support (the warmup stage)
 *  @param lse,index_lse as produced by the forward for the same support; NULL where recomputed
 *  @param weight multiplies the gradients, not the loss
 *  @param loss   L_KL, unweighted
 *  @param dqi,dki gradients [T,Hkv,di] and [S,di]; both NULL to get the loss alone */
typedef msa_status msa_kl_fn(const msa_shape *s, const float *q, const float *k, const float *qi,
                             const float *ki, const int32_t *ids, const float *lse, const float *index_lse,
                             double weight, double *loss, float *dqi, float *dki, void *work);

/* The reference: plain C, every sum in double precision, results rounded once to float32. */
msa_dense_fn msa_dense;                   /* dense.c */
msa_index_fn msa_index;                   /* index.c */
msa_topk_fn msa_topk;                     /* topk.c */
msa_reverse_fn msa_reverse;               /* reverse.c */
msa_sparse_fn msa_sparse;                 /* sparse.c */
msa_prefill_fn msa_prefill;               /* sparse.c */
msa_decode_fn msa_decode;                 /* decode.c */
msa_dense_decode_fn msa_dense_decode;     /* decode.c */
msa_backward_fn msa_backward;             /* backward.c */
msa_dense_backward_fn msa_dense_backward; /* backward.c */
msa_kl_fn msa_kl;                         /* kl.c */

/** The other direction, KL(u || t), which the paper did not take: dL/dlogit = u (log u/t - KL_ir)/(T Hkv). */
msa_kl_fn msa_kl_reverse;

/* The same formulas with a bf16 tensor-core kernel's roundings: P (unnormalised) and dS rounded to
 * bf16 before they are multiplied, the softmax denominator summed in float32 from unrounded P. They
 * show how far such a kernel may be from the functions above; the error budgets are derived from it. */
msa_dense_fn msa_dense_bf16;
msa_sparse_fn msa_sparse_bf16;
msa_backward_fn msa_backward_bf16;

/** Rounds to the nearest bf16 (ties to even), kept in a float. NaN stays NaN. */
float msa_bf16(float x);
/** The same as its 16 bits. */
uint16_t msa_bf16_bits(float x);

/* ---- The table of implementations ------------------------------------------------------------- */

typedef enum msa_stage {
#define STAGE(NAME, ...) MSA_STAGE_##NAME,
#include "stages.def"
    MSA_N_STAGES
} msa_stage;

/** The arrays of one call, whatever its stage, with the shapes above: each stage looks at those that its
 * signature names, and writes its outputs. They are `const void *` since their elements are float32 on the
 * host and bf16 for a kernel on a device (msa_cuda.h), and since what one stage writes the next one reads. */
typedef struct msa_arrays {
    const void *q, *k, *v; /**< queries, keys, values of the Main Branch */
    const void *qi, *ki;   /**< of the Index Branch */
    const void *scores;    /**< output of index, input of topk */
    const void *ids;       /**< int32: output of index, topk, prefill and decode; input of reverse, sparse,
                            * backward and kl, for the last two NULL: full support */
    const void *index_lse; /**< output of index, input of kl */
    const void *o, *lse;   /**< outputs of dense, sparse, prefill and decode; inputs of the gradients */
    const void *first, *entries, *items;  /**< int32, uint32, ::msa_item: outputs of reverse */
    const void *dout;                     /**< input of backward */
    const void *dq, *dk, *dv, *dqi, *dki; /**< outputs of backward and of kl */
    double *loss;                         /**< output of kl */
    double weight;                        /**< of the KL loss in dqi and dki */
    msa_pages pages;                      /**< of decode and dense_decode; table NULL: keys are contiguous */
    const struct msa_index8 *index8; /**< 8-bit keys of complete blocks; NULL: index may make them, none else does */
    struct msa_screening *screening; /**< what that one did; NULL: nobody wants to know */
    /* Only of a kernel on a device. */
    /** [Hkv,T,k] of prefill, for benchmarks: blocks that the Main Branch attends to instead of those that the
     *  index chose, which it pays for all the same. NULL: the chosen */
    const int32_t *forced_ids;
    /* A padded batch, and a paged one. The lengths are read on the device, so that a run that was captured
     * into a graph stays right when they change; what the plan's shape says of them sizes nothing. They are
     * also checked there, and so is every page id that is read: a request with a length out of range counts
     * as one without queries, page 0 is read for a page that does not exist, and `status` says so. Nothing is
     * read or written out of bounds; what such a run computed is of no use. */
    const int32_t *len_q, *len_kv; /**< [R] each; required where the plan's shape has them */
    /** One word, to which a run stores ::MSA_ERR_SEQLENS or, of a step, ::MSA_ERR_PAGES, and which it leaves
     *  alone otherwise: set it to ::MSA_OK once, and look at it when the work is done. NULL: nobody wants to
     *  know (the engine then takes it for a program's error, and stops) */
    int32_t *status;
    /** bf16 of the newest tokens, to be stored into the pages first, as msa_append() does, so that these are
     *  written and with ki8 ki is read; NULL: they are there already */
    const uint16_t *new_k, *new_v, *new_ki;
    /** [R] Tokens that stood behind those that were there before this step's, to be taken back first, as
     *  msa_rollback() does: their pages are still in the table. NULL: none */
    const int32_t *rejected;
} msa_arrays;

/** Arithmetic of an implementation, and so how far from the reference it may be. */
typedef enum msa_precision {
    MSA_FLOAT32,      /**< float32 inputs, products and sums, or better */
    MSA_BF16_INPUTS,  /**< the same after its inputs were rounded to bf16 */
    MSA_BF16_WEIGHTS, /**< and P is rounded to bf16, as in msa_sparse_bf16 */
    MSA_BF16_PARTIALS /**< and so is the output of each block, before they are combined */
} msa_precision;

/** One implementation of one stage. */
typedef struct msa_kernel {
    msa_stage stage;
    const char *name;        /**< unique within the stage, such as "reference" */
    const char *backend;     /**< "ref", "fast", "simt" or "cuda" */
    const char *constraints; /**< what it does not take, in words; "any shape" */
    const char *idea;        /**< one line */
    msa_precision precision;
    bool best;     /**< what its back end runs unless another is asked for by name */
    bool own_rule; /**< of index: scores blocks otherwise than MSA; ids follow from its scores by msa_topk() */
    /** Bytes that `work` must have; 0 for a refused shape. */
    size_t (*workspace)(const msa_shape *s);
    /** The stage as its signature above has it, its arguments by name. Every kernel is reached this way. */
    msa_status (*run)(const msa_shape *s, const msa_arrays *arrays, void *work);
    /** The same where Q, K, V, Qi, Ki and dO lie in memory as bf16 already, in pages or not, which run() would
     *  round them to; all else is float32 as ever. NULL for a kernel that computes in float32. */
    msa_status (*run_half)(const msa_shape *s, const msa_arrays *arrays, void *work);
} msa_kernel;

/** C[m,n] = op(A)[m,k] op(B)[k,n] + beta C, row-major and dense; op transposes when its flag is set. */
typedef void msa_gemm_fn(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
                         const float *b, float beta, float *c);

/** A full set: one implementation a stage, and the matrix product for projections. Copy ::msa_ref_ops
 *  and replace the entries that something faster implements. */
typedef struct msa_ops {
    const msa_kernel *stage[MSA_N_STAGES];
    msa_gemm_fn *gemm;
} msa_ops;

/** References: ops.c. The fast path: fast/ops.c, OpenBLAS and OpenMP; and its kernels of bf16, to which run() rounds. */
extern const msa_ops msa_ref_ops, msa_fast_ops, msa_fast_bf16_ops;

/** A step of generation of at most 16 queries a sequence, with keys, values and index keys stored as bf16:
 *  half the bytes to read. Workspace: msa_fast_ops' decode entry tells. */
msa_status msa_fast_decode_bf16(const msa_shape *s, const float *q, const uint16_t *k, const uint16_t *v,
                                const float *qi, const uint16_t *ki, int32_t *ids, float *o, float *lse,
                                void *work);
/** The same step by dense attention, with keys and values stored as bf16; workspace: the dense_decode entry's. */
msa_status msa_fast_dense_decode_bf16(const msa_shape *s, const float *q, const uint16_t *k,
                                      const uint16_t *v, float *o, float *lse, void *work);

/** Every kernel of the fast path, stage by stage, then one without a name. */
extern const msa_kernel msa_fast_kernels[];

/** The name of a stage as the command line spells it: "dense", "index", "topk", ... */
const char *msa_stage_name(msa_stage stage);

/** The names of the first members of msa_arrays, each a pointer to an array, for who builds one in another
 * language; NULL behind the last. */
const char *msa_array_name(int i);

/** Bytes of workspace that suffice for every stage of `ops` on this shape; 0 for a refused one. */
size_t msa_workspace(const msa_ops *ops, const msa_shape *s);

/** The whole attention: index, selection, Main Branch. Where the index entry writes no index LSE,
 *  msa_index_lse() does.
 *  @param ops    NULL means the reference
 *  @param q      [T,Hq,dh]; k and v [S,Hkv,dh]
 *  @param qi     [T,Hkv,di]; ki [S,di]
 *  @param scores [Hkv,T,B], needed only where the index entry of `ops` cannot write ids itself, else may be
 *      NULL
 *  @param ids    [Hkv,T,k] the selection, written
 *  @param o      [T,Hq,dh]
 *  @param lse    [T,Hq]; may be NULL
 *  @param index_lse [Hkv,T]; may be NULL
 *  @param work   msa_workspace() bytes
 *  @return ::MSA_OK; ::MSA_ERR_NULL; what msa_check_shape() finds; ::MSA_ERR_UNSUPPORTED where an entry does not
 *      take the shape, or where ids would need scores that are NULL */
msa_status msa_forward(const msa_ops *ops, const msa_shape *s, const float *q, const float *k, const float *v,
                       const float *qi, const float *ki, float *scores, int32_t *ids, float *o, float *lse,
                       float *index_lse, void *work);

/** Index LSE over a given support (ids NULL: every visible token). No workspace. */
msa_status msa_index_lse(const msa_shape *s, const float *qi, const float *ki, const int32_t *ids,
                         float *index_lse);

#ifdef __cplusplus
}
#endif

#include "msa_index8.h"
#include "msa_quality.h"

#endif
