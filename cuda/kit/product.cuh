/**
 * @file product.cuh
 * @brief A large matrix product by the vendor's library: the ceiling that compute-bound kernels are held to.
 *
 * cuBLAS is loaded when it is first asked for, so that neither the build nor the program needs it.
 */
#ifndef MSA_PRODUCT_CUH
#define MSA_PRODUCT_CUH

#include "../host/msa_cuda.h"

#ifdef __CUDACC__
#include <dlfcn.h>

/// The three functions of cuBLAS that are used, as its manual declares them; enumerations are ints.
struct Cublas {
    void *handle;
    int (*create)(void **handle);
    int (*gemm)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a,
                int type_a, int lda, const void *b, int type_b, int ldb, const void *beta, void *c,
                int type_c, int ldc, int compute, int algorithm);
};

static Cublas load_cublas()
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so",
                                        "/usr/local/cuda/lib64/libcublas.so"};
    Cublas blas = {};
    void *library = nullptr;
    for (const char *name : names)
        if (!library)
            library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return blas;
    blas.create = (decltype(blas.create))dlsym(library, "cublasCreate_v2");
    blas.gemm = (decltype(blas.gemm))dlsym(library, "cublasGemmEx");
    if (!blas.create || !blas.gemm || blas.create(&blas.handle) != 0)
        blas.handle = nullptr;
    return blas;
}

/// Column-major is the library's order: it is asked for B^T A^T, whose columns are the rows of A B.
static msa_status product(int n, const uint16_t *a, const uint16_t *b, uint16_t *c)
{
    static const Cublas blas = load_cublas();
    const int none = 0 /* CUBLAS_OP_N */, bf16_type = 14 /* CUDA_R_16BF */,
              compute = 68 /* CUBLAS_COMPUTE_32F */;
    const float one = 1, zero = 0;
    if (!blas.handle)
        return MSA_ERR_UNSUPPORTED;
    const int failed = blas.gemm(blas.handle, none, none, n, n, n, &one, b, bf16_type, n, a, bf16_type, n,
                                 &zero, c, bf16_type, n, compute, -1 /* CUBLAS_GEMM_DEFAULT */);
    return failed ? MSA_ERR_UNSUPPORTED : MSA_OK;
}
#else
static msa_status product(int, const uint16_t *, const uint16_t *, uint16_t *)
{
    return MSA_ERR_UNSUPPORTED;
}
#endif

#endif
