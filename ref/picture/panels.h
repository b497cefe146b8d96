/**
 * @file panels.h
 * @brief The maps as pictures: aligned panels of one layer and group, and a grid of all of them.
 *
 * Blocks after the query are neutral grey. A pixel on which several cells fall is their mean.
 */
#ifndef MSA_PANELS_H
#define MSA_PANELS_H

#include "canvas.h"
#include "maps.h"

/** Four panels over (query, key block), or the first two where there is no mass: index scores, chosen
 *  blocks, mass, and chosen against ideal. `source` is a line for the reader. pixel is NULL if memory ran
 * out. */
canvas panels_draw(const maps *m, int layer, int group, const char *source);

/** What panels_frequency() draws. */
typedef struct panels_grid {
    int n_layers, n_groups;
    const int *layer; /**< [L] the number of each */
    int64_t query_blocks, key_blocks;
    const float *frequency; /**< [L,Hkv,Bq,B] of maps_frequency() */
} panels_grid;

/** How often every query block chose every key block: one small map a layer (across) and group (down). */
canvas panels_frequency(const panels_grid *grid, const char *source);

#endif
