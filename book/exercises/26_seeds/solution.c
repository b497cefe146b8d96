/* Each arm has a mean of its own, each mean costs a degree of freedom, and deviations are squared, not
 * values. */
#include "task.h"

static double mean_of(const tensor *score, int arm, int seeds)
{
    double sum = 0;
    for (int i = 0; i < seeds; i++)
        sum += row(score, arm, i)[0];
    return sum / seeds;
}

double smallest_difference(const tensor *score, const int *seeds, int arms, int n)
{
    double squares = 0;
    int freedoms = 0;
    for (int a = 0; a < arms; a++) {
        const double mean = mean_of(score, a, seeds[a]);
        for (int i = 0; i < seeds[a]; i++) {
            const double off = row(score, a, i)[0] - mean;
            squares += off * off;
        }
        freedoms += seeds[a] - 1;
    }
    return 2 * sqrt(squares / freedoms) * sqrt(2.0 / n);
}
