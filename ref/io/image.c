/**
 * @file image.c
 * @brief A canvas of RGB pixels: filled rectangles and text, clipped at its edges.
 */
#include <stdlib.h>
#include <string.h>

#include "io.h"

#define ADVANCE (FONT_COLUMNS + 1) /* a glyph and the gap after it, in dots */

io_image io_image_new(int width, int height, io_rgb background)
{
    io_image im = {width, height, NULL};
    if (width > 0 && height > 0 && (size_t)width <= SIZE_MAX / sizeof *im.pixel / (size_t)height)
        im.pixel = malloc((size_t)width * (size_t)height * sizeof *im.pixel);
    if (!im.pixel)
        return (io_image){0, 0, NULL};
    io_fill(&im, 0, 0, width, height, background);
    return im;
}

void io_image_free(io_image *im)
{
    free(im->pixel);
    *im = (io_image){0, 0, NULL};
}

static int64_t clamp(int64_t x, int64_t high)
{
    return x < 0 ? 0 : x > high ? high : x;
}

void io_fill(io_image *im, int x, int y, int width, int height, io_rgb c)
{
    int64_t x0 = clamp(x, im->width), x1 = clamp((int64_t)x + width, im->width);
    int64_t y0 = clamp(y, im->height), y1 = clamp((int64_t)y + height, im->height);
    for (int64_t row = y0; row < y1; row++)
        for (int64_t column = x0; column < x1; column++)
            im->pixel[row * im->width + column] = c;
}

int io_text_width(const char *text, int scale)
{
    int n = (int)strlen(text);
    return n ? (n * ADVANCE - 1) * scale : 0;
}

int io_text_height(int scale)
{
    return FONT_ROWS * scale;
}

void io_text(io_image *im, int x, int y, int scale, bool vertical, io_rgb c, const char *text)
{
    for (int along = 0; *text; text++, along += ADVANCE)
        for (int row = 0; row < FONT_ROWS; row++)
            for (int column = 0; column < FONT_COLUMNS; column++) {
                if (!io_font_dot((unsigned char)*text, row, column))
                    continue;
                int right = (along + column) * scale, down = row * scale;
                if (vertical)
                    io_fill(im, x + down, y - right - scale, scale, scale, c);
                else
                    io_fill(im, x + right, y + down, scale, scale, c);
            }
}
