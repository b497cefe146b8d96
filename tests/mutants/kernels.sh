#!/usr/bin/env bash
# Mutants of the kernels, which their tests on the CPU engine must catch, by a wrong result or because the
# engine saw what went wrong. Usage: tests/mutants/kernels.sh [WORD], only those whose name contains WORD.
source "$(dirname "$0")/mutate.sh"

# A mutant by the test of a kernel: kernel NAME FUNCTION KERNEL WHAT INSTEAD...
kernel() { mutant "${@:1:2}" "test_kernels $3" "${@:4}"; }

if [[ -z ${APPLY:-} ]] && { [[ ! -x $B/tests/test_kernels ]] || ! "$B/msa" kernels | grep -q simt; }; then
    skip "mutants of the kernels" "no C++ compiler here"
    finish
fi

# ---- Results that are wrong ------------------------------------------------------------------------
kernel 'causal mask off by one' consume dense/hopper '$column <= $last[$half]' '$column < $last[$half]'
kernel 'no rescale of the denominator' softmax_step dense/tensor_core '$a.l[$half] * $keep[$half] + $sum' '$a.l[$half] + $sum'
kernel 'V read with the stride of another tile' issue_values sparse/union '$rows * 128, 1024, Swizzle::b128' '1024, 1024, Swizzle::b128'
kernel 'the mask of a neighbouring query' weigh sparse/union '$chosen >> $number[$half] % 32' '$chosen >> ($number[$half] + 1) % 32'
kernel 'every partial in slot 0' consume sparse/kv_outer 'pair_at($s, $query, $w.group, $slot)' 'pair_at($s, $query, $w.group, 0)'
kernel 'partials averaged without their LSE' combine sparse/kv_outer 'ex2($weight[$a] - $top)' '($weight[$a] > minus_infinity() ? 1.0f : 0.0f)'
kernel 'ties go to the higher block' epilogue index/fused '!($maximum <= $own.threshold[$half])' '!($maximum < $own.threshold[$half])'
kernel 'the last visible key is masked' row_max index/wgmma '$column($i) <= $last' '$column($i) < $last'
kernel 'the LSE forgets to shift' write index/fused '$e.sum * ex2(...)' '$e.sum'
kernel 'the last part of the keys is not merged' merge index/fused 'offer_all($list, 0, 32, $parts.n * $s.topk' 'offer_all($list, 0, 32, ($parts.n - 1) * $s.topk'
kernel 'the LSE of what was not chosen' merge index/fused '$local, $list.threshold)' '$local, 0)'
mutant 'free places that a score of -inf does not take' rows_init "test_nonfinite index/fused" '$takes ? not_a_number()' '$takes ? minus_infinity()'
mutant 'NaN taken for a part without keys' softmax_finish_part "test_nonfinite sparse/kv_outer" '$l == 0 ? 0 : 1 / $l' '$l > 0 ? 1 / $l : 0' '$a.m[$half] * ln_2 + logf($l)' '$l > 0 ? $a.m[$half] * ln_2 + logf($l) : minus_infinity()'
mutant 'a partial of no weight left out' combine "test_nonfinite sparse/kv_outer" 'float $x = shfl(...); if ($a * $lanes + $b < $n)' 'float $x = shfl(...); if ($x > 0)'
mutant 'a maximum that starts at -inf' softmax_init "test_nonfinite decode/swapped" '{lowest, lowest}' '{minus_infinity(), minus_infinity()}'
mutant 'ids of others believed' q_outer "test_nonfinite sparse/q_outer" 'warp_ballot(is_block($s, $id))' 'warp_ballot($id >= 0)'
kernel 'who waits at the end is forgotten' columns topk/columns 'flush($list, $buffer);' ''
kernel 'a heap that does not sink' replace_root topk/heaps 'if ($key <= $least)' 'if ($key >= $least)'
kernel 'entries of the bits above' scatter reverse/scan '$chosen & ($bit - 1)' '$chosen & ~$bit'
kernel 'parts of a row weigh the same' merge_row decode/split 'ex2($part.x - $m)' '1.0f'
mutant 'a page of the first request' find_piece test_decode '(int64_t)$n * $p.max_pages' '(int64_t)0 * $p.max_pages'
mutant 'a page that does not exist' find_piece test_serving '$page = 0, $good = false' '$good = false'
mutant 'padding is not written' attend test_serving '__syncthreads(); grid_wait(); if ($i >= $s.n_q && blockIdx.x == 0)' '__syncthreads(); grid_wait(); if (false)'
mutant 'codes stay when their token goes' roll_back test_serving 'clear_row($a.p.ki8 + ...);' ''
mutant 'a scale that is never small' complete_piece test_decode 'float $most = 0;' 'float $most = 1;'
mutant 'positions of the longest request' set_lengths test_decode '$s.prefix = $s.n_kv - $s.n_q;' ''
mutant 'the last segment is not merged' select test_decode 'share_of(...) + 1 - $piece' 'share_of(...) - $piece'
mutant 'the scale of the first block' scale_of test_decode '[$place][$key / $piece]' '[$place][0 * ($key / $piece)]'
mutant 'a row merged by whoever is first' finish_part test_decode 'ld_shared(&$m.drawn) + 1 < (uint32_t)$part.active' 'ld_shared(&$m.drawn) > 0'
kernel 'dS without delta' naive backward/naive '$p * ($dp - $my_delta)' '$p * $dp'
kernel 'the teacher is a sum, not a mean' naive kl/naive '$t /= (float)$s.group;' ''
mutant 'a centre left out of one channel in four' merge test_centre '$y.z - $rest * $centre.z' '$y.z'
kernel 'dS as it lies, not transposed' add_slice backward/q_outer 'ldmatrix_x4_trans($left' 'ldmatrix_x4($left'
kernel 'the scale of dK is forgotten' add_slice backward/q_outer 'reduce_rows($acc, scale<$D>' 'reduce_rows($acc, 1'
kernel 'heads of two queries in one teacher' sum_heads kl/kv_outer 'if ($shift > $with)' 'if ($shift >= $with)'
kernel 'the loss weighs nothing' sweep_chunk kl/deterministic '(float)($c.a.weight * loss_share($s))' '(float)loss_share($s)'
kernel 'dQ in another slot' pair_at backward/deterministic '? (int)($entry & 31)' '? (int)($entry & 31) ^ 1'
kernel 'every item owns its rows' store_block backward/kv_outer 'bool $alone = ...;' 'bool $alone = true;'
kernel 'the last part of a hot block is not merged' merge backward/kv_outer '$at < $end; $at += $limit' '$at + $limit < $end; $at += $limit'
kernel 'keys see what comes after' fetch backward/kv_outer 'ld_shared(&$m.prefix) + (int)$i - $work.block * $N : -1' '$N : -1'
kernel 'dS where no swizzle put it' swizzled backward/hopper '($chunk ^ $row % 8)' '$chunk'
mutant 'heads that are not there' weights test_gradient_kernels '$number < tile_queries && head_of($work, $column) < $group' '$number < tile_queries + 0 * $group'
kernel 'rows that no copy writes and nobody clears' hopper_sweep backward/hopper '? queries($work, $i) << $work.shift : 0' '? 64 : 64'
mutant 'auto crosses one block early' run test_prefill '$c.s.topk), false}' '$c.s.topk) - 1, false}'
mutant 'auto counts a block once for each query' size_of_union test_prefill '$again |=' '$again ='
mutant 'auto opens one gate whatever it measures' run test_prefill '$part.s.gate.above = true;' ''
mutant 'fences on a device not looked at' call_with_buffers test_fences '$status = $device->blame(...);' ';'
mutant 'less workspace asked for than used' workspace test_workspace 'layout(chunk_of(...).s, $c.d_head, nullptr).bytes' 'layout(chunk_of(...).s, $c.d_head, nullptr).bytes - 128'

mutant 'a chunk of queries at the positions of the first' chunk_of test_gradient_kernels '$part.s.prefix = $c.s.prefix + $q0;' '$part.s.prefix = $c.s.prefix;'
kernel 'a chunk forgets what the ones before it left' store_rows dense_backward/kv_outer '$add ? ld_global($p) : make_float2(0, 0)' 'make_float2(0, 0)'
kernel 'dKi of the first group alone' index_keys kl/kv_outer '$r < $s.n_kv_heads; $r++' '$r < 1; $r++'
kernel 'the index LSE of the warmup without the last key' index_lse_kernel kl/deterministic 'lse_keys + $column <= $position' 'lse_keys + $column < $position'
kernel 'full support begins a query too late' work_of dense_backward/kv_outer '$before > 0 ? $before : 0' '$before > 0 ? $before + 1 : 0'

# ---- What the engine sees --------------------------------------------------------------------------
mutant 'dQ overwritten under its copy' add_dq test_gradient_kernels 'bulk_wait_read<0>();' '__syncwarp();'
kernel 'keys that nobody has waited for' consume backward/hopper 'mbarrier_wait(&$m.keys_full, 0); clear_padding' 'clear_padding'
kernel 'dS overwritten while the other warpgroup multiplies it' consume backward/hopper 'bar_sync(1, 2 * $N); store_ds(' 'store_ds('
kernel 'dS of the other warpgroup not waited for' consume backward/hopper 'bar_sync(1, 2 * $N); multiply_derivatives(' '__syncwarp(); multiply_derivatives('
mutant 'dS that wgmma may not see' consume test_gradient_kernels 'store_student(...); fence_proxy_async();' 'store_student(...);;'
kernel 'accumulators read before the wait' consume dense/hopper 'wgmma_wait<1>(); wgmma_pin($x); release_stage(' 'wgmma_wait<2>(); wgmma_pin($x); release_stage('
kernel 'a stage that is never given back' consume dense/hopper 'release_stage($smem.v, $j - 1); rescale(' 'rescale('
kernel 'values given back before their products are waited for' consume dense/hopper 'wgmma_wait<0>(); wgmma_pin($acc); wgmma_pin($p); release_stage($smem.v, $j - 1);' 'release_stage($smem.v, $j - 1); wgmma_wait<0>(); wgmma_pin($acc); wgmma_pin($p);'
kernel 'no proxy fence after ordinary stores' clear_rows sparse/kv_outer 'fence_proxy_async();' ''
kernel 'fewer bytes expected than come' produce index/wgmma 'sizeof $m.k[$stage])' 'sizeof $m.k[$stage] / 2)'
kernel 'one warp too few gives a stage back' walk_union sparse/union '.any ? 8 : 4' '.any ? 7 : 3'
kernel 'a stage given back while it is multiplied' consume sparse/kv_outer 'issue_scores<$N>($x, $m.q[$stage], $m.k); wgmma_wait<0>();' 'issue_scores<$N>($x, $m.q[$stage], $m.k);'
kernel 'a slice read before it has come' q_outer sparse/q_outer 'cp_async_wait<0>(); __syncwarp(); if (...) $fetch(...); auto' '__syncwarp(); if (...) $fetch(...); auto'
kernel 'lanes that do not wait for each other' insert index/fused '__syncwarp(); if ($mine) store(' 'if ($mine) store('
kernel 'the combination does not wait' combine sparse/kv_outer 'grid_wait();' ''
mutant 'tickets of the last step' update_cache test_decode 'st_global($tickets + $c, 0u);' ';'
mutant 'selection does not wait' attend test_decode '__syncthreads(); grid_wait(); if (' '__syncthreads(); if ('
mutant '8-bit keys decoded without a fence' operand test_decode 'fence_proxy_async();' ''
mutant 'the next queries come too early' produce test_decode 'mbarrier_wait(&$m.queries_empty[$which], ...);' ''
kernel 'dS read before all have left it' sweep backward/kv_outer '__syncthreads(); if constexpr ($main) rows_by_channels(' 'if constexpr ($main) rows_by_channels('
kernel 'a tile read before it has come' sweep kl/kv_outer 'cp_async_wait<0>();' ''
kernel 'entries of a tile overwritten while they are read' 'fetch_entries fetch rows_by_channels queries_by_channels' backward/kv_outer '.entry[$tile % 3]' '.entry[$tile % 2]'
kernel 'no barrier after clearing' count reverse/scan 'st_shared(&$m.n[$b], 0); __syncthreads();' 'st_shared(&$m.n[$b], 0);'
kernel 'sums of warps read too early' scan_block reverse/scan 'scan_warp(...)); __syncthreads();' 'scan_warp(...));'
kernel 'choices counted without atomics' count reverse/scan 'atomicAdd(&$m.n[$b], 1);' 'st_shared(&$m.n[$b], ld_shared(&$m.n[$b]) + 1);'
kernel 'the maxima of two stages in one place' consume decode/swapped '= $m.top[$n % 2];' '= $m.top[0];'
kernel 'a stage past the end of the ring' wait_stage dense/hopper 'mbarrier_wait(&$ring.full[$j % $stages], ...); return $ring.tile[' 'mbarrier_wait(&$ring.full[$j % ($stages + 1)], ...); return $ring.tile['
kernel 'products that are not committed' issue_scores index/wgmma 'wgmma_commit();' ''
kernel 'rows of an operand over each other' add_rows_by_rows index/wgmma 'wgmma_ss<$N>($x, wgmma_descriptor(..., 16, 1024' 'wgmma_ss<$N>($x, wgmma_descriptor(..., 16, 512'
kernel 'no barrier after counting' count reverse/scan '__syncthreads(); for (' 'for ('

try_all
finish
