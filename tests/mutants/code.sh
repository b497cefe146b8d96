#!/usr/bin/env bash
# Mutants of everything but the kernels. Usage: tests/mutants/code.sh [WORD], only those whose name contains WORD.
source "$(dirname "$0")/mutate.sh"

# ---- Dense attention, softmax --------------------------------------------------------------------
mutant 'causal bound off by one' ref/dense.c test_reference 's/position(&seq, i) + 1;/max_i64(position(\&seq, i), 1);/'
mutant 'heads of the wrong group' ref/dense.c test_reference 's|n_kv_heads + h / group;|n_kv_heads + h % s->n_kv_heads;|'
mutant 'scale missing' ref/dense.c test_reference 's|scale = 1 / sqrt(d)|scale = 1|'
mutant 'no maximum subtracted' ref/softmax.c test_reference 's/max = x\[a\] > max ? x\[a\] : max;/max = 0;/'
mutant 'bf16 truncates' ref/softmax.c test_bf16 's/bits += 0x7fffu + ((bits >> 16) & 1u);/bits += 0;/'
mutant 'bf16 ties away from even' ref/softmax.c test_bf16 's/bits += 0x7fffu + ((bits >> 16) & 1u);/bits += 0x8000u;/'
mutant 'bf16 variant rounds nothing' ref/softmax.c test_bf16 's/        if (bf16)/        if (false)/'

# ---- Index, selection ----------------------------------------------------------------------------
mutant 'mask after the pool' ref/index.c test_reference 's/min_i64((b + 1) \* s->block - 1, p)/min_i64((b + 1) * s->block - 1, s->n_kv - 1)/'
mutant 'index scale missing' ref/index.c test_reference 's/(float)(m\[c\] \* scale)/(float)m[c]/'
mutant 'index LSE skips the last block' ref/index.c test_reference 's/spans = ids ? s->topk : 1;/spans = ids ? s->topk - 1 : 1;/'
mutant 'no rescale in the online softmax' ref/index.c test_reference 's/sum \*= exp(max - x);//'
mutant 'tie rule reversed' ref/topk.c test_reference 's/!(x > best\[keep - 1\])/!(x >= best[keep - 1])/; s/x > best\[at - 1\]/x >= best[at - 1]/'
mutant 'local block not forced' ref/topk.c test_reference 's/others = min_i64(k - 1, local);/others = min_i64(k, local + 1);/; s/top_blocks(m, local, others/top_blocks(m, local + 1, others/; s/ids\[others\] = (int32_t)local;//; s/a = others + 1; a < k/a = others; a < k/'
mutant 'ids not ascending' ref/topk.c test_reference 's/for (int64_t a = 1; a < kept; a++)/for (int64_t a = 1; a < 0; a++)/'
mutant 'NaN ranks first' ref/topk.c test_contract 's/? -INFINITY : m\[b\]/? INFINITY : m[b]/'

# ---- Supports, sparse attention ------------------------------------------------------------------
mutant 'last block skipped' ref/shape.c test_reference 's/a < s->topk \&\& ids\[a\] >= 0; a++/a < s->topk - 1 \&\& ids[a] >= 0; a++/'
mutant 'support loses its last token' ref/shape.c test_reference 's/min_i64(first + s->block - 1, p);/min_i64(first + s->block - 1, max_i64(first, p - 1));/'
mutant 'ids may descend' ref/shape.c test_contract 's/ids\[n\] <= ids\[n - 1\]/ids[n] == ids[n - 1]/'
mutant 'prefix forgotten' ref/sparse.c test_reference 's/position(&seq, i), tokens/i, tokens/'
mutant 'queries of a batch mixed up' ref/sparse.c test_reference 's/ids_row(s, ids, r, seq.q0 + i)/ids_row(s, ids, r, i)/'

# ---- Gradients -----------------------------------------------------------------------------------
mutant 'dK not summed over heads' ref/backward.c test_reference 's/axpy(dsv, q + row \* d, d, sum_dk + at);/if (h % group == 0) &/'
mutant 'dS without its row sum' ref/backward.c test_gradients 's/(dp\[a\] - delta)/dp[a]/'
mutant 'scale missing in dS' ref/backward.c test_gradients 's/double dsv = scale \* /double dsv = /'
mutant 'KL in the other direction' ref/kl.c test_reference 's|t\[a\] \* (log(t\[a\]) - (p\[a\] - row_lse))|u[a] / denom * (p[a] - row_lse - log(t[a]))|'
mutant 'teacher normalised after the mean' ref/kl.c test_reference 's|p\[a\] / denom / group|p[a]|; /^static void teacher/,/^}/s|^}|    double all = 0;\n    for (int64_t a = 0; a < n; a++)\n        all += t[a];\n    for (int64_t a = 0; a < n; a++)\n        t[a] /= all;\n}|'
mutant 'KL gradient with the wrong sign' ref/kl.c test_gradients 's|(u\[a\] / denom - t\[a\])|(t[a] - u[a] / denom)|'
mutant 'KL weight ignored' ref/kl.c test_gradients 's/g = weight \* share/g = share/'

# ---- Norm, rotary, layer -------------------------------------------------------------------------
mutant 'Gemma +1 missing' ref/rmsnorm.c test_layer 's/inv \* (1 + (double)w\[c\])/inv * (double)w[c]/'
mutant 'norm gradient without its projection' ref/rmsnorm.c test_gradients 's/ - xh \* mean) \* inv/) * inv/'
mutant 'rotary pairs interleaved' ref/rope.c test_layer 's/x\[i + half\]/x[2 * i + 1]/g; s/x\[i\]/x[2 * i]/g; s/int half, int i,/int half, int i, /; s/double a = /(void)half;\n    double a = /'
mutant 'rotary frequencies of the wrong width' ref/rope.c test_layer 's|-2.0 \* i / rot|-2.0 * i / (rot + 2)|'
mutant 'stop-gradient missing' ref/layer.c test_layer 's/if (c->attached)/if (true)/'
mutant 'rotary not turned back' ref/layer.c test_layer 's/pos + run.q0, true, grad/pos + run.q0, false, grad/'
mutant 'V written over the prefix' ref/layer.c test_layer 's/st->v + (seq.kv0 + position(&seq, 0)) \* width/st->v + seq.kv0 * width/'

# ---- Quality and cost ----------------------------------------------------------------------------
mutant 'mass of a sum, not of a mean' ref/recall.c test_cost 's|p\[j\] / denom / group|p[j] / denom|'
mutant 'local block cannot be best' ref/recall.c test_cost 's/top_blocks(mass, local + 1,/top_blocks(mass, local,/'
mutant 'cost without the values' ref/cost.c test_cost 's/4 \* heads \* N \* kept/2 * heads * N * kept/'

# ---- The fast path -------------------------------------------------------------------------------
mutant 'fast index sees the future' ref/fast/index_tiles.c test_fast 's/min_i64(min_i64(s->block, cols - c), at + 1 - j0 - c)/min_i64(s->block, cols - c)/'
mutant 'fast selection prefers the later of equals' ref/fast/index_tiles.c test_fast 's/rank > list->score\[at - 1\]/rank >= list->score[at - 1]/'
mutant 'fast dense forgets to shrink' ref/fast/dense_tiles.c test_fast 's/shrink < 1 \&\& c < d/false \&\& c < d/'
mutant 'fast KV-outer forgets to shrink' ref/fast/sparse_blocks.c test_fast 's/o\[c\] \* shrink + add/o[c] + add/'
mutant 'fast lanes see a key too many' ref/fast/sparse_lanes.c test_fast 's/c->entry\[e\]) + 1 - begin/c->entry[e]) + 2 - begin/'
mutant 'fast decode loses the last block' ref/fast/decode_streams.c test_fast 's/b < local; b++/b + 1 < local; b++/'
mutant 'fast decode merges without shrinking' ref/fast/heads.c test_fast 's/into->o\[c\] \* a + h/into->o[c] + h/'
mutant 'fast softmax keeps unselected blocks' ref/fast/tile.c test_fast 's/chosen ? p + 1/true ? p + 1/'
mutant 'fast product strides' ref/fast/gemm.c test_fast 's/a + (trans_a ? i : i \* lda)/a + i * lda/'
mutant 'fast logit of -inf weighs nothing' ref/fast/vector.h test_extremes 's/least > -INFINITY ? most : NAN/most/'
mutant 'fast sweep of full support: queries of the first block' ref/fast/sweep.c test_fast 's/w->full ? blind : c->first/w->full ? 0 : c->first/'

# ---- Model, training -----------------------------------------------------------------------------
mutant 'SwiGLU gradient without its second term' ref/model/block.c test_model 's/ \* (1 + gate\[i\] \* (1 - s))//'
mutant 'embedding gradient overwritten' ref/model/run.c test_model 's/r->grads\[tokens\[i\] \* d + j\] +=/r->grads[tokens[i] * d + j] =/'
mutant 'cache forgets the last token' ref/model/decode.c test_model 's/d->length += n;/d->length += n - 1;/'
mutant 'no bias correction' ref/model/train.c test_train 's/lr \/ fix1/lr/'
mutant 'decay coupled to the gradient' ref/model/train.c test_train 's/float g = (float)scale \* g0\[i\];/float g = (float)scale * g0[i] + (tensor->decay ? (float)t->config.decay * p[i] : 0);/; s/tensor->decay ? lr \* t->config.decay : 0/0/'
mutant 'no clipping' ref/model/train.c test_train 's/done.norm > c->clip ? c->clip \/ done.norm : 1/1/'

mutant 'answers in the wrong quarter of distances' ref/model/task.c test_evaluate 's/(distance\[i\] - 1) \* TASK_BINS/distance[i] * TASK_BINS/'
mutant 'agreement of groups with their local blocks' ref/model/look.c test_evaluate 's/x < k - 1 \&\& y < k - 1/x < k \&\& y < k/'

# ---- Pictures ------------------------------------------------------------------------------------
mutant 'panels as wide as they are high' ref/io/panels.c test_maps 's/fit(columns, max_width/fit(rows, max_width/'
mutant 'frequency without the prefix' ref/io/maps.c test_maps 's/from = max_i64(0, (first + c) \* s->block - (s->n_kv - s->n_q))/from = max_i64(0, (first + c) * s->block)/'

# ---- Departures from MSA -------------------------------------------------------------------------
mutant 'departures: no way back through the LSE' ref/departures.c test_model 's/dq\[a\] += slope\[a \/ d\] \* mean_key\[a\];//'
mutant 'departures: sink not counted' ref/departures.c test_model 's/dsink\[row % s->n_heads\] -= (float)by_lse;//'
mutant 'departures: index keys learn no values' ref/departures.c test_model 's/dki\[i\] += v.key\[i\];/;/'
mutant 'departures: attached by the queries alone' ref/layer.c test_model 's/ops->gemm(false, true, T, m, n.ik, dki, w->wik, 1, dx);//'
mutant 'departures: reverse KL without its mean' ref/kl.c test_model 's/(1 - (t\[a\] - sum))/(1 - t[a])/'
mutant 'departures: window without the first block' ref/fast/index_selectors.c test_variants 's/row\[0\] = INFINITY;//'
mutant 'departures: mean over the wrong block' ref/fast/index_selectors.c test_variants 's/means + b \* s->d_index/means/'
mutant 'selector: padding has scores' ref/fast/index_selectors.c test_variants 's/pad_queries(s, s->n_kv_heads, blocks, -INFINITY, scores);//'
mutant 'selector: held to no scores' ref/judge/judge.c test_checker 's/judge_words(j, ARRAY_IDS, "by its scores");/;/'
mutant 'selector: may look at keys behind' ref/judge/inputs.c test_checker 's/other\[c\] = -1 - ki\[c\];/;/'
mutant 'departures: a question before its fact' ref/model/task.c test_variants 's/ \&\& place\[k\] < i//'

# ---- Files ---------------------------------------------------------------------------------------
mutant 'files: a link destroyed' ref/io/set.c test_io_file 's/&st, AT_SYMLINK_NOFOLLOW) == 0 \&\& !S/\&st, 0) == 0 \&\& !S/'
mutant 'files: two sets put in place at once' ref/io/set.c test_io_file 's/trial < 5000 \&\& flock/trial < 0 \&\& flock/'
mutant 'files: sums that cannot be read are none' ref/io/sums.c test_io_file 's/text \&\& !ferror(f) ? 0 : errno/0/'
mutant 'files: a stage that another writer swept away' ref/io/staging.c test_io_file 's/else if (why != ENOENT)/else/'

# ---- The checker itself --------------------------------------------------------------------------
mutant 'comparison accepts NaN' ref/judge/verdict.c test_checker 's/if (!(error <= allowed))/if (error > allowed)/'
mutant 'swaps are always ties' ref/judge/verdict.c test_checker 's/if (!(tolerance > 0 \&\& /if (!(/; s/<= allowed))/<= HUGE_VAL))/'
mutant 'fence behind not looked at' ref/judge/guard.c test_checker 's/ || after\[i\] != FENCE_BYTE//'

try_all

# Without a mutant every test passes: else all this would prove nothing.
for test in $(printf '%s\n' "${tests[@]}" | sort -u); do
    build "$W/tree.0" "$test" && [[ -z $(catches "$W/tree.0" "$test") ]]
    check $? "unchanged: $test passes"
done
finish
