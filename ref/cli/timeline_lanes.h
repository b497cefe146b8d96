/**
 * @file timeline_lanes.h
 * @brief The engine's timeline of one CTA, sorted into what a picture shows: who does something
 *        (warps that do the same are one), groups of products, copies.
 */
#ifndef MSA_TIMELINE_LANES_H
#define MSA_TIMELINE_LANES_H

#include "../../cuda/simt/counts.h"
#include "../picture/drawing.h"

#define LANES_ACTORS 36 /* 32 warps and some to spare */
#define LANES_ROWS 4    /* bars of one kind that overlap */

/** Warps of one warpgroup that do the same at the same time. */
typedef struct lanes_actor {
    const char *role;
    unsigned first, last;        /**< warps */
    const simt_event *from, *to; /**< of the first of them, by begin */
    int product_rows;            /**< groups of products that are under way at once */
} lanes_actor;

/** Copies that one barrier waits for and that were issued together, or a group of products. */
typedef struct lanes_bar {
    double begin, served, end; /**< issued; its turn on the path or the tensor cores; landed or there */
    double busy;               /**< clocks on the path or the tensor cores */
    uint64_t bytes;
    uint32_t object;
    int actor; /**< of products */
    int row;   /**< which it shares with others that it does not overlap */
} lanes_bar;

typedef struct lanes {
    const char *kernel;
    uint64_t launch, block;
    double end; /**< of the last event */
    int n_actors;
    lanes_actor actor[LANES_ACTORS];
    size_t n_products, n_copies;
    lanes_bar *product, *copy; /**< by begin */
    int copy_rows;
} lanes;

/** Sorts block `block` of launch `launch` (-1: the one with the most products, or else events). False if the
 *  record has no such block, or nothing of it to draw; out->kernel is NULL then, or if memory ran out. */
bool lanes_sort(const simt_event *event, size_t n, int64_t launch, uint64_t block, lanes *out);
void lanes_free(lanes *l);

/** The picture of clocks from..to, 1600 pixels wide (timeline_picture.c). @param lines of text below the title
 */
drawing lanes_draw(const lanes *l, double from, double to, const char *title, const char *const *lines,
                   int n_lines);

#endif
