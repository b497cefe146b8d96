/* Chapter 10b: a product of two tiles in plain C; what the kernels on tiles count; where their clocks go by these counts. */
#include "tile_counts.h"

#include <string.h>

/* ---- The smallest product ---------------------------------------------------------------------------------------- */

/* [product] */
typedef uint16_t bf16;

/* Rows 2j and 2j + 1 of b side by side, column by column: row j of the tile. */
static void pair_rows(bf16 b[32][16], bf16 tile[16][32])
{
    for (int row = 0; row < 32; row++)
        for (int column = 0; column < 16; column++)
            tile[row / 2][2 * column + row % 2] = b[row][column];
}

static float value(bf16 x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* c += a b, as the instruction has it: 4 bytes of a row times 4 bytes of a column. */
static void multiply(float c[16][16], bf16 a[16][32], bf16 tile[16][32])
{
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++)
            for (int j = 0; j < 16; j++)
                for (int half = 0; half < 2; half++)
                    c[m][n] += value(a[m][2 * j + half]) * value(tile[j][2 * n + half]);
}
/* [product] */

static void smallest(void)
{
    bf16 a[16][32], b[32][16], tile[16][32];
    float c[16][16] = {{0}}, x[512], y[512], most = 0;
    noise(x, 512, 1);
    noise(y, 512, 2);
    for (int i = 0; i < 512; i++) {
        a[i / 32][i % 32] = msa_bf16_bits(x[i]);
        b[i / 16][i % 16] = msa_bf16_bits(y[i]);
    }
    pair_rows(b, tile);
    multiply(c, a, tile);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            double sum = 0;
            for (int k = 0; k < 32; k++)
                sum += (double)value(a[m][k]) * (double)value(b[k][n]);
            most = fmaxf(most, fabsf((float)(sum - (double)c[m][n])));
        }
    printf("16 x 32 times 32 x 16: %d multiply-adds, 3 tiles of 1024 bytes; off by less than 1e-5: %s\n",
           FMA_A_PRODUCT, most < 1e-5f ? "yes" : "no");
}

/* ---- Kernels ----------------------------------------------------------------------------------------------------- */

static void show(const char *what, const tally *t)
{
    const tile_counts *n = &t->n;
    printf("%-24s %8ld %8ld %7ld %9.2f %8.1f %% %9ld\n", what, (long)n->products, (long)n->loads,
           (long)n->stores, (double)n->loads / (double)n->products,
           100 * t->needed / ((double)n->products * FMA_A_PRODUCT), (long)n->exponentials);
}

static void show_clocks(const char *what, const tally *t, int steps, bool index)
{
    const clocks c = clocks_of(t, steps, index);
    const double pairs = t->needed / (index ? 128 : 256), vectors = c.maxima + c.powers + c.factors;
    printf("%-24s %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %10.2f\n", what, c.products / pairs, c.memory / pairs,
           c.maxima / pairs, c.powers / pairs, c.factors / pairs, vectors / pairs, vectors / c.products);
}

static void kernels(void)
{
    const msa_shape s = one_group(256, 4096, 16);
    tensors random = tensors_new(&s, SELECTION_RANDOM), local = tensors_new(&s, SELECTION_LOCAL);
    const tally dense = tally_of("dense/amx", &random), index = tally_of("index/amx", &random);
    const tally scattered = tally_of("sparse/amx", &random), together = tally_of("sparse/amx", &local);
    printf("\n256 queries at the end of 4096 tokens, one group of 16 heads\n%-24s %8s %8s %7s %9s %10s %9s\n",
           "", "products", "loads", "stores", "loads a", "useful", "vectors");
    printf("%-24s %8s %8s %7s %9s %10s %9s\n", "", "", "", "", "product", "share", "of powers");
    show("dense", &dense);
    show("index", &index);
    show("sparse, random blocks", &scattered);
    show("sparse, the last blocks", &together);
    printf("\nclocks for a visible pair, by these counts\n%-24s %8s %8s %8s %8s %8s %8s %10s\n", "",
           "products", "memory", "maxima", "powers", "factors", "vectors", "over");
    printf("%-24s %8s %8s %8s %8s %8s %8s %10s\n", "", "", "", "", "", "", "in all", "products");
    show_clocks("dense", &dense, 4, false);
    show_clocks("index", &index, 4, true);
    show_clocks("sparse, random blocks", &scattered, 4, false);
    show_clocks("sparse, the last blocks", &together, 4, false);
    printf("\nO was scaled %ld times by dense, whose columns of 16 rows met %ld x 128 keys\n",
           (long)dense.n.shrinks, (long)(dense.n.exponentials / 128));
    tensors_free(&random);
    tensors_free(&local);
}

/* ---- Rows, and columns that meet a block together -------------------------------------------------------------------- */

static void rows(void)
{
    printf("\nsparse, random blocks: heads of a group, and the rows of a tile that they fill\nheads       ");
    tally t[5];
    for (int n = 0; n < 5; n++) {
        const msa_shape s = one_group(128, 4096, 1 << n);
        tensors x = tensors_new(&s, SELECTION_RANDOM);
        t[n] = tally_of("sparse/amx", &x);
        tensors_free(&x);
        printf("%10d", 1 << n);
    }
    printf("\nproducts    ");
    for (int n = 0; n < 5; n++)
        printf("%10ld", (long)t[n].n.products);
    printf("\nuseful share");
    for (int n = 0; n < 5; n++)
        printf("%8.1f %%", 100 * t[n].needed / ((double)t[n].n.products * FMA_A_PRODUCT));
    printf("\n");
}

static void orders(void)
{
    static const struct {
        selection_kind kind;
        const char *name;
    } selection[] = {{SELECTION_RANDOM, "random blocks"},
                     {SELECTION_STRUCTURED, "as in the paper"},
                     {SELECTION_LOCAL, "the last blocks"}};
    const msa_shape s = one_group(256, 16384, 16);
    printf("\nloads a product  by queries (Q-outer)  by blocks (KV-outer)  by the rule\n");
    for (int n = 0; n < 3; n++) {
        tensors x = tensors_new(&s, selection[n].kind);
        const char *const order[] = {"sparse/amx_queries", "sparse/amx_blocks", "sparse/amx"};
        printf("%-16s", selection[n].name);
        for (int by = 0; by < 3; by++) {
            const tally t = tally_of(order[by], &x);
            printf(" %*.2f", by == 2 ? 12 : 20, (double)t.n.loads / (double)t.n.products);
        }
        printf("\n");
        tensors_free(&x);
    }
}

/* ---- What rounding P costs --------------------------------------------------------------------------------------- */

static void rounding(void)
{
    const msa_shape s = one_group(64, 1024, 16);
    const long n = (long)s.n_q * s.n_heads * s.d_head;
    tensors x = tensors_new(&s, SELECTION_RANDOM);
    float *const inputs[] = {x.q, x.k, x.v}, *exact = room(n, 4), *lse = room((long)s.n_q * s.n_heads, 4);
    const long length[] = {n, (long)s.n_kv * s.d_head, (long)s.n_kv * s.d_head};
    for (int a = 0; a < 3; a++)
        for (long i = 0; i < length[a]; i++)
            inputs[a][i] = msa_bf16(inputs[a][i]);
    void *work = room((long)msa_workspace(NULL, &s), 1);
    must(msa_dense(&s, x.q, x.k, x.v, exact, lse, work));
    tally_of("dense/amx", &x);
    double error = 0, size = 0;
    for (long i = 0; i < n; i++) {
        error += ((double)x.o[i] - (double)exact[i]) * ((double)x.o[i] - (double)exact[i]);
        size += (double)exact[i] * (double)exact[i];
    }
    printf("\ndense and the reference, same bf16 tensors: O is %.2f / 1000 off, LSE less than 1e-5: %s\n",
           1000 * sqrt(error / size), distance(lse, x.lse, (long)s.n_q * s.n_heads) < 1e-5 ? "yes" : "no");
    free(work);
    free(exact);
    free(lse);
    tensors_free(&x);
}

int main(void)
{
    smallest();
    kernels();
    rows();
    orders();
    rounding();
    return 0;
}
