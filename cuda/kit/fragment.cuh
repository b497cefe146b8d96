/**
 * @file fragment.cuh
 * @brief Which element of a matrix a thread's register holds, for mma.sync m16n8k16 and wgmma m64nNk16 in
 *        bf16. PTX ISA, "Matrix Fragments for mma.m16n8k16" and "Register Fragments for wgmma".
 *
 * One formula serves both: a warpgroup's fragment is that of its four warps, 16 rows each. `thread` is the
 * lane for mma.sync and the thread in the warpgroup, 0..127, for wgmma; `i` counts elements: float32
 * registers of D, halves of registers (low half first) of A and B.
 */
#ifndef MSA_FRAGMENT_CUH
#define MSA_FRAGMENT_CUH

#ifdef __CUDACC__
#define MSA_BOTH_SIDES __host__ __device__
#else
#define MSA_BOTH_SIDES
#endif

struct Element {
    int row, col;
};

/// Accumulators: i < 4 for mma.sync, i < N/2 for wgmma. A row lives in the four lanes of a quad.
MSA_BOTH_SIDES constexpr Element fragment_d(int thread, int i)
{
    return {16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (thread % 4) + i % 2};
}

/// A, row by k: i < 8.
MSA_BOTH_SIDES constexpr Element fragment_a(int thread, int i)
{
    return {16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (thread % 4) + i % 2};
}

/// B of mma.sync, k by column: i < 4. (wgmma reads B from shared memory.)
MSA_BOTH_SIDES constexpr Element fragment_b(int thread, int i)
{
    return {8 * (i / 2) + 2 * (thread % 4) + i % 2, thread / 4};
}

#endif
