/**
 * @file exercise.c
 * @brief Verdicts and pictures of the exercises: see exercise.h.
 */
#include "exercise.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "../../ref/picture/canvas.h"

static uint64_t seed;
static const char *picture_path, *json_path, *program;
static int failures, over; // all of them, and those of bars
static const char *place = "";
static char failure[4 * VERDICT_TEXT]; // the engine's story of a deadlock has several lines

#define MOST_BARS 8
static exercise_count bars[MOST_BARS];
static int n_bars;

#define MOST_WAYS 8
typedef struct ladder {
    const char *what;
    uint64_t found;
    bool right;
    int n;
    exercise_rung rung[MOST_WAYS];
} ladder;
static ladder ladders[MOST_BARS];
static int n_ladders;

static const char *kind_of_inputs; // the latest

/* ---- Memory ---------------------------------------------------------------------------------------- */

void *exercise_alloc(int64_t bytes)
{
    return answer_hidden(bytes, NULL, NULL);
}

float *exercise_floats(int64_t n)
{
    return exercise_alloc(n * (int64_t)sizeof(float));
}

float *exercise_given(int64_t n, const char *name)
{
    return answer_given(n * (int64_t)sizeof(float), name);
}

float *exercise_wanted(int64_t n, const char *name)
{
    return answer_wanted(n * (int64_t)sizeof(float), name);
}

void exercise_give(float *given, const float *from, int64_t n)
{
    memcpy(given, from, (size_t)n * sizeof *given);
}

void exercise_take(float *to, float *wanted, int64_t n)
{
    memcpy(to, wanted, (size_t)n * sizeof *to);
    memset(wanted, 0xff, (size_t)n * sizeof *wanted);
}

/* Into the judge's memory; nothing is left where it was. */
static void hide(float **x, int64_t n)
{
    const size_t bytes = (size_t)n * sizeof(float);
    float *hidden = exercise_floats(n);
    memcpy(hidden, *x, bytes);
    memset(*x, 0, bytes);
    free(*x);
    *x = hidden;
}

inputs exercise_inputs(const msa_shape *s, inputs_pattern pattern)
{
    inputs in;
    kind_of_inputs = inputs_pattern_name(pattern);
    if (!inputs_new(&in, s, pattern, seed)) {
        fprintf(stderr, "exercise: out of memory\n");
        exit(2);
    }
    hide(&in.q, s->n_q * s->n_heads * s->d_head);
    hide(&in.dout, s->n_q * s->n_heads * s->d_head);
    hide(&in.qi, s->n_q * s->n_kv_heads * s->d_index);
    hide(&in.k, s->n_kv * s->n_kv_heads * s->d_head);
    hide(&in.v, s->n_kv * s->n_kv_heads * s->d_head);
    hide(&in.ki, s->n_kv * s->d_index);
    return in;
}

/* ---- What the code touched ------------------------------------------------------------------------- */

touched touched_new(int64_t rows, int64_t columns, const char *down, const char *across)
{
    const int64_t bytes = rows * columns * (int64_t)sizeof(float);
    return (touched){rows, columns, down, across, 0, 0, memset(exercise_alloc(bytes), 0, (size_t)bytes),
                     0,    NULL};
}

void touched_mark(touched *t, int64_t at_row, int64_t column)
{
    if (at_row >= 0 && at_row < t->rows && column >= 0 && column < t->columns)
        t->count[at_row * t->columns + column] += 1;
}

/* In the judge's process, for each row that is handed out. */
typedef struct reader {
    touched *seen;
    int heads;
} reader;

static void note_row(void *context, int64_t token, int64_t head)
{
    const reader *r = context;
    if (!r->seen)
        return;
    r->seen->reads++;
    touched_mark(r->seen, r->seen->row, token * r->heads + head);
}

tensor exercise_rows(const char *name, const float *data, int64_t tokens, int heads, int width, touched *seen)
{
    enum { size = 80 };
    reader *r = exercise_alloc(sizeof *r);
    char *call = exercise_alloc(3 * size), *of = call + size, *how = of + size;
    *r = (reader){seen, heads};
    snprintf(call, size, "row(%s, %%lld, %%lld)", name);
    snprintf(of, size, "the data of %s", name);
    snprintf(how, size, "row(%s, j, 0)", name);
    answer_name(data, of, how);
    answer_offer(&(answer_source){data, tokens, heads, (size_t)width * sizeof *data, call, note_row, r});
    return (tensor){data, heads, width, seen};
}

const float *row(const tensor *t, int64_t token, int head)
{
    if (!answer_offered(t->data))
        return t->data + (token * t->heads + head) * t->width; // a tensor of the answer's own
    return answer_ask(t->data, token, head);
}

double dot_product(const float *x, const float *y, int width)
{
    double sum = 0;
    for (int c = 0; c < width; c++)
        sum += (double)x[c] * (double)y[c];
    return sum;
}

/* ---- Verdicts -------------------------------------------------------------------------------------- */

static void usage(const char *what)
{
    fprintf(stderr, "%s: expected [--seed N] [--json FILE] [--picture FILE], found '%s'\n", program, what);
    exit(2);
}

void exercise_begin(int argc, char **argv)
{
    program = argv[0];
    seed = (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    seed = (seed ^ seed >> 17) % 1000000; // short, to be typed again
#ifdef _OPENMP
    omp_set_num_threads(1); // an answer's process has no others
#endif
    for (int i = 1; i < argc; i += 2) {
        char *end = "";
        errno = 0;
        if (i + 1 == argc)
            usage(argv[i]);
        if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], &end, 10);
        else if (strcmp(argv[i], "--json") == 0)
            json_path = argv[i + 1];
        else if (strcmp(argv[i], "--picture") == 0)
            picture_path = argv[i + 1];
        else
            usage(argv[i]);
        if (*end || !*argv[i + 1] || errno)
            usage(argv[i + 1]);
    }
}

uint64_t exercise_seed(void)
{
    return seed;
}

void exercise_true(bool ok, const char *fmt, ...)
{
    failures += !ok;
    if (ok || failure[0])
        return;
    va_list args;
    const int n = snprintf(failure, sizeof failure, "%s", place);
    va_start(args, fmt);
    vsnprintf(failure + n, sizeof failure - (size_t)n, fmt, args);
    va_end(args);
    if (answer_runs())
        answer_complain(failure);
}

int exercise_failures(void)
{
    return failures;
}

const char *exercise_failure(void)
{
    return failure;
}

void exercise_place(const char *text)
{
    place = text;
}

/* ", peaked inputs", or nothing where no inputs were drawn. */
static const char *on_which(char text[48])
{
    text[0] = 0;
    if (kind_of_inputs)
        snprintf(text, 48, ", on %s inputs", kind_of_inputs);
    return text;
}

void exercise_tensor(const char *what, verdict_dims n, const float *expected, const float *found,
                     verdict_budget budget)
{
    const int64_t count = n.d0 * n.d1 * n.d2;
    double *oracle = exercise_alloc(count * (int64_t)sizeof *oracle);
    for (int64_t i = 0; i < count; i++)
        oracle[i] = (double)expected[i];
    const verdict v = verdict_compare(n, oracle, found, budget);
    char text[VERDICT_TEXT], which[48];
    verdict_text(what, &v, text);
    exercise_true(v.pass, "%s%s", text, on_which(which));
}

void exercise_ids(const msa_shape *s, const int32_t *expected, const int32_t *found)
{
    const int64_t n = s->n_kv_heads * s->n_q * s->topk;
    char which[48];
    for (int64_t i = 0; i < n; i++)
        exercise_true(found[i] == expected[i], "ids[%lld,%lld,%lld]: expected %d, found %d%s",
                      (long long)(i / s->topk / s->n_q), (long long)(i / s->topk % s->n_q),
                      (long long)(i % s->topk), expected[i], found[i], on_which(which));
}

void exercise_bar(exercise_count n)
{
    typedef unsigned long long count;
    const int before = failures;
    const char *word = answer_lost() ? "stopped" : n.found > n.bar ? "OVER" : n.found < n.floor ? "NOT COUNTED" : "met";
    printf("  %-28s %12llu   floor %10llu   bar %10llu   %s\n", n.what, (count)n.found, (count)n.floor,
           (count)n.bar, word);
    exercise_true(n.found <= n.bar, "%s: expected at most %llu, found %llu", n.what, (count)n.bar, (count)n.found);
    exercise_true(
        n.found >= n.floor,
        "%s: found %llu, but no answer can do with less than %llu: the rest is done past the count, or "
        "not at all; write %s",
        n.what, (count)n.found, (count)n.floor, n.how ? n.how : "row(k, j, 0) for each row that you use");
    over += failures - before;
    if (n_bars < MOST_BARS)
        bars[n_bars++] = n;
}

static void print_way(const char *way, uint64_t count, uint64_t naive)
{
    printf("    %-26s %12llu   %.3f\n", way, (unsigned long long)count, (double)count / (double)naive);
}

void exercise_ladder(const char *what, uint64_t found, int n, const exercise_rung *rung)
{
    if (answer_lost() || n_ladders == MOST_BARS || n > MOST_WAYS)
        return;
    ladder *l = &ladders[n_ladders++];
    *l = (ladder){.what = what, .found = found, .right = failures == over, .n = n};
    memcpy(l->rung, rung, (size_t)n * sizeof *rung);
    printf("  %s, and as a share of the stub's:\n", what);
    for (int i = 0; i < n; i++)
        print_way(rung[i].way, rung[i].count, rung[0].count);
    print_way(l->right ? "you" : "you (not right yet)", found, rung[0].count);
}

void exercise_keep_nothing(const tensor *x, const tensor *y)
{
    double *sum = calloc((size_t)x->width, sizeof *sum); // with all that an answer needs from the library
    for (int64_t j = 0; j < EXERCISE_LONG && sum; j++)
        *sum += exp(-fabs((double)*row(x, j, 0))) * log(2 + fabs((double)*row(y, j, 0)));
    free(sum);
}

#define STRAY 16384 // bytes: by as much the pages of equal processes differ from run to run, which is no answer's doing

void exercise_bar_memory(uint64_t nothing, uint64_t found)
{
    const uint64_t kept = found > nothing + STRAY ? found - nothing - STRAY : 0;
    exercise_bar((exercise_count){"bytes kept of a long text", kept, 0, EXERCISE_LONG - STRAY, "local variables alone"});
}

/* ---- The picture ----------------------------------------------------------------------------------- */

#define EDGE 24 // pixels around the map
#define SIZE 960

static int larger(int a, int b)
{
    return a > b ? a : b;
}

/* Of the names beside the rows, and a gap. */
static int names_width(const touched *t)
{
    int width = 0;
    for (int64_t i = 0; t->names && i < t->rows; i++)
        width = larger(width, canvas_text_width(t->names[i], 1) + 6);
    return width;
}

static void draw(const touched *t)
{
    const int64_t longer = t->rows > t->columns ? t->rows : t->columns;
    const int cell = longer < SIZE ? (int)(SIZE / longer) : 1, high = t->names ? larger(cell, 16) : cell;
    const int width = cell * (int)t->columns, height = high * (int)t->rows, left = EDGE + names_width(t);
    const rgb paper = {255, 255, 255}, ink = {30, 30, 30};
    char title[160], written[IO_ERR];
    io_error err;
    float most = fmaxf(1, t->brightest);
    for (int64_t i = 0; i < t->rows * t->columns && t->brightest <= 0; i++)
        most = fmaxf(most, t->count[i]);
    snprintf(title, sizeof title, "across: %s   dark 0, yellow %.0f", t->across, (double)most);
    canvas im = canvas_new(larger(left - EDGE + width, canvas_text_width(title, 1)) + 2 * EDGE,
                           larger(height, canvas_text_width(t->down, 1)) + 2 * EDGE, paper);
    for (int64_t i = 0; i < t->rows * t->columns; i++)
        canvas_fill(&im, left + cell * (int)(i % t->columns), EDGE + high * (int)(i / t->columns),
                    cell - (cell > 3), high - (high > 3),
                    colormap(fmin(1, sqrt((double)(t->count[i] / most)))));
    for (int i = 0; t->names && i < (int)t->rows; i++)
        canvas_text(&im, EDGE, EDGE + high * i + (high - 7) / 2, 1, false, ink, t->names[i]);
    canvas_text(&im, EDGE, 6, 1, false, ink, title);
    canvas_text(&im, 8, EDGE + canvas_text_width(t->down, 1), 1, true, ink, t->down);
    if (canvas_write_png(picture_path, &im, NULL, 0, written, err))
        printf("  picture: %s (down: %s; across: %s)\n", written, t->down, t->across);
    else
        printf("  no picture: %s\n", err);
    canvas_free(&im);
}

/* ---- The end ---------------------------------------------------------------------------------------- */

static void quote(FILE *to, const char *text)
{
    fputc('"', to);
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            fprintf(to, "\\%c", *text);
        else if ((unsigned char)*text < ' ')
            fprintf(to, "\\u%04x", (unsigned)(unsigned char)*text);
        else
            fputc(*text, to);
    fputc('"', to);
}

static void write_ladders(FILE *to)
{
    for (int i = 0; i < n_ladders; i++) {
        const ladder *l = &ladders[i];
        fprintf(to, "%s{\"what\": ", i ? ", " : "");
        quote(to, l->what);
        fprintf(to, ", \"right\": %s, \"you\": %llu, \"rungs\": [", l->right ? "true" : "false",
                (unsigned long long)l->found);
        for (int way = 0; way < l->n; way++) {
            fprintf(to, "%s{\"way\": ", way ? ", " : "");
            quote(to, l->rung[way].way);
            fprintf(to, ", \"count\": %llu}", (unsigned long long)l->rung[way].count);
        }
        fprintf(to, "]}");
    }
}

/* One object; its name is that of the directory the program lies in. */
static void write_json(void)
{
    FILE *to = fopen(json_path, "w");
    char name[256] = "";
    const char *slash = strrchr(program, '/');
    if (slash)
        snprintf(name, sizeof name, "%.*s", (int)(slash - program), program);
    fprintf(to ? to : stderr, to ? "{\"exercise\": " : "exercise: cannot write the result\n");
    if (!to)
        exit(2);
    quote(to, strrchr(name, '/') ? strrchr(name, '/') + 1 : name);
    fprintf(to, ", \"passed\": %s, \"verdict\": ", failure[0] ? "false" : "true");
    quote(to, failure[0] ? failure : "pass");
    fprintf(to, ", \"seed\": %llu, \"bars\": [", (unsigned long long)seed);
    for (int i = 0; i < n_bars; i++) {
        fprintf(to, "%s{\"what\": ", i ? ", " : "");
        quote(to, bars[i].what);
        fprintf(to, ", \"floor\": %llu, \"found\": %llu, \"bar\": %llu}", (unsigned long long)bars[i].floor,
                (unsigned long long)bars[i].found, (unsigned long long)bars[i].bar);
    }
    fprintf(to, "], \"ladders\": [");
    write_ladders(to);
    fprintf(to, "]}\n");
    if (fclose(to) != 0)
        exit(2);
}

int exercise_end(const touched *picture)
{
    if (picture_path && picture)
        draw(picture);
    if (json_path)
        write_json();
    if (failure[0])
        printf("not yet: %s (seed %llu)\n", failure, (unsigned long long)seed);
    else
        printf("pass (seed %llu)\n", (unsigned long long)seed);
    return failure[0] != 0;
}
