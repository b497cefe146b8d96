/* With this nobody ever saw a difference, or everybody saw one. */
#include "task.h"

double smallest_difference(const tensor *score, const int *seeds, int arms, int n)
{
    double sum = 0, squares = 0;
    int values = 0;
    for (int a = 0; a < arms; a++)
        for (int i = 0; i < seeds[a]; i++) {
            const double x = row(score, a, i)[0];
            sum += x;
            squares += x * x;
            values++;
        }
    const double mean = sum / values;
    const double variance = squares / values - mean * mean;
    return 2 * sqrt(variance) * sqrt(2.0 / n);
}
