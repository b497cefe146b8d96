/**
 * @file canvas.h
 * @brief Pixels, on which all pictures are drawn: rectangles, text in a font of our own, a colour map; and their file.
 */
#ifndef MSA_CANVAS_H
#define MSA_CANVAS_H

#include "../io/io.h"

typedef struct rgb {
    uint8_t r, g, b;
} rgb;

/** width x height pixels, row by row from the top. */
typedef struct canvas {
    int width, height;
    rgb *pixel;
} canvas;

/** A canvas of one colour. If memory runs out it is empty (pixel NULL): drawing does nothing, writing
 *  fails. */
canvas canvas_new(int width, int height, rgb background);
void canvas_free(canvas *im);
/** Drawing clips at the canvas. */
void canvas_fill(canvas *im, int x, int y, int width, int height, rgb c);
/** Text in the built-in font, `scale` pixels a dot. (x,y) is the top left corner of the text. Vertical text
 *  is turned a quarter to the left: it reads upwards and fills the rows y - canvas_text_width() .. y - 1 and
 *  the columns x .. x + canvas_text_height() - 1. Bytes outside of printable ASCII show as a box. */
void canvas_text(canvas *im, int x, int y, int scale, bool vertical, rgb c, const char *text);
int canvas_text_width(const char *text, int scale);
int canvas_text_height(int scale);
/** The font: whether the dot at (row, column) of the glyph of c is set. */
#define FONT_ROWS 9
#define FONT_COLUMNS 5
bool font_dot(unsigned char c, int row, int column);
/** A perceptually uniform colour map (dark violet to yellow) at t in [0,1]; clamps, NaN is grey. */
rgb colormap(double t);
/** Writes a PNG with the given text chunks; where libpng is absent a PPM (chunks as comments) whose
 *  name ends in .ppm instead of .png. `written`, if not NULL, receives the name (size IO_ERR). */
bool canvas_write_png(const char *path, const canvas *im, const st_meta *text, int n_text, char *written,
                      io_error err);

#endif
