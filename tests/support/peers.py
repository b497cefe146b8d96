"""How data/bench/peers/cpu.py takes turns and judges, without a clock. Prints TAP lines; tests/test_peers.sh runs it."""
import os
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "data", "bench", "peers"))
import cpu


def check(ok, name):
    print(f"{'ok' if ok else 'not ok'} {name}")


order = []
rounds, found = cpu.in_turn({name: lambda name=name: order.append(name) or name for name in "abc"}, 0)
check("".join(order) == "abccbaabc" and len(rounds) == 3 and found == {"a": "a", "b": "b", "c": "c"},
      "calls take turns, every second round in reverse order")
check(cpu.of_rounds([3, 1, 2]) == (2, 1, 3) and cpu.of_rounds([4, 1, 2, 3]) == (2.5, 1, 4), "median, least, most")

torch.manual_seed(2)
o = torch.randn(8, 2, cpu.D)
right = [(slice(4, 8), o[4:].numpy()), (slice(0, 2), o[:2].numpy())]
check(cpu.agree(o.bfloat16(), right, "bf16") and not cpu.agree(o.bfloat16(), right, "f32"), "each type has a limit of its own")
for row, judged in (5, True), (0, True), (3, False):
    other = o.clone()
    other[row, 1] *= 1.05
    check(cpu.agree(other, right, "bf16") != judged, f"one head of query {row} is wrong: {'seen' if judged else 'not judged'}")
other[5, 1, 7] = torch.nan
check(not cpu.agree(other, right, "bf16"), "and so is a NaN")

q, k, v, qi, ki = cpu.drawn(40, 300, 4, 2)
flops = cpu.work(40, 300, 4, 2)
check(flops["dense"] == 4 * 4 * cpu.D * sum(range(261, 301)) and q.dtype == torch.bfloat16, "operations of the last 40 of 300 tokens")
check(cpu.work(4096, 4096, 16, 1)["sparse"] == 4 * 16 * cpu.D * sum(min(15, i // 128) * 128 + i % 128 + 1 for i in range(4096)),
      "... and of those that are chosen")
