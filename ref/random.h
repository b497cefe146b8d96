/* Random numbers that need no state but a counter: number n of stream `seed` is always the same, so a
 * training run can be resumed at any step without storing a generator. */
#ifndef MSA_RANDOM_H
#define MSA_RANDOM_H

#include <math.h>
#include <stdint.h>

/* SplitMix64 (Steele, Lea, Flood 2014) as a hash of (seed, n). */
static inline uint64_t random_bits(uint64_t seed, uint64_t n)
{
    uint64_t z = seed * 0xd1342543de82ef95u + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0,1). */
static inline double random_uniform(uint64_t seed, uint64_t n)
{
    return (double)(random_bits(seed, n) >> 11) * 0x1p-53;
}

/* Standard normal, by Box and Muller. */
static inline double random_normal(uint64_t seed, uint64_t n)
{
    double u = 1 - random_uniform(seed, 2 * n), v = random_uniform(seed, 2 * n + 1);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

#endif
