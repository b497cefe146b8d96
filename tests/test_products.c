/**
 * @file test_products.c
 * @brief The products that the fast path is made of: parts of larger matrices, in every orientation, against
 * plain sums; what lies around them stays as it was. (Whole matrices: test_fast.c.)
 *
 * It needs nothing but ref/fast/gemm.c: test_without.sh builds it without OpenBLAS.
 */
#include <math.h>
#include <stdlib.h>

#include "../ref/fast/fast.h"
#include "support/tap.h"

enum { BEYOND = 3 };

/* Small integers: every sum is exact. */
static float *matrix(int64_t rows, int64_t cols, int seed)
{
    float *x = malloc((size_t)(rows * cols) * sizeof *x);
    for (int64_t a = 0; x && a < rows * cols; a++)
        x[a] = (float)((a * 7 + a / 5 + seed) % 9 - 4);
    return x;
}

static float product(bool ta, bool tb, int64_t i, int64_t j, int64_t k, const float *a, int64_t lda,
                     const float *b, int64_t ldb)
{
    float sum = 0;
    for (int64_t l = 0; l < k; l++)
        sum += a[ta ? l * lda + i : i * lda + l] * b[tb ? j * ldb + l : l * ldb + j];
    return sum;
}

/* `beyond` columns more in memory than in the product; beta 0 overwrites NaN too. Of many rows those around
 * the ends of pieces are looked at. */
static bool agrees(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float beta, int64_t beyond)
{
    const int64_t lda = (ta ? m : k) + beyond, ldb = (tb ? k : n) + beyond, ldc = n + beyond;
    float *a = matrix(ta ? k : m, lda, 1), *b = matrix(tb ? n : k, ldb, 2), *c = matrix(m, ldc, 3),
          *old = matrix(m, ldc, 3);
    bool ok = a && b && c && old;
    for (int64_t x = 0; ok && beta == 0 && x < m * ldc; x++)
        c[x] = x % ldc < n ? NAN : c[x];
    if (ok && beyond)
        small_gemm(ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc);
    else if (ok)
        fast_gemm(ta, tb, m, n, k, a, b, beta, c);
    for (int64_t x = 0; ok && x < m * ldc; x++) {
        const int64_t i = x / ldc, j = x % ldc;
        if (m > 200 && i % 512 > 0 && i % 512 < 511 && i < m - 1)
            continue;
        const float is = j < n ? beta * old[x] + product(ta, tb, i, j, k, a, lda, b, ldb) : old[x];
        ok = c[x] == is;
    }
    free(a), free(b), free(c), free(old);
    return ok;
}

int main(void)
{
    static const int64_t size[][3] = {{1, 1, 1}, {3, 5, 7}, {64, 17, 9}, {65, 8, 1}, {150, 3, 20}, {4, 6, 0}};
    for (int orientation = 0; orientation < 4; orientation++) {
        bool ok = true;
        for (size_t a = 0; a < sizeof size / sizeof *size; a++)
            for (float beta = 0; beta <= 2; beta++)
                ok = agrees(orientation & 1, orientation & 2, size[a][0], size[a][1], size[a][2], beta,
                            BEYOND) &&
                     ok;
        tap(ok, "parts of matrices: C = A%s B%s + beta C", orientation & 1 ? "'" : "",
            orientation & 2 ? "'" : "");
    }
    tap(agrees(false, false, 514, 1024, 1024, 0, 0), "a large B, in pieces of many rows");
    return tap_done();
}
