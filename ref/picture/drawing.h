/**
 * @file drawing.h
 * @brief A picture as a list of rectangles and texts, to be written as PNG or as SVG.
 */
#ifndef MSA_DRAWING_H
#define MSA_DRAWING_H

#include "canvas.h"

#define DRAWING_TEXT 288

typedef enum drawing_kind { DRAWING_FILL, DRAWING_HATCH, DRAWING_WORDS } drawing_kind;

typedef struct drawing_mark {
    drawing_kind kind;
    double x, y, width, height; /**< pixels */
    rgb colour;
    int scale;               /**< of text, pixels a dot */
    char text[DRAWING_TEXT]; /**< of a rectangle: what an SVG viewer shows under the pointer, or "" */
} drawing_mark;

typedef struct drawing {
    int width, height;
    rgb background;
    drawing_mark *mark;
    size_t n, capacity;
    bool incomplete; /**< memory ran out; writing will fail */
} drawing;

/** A rectangle; what is thinner than a pixel becomes one in the PNG. `text` may be NULL. */
void drawing_fill(drawing *d, double x, double y, double width, double height, rgb colour, const char *text);
/** The same in diagonal stripes. */
void drawing_hatch(drawing *d, double x, double y, double width, double height, rgb colour, const char *text);
/** Text from its top left corner, `scale` pixels a dot of the built-in font. */
void drawing_words(drawing *d, double x, double y, int scale, rgb colour, const char *text);
void drawing_free(drawing *d);

/** Writes a PNG with text chunks (or a PPM: see canvas_write_png()). */
bool drawing_write_png(const drawing *d, const char *path, const st_meta *text, int n_text, char *written,
                       io_error err);
/** Writes an SVG that needs nothing else; the texts go into its description. */
bool drawing_write_svg(const drawing *d, const char *path, const st_meta *text, int n_text, io_error err);

#endif
