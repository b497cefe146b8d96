/* What the figures share: a picture is SVG on standard output, drawn from what the reference computes. */
#ifndef DRAW_H
#define DRAW_H

#include <string.h>

#include "../examples/example.h"

#define INK "#1c2733"
#define FAINT "#66717d"
#define BLUE "#1f6fb2"
#define ORANGE "#b3560a"
#define PALE "#dfe9f2"
#define GREEN "#247a3f"

static inline void begin(int width, int height, const char *title)
{
    printf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
           "font-family=\"sans-serif\" font-size=\"15\">\n<title>%s</title>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
           width, height, width, height, title, width, height);
}

static inline void box(double x, double y, double w, double h, const char *fill, double opacity)
{
    printf("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\" fill-opacity=\"%.2f\"/>\n", x, y, w, h, fill, opacity);
}

static inline void line(double x, double y, double x2, double y2, const char *stroke, double width)
{
    printf("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%.1f\"/>\n", x, y, x2, y2, stroke, width);
}

static inline void text(double x, double y, const char *anchor, const char *fill, const char *words)
{
    printf("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x, y, anchor, fill, words);
}

static inline int finish(void)
{
    printf("</svg>\n");
    return 0;
}

#endif
