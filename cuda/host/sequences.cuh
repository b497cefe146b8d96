/**
 * @file sequences.cuh
 * @brief What the two devices of msa_cuda.h, gpu.cu and engine.cu, do alike: the entries of kernels.def, and
 * a run of one over the sequences of a call.
 */
#ifndef MSA_SEQUENCES_CUH
#define MSA_SEQUENCES_CUH

#include "../decode/copy_keys.cuh"
#include "../kit/kernel.cuh"
#include "../kit/padding.cuh"
#include "../kit/product.cuh"

#include <new>
#include <string>

#define KERNEL(stage, name, sm, precision, takes, idea) extern const msa_entry ON_SIDE(stage, name);
#include "../kernels.def"

static const msa_entry *const entries[] = {
#define KERNEL(stage, name, sm, precision, takes, idea) &ON_SIDE(stage, name),
#include "../kernels.def"
};

int ON_SIDE(kernels, tuned)[] = {
#define TUNABLE(name, preset, on_engine, ...) of_side(preset, on_engine),
#include "../tunables.def"
};

/* ---- What a device has to provide ---------------------------------------------------------------------- */

static void clear(void *p, size_t bytes, cudaStream_t stream);
static void start();                         ///< before the launches of a run...
static void spoil(void *work, size_t bytes); ///< ... whose workspace must not happen to be zero
static msa_status launched();                ///< whether that went well
// And of the members of msa_device:
static const char *missing();
static int sm();
static void *device_alloc(size_t bytes);
static void device_free(void *p);
static void device_fill(void *p, int byte, size_t bytes);
static void declare(const void *p, size_t bytes, const char *name);
static msa_status upload(void *device, const void *host, size_t bytes);
static msa_status download(void *host, const void *device, size_t bytes);
static msa_status mark(int i, void *stream);
static msa_status copy(void *to, const void *from, size_t bytes);
static msa_status between(int i, int j, double *ms);
static void about(msa_about *about);
static msa_status record(int i, const msa_plan *plan, const msa_arrays *a, void *work);
static msa_status replay(int i);

/* ---- What was wrong ------------------------------------------------------------------------------------ */

static std::string last_trouble;
static const char *trouble()
{
    return last_trouble.c_str();
}
static msa_status blame(const char *name)
{
    last_trouble = std::string("written outside ") + name;
    return MSA_ERR_DEVICE;
}

/* ---- A run: sequence after sequence ------------------------------------------------------------------ */

template <class T> static T *shifted(T *p, int64_t elements)
{
    return p ? p + elements : nullptr;
}

/// Sequence r of the call, its sizes and its part of every array. How much of it is padding only a kernel
/// knows.
static Call part(const msa_shape *shape, msa_dtype out, const msa_arrays *a, int r)
{
    msa_shape padded = *shape, *const s = &padded;
    padded.len_q = padded.len_kv = nullptr;
    const msa_seq seq = msa_get_seq(s, r);
    const int64_t q = seq.q0, kv = seq.kv0, n_blocks = msa_n_blocks(shape);
    Call c = {};
    c.s.n_q = c.s.capacity = (int)seq.n_q;
    c.s.n_kv = (int)seq.n_kv;
    c.s.prefix = (int)(seq.n_kv - seq.n_q);
    c.s.n_heads = s->n_heads;
    c.s.n_kv_heads = s->n_kv_heads;
    c.s.group = s->n_heads / s->n_kv_heads;
    c.s.block = s->block;
    c.s.topk = s->topk;
    c.s.n_blocks = (int)ceil_div(seq.n_kv, (int64_t)s->block);
    c.s.rows = s->n_q;
    c.s.n_scores = n_blocks;
    c.s.item_limit = (int)msa_item_limit(s);
    c.s.padding.len_q = shifted(a->len_q, r);
    c.s.padding.len_kv = shifted(a->len_kv, r);
    c.s.padding.n_q = (int)seq.n_q;
    c.s.padding.n_kv = (int)seq.n_kv;
    c.d_head = s->d_head;
    c.d_index = s->d_index;
    c.out = out;
    c.a.q = shifted((const bf16 *)a->q, q * s->n_heads * s->d_head);
    c.a.k = shifted((const bf16 *)a->k, kv * s->n_kv_heads * s->d_head);
    c.a.v = shifted((const bf16 *)a->v, kv * s->n_kv_heads * s->d_head);
    c.a.qi = shifted((const bf16 *)a->qi, q * s->n_kv_heads * s->d_index);
    c.a.ki = shifted((const bf16 *)a->ki, kv * s->d_index);
    if (a->index8)
        c.a.copy = {shifted(a->index8->codes, kv * s->d_index), shifted(a->index8->scale, r * n_blocks),
                    shifted(a->index8->reach, r * n_blocks), shifted(a->index8->error, r * n_blocks),
                    shifted(a->index8->least, r * n_blocks)};
    c.a.screening = a->screening;
    c.a.scores = shifted((float *)a->scores, q * n_blocks);
    c.a.scores_by_block = shifted((const float *)a->scores, q);
    c.a.ids = shifted((int32_t *)a->ids, q * s->topk);
    c.a.forced_ids = shifted(a->forced_ids, q * s->topk);
    c.a.index_lse = shifted((float *)a->index_lse, q);
    c.a.o = shifted((char *)a->o, q * s->n_heads * s->d_head * (out == MSA_BF16 ? 2 : 4));
    c.a.lse = shifted((float *)a->lse, q * s->n_heads);
    c.a.first = shifted((int32_t *)a->first, r * s->n_kv_heads * (n_blocks + 1));
    c.a.entries = shifted((uint32_t *)a->entries, q * s->n_kv_heads * s->topk);
    c.a.items = shifted((msa_item *)a->items, msa_first_item(shape, r));
    c.a.dout = shifted((const bf16 *)a->dout, q * s->n_heads * s->d_head);
    c.a.dq = shifted((float *)a->dq, q * s->n_heads * s->d_head);
    c.a.dk = shifted((float *)a->dk, kv * s->n_kv_heads * s->d_head);
    c.a.dv = shifted((float *)a->dv, kv * s->n_kv_heads * s->d_head);
    c.a.dqi = shifted((float *)a->dqi, q * s->n_kv_heads * s->d_index);
    c.a.dki = shifted((float *)a->dki, kv * s->d_index);
    c.a.loss = a->loss; // to which every sequence adds
    c.a.weight = a->weight;
    c.batch = 1;
    return c;
}

/// Sequence r of a step.
static Call step_part(const msa_shape *s, msa_dtype out, const msa_arrays *a, int r)
{
    Call c = part(s, out, a, r);
    c.pages.lens = shifted(a->len_kv, r);
    c.pages.len_q = shifted(a->len_q, r);
    c.pages.piece = s->block;
    c.pages.pieces = 1;
    c.pages.status = a->status;
    return c;
}

/// All requests of a paged step, which are alike in shape.
static Call paged(const msa_shape *s, msa_dtype out, const msa_arrays *a)
{
    const msa_pages &p = a->pages;
    const int page = p.page ? p.page : s->block, piece = page < s->block ? page : s->block;
    Call c = step_part(s, out, a, 0);
    c.batch = msa_n_seqs(s);
    c.pages.table = p.table;
    c.pages.lens = p.lens;
    c.pages.n_pages = (int)p.n_pages;
    c.pages.max_pages = c.s.n_kv / page;
    c.pages.piece = piece;
    c.pages.pieces = page / piece;
    c.pages.ki8 = p.ki8;
    c.pages.scale = p.scale;
    c.fresh.k = (const bf16 *)a->new_k;
    c.fresh.v = (const bf16 *)a->new_v;
    c.fresh.ki = (const bf16 *)a->new_ki;
    c.fresh.rejected = a->rejected;
    return c;
}

static size_t workspace(const msa_entry *entry, const msa_shape *s, msa_dtype out)
{
    const msa_arrays none = {};
    if (msa_check_shape(s) != MSA_OK)
        return 0;
    size_t most = stage_is_step(entry->stage) ? entry->workspace(paged(s, out, &none)) : 0;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const size_t bytes = entry->workspace(stage_is_step(entry->stage) ? step_part(s, out, &none, r)
                                                                          : part(s, out, &none, r));
        most = bytes > most ? bytes : most;
    }
    return most;
}

/// Of queries in a place without room for keys.
static void clear_gradients(const Call &c)
{
    if (c.a.dq)
        clear(c.a.dq, (size_t)c.s.n_q * c.s.n_heads * c.d_head * sizeof(float), c.stream);
    if (c.a.dqi)
        clear(c.a.dqi, (size_t)c.s.n_q * c.s.n_kv_heads * c.d_index * sizeof(float), c.stream);
}

static msa_status run_sequences(const msa_entry *entry, const msa_shape *s, msa_dtype out,
                                const msa_arrays *a, void *work, void *stream)
try {
    start();
    spoil(work, workspace(entry, s, out));
    if (a->loss)
        clear(a->loss, sizeof *a->loss, (cudaStream_t)stream);
    if (a->screening)
        clear(a->screening, sizeof *a->screening, (cudaStream_t)stream);
    const bool step = stage_is_step(entry->stage), in_pages = a->pages.table != nullptr;
    for (int r = 0; r < (in_pages ? 1 : msa_n_seqs(s)); r++) {
        Call c = in_pages ? paged(s, out, a) : step ? step_part(s, out, a, r) : part(s, out, a, r);
        c.work = work;
        c.stream = (cudaStream_t)stream;
        if (!step && (c.s.padding.len_q || c.s.padding.len_kv))
            launch_padding(c, entry->stage, a->status);
        // Without queries there is nothing to do, but for reverse, which says that they chose no block, and
        // for the gradients of keys, which are 0. Where there is no room for keys, there are none.
        const bool empty = c.s.n_kv == 0 && c.s.n_q > 0 && !c.a.first;
        if (empty)
            clear_gradients(c);
        const bool idle = empty || (c.s.n_q == 0 && !c.a.first && !c.a.dk && !c.a.dki);
        msa_status status = idle ? MSA_OK : entry->run(c);
        if (status == MSA_OK)
            status = launched();
        if (status != MSA_OK)
            return status;
    }
    if (a->loss && a->len_q)
        launch_mean(s, a, (cudaStream_t)stream);
    return launched();
} catch (const std::bad_alloc &) { // no exception passes through C
    last_trouble = "no memory";
    return MSA_ERR_DEVICE;
}

/// msa_index8_make().
static msa_status index8(const msa_shape *s, const msa_arrays *a, void *stream)
try {
    start();
    const bool in_pages = a->pages.table != nullptr;
    for (int r = 0; r < (in_pages ? 1 : msa_n_seqs(s)); r++) {
        Call c = in_pages ? paged(s, MSA_F32, a) : part(s, MSA_F32, a, r);
        c.pages.piece = in_pages ? c.pages.piece : s->block;
        c.stream = (cudaStream_t)stream;
        launch_copy_keys(c);
    }
    return launched();
} catch (const std::bad_alloc &) {
    last_trouble = "no memory";
    return MSA_ERR_DEVICE;
}

/* ---- The device ---------------------------------------------------------------------------------------- */

static msa_device make_device(const char *name)
{
    msa_device d = {};
    d.name = name;
    d.missing = missing;
    d.sm = sm;
    d.alloc = device_alloc;
    d.free = device_free;
    d.fill = device_fill;
    d.declare = declare;
    d.upload = upload;
    d.download = download;
    d.trouble = trouble;
    d.blame = blame;
    d.entries = entries;
    d.run = run_sequences;
    d.workspace = workspace;
    d.index8 = index8;
    d.mark = mark;
    d.copy = copy;
    d.product = product;
    d.between = between;
    d.about = about;
    d.record = record;
    d.replay = replay;
    d.tuned = ON_SIDE(kernels, tuned);
    return d;
}

#endif
