/**
 * @file colormap.c
 * @brief From a number to a colour: nine stations of viridis, with straight lines between them.
 *
 * Equal steps in t look like equal steps in brightness, in print and to the colour-blind too. The stations
 * are the map's published values at eighths: Nathaniel Smith and Stéfan van der Walt, "A better default
 * colormap for matplotlib", SciPy 2015, CC0, https://bids.github.io/colormap/
 */
#include <math.h>

#include "canvas.h"

#define STEPS 8
static const rgb station[STEPS + 1] = {{68, 1, 84},    {71, 45, 123},  {59, 82, 139},
                                       {44, 114, 142}, {33, 145, 140}, {40, 174, 128},
                                       {94, 201, 98},  {173, 220, 48}, {253, 231, 37}};
static const rgb grey = {128, 128, 128};

static uint8_t between(uint8_t a, uint8_t b, double part)
{
    return (uint8_t)lround(a + part * (b - a));
}

rgb colormap(double t)
{
    if (isnan(t))
        return grey;
    double place = fmin(fmax(t, 0), 1) * STEPS;
    int i = place < STEPS ? (int)place : STEPS - 1;
    const rgb *a = &station[i], *b = &station[i + 1];
    return (rgb){between(a->r, b->r, place - i), between(a->g, b->g, place - i),
                 between(a->b, b->b, place - i)};
}
