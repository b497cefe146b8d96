/**
 * @file canvas.c
 * @brief A canvas of RGB pixels: filled rectangles and text, clipped at its edges.
 */
#include <stdlib.h>
#include <string.h>

#include "canvas.h"

#define ADVANCE (FONT_COLUMNS + 1) /* a glyph and the gap after it, in dots */

canvas canvas_new(int width, int height, rgb background)
{
    canvas im = {width, height, NULL};
    if (width > 0 && height > 0 && (size_t)width <= SIZE_MAX / sizeof *im.pixel / (size_t)height)
        im.pixel = malloc((size_t)width * (size_t)height * sizeof *im.pixel);
    if (!im.pixel)
        return (canvas){0, 0, NULL};
    canvas_fill(&im, 0, 0, width, height, background);
    return im;
}

void canvas_free(canvas *im)
{
    free(im->pixel);
    *im = (canvas){0, 0, NULL};
}

static int64_t clamp(int64_t x, int64_t high)
{
    return x < 0 ? 0 : x > high ? high : x;
}

void canvas_fill(canvas *im, int x, int y, int width, int height, rgb c)
{
    int64_t x0 = clamp(x, im->width), x1 = clamp((int64_t)x + width, im->width);
    int64_t y0 = clamp(y, im->height), y1 = clamp((int64_t)y + height, im->height);
    for (int64_t row = y0; row < y1; row++)
        for (int64_t column = x0; column < x1; column++)
            im->pixel[row * im->width + column] = c;
}

int canvas_text_width(const char *text, int scale)
{
    int n = (int)strlen(text);
    return n ? (n * ADVANCE - 1) * scale : 0;
}

int canvas_text_height(int scale)
{
    return FONT_ROWS * scale;
}

void canvas_text(canvas *im, int x, int y, int scale, bool vertical, rgb c, const char *text)
{
    for (int along = 0; *text; text++, along += ADVANCE)
        for (int row = 0; row < FONT_ROWS; row++)
            for (int column = 0; column < FONT_COLUMNS; column++) {
                if (!font_dot((unsigned char)*text, row, column))
                    continue;
                int right = (along + column) * scale, down = row * scale;
                if (vertical)
                    canvas_fill(im, x + down, y - right - scale, scale, scale, c);
                else
                    canvas_fill(im, x + right, y + down, scale, scale, c);
            }
}
