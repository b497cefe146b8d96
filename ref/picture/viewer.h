/**
 * @file viewer.h
 * @brief The explorer: one HTML file that holds the maps of every layer, and the text, and needs no network.
 *
 * The page itself is viewer.html; the build puts it into the program. This is what fills it with data.
 */
#ifndef MSA_VIEWER_H
#define MSA_VIEWER_H

#include "../io/io.h"
#include "maps.h"

/** What all maps of a page have in common. */
typedef struct viewer_page {
    msa_shape shape;     /**< of one sequence */
    const uint8_t *text; /**< [S] the tokens, or NULL where nobody knows them */
    const char *source;  /**< what the maps were made from, for the reader */
    const char *command; /**< the command that made them */
} viewer_page;

typedef struct viewer viewer;

/** Begins a page; it grows in memory. NULL if there is none. */
viewer *viewer_new(const viewer_page *page);
/** Adds the maps of all groups of a layer: with mass for every layer or for none. */
void viewer_add(viewer *v, const maps *m, int layer);
/** Writes the page. */
bool viewer_write(viewer *v, const char *path, io_error err);
void viewer_free(viewer *v);

#endif
