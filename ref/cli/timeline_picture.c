/* Draws the timeline of a CTA: who waits for whom, and what hides behind what. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "timeline_lanes.h"

#define WIDTH 1600
#define MARGIN 28
#define LEFT 262 /* where clocks begin */
#define RIGHT 52
#define PLOT (WIDTH - LEFT - RIGHT)
#define LINE 26  /* from line to line of text */
#define TEXT 2   /* pixels a dot */
#define DOING 30 /* height of the row that says what an actor does */
#define BAR 16   /* ... of one of products or copies */
#define GAP 4
#define SPACE 22 /* between lanes */
#define NEAR 16  /* groups of products that may be under way at once */

static const rgb ink = {29, 29, 34}, soft = {96, 96, 106}, faint = {232, 232, 236}, white = {255, 255, 255};
/* After Okabe and Ito, as in panels.c: apart for every common kind of colour blindness. */
static const rgb actor_colour[] = {{0, 114, 178}, {213, 94, 0}, {120, 94, 160}, {90, 90, 90}};
static const rgb work_colour[] = {{240, 196, 25}, {230, 159, 0}, {204, 121, 167}};
static const rgb copy_colour = {0, 158, 115};
static const rgb for_data = {120, 200, 175}, for_turn = {170, 170, 178}, for_product = {150, 180, 215};

#define N_OF(a) ((int)(sizeof(a) / sizeof *(a)))
#define MAX_WORKS 8

typedef struct picture {
    drawing d;
    const lanes *l;
    double from, to;
    int n_works;
    const char *work[MAX_WORKS]; /* names of declared work, in the order they were met */
    bool waits[3];               /* for data, a turn, a product: those that the legend explains */
} picture;

static rgb pale(rgb c)
{
    return (rgb){(uint8_t)(255 - (255 - c.r) * 3 / 10), (uint8_t)(255 - (255 - c.g) * 3 / 10),
                 (uint8_t)(255 - (255 - c.b) * 3 / 10)};
}

static double at(const picture *p, double clock)
{
    return LEFT + (clock - p->from) / (p->to - p->from) * PLOT;
}

/* A piece of time in the window. */
static void span(picture *p, bool hatch, double begin, double end, double y, double height, rgb c,
                 const char *text)
{
    const double x0 = at(p, fmax(begin, p->from)), x1 = at(p, fmin(end, p->to));
    if (end <= p->from || begin >= p->to || x1 <= x0)
        return;
    if (hatch)
        drawing_hatch(&p->d, x0, y, x1 - x0, height, c, text);
    else
        drawing_fill(&p->d, x0, y, x1 - x0, height, c, text);
}

/* ---- Axis ----------------------------------------------------------------------------------------- */

/* A round number of clocks such that there are at most `most` in the window. */
static double tick_step(double clocks, int most)
{
    static const double round[] = {1, 2, 5};
    for (double ten = 1;; ten *= 10)
        for (int i = 0; i < N_OF(round); i++)
            if (clocks / (ten * round[i]) <= most)
                return ten * round[i];
}

static void draw_grid(picture *p, int top, int foot)
{
    const double step = tick_step(p->to - p->from, 13);
    for (double clock = ceil(p->from / step) * step; clock <= p->to; clock += step) {
        char label[32];
        snprintf(label, sizeof label, "%.0f", clock);
        drawing_fill(&p->d, at(p, clock), top, 1, foot - top, faint, NULL);
        drawing_words(&p->d, at(p, clock) - canvas_text_width(label, TEXT) / 2.0, foot + 8, TEXT, soft,
                      label);
    }
    drawing_fill(&p->d, LEFT, foot, PLOT, 1, soft, NULL);
    drawing_words(&p->d, MARGIN, foot + 8, TEXT, soft, "model clocks");
}

static void label(picture *p, int y, int height, rgb c, const char *text)
{
    drawing_words(&p->d, MARGIN, y + (height - canvas_text_height(TEXT)) / 2.0 + 1, TEXT, c, text);
}

/* ---- Copies --------------------------------------------------------------------------------------- */

static void size_text(uint64_t bytes, char *text, size_t size)
{
    if (bytes % 1024 == 0)
        snprintf(text, size, "%llu KB", (unsigned long long)(bytes >> 10));
    else
        snprintf(text, size, "%llu bytes", (unsigned long long)bytes);
}

static void draw_copy(picture *p, int top, const lanes_bar *c)
{
    char note[DRAWING_TEXT], size[32];
    const double y = top + c->row * (BAR + GAP), moved = c->end - simt_costs().copy_latency;
    size_text(c->bytes, size, sizeof size);
    snprintf(note, sizeof note, "%s for the mbarrier at %u: issued %.0f, moving %.0f to %.0f, there %.0f",
             size, c->object, c->begin, c->served, moved, c->end);
    span(p, false, c->begin, c->end, y, BAR, pale(copy_colour), note);
    span(p, false, c->served, moved, y, BAR, copy_colour, note);
    if (c->end > p->from && c->end <= p->to) /* the moment of landing */
        drawing_fill(&p->d, at(p, c->end) - 1, y, 2, BAR, ink, NULL);
}

static int draw_copies(picture *p, int y)
{
    const lanes *l = p->l;
    if (l->n_copies == 0)
        return y;
    label(p, y, BAR, ink, "copies");
    drawing_words(&p->d, MARGIN, y + BAR + GAP, TEXT, soft, "by mbarrier");
    for (size_t i = 0; i < l->n_copies; i++)
        draw_copy(p, y, &l->copy[i]);
    for (int row = 0; row < l->copy_rows; row++) {
        size_t i = 0;
        while (i < l->n_copies && l->copy[i].row != row)
            i++;
        char size[32] = "";
        if (i < l->n_copies)
            size_text(l->copy[i].bytes, size, sizeof size);
        drawing_words(&p->d, LEFT - 10 - canvas_text_width(size, TEXT), y + row * (BAR + GAP) - 1, TEXT, soft,
                      size);
    }
    return y + l->copy_rows * (BAR + GAP) + SPACE;
}

/* ---- Actors --------------------------------------------------------------------------------------- */

static rgb colour_of(const lanes *l, int actor)
{
    int with_products = 0;
    for (int before = 0; before < actor; before++)
        with_products += l->actor[before].product_rows > 0;
    return actor_colour[with_products % N_OF(actor_colour)];
}

static rgb colour_of_work(picture *p, const char *name)
{
    int i = 0;
    while (i < p->n_works && strcmp(p->work[i], name) != 0)
        i++;
    if (i == p->n_works && i < MAX_WORKS)
        p->work[p->n_works++] = name;
    return work_colour[i % N_OF(work_colour)];
}

static void draw_wait(picture *p, const simt_event *e, int y)
{
    static const struct {
        int kind;
        const char *text;
    } waits[] = {
        [SIMT_WAIT_MBARRIER] = {0, "waits for the mbarrier at"},
        [SIMT_WAIT_BARRIER] = {1, "waits at named barrier"},
        [SIMT_WAIT_PRODUCT] = {2, "waits for its products"},
        [SIMT_WAIT_COPY] = {0, "waits for its copies"},
    };
    static const rgb *const colour[] = {&for_data, &for_turn, &for_product};
    const int kind = waits[e->did].kind;
    char note[DRAWING_TEXT];
    snprintf(note, sizeof note, "%s", waits[e->did].text);
    if (e->did == SIMT_WAIT_MBARRIER || e->did == SIMT_WAIT_BARRIER)
        snprintf(note, sizeof note, "%s %u", waits[e->did].text, e->object);
    snprintf(note + strlen(note), sizeof note - strlen(note), ", %.0f to %.0f", e->begin, e->end);
    if (e->end > p->from && e->begin < p->to)
        p->waits[kind] = true;
    span(p, true, e->begin, e->end, y + 4, DOING - 8, *colour[kind], note);
}

static void draw_work(picture *p, const simt_event *e, int y)
{
    char note[DRAWING_TEXT];
    const rgb c = colour_of_work(p, e->name);
    snprintf(note, sizeof note, "%s, %.0f clocks from %.0f on", e->name, e->end - e->begin, e->begin);
    span(p, false, e->begin, e->end, y, DOING, c, note);
    const double x = at(p, e->begin), width = at(p, e->end) - x;
    if (e->begin >= p->from && e->end <= p->to && width > canvas_text_width(e->name, TEXT) + 6)
        drawing_words(&p->d, x + (width - canvas_text_width(e->name, TEXT)) / 2,
                      y + (DOING - canvas_text_height(TEXT)) / 2.0 + 2, TEXT, ink, e->name);
}

static void draw_products(picture *p, int actor, int y)
{
    const rgb c = colour_of(p->l, actor);
    for (size_t i = 0; i < p->l->n_products; i++) {
        const lanes_bar *b = &p->l->product[i];
        char note[DRAWING_TEXT];
        if (b->actor != actor)
            continue;
        snprintf(note, sizeof note, "group of wgmma: issued %.0f, on the tensor cores %.0f to %.0f", b->begin,
                 b->served, b->end);
        span(p, false, b->begin, b->end, y + b->row * (BAR + GAP), BAR, pale(c), note);
        span(p, false, b->served, b->end, y + b->row * (BAR + GAP), BAR, c, note);
    }
}

static bool is_wait(const simt_event *e)
{
    return e->did == SIMT_WAIT_MBARRIER || e->did == SIMT_WAIT_BARRIER || e->did == SIMT_WAIT_PRODUCT ||
           e->did == SIMT_WAIT_COPY;
}

static int draw_actor(picture *p, int actor, int y)
{
    const lanes_actor *a = &p->l->actor[actor];
    char text[64];
    drawing_fill(&p->d, LEFT, y + DOING / 2.0, PLOT, 1, faint, NULL);
    const simt_event *drawn = NULL; /* lanes that came to the same wait a little later are not shown */
    for (const simt_event *e = a->from; e < a->to; e++)
        if (is_wait(e) && !(drawn && drawn->did == e->did && e->begin < drawn->end)) {
            draw_wait(p, e, y);
            drawn = e;
        }
    for (const simt_event *e = a->from; e < a->to; e++)
        if (e->did == SIMT_WORK)
            draw_work(p, e, y);
    label(p, y, DOING, a->product_rows ? colour_of(p->l, actor) : ink, a->role[0] ? a->role : "warps");
    snprintf(text, sizeof text, a->first == a->last ? "warp %u" : "%u-%u", a->first, a->last);
    drawing_words(&p->d, LEFT - 10 - canvas_text_width(text, TEXT),
                  y + (DOING - canvas_text_height(TEXT)) / 2.0 + 1, TEXT, soft, text);
    y += DOING + GAP;
    draw_products(p, actor, y);
    if (a->product_rows)
        label(p, y, BAR, soft, "products");
    return y + a->product_rows * (BAR + GAP) + SPACE;
}

/* ---- The tensor cores ----------------------------------------------------------------------------- */

/* The part of the window in which they work. Pieces of groups that they work on in turn count for what each
 * took. */
static double use_of(const picture *p)
{
    double busy = 0;
    for (size_t i = 0; i < p->l->n_products; i++) {
        const lanes_bar *b = &p->l->product[i];
        const double seen = fmin(b->end, p->to) - fmax(b->served, p->from);
        if (seen > 0)
            busy += b->busy * seen / (b->end - b->served);
    }
    return busy / (p->to - p->from);
}

/* Whether the cores work on groups i and k in turn. */
static bool in_turn(const lanes_bar *i, const lanes_bar *k)
{
    return k != i && k->served < i->end - 1 && k->end > i->served + 1;
}

/* One row for all: the colour says whose products they are. Groups that they work on in turn share its
 * height. Such groups are neighbours in the list. */
static int draw_tensor_cores(picture *p, int y)
{
    const lanes *l = p->l;
    char text[64];
    if (l->n_products == 0)
        return y;
    label(p, y, DOING, ink, "tensor cores");
    snprintf(text, sizeof text, "%.0f%% busy", 100 * use_of(p));
    drawing_words(&p->d, MARGIN, y + DOING - 2, TEXT, soft, text);
    drawing_fill(&p->d, LEFT, y + DOING / 2.0, PLOT, 1, faint, NULL);
    for (size_t i = 0; i < l->n_products; i++) {
        const lanes_bar *b = &l->product[i];
        int sharing = 1, place = 0;
        for (size_t k = i < NEAR ? 0 : i - NEAR; k < l->n_products && k < i + NEAR; k++)
            if (in_turn(b, &l->product[k]))
                sharing = 2, place = b->actor > l->product[k].actor;
        span(p, false, b->served, b->end, y + place * DOING / 2.0, (double)DOING / sharing,
             colour_of(l, b->actor), "tensor cores");
    }
    return y + DOING + SPACE + LINE / 2;
}

/* ---- The whole ------------------------------------------------------------------------------------ */

static int swatch(picture *p, int x, int y, bool hatch, rgb c, const char *name)
{
    const double height = canvas_text_height(TEXT);
    if (hatch)
        drawing_hatch(&p->d, x, y, 34, height, c, NULL);
    else
        drawing_fill(&p->d, x, y, 34, height, c, NULL);
    drawing_words(&p->d, x + 42, y, TEXT, ink, name);
    return x + 42 + canvas_text_width(name, TEXT) + 34;
}

static int draw_legend(picture *p, int y)
{
    static const char *const waits[] = {"waits for data or room", "waits at a barrier",
                                        "waits for its products"};
    const rgb colour[] = {for_data, for_turn, for_product};
    int x = LEFT;
    if (p->l->n_copies) {
        x = swatch(p, x, y, false, pale(copy_colour), "copy issued, lands at the black edge");
        x = swatch(p, x, y, false, copy_colour, "its bytes on the way");
    }
    y += p->l->n_copies ? LINE : 0;
    x = LEFT;
    if (p->l->n_products) {
        x = swatch(p, x, y, false, pale(actor_colour[0]), "products issued");
        x = swatch(p, x, y, false, actor_colour[0], "on the tensor cores");
    }
    for (int i = 0; i < p->n_works; i++)
        x = swatch(p, x, y, false, work_colour[i % N_OF(work_colour)], p->work[i]);
    y += x > LEFT ? LINE : 0;
    x = LEFT;
    for (int i = 0; i < N_OF(waits); i++)
        if (p->waits[i])
            x = swatch(p, x, y, true, colour[i], waits[i]);
    y += x > LEFT ? LINE : 0;
    drawing_words(&p->d, LEFT, y, TEXT, soft,
                  "blank: other instructions, or another warp has this quarter of the SM");
    return y + LINE;
}

static int height_of(const lanes *l)
{
    int height = l->n_copies ? l->copy_rows * (BAR + GAP) + SPACE : 0;
    for (int i = 0; i < l->n_actors; i++)
        height += DOING + GAP + l->actor[i].product_rows * (BAR + GAP) + SPACE;
    return height + (l->n_products ? DOING + SPACE + LINE / 2 : 0);
}

drawing lanes_draw(const lanes *l, double from, double to, const char *title, const char *const *lines,
                   int n_lines)
{
    picture p = {.d = {.width = WIDTH, .background = white}, .l = l, .from = from, .to = to};
    int y = MARGIN + 38;
    drawing_words(&p.d, MARGIN, MARGIN, 3, ink, title);
    for (int i = 0; i < n_lines; i++, y += LINE)
        drawing_words(&p.d, MARGIN, y, TEXT, soft, lines[i]);
    y += SPACE;
    draw_grid(&p, y - 8, y + height_of(l));
    y = draw_copies(&p, y);
    for (int i = 0; i < l->n_actors; i++)
        y = draw_actor(&p, i, y);
    y = draw_tensor_cores(&p, y);
    p.d.height = draw_legend(&p, y + 2 * LINE) + MARGIN;
    return p.d;
}
