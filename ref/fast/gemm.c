/* Matrix products: OpenBLAS on our threads, or plain loops where it is absent. */
#include "fast.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef HAVE_OPENBLAS
#include <cblas.h>
#include <stdatomic.h>
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
/* OpenBLAS has one number of threads for the whole process. Of calls that overlap, the first sets it to 1 and
 * the last puts back what it was, unless the caller has chosen another meanwhile. An OpenBLAS that is built
 * on OpenMP takes one thread in our regions by itself. */
static atomic_flag taken = ATOMIC_FLAG_INIT;
static int inside, before;

static bool must_ask(void)
{
    return openblas_get_parallel() == OPENBLAS_THREAD;
}

static void lock(void)
{
    while (atomic_flag_test_and_set(&taken))
        ;
}

int products_begin(void)
{
    if (must_ask()) {
        lock();
        if (inside++ == 0) {
            before = openblas_get_num_threads();
            openblas_set_num_threads(1);
        }
        atomic_flag_clear(&taken);
    }
    return fast_threads();
}

void products_end(void)
{
    if (must_ask()) {
        lock();
        if (--inside == 0 && openblas_get_num_threads() == 1)
            openblas_set_num_threads(before);
        atomic_flag_clear(&taken);
    }
}

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
int products_begin(void)
{
    return fast_threads();
}

void products_end(void)
{
}

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
    const int threads = products_begin();
    (void)threads; /* without OpenMP */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < m; i += piece)
        small_gemm(trans_a, trans_b, min_i64(piece, m - i), n, k, a + (trans_a ? i : i * lda), lda, b, ldb,
                   beta, c + i * n, n);
    products_end();
}
