/* Answers to chapter 10b: rows of a tile, and clocks by the counts of instructions of the chapter. */
#include "../examples/tile_counts.h"

/* Clocks of vectors for a pair of a row and a key, with so many instructions for 16 of them. */
static double vector_clocks(double instructions)
{
    return instructions / (16 * vectors_a_clock);
}

int main(void)
{
    const double all = for_maxima + for_powers + for_factors,
                 products = 2 * 128 / (FMA_A_PRODUCT / clocks_a_product);
    printf("rows_12 %.0f\nrows_24 %.0f\n", 100 * 12.0 / 16, 100 * 24.0 / 32);

    const double rounding = 12 / 2.0, shorter = all - rounding + 1 / 2.0; /* of two vectors */
    printf("now %.2f\nbusy_now %.0f\ninstructions %.1f\nthen %.2f\nbusy_then %.0f\n", vector_clocks(all),
           100 * products / vector_clocks(all), shorter, vector_clocks(shorter),
           100 * products / vector_clocks(shorter));

    printf("products_64 %.2f\nvectors_64 %.2f\neven %.0f\n", products / 2, vector_clocks(all),
           128 * vector_clocks(all) / products);

    const double column = 16 * 128 * vector_clocks(for_powers), all_of_it = 16 * 128 * vector_clocks(all);
    printf("column %.0f\ncolumns %.0f\nmore_than %.0f\nall_of_it %.0f\nwith_all %.1f\n", column,
           3072 / column, floor(3072 / column) + 1, all_of_it, 3072 / all_of_it);
    return 0;
}
