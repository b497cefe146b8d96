#!/usr/bin/env bash
# Mutants of the kernels, which their tests on the CPU engine must catch, by a wrong result or because the
# engine saw what went wrong. Usage: tests/mutants/kernels.sh [WORD], only those whose name contains WORD.
source "$(dirname "$0")/mutate.sh"

# A mutant of cuda/FILE, by the test of a kernel.
kernel() { mutant "$1" "cuda/$2" "test_kernels $3" "$4"; }

if [[ ! -x $B/tests/test_kernels ]] || ! "$B/msa" kernels | grep -q simt; then
    skip "mutants of the kernels" "no C++ compiler here"
    finish
fi

# ---- Results that are wrong ------------------------------------------------------------------------
kernel 'causal mask off by one' dense/4_hopper.cu dense/hopper 's/column <= last\[half\]/column < last[half]/'
kernel 'no rescale of the denominator' kit/softmax.cuh dense/tensor_core 's/state.l\[half\] \* keep\[half\] + sum/state.l[half] + sum/'
kernel 'V read with the stride of another tile' kit/attend.cuh sparse/union 's/rows \* 128, 1024, Swizzle::b128/1024, 1024, Swizzle::b128/'
kernel 'the mask of a neighbouring query' sparse/3_union.cu sparse/union 's/chosen >> number\[half\] % 32/chosen >> (number[half] + 1) % 32/'
kernel 'every partial in slot 0' sparse/4_kv_outer.cu sparse/kv_outer 's/w.group, slot) \* s.group/w.group, 0) * s.group/'
kernel 'partials averaged without their LSE' sparse/4_kv_outer.cu sparse/kv_outer 's/ex2(weight\[a\] - top) : 0/(weight[a] > minus_infinity() ? 1.0f : 0.0f) : 0/'
kernel 'ties go to the higher block' index/4_fused.cu index/fused 's/!(maximum <= own.threshold\[half\])/!(maximum < own.threshold[half])/'
kernel 'the last visible key is masked' index/stream.cuh index/wgmma 's/column(i) <= last/column(i) < last/'
kernel 'the LSE forgets to shift' index/4_fused.cu index/fused 's/sum += e.sum \* ex2((e.score - maximum) \* scale2<D>)/sum += e.sum/'
kernel 'the last part of the keys is not merged' index/4_fused.cu index/fused 's/offer_all(list, 0, 32, parts.n \* s.topk/offer_all(list, 0, 32, (parts.n - 1) * s.topk/'
kernel 'the LSE of what was not chosen' index/4_fused.cu index/fused 's/local, list.threshold)/local, 0)/'
mutant 'free places that a score of -inf does not take' cuda/index/4_fused.cu "test_nonfinite index/fused" 's/takes ? not_a_number()/takes ? minus_infinity()/'
mutant 'NaN taken for a part without keys' cuda/kit/softmax.cuh "test_nonfinite sparse/kv_outer" 's/l == 0 ? 0 : 1 \/ l/l > 0 ? 1 \/ l : 0/; s/= state.m\[half\] \* ln_2 + logf(l);/= l > 0 ? state.m[half] * ln_2 + logf(l) : minus_infinity();/'
mutant 'a partial of no weight left out' cuda/sparse/4_kv_outer.cu "test_nonfinite sparse/kv_outer" 's/if (a \* lanes + b < n) {/if (x > 0) {/'
mutant 'a maximum that starts at -inf' cuda/kit/softmax.cuh "test_nonfinite decode/swapped" 's/{{lowest, lowest}/{{minus_infinity(), minus_infinity()}/'
mutant 'ids of others believed' cuda/sparse/2_q_outer.cu "test_nonfinite sparse/q_outer" 's/warp_ballot(is_block(s, id))/warp_ballot(id >= 0)/'
kernel 'who waits at the end is forgotten' topk/5_columns.cu topk/columns 's/^    flush(list, buffer);//'
kernel 'a heap that does not sink' topk/3_heaps.cu topk/heaps 's/if (key <= smaller)/if (key >= smaller)/'
kernel 'entries of the bits above' reverse/2_scan.cu reverse/scan 's/(bit - 1)/~bit/'
kernel 'parts of a row weigh the same' decode/decode.cuh decode/split 's/ex2(part.x - m)/1.0f/'
mutant 'a page of the first request' cuda/decode/decode.cuh test_decode 's/(int64_t)n \* p.max_pages/(int64_t)0 * p.max_pages/'
mutant 'a page that does not exist' cuda/decode/decode.cuh test_serving 's/page = 0, good = false/good = false/'
mutant 'padding is not written' cuda/decode/3_swapped.cu test_serving 's/i >= s.n_q && blockIdx.x == 0/false/'
mutant 'codes stay when their token goes' cuda/decode/update_cache.cuh test_serving 's/^        clear_row(a.p.ki8.*//'
mutant 'a scale that is never small' cuda/decode/update_cache.cuh test_decode 's/float amax = 0;/float amax = 1;/'
mutant 'positions of the longest request' cuda/decode/decode.cuh test_decode 's/s.prefix = s.n_kv - s.n_q;//'
mutant 'the last segment is not merged' cuda/decode/3_swapped.cu test_decode 's/shares) + 1 - share : 0/shares) - share : 0/'
mutant 'the scale of the first block' cuda/decode/score.cuh test_decode 's/\[stage\]\[key \/ piece\]/[stage][0 * (key \/ piece)]/'
mutant 'a row merged by whoever is first' cuda/decode/attend.cuh test_decode 's/if (ld_shared(&m.drawn) + 1 < (uint32_t)part.active)/if (ld_shared(\&m.drawn) > 0)/'
kernel 'dS without delta' backward/1_naive.cu backward/naive 's/p \* (dp - my_delta)/p * dp/'
kernel 'the teacher is a sum, not a mean' kl/1_naive.cu kl/naive 's/t \/= (float)s.group;//'
mutant 'a centre left out of one channel in four' cuda/backward/2_q_outer.cu test_centre 's/y.z - excess \* centre.z/y.z/'
kernel 'dS as it lies, not transposed' backward/2_q_outer.cu backward/q_outer 's/ldmatrix_x4_trans(left/ldmatrix_x4(left/'
kernel 'the scale of dK is forgotten' backward/2_q_outer.cu backward/q_outer 's/reduce_rows(acc, scale<D>/reduce_rows(acc, 1/'
kernel 'heads of two queries in one teacher' backward/tiles.cuh kl/kv_outer 's/if (shift > with)/if (shift >= with)/'
kernel 'the loss weighs nothing' backward/sweep.cuh kl/deterministic 's/(float)(c.a.weight \* loss_share(s))/(float)loss_share(s)/'
kernel 'dQ in another slot' backward/tiles.cuh backward/deterministic 's/? (int)(entry \& 31) : work.block/? (int)(entry \& 31) ^ 1 : work.block/'
kernel 'every item owns its rows' backward/tiles.cuh backward/kv_outer 's/const bool alone = .*;/const bool alone = true;/'
kernel 'the last part of a hot block is not merged' backward/parts.cuh backward/kv_outer 's/at < end; at += limit/at + limit < end; at += limit/'
kernel 'keys see what comes after' backward/mma_sweep.cuh backward/kv_outer 's/ld_shared(&m.prefix) + (int)i - work.block \* N : -1/N : -1/'
kernel 'dS where no swizzle put it' backward/hopper_consumer.cuh backward/hopper 's/(chunk ^ row % 8)/chunk/'
mutant 'heads that are not there' cuda/backward/hopper_consumer.cuh test_gradient_kernels 's/tile_queries \&\& head_of(work, column) < group/tile_queries + 0 * group/'
kernel 'rows that no copy writes and nobody clears' backward/4_hopper.cu backward/hopper 's/? queries(work, i) << work.shift : 0;/? 64 : 64;/'
mutant 'auto crosses one block early' cuda/prefill/3_auto.cu test_prefill 's/c.s.topk), false/c.s.topk) - 1, false/'
mutant 'auto counts a block once for each query' cuda/prefill/3_auto.cu test_prefill 's/duplicate |= /duplicate = /'
mutant 'auto opens one gate whatever it measures' cuda/prefill/3_auto.cu test_prefill 's/part.s.gate.above = true;//'
mutant 'fences on a device not looked at' cuda/host/host.c test_fences 's/status = device->blame(.*/;/'
mutant 'less workspace asked for than used' cuda/sparse/4_kv_outer.cu test_workspace 's/c.d_head, nullptr).bytes : 0/c.d_head, nullptr).bytes - 128 : 0/'

mutant 'a chunk of queries at the positions of the first' cuda/kit/kernel.cuh test_gradient_kernels 's/part.s.prefix = c.s.prefix + q0;/part.s.prefix = c.s.prefix;/'
kernel 'a chunk forgets what the ones before it left' backward/tiles.cuh dense_backward/kv_outer 's/add ? ld_global(p) : make_float2(0, 0)/make_float2(0, 0)/'
kernel 'dKi of the first group alone' backward/parts.cuh kl/kv_outer 's/for (int r = 0; r < s.n_kv_heads; r++) {/for (int r = 0; r < 1; r++) {/'
kernel 'the index LSE of the warmup without the last key' kl/index_lse.cuh kl/deterministic 's/lse_keys + column <= position/lse_keys + column < position/'
kernel 'full support begins a query too late' backward/tiles.cuh dense_backward/kv_outer 's/before > 0 ? before : 0, s.n_q, 0, 0/before > 0 ? before + 1 : 0, s.n_q, 0, 0/'

# ---- What the engine sees --------------------------------------------------------------------------
mutant 'dQ overwritten under its copy' cuda/backward/hopper_consumer.cuh test_gradient_kernels 's/^        bulk_wait_read<0>();/        __syncwarp();/'
kernel 'keys that nobody has waited for' backward/4_hopper.cu backward/hopper 's/^    mbarrier_wait(&m.keys_full, 0);//'
kernel 'dS overwritten while the other warpgroup multiplies it' backward/4_hopper.cu backward/hopper 's/bar_sync(1, 2 \* N); .. all are done.*//'
kernel 'dS of the other warpgroup not waited for' backward/4_hopper.cu backward/hopper 's/bar_sync(1, 2 \* N); .. they are there/__syncwarp();/'
mutant 'dS that wgmma may not see' cuda/backward/4_hopper.cu test_gradient_kernels '/store_student(m, stage/{n; s/fence_proxy_async();/;/}'
kernel 'accumulators read before the wait' dense/4_hopper.cu dense/hopper 's/wgmma_wait<1>();/wgmma_wait<2>();/'
kernel 'a stage that is never released' dense/4_hopper.cu dense/hopper 's/release_stage(smem.v, j - 1);//'
kernel 'values released before their products are waited for' dense/4_hopper.cu dense/hopper 's/^        wgmma_wait<0>();/        release_stage(smem.v, j - 1); wgmma_wait<0>();/; s/^        release_stage(smem.v, j - 1);$//'
kernel 'no proxy fence after ordinary stores' kit/attend.cuh sparse/kv_outer 's/fence_proxy_async();//'
kernel 'fewer bytes expected than come' index/stream.cuh index/wgmma 's/sizeof m.k\[stage\])/sizeof m.k[stage] \/ 2)/'
kernel 'one warp too few releases a stage' sparse/3_union.cu sparse/union 's/any ? 8 : 4/any ? 7 : 3/'
kernel 'a stage released while it is multiplied' sparse/4_kv_outer.cu sparse/kv_outer '/issue_scores<N>/{n;d;}'
kernel 'a slice read before it has come' sparse/2_q_outer.cu sparse/q_outer '/for (int n = warp/,/warp_scores/s/cp_async_wait<0>();//'
kernel 'lanes that do not wait for each other' index/4_fused.cu index/fused 's/__syncwarp(); \/\/ a neighbour.*//'
kernel 'the combination does not wait' sparse/4_kv_outer.cu sparse/kv_outer 's/^    grid_wait();//'
mutant 'tickets of the last step' cuda/decode/update_cache.cuh test_decode 's/st_global(tickets + c, 0u);/;/'
mutant 'selection does not wait' cuda/decode/3_swapped.cu test_decode '/__syncthreads();/{n;s/^    grid_wait();//}'
mutant '8-bit keys decoded without a fence' cuda/decode/score.cuh test_decode 's/^    fence_proxy_async();//'
mutant 'the next queries come too early' cuda/decode/score.cuh test_decode 's/^            mbarrier_wait(&m.queries_empty.*//'
kernel 'dS read before all have left it' backward/mma_sweep.cuh backward/kv_outer 's/__syncthreads(); \/\/ dS and u - t are there//'
kernel 'a tile read before it has come' backward/mma_sweep.cuh kl/kv_outer '/auto &stage = m.stage\[tile % 2\];/{n;s/cp_async_wait<0>();//}'
kernel 'entries of a tile overwritten while they are read' backward/mma_sweep.cuh backward/kv_outer 's/\[tile % 3\]/[tile % 2]/'
kernel 'no barrier after clearing' reverse/2_scan.cu reverse/scan '/st_shared(&m.n\[b\], 0);/{n;s/__syncthreads();//}'
kernel 'sums of warps read too early' reverse/2_scan.cu reverse/scan '/scan_warp(ld_shared/{n;s/__syncthreads();//}'
kernel 'choices counted without atomics' reverse/2_scan.cu reverse/scan 's/atomicAdd(&m.n\[b\], 1);/st_shared(\&m.n[b], ld_shared(\&m.n[b]) + 1);/'
kernel 'the maxima of two stages in one place' decode/score.cuh decode/swapped 's/= m.top\[n % 2\];/= m.top[0];/'
kernel 'a stage past the end of the ring' dense/4_hopper.cu dense/hopper 's/mbarrier_wait(&ring.full\[j % stages\]/mbarrier_wait(\&ring.full[j % (stages + 1)]/'
kernel 'products that are not committed' kit/attend.cuh index/wgmma '/add_rows_by_rows<N>(s, q, 0, k, key);/{n;s/wgmma_commit();//}'
kernel 'rows of an operand over each other' kit/attend.cuh index/wgmma 's/64 \* a_row + column\], 16, 1024/64 * a_row + column], 16, 512/'
kernel 'no barrier after counting' reverse/2_scan.cu reverse/scan '/atomicAdd(&m.n/,/^}/s/__syncthreads();//'

try_all
finish
