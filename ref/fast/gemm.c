/* Matrix products: OpenBLAS on our threads, or plain loops where it is absent. */
#include "fast.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef HAVE_OPENBLAS
#include <cblas.h>
#endif

int fast_max_threads(void)
{
#ifdef _OPENMP
    return omp_get_num_procs();
#else
    return 1;
#endif
}

int fast_threads(void)
{
#ifdef HAVE_OPENBLAS
    openblas_set_num_threads(1); /* or every one of our threads would start as many again */
#endif
#ifdef _OPENMP
    int wanted = omp_get_max_threads(), most = fast_max_threads();
    return wanted < most ? wanted : most;
#else
    return 1;
#endif
}

int fast_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

#ifdef HAVE_OPENBLAS
void small_gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    if (m == 0 || n == 0)
        return;
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans, trans_b ? CblasTrans : CblasNoTrans,
                (blasint)m, (blasint)n, (blasint)k, 1, a, (blasint)lda, b, (blasint)ldb, beta, c,
                (blasint)ldc);
}
#else
void small_gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++) {
        float *row = c + i * ldc;
        for (int64_t j = 0; j < n; j++)
            row[j] = beta != 0 ? beta * row[j] : 0;
        for (int64_t l = 0; l < k; l++) {
            float x = a[trans_a ? l * lda + i : i * lda + l];
            if (trans_b)
                for (int64_t j = 0; j < n; j++)
                    row[j] += x * b[j * ldb + l];
            else
                for (int64_t j = 0; j < n; j++)
                    row[j] += x * b[l * ldb + j];
        }
    }
}
#endif

/* Rows of C in pieces of a fixed size, so that no result depends on the number of threads. OpenBLAS arranges
 * B anew for every piece: a large one is worth taller pieces. */
#define PIECE 64
#define TALL_PIECE 512
#define LARGE_B ((int64_t)1 << 20)

void fast_gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a, const float *b,
               float beta, float *c)
{
    const int64_t lda = trans_a ? m : k, ldb = trans_b ? k : n, piece = n * k >= LARGE_B ? TALL_PIECE : PIECE;
#pragma omp parallel for num_threads(fast_threads()) schedule(static)
    for (int64_t i = 0; i < m; i += piece)
        small_gemm(trans_a, trans_b, min_i64(piece, m - i), n, k, a + (trans_a ? i : i * lda), lda, b, ldb,
                   beta, c + i * n, n);
}
