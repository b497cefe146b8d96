#!/usr/bin/env bash
# Mutants of everything but the kernels. Usage: tests/mutants/code.sh [WORD], only those whose name contains WORD.
source "$(dirname "$0")/mutate.sh"

# ---- Dense attention, softmax --------------------------------------------------------------------
mutant 'causal bound off by one' dense test_reference 'position(&$seq, $i) + 1' 'max_i64(position(&$seq, $i), 1)'
mutant 'heads of the wrong group' dense test_reference '$s->n_kv_heads + $h / $group' '$s->n_kv_heads + $h % $s->n_kv_heads'
mutant 'scale missing' dense test_reference '1 / sqrt($d)' '1'
mutant 'no maximum subtracted' softmax_row test_reference '$x[$a] > $max ? $x[$a] : $max' '0'
mutant 'bf16 truncates' msa_bf16 test_bf16 '0x7fffu + (($bits >> 16) & 1u)' '0'
mutant 'bf16 ties away from even' msa_bf16 test_bf16 '0x7fffu + (($bits >> 16) & 1u)' '0x8000u'
mutant 'bf16 variant rounds nothing' softmax_row test_bf16 'if ($bf16)' 'if (false)'

# ---- Index, selection ----------------------------------------------------------------------------
mutant 'mask after the pool' score_blocks test_reference 'min_i64(($b + 1) * $s->block - 1, $p)' 'min_i64(($b + 1) * $s->block - 1, $s->n_kv - 1)'
mutant 'index scale missing' msa_index test_reference '(float)($m[$c] * $scale)' '(float)$m[$c]'
mutant 'index LSE skips the last block' support_lse test_reference '$ids ? $s->topk : 1' '$ids ? $s->topk - 1 : 1'
mutant 'index LSE of no weight as that of no token' support_lse test_nonfinite '$sum == 0 ? NAN : ' ''
mutant 'no rescale in the online softmax' support_lse test_reference '$sum *= exp($max - $x);' ''
mutant 'tie rule reversed' top_blocks test_reference '!($x > $best[$keep - 1])' '!($x >= $best[$keep - 1])' '&& $x > $best[$at - 1]' '&& $x >= $best[$at - 1]'
mutant 'local block not forced' topk_row test_reference 'min_i64($k - 1, $local)' 'min_i64($k, $local + 1)' 'top_blocks($m, $local,' 'top_blocks($m, $local + 1,' '$ids[$others] = (int32_t)$local;' '' '$a = $others + 1' '$a = $others'
mutant 'ids not ascending' top_blocks test_reference '$a = 1; $a < $kept;' '$a = 1; $a < 0;'
mutant 'NaN ranks first' top_blocks test_contract '? -INFINITY : $m[$b]' '? INFINITY : $m[$b]'

# ---- Selection from 8-bit keys ---------------------------------------------------------------------
mutant '8 bits: keys have no error' msa_index8_bounds test_index8 '+ $norm * $error +' '+'
mutant '8 bits: the query has no error' msa_index8_bounds test_index8 '(double)$q->rest * $reach' '0'
mutant '8 bits: two codes of a query have no error' msa_index8_round test_index8 '$n_codes, $step, above($row.norm), above($row.rest)' '$n_codes, $step, above($row.norm), $n_codes == 2 ? 0 : above($row.rest)'
mutant '8 bits: the second code counts nothing' best_product test_index8 'OF_ONE * $x + product(...)' 'OF_ONE * $x'
mutant '8 bits: a step without second codes' product_of test_index8 '($x << 7) + TURNED($x, HALF_OF_TILE)' '$x << 7'
mutant '8 bits: float32 does not round' index8_slack test_index8 '(1.01 * $d + 16) * 0x1p-24' '(void)$d, 0'
mutant '8 bits: errors are rounded down' above test_index8 'nextafterf((float)$x, INFINITY)' 'nextafterf((float)$x, 0)'
mutant '8 bits: a bound that ties is out' select_row test_index8 '$w->upper[$b] < $least' '$w->upper[$b] <= $least + 1e-3 * fabs($least)'
mutant '8 bits: a copy is made for few rows' screens test_index8 '($a->index8 || whole_rows($s) >= $wanted)' 'true'
mutant '8 bits: NaN is no candidate' msa_index8_block test_index8 '*$to.error = INFINITY;' '*$to.error = 0;'
mutant '8 bits: bounds three times as wide' bounds_of test_million_keys '* $bound + TINY' '* 3 * $bound + TINY'
mutant '8 bits: one block wanted counts as a choice' screened_rows test_index8 '$y->s->topk == 1 || ' ''
mutant '8 bits: a row that settled all counts as one that did not' finish_row test_index8 ' || $k->m->n[$row] == $local' ''
mutant '8 bits: one code where two cost nothing' screener_begin test_million_keys '? 2 : 1, $per_tile' '? 1 : 1, $per_tile'
mutant '8 bits: a full list forgets' candidates_add test_index8 '*$n = FELL;' ';'
mutant '8 bits: small products never vanish' may_vanish test_index8 '$fit->least < FLT_MIN || $fit->least * $least < FLT_MIN' 'false'
mutant '8 bits: pieces of a block count once' screen_rows test_index8 '(int_lanes)larger($upper[$b], $high) | ($high != $high)' '(int_lanes)$high'
mutant '8 bits: codes of a key taken back stay' msa_index8_keys test_index8 'memset($to.codes, 0, ...);' ';'

# ---- Supports, sparse attention ------------------------------------------------------------------
mutant 'last block skipped' list_support test_reference '$a < $s->topk && $ids[$a] >= 0' '$a < $s->topk - 1 && $ids[$a] >= 0'
mutant 'support loses its last token' list_support test_reference 'min_i64($first + $s->block - 1, $p)' 'min_i64($first + $s->block - 1, max_i64($first, $p - 1))'
mutant 'ids may descend' valid_row test_contract '$ids[$n] <= $ids[$n - 1]' '$ids[$n] == $ids[$n - 1]'
mutant 'prefix forgotten' sparse test_reference 'position(&$seq, $i), $tokens' '$i, $tokens'
mutant 'queries of a batch mixed up' sparse test_reference 'ids_row($s, $ids, $r, $seq.q0 + $i)' 'ids_row($s, $ids, $r, $i)'

# ---- Gradients -----------------------------------------------------------------------------------
mutant 'dK not summed over heads' backward test_reference 'int $r = $h / $group;' 'int $r = $h / $group;' 'axpy($dsv, $k + $at, ...); axpy($dsv,' 'axpy($dsv, $k + $at, ...); if ($h % $group == 0) axpy($dsv,'
mutant 'dS without its row sum' backward test_gradients '($dp[$a] - $delta)' '$dp[$a]'
mutant 'scale missing in dS' backward test_gradients '$scale * ($bf16 ?' '($bf16 ?'
mutant 'KL in the other direction' kl test_reference '$u[$b] / $denom - $t[$b]' '$u[$b] / $denom - $t[$b]' '$t[$a] * (log($t[$a]) - ($p[$a] - $row_lse))' '$u[$a] / $denom * ($p[$a] - $row_lse - log($t[$a]))'
mutant 'teacher normalised after the mean' teacher test_reference '$a < $n; $a++) $t[$a] += $p[$a] / $denom / $group; }' '$a < $n; $a++) $t[$a] += $p[$a]; } double all = 0; for (int64_t a = 0; a < $n; a++) all += $t[a]; for (int64_t a = 0; a < $n; a++) $t[a] /= all;'
mutant 'KL gradient with the wrong sign' kl test_gradients '($u[$a] / $denom - $t[$a])' '($t[$a] - $u[$a] / $denom)'
mutant 'KL weight ignored' kl test_gradients '$weight * $share * $scale * ($u' '$share * $scale * ($u'

# ---- Norm, rotary, layer -------------------------------------------------------------------------
mutant 'Gemma +1 missing' msa_rmsnorm test_layer '(1 + (double)$w[$c])' '(double)$w[$c]'
mutant 'norm gradient without its projection' msa_rmsnorm_backward test_gradients '- $xh * $mean)' ')'
mutant 'rotary pairs interleaved' msa_rope test_layer 'rotate(..., $rot / 2, $i,' 'rotate(... + $i, 1, $i,'
mutant 'rotary frequencies of the wrong width' msa_rope test_layer '* $i / $rot)' '* $i / ($rot + 2))'
mutant 'stop-gradient missing' msa_layer_backward test_layer 'if ($c->attached)' 'if (true)'
mutant 'rotary not turned back' norm_rope_backward test_layer '$pos + $run.q0, true,' '$pos + $run.q0, false,'
mutant 'cache of bf16 without index keys' paged_attention test_layer 'append_rounded($s, $p, $n->ik, ...);' ''
mutant 'cache of bf16 with values for keys' paged_attention test_layer 'append_rounded($s, $p, $n->kv, $st->k_raw, $f->in_turn' 'append_rounded($s, $p, $n->kv, $f->v, $f->in_turn'
mutant 'V written over the prefix' project_v test_layer '$st->v + ($seq.kv0 + position(&$seq, 0)) * $width' '$st->v + $seq.kv0 * $width'

# ---- Checkpoints -----------------------------------------------------------------------------------
mutant 'scales of MXFP8 off by one' from_mx test_checkpoint '$s - 127' '$s - 126'
mutant 'gains without their file' checkpoint_find_layer test_checkpoint '$part < $end' '$part < $end && $part != CHECKPOINT_K_NORM'
mutant 'every tile where the first one goes' multiply test_checkpoint '* $w->rows + $first' '* $w->rows'
mutant 'narrow heads turn by one angle' checkpoint_turn test_checkpoint '($i + $half) % ($r->rot / 2)' '$i'
mutant 'angles of a model are exact' angle test_checkpoint '$exact ?' '$exact || true ?'
mutant 'a bias is left out without a word' check_complete test_checkpoint 'if (!$known)' 'if (false)'

# ---- Quality and cost ----------------------------------------------------------------------------
mutant 'mass of a sum, not of a mean' mass_row test_cost '$p[$j] / $denom / $group' '$p[$j] / $denom'
mutant 'local block cannot be best' msa_recall test_cost 'top_blocks($mass, $local + 1,' 'top_blocks($mass, $local,'
mutant 'cost without the values' msa_cost test_cost '4 * $heads * $N * $kept' '2 * $heads * $N * $kept'
mutant 'settled blocks without an end' msa_cost test_cost 'fmin(OPEN_DECODE * $wanted, $blocks)' 'OPEN_DECODE * $wanted'

# ---- The fast path -------------------------------------------------------------------------------
mutant 'fast index sees the future' pool_row test_fast 'min_i64(min_i64($s->block, $cols - $c), ...)' 'min_i64($s->block, $cols - $c)'
mutant 'fast selection prefers the later of equals' best_insert test_fast '$rank > $list->score[$at - 1]' '$rank >= $list->score[$at - 1]'
mutant 'fast dense forgets to shrink' online_softmax_rows test_fast '$shrink < 1 && $c < $d' 'false && $c < $d'
mutant 'fast KV-outer forgets to shrink' scatter test_fast '$o[$c] * $shrink + $add' '$o[$c] + $add'
mutant 'fast lanes see a key too many' attend_block test_fast '$c->entry[$e]) + 1 - $begin' '$c->entry[$e]) + 2 - $begin'
mutant 'fast decode loses the last block' topk_blocks test_fast '$b < $local; $b++' '$b + 1 < $local; $b++'
mutant 'fast decode merges without shrinking' heads_merge test_fast '$into->o[$c] * $a + $h' '$into->o[$c] + $h'
mutant 'tiles: values of the item before last are overwritten' pack_span test_amx '% RING' '% (RING - 1)'
mutant 'tiles: a piece that crosses pages goes on in the first' span_find test_amx 'side_by_side = keys_together(at, j + $i, j + x->n);' 'side_by_side = x->n - $i;'
mutant 'tiles: parts merged without shrinking' column_merge test_amx 'load(o) * own' 'load(o)'
mutant 'tiles: the last key of a part is left out' meet_part test_amx 'now->j + now->n, end);' 'now->j + now->n, end - 1);'
mutant 'tiles: 8-bit index keys without their scale' block_maxima test_amx 'y->ki.scale[keys.row / y->ki.piece] : 1' '1 : 1'
mutant 'fast softmax keeps unselected blocks' mask_row test_fast '$chosen ? $p + 1' 'true ? $p + 1'
mutant 'fast product strides' fast_gemm test_fast '$a + ($trans_a ? $i : $i * $lda)' '$a + $i * $lda'
mutant 'fast logit of -inf weighs nothing' row_top test_extremes '$least > -INFINITY ? $most : NAN' '$most'
mutant 'fast sweep of full support: queries of the first block' sweep_entries test_fast '$w->full ? $blind : $c->first' '$w->full ? 0 : $c->first'
mutant 'backward on tiles sees the future' turn_visits test_amx 'hide(&$now->logits, $c, $here->logits)' '(void)$here'
mutant 'backward on tiles: dK of P' step_of_visit test_amx '$x->ds + $part * PAIRS' '$x->p + $part * PAIRS'
mutant 'backward on tiles loses a part of dQ' end_ask test_amx '$piece = $first + 1;' '$piece = $first + 2;'
mutant 'bf16 steps without products: pages are left out' dense_decode_halves test_amx 'has_pages($a) ? &$a->pages : NULL' 'NULL'
mutant "a dense step rounds its caller's index keys" run_rounded test_amx '$half.a.ki = NULL, $half.a.pages.ki8 = NULL;' ';'
mutant 'backward on tiles: dQ is not cleared' meet_column test_amx 'memset($h->dq + $at * $wide, 0, (size_t)$wide * sizeof *$h->dq);' ''
mutant 'KL on tiles: exponentials of the piece that is still to come' teach test_amx 'add_heads(&$x, $n - 1, $c' 'add_heads(&$x, $n, $c'
mutant 'KL on tiles: heads of two pieces are not joined' add_heads test_amx '$h > 0 ? load_some($to, $cols - $c) : all(0)' 'all(0)'
mutant 'tiles: a product of matrices takes a column of B twice' square test_amx 'tile_load($t, 7, $b + $steps + $k' 'tile_load($t, 7, $b + $k'
mutant 'files of results: newer fields may hold anything' has_fields_or test_bench_files '!are_there($o, $group[$i], $what, &$n)' '(are_there($o, $group[$i], $what, &$n), false)'

# ---- Model, training -----------------------------------------------------------------------------
mutant 'SwiGLU gradient without its second term' swiglu_backward test_model '* (1 + $gate[$i] * (1 - $s))' ''
mutant 'embedding gradient overwritten' model_backward test_model '$r->grads[$tokens[$i] * $d + $j] +=' '$r->grads[$tokens[$i] * $d + $j] ='
mutant 'E4M3: a piece with a NaN has a scale' msa_e4m3_block test_decode '$finite && isfinite($x[$i])' 'true'
mutant 'cache forgets the last token' append test_model '$d->length += $n;' '$d->length += $n - 1;'
mutant 'no bias correction' adamw test_train '$lr / $fix1' '$lr'
mutant 'decay coupled to the gradient' adamw test_train 'float *$p = $t->m.params' 'float *$p = $t->m.params' '$tensor->decay ? $lr * $t->config.decay : 0' '0' 'float $g = (float)$scale * $g0[$i];' 'float $g = (float)$scale * $g0[$i] + ($tensor->decay ? (float)$t->config.decay * $p[$i] : 0);'
mutant 'no clipping' trainer_step test_train '$done.norm > $c->clip ? $c->clip / $done.norm : 1' '1'

mutant 'answers in the wrong quarter of distances' task_judge test_evaluate '($distance[$i] - 1) * TASK_BINS' '$distance[$i] * TASK_BINS'
mutant 'only the first layer chooses' shared_index test_evaluate '$layer % sharing.period == 0' '$layer == 0'
mutant 'agreement of groups with their local blocks' row_agreement test_evaluate '$x < $k - 1 && $y < $k - 1' '$x < $k && $y < $k'

# ---- Ranks ---------------------------------------------------------------------------------------
mutant 'ranks: of equal candidates the first rank wins' choose test_parallel '$at > 0 && $line[$at - 1] > $candidate[$i]' '$at > 0 && false'
mutant 'ranks: a part weighs what any does' merge_head test_parallel 'exp((double)$lse[$c] - $max) * (double)$o[$c]' 'exp($max - $max) * (double)$o[$c]'
mutant 'ranks: the local block is whole' list_blocks test_parallel 'min_i64($s->block, $at + 1 - $b * $s->block)' '$s->block'
mutant 'ranks: all keys of a block lie side by side' copy_block test_parallel 'keys_together($req, $j, $end)' '$end - $j'
mutant 'ranks: slices in order' deal_home test_parallel '$slice < $ranks ? $slice : 2 * $ranks - 1 - $slice' '$slice / 2'
mutant 'ranks: a range has all the weight' arrays_of test_parallel '$j->g->weight * $part' '$j->g->weight'
mutant 'ranks: sequences without queries leave no gap' place_tokens test_parallel 'msa_get_seq($s, $n).kv0 * $width, $from + (size_t)$w->kv0[$n]' '$w->kv0[$n] * $width, $from + (size_t)$w->kv0[$n]'
mutant 'ranks: heads travel once for all owners' traffic_pass_q test_parallel '$pairs * $group * $s->d_head * $c->element' '$c->rows * $s->n_heads * $s->d_head * $c->element'
mutant 'ranks: a lower bound rules out' settle test_parallel '$w->upper[$b] < $least' '$w->lower[$b] < $least'
mutant 'ranks: float32 never overflows' bounds_of_products test_parallel '$norm * $reach[$b] < 0x1p120' 'true'
mutant 'ranks: L_KL of a group is divided by all' sum_losses test_train_ranks '$kl[$l] * $s->cut / $ranks' '$kl[$l] / $ranks'
mutant 'ranks: a range has all of L_KL' run_range test_train_ranks '(double)$s->n_q / (double)cut->rows.n' '1'
mutant 'ranks: positions of a slice begin at 0' msa_layer_forward test_train_ranks 'if ($st->at)' 'if (false)'
mutant 'ranks: the last part is the sum' sum_gradients test_train_ranks '$sum += (double)$s->parts' '$sum = (double)$s->parts'
mutant 'ranks: targets of a part are all there are' n_counted test_train_ranks '$n = $r->n_scored' '$n = 0' '!$r->n_scored && ' ''

# ---- Pictures ------------------------------------------------------------------------------------
mutant 'panels as wide as they are high' make_raster test_maps 'fit($rows, ...); fit($columns,' 'fit($rows, ...); fit($rows,'
mutant 'frequency without the prefix' maps_frequency test_maps 'max_i64(0, ($first + $c) * $s->block - ($s->n_kv - $s->n_q))' 'max_i64(0, ($first + $c) * $s->block)'

# ---- Departures from MSA -------------------------------------------------------------------------
mutant 'departures: no way back through the LSE' lse_backward test_model '$dq[$a] += $slope[$a / $d] * $mean_key[$a];' ''
mutant 'departures: sink not counted' sink_backward test_model '$dsink[$row % $s->n_heads] -= (float)$by_lse;' ''
mutant 'departures: index keys learn no values' value_head_backward test_model '$dki[$a] += $v.key[$a];' ';'
mutant 'departures: attached by the queries alone' msa_layer_backward test_model '$ops->gemm(false, true, ..., $w->wik, 1, $dx);' ''
mutant 'departures: reverse KL without its mean' reverse_row test_model '(1 - ($t[$a] - $sum))' '(1 - $t[$a])'
mutant 'departures: window without the first block' 'score_window score_forced' test_variants '$row[0] = INFINITY;' ''
mutant 'departures: mean over the wrong block' score_mean test_variants '$keys->means + $b * $s->d_index' '$keys->means'
mutant 'selector: padding has scores' choose_by test_variants 'pad_queries(...);' ''
mutant 'selector: held to no scores' judge_index test_checker 'judge_words($j, ARRAY_IDS, "by its scores");' ';'
mutant 'selector: may look at keys behind' inputs_other_ends test_checker '$other[$c] = -1 - $ki[$c];' ';'
mutant 'departures: a question before its fact' task_draw test_variants '&& $place[$k] < $i' ''

# ---- Files ---------------------------------------------------------------------------------------
mutant 'files: a link destroyed' add test_io_file '&$st, AT_SYMLINK_NOFOLLOW)' '&$st, 0)'
mutant 'files: two sets put in place at once' wait_for_turn test_io_file '$trial < ... && flock' '$trial < 0 && flock'
mutant 'files: sums that cannot be read are none' sums_read test_io_file '$text && !ferror($f) ? 0 : errno' '0'
mutant 'files: a stage that another writer swept away' staging_make test_io_file 'else if ($why != ENOENT)' 'else'

# ---- The checker itself --------------------------------------------------------------------------
mutant 'comparison accepts NaN' share test_checker 'if (!($error <= $allowed))' 'if ($error > $allowed)'
mutant 'swaps are always ties' swaps_are_ties test_checker '!($tolerance > 0 && ... <= $allowed)' '!(... <= HUGE_VAL)'
mutant 'fence behind not looked at' guard_intact test_checker '|| $after[$i] != FENCE_BYTE' ''

try_all

# Without a mutant every test passes: else all this would prove nothing.
for test in $(printf '%s\n' "${tests[@]}" | sort -u); do
    build "$W/tree.0" "$test" && [[ -z $(catches "$W/tree.0" "$test") ]]
    check $? "unchanged: $test passes"
done
finish
