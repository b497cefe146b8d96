/**
 * @file png.c
 * @brief A canvas as a PNG file with text chunks, or where libpng is absent as a PPM with comments.
 */
#include <stdlib.h>
#include <string.h>

#include "canvas.h"

#ifdef HAVE_PNG

#include <png.h>

_Static_assert(sizeof(rgb) == 3, "libpng reads the pixels in place");

/* The file in memory while libpng writes it: it goes to disk in one atomic step. */
typedef struct sink {
    unsigned char *data;
    size_t bytes, capacity;
    const char *path;
    char *err;
} sink;

/* Warnings too: libpng drops, with a warning, a text chunk whose key it does not like. */
static void stop(png_structp png, png_const_charp why)
{
    const sink *s = png_get_error_ptr(png);
    io_fail(s->err, s->path, "cannot make a PNG: %s", why);
    png_longjmp(png, 1);
}

static void append(png_structp png, png_bytep data, size_t bytes)
{
    sink *s = png_get_io_ptr(png);
    if (bytes > s->capacity - s->bytes) {
        size_t capacity = 2 * s->capacity + bytes;
        unsigned char *grown = realloc(s->data, capacity);
        if (!grown)
            png_error(png, "no memory");
        s->data = grown;
        s->capacity = capacity;
    }
    memcpy(s->data + s->bytes, data, bytes);
    s->bytes += bytes;
}

static void flush(png_structp png)
{
    (void)png;
}

/* tEXt is Latin-1; whatever else there is goes into iTXt, which is UTF-8. */
static void put_text(png_structp png, png_infop info, const st_meta *m)
{
    bool ascii = true;
    for (const char *c = m->value; *c; c++)
        ascii &= (unsigned char)*c < 0x80;
    /* libpng only reads the two strings, though its struct does not say so. */
    png_text t = {.compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
                  .key = (char *)m->key,
                  .text = (char *)m->value};
    png_set_text(png, info, &t, 1);
}

/* libpng leaves by longjmp: nothing here is changed after setjmp and read after the jump. */
static bool encode(png_structp png, png_infop info, const canvas *im, const st_meta *text, int n_text)
{
    if (setjmp(png_jmpbuf(png)))
        return false;
    png_set_IHDR(png, info, (png_uint_32)im->width, (png_uint_32)im->height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    for (int i = 0; i < n_text; i++)
        put_text(png, info, &text[i]);
    png_write_info(png, info);
    for (int y = 0; y < im->height; y++)
        png_write_row(png, (png_const_bytep)&im->pixel[(size_t)y * (size_t)im->width]);
    png_write_end(png, info);
    return true;
}

static bool write_image(const char *path, const canvas *im, const st_meta *text, int n_text, io_error err)
{
    sink s = {.path = path, .err = err};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &s, stop, stop);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    bool ok = info || io_fail(err, path, "cannot make a PNG: no memory");
    if (ok) {
        png_set_write_fn(png, &s, append, flush);
        ok = encode(png, info, im, text, n_text);
    }
    png_destroy_write_struct(&png, &info);
    ok = ok && io_write_file(path, &(io_chunk){s.data, s.bytes}, 1, err);
    free(s.data);
    return ok;
}

static void name_for(const char *path, char *name)
{
    snprintf(name, IO_ERR, "%s", path);
}

#else

/* The header of a PPM; a line break in a text begins a new comment. */
static bool print_header(const canvas *im, const st_meta *text, int n_text, char **header, size_t *bytes)
{
    FILE *f = open_memstream(header, bytes);
    if (!f)
        return false;
    fprintf(f, "P6\n");
    for (int i = 0; i < n_text; i++) {
        fprintf(f, "# %s: ", text[i].key);
        for (const char *c = text[i].value; *c; c++)
            if (*c == '\n' || *c == '\r')
                fprintf(f, "\n# ");
            else
                fputc(*c, f);
        fputc('\n', f);
    }
    fprintf(f, "%d %d\n255\n", im->width, im->height);
    return fclose(f) == 0;
}

static bool write_image(const char *path, const canvas *im, const st_meta *text, int n_text, io_error err)
{
    char *header = NULL;
    size_t bytes = 0;
    bool ok =
        print_header(im, text, n_text, &header, &bytes) || io_fail(err, path, "cannot make a PPM: no memory");
    const io_chunk chunks[] = {{header, bytes},
                               {im->pixel, (size_t)im->width * (size_t)im->height * sizeof *im->pixel}};
    ok = ok && io_write_file(path, chunks, 2, err);
    free(header);
    return ok;
}

static void name_for(const char *path, char *name)
{
    size_t length = strlen(path);
    bool png = length >= 4 && strcmp(path + length - 4, ".png") == 0;
    snprintf(name, IO_ERR, "%.*s.ppm", (int)(png ? length - 4 : length), path);
}

#endif

bool canvas_write_png(const char *path, const canvas *im, const st_meta *text, int n_text, char *written,
                      io_error err)
{
    char name[IO_ERR];
    if (strlen(path) + sizeof ".ppm" > sizeof name)
        return io_fail(err, path, "cannot write: expected a name of at most %zu bytes",
                       sizeof name - sizeof ".ppm");
    if (!im->pixel)
        return io_fail(err, path, "cannot write: the picture is empty");
    name_for(path, name);
    if (written)
        memcpy(written, name, sizeof name);
    return write_image(name, im, text, n_text, err);
}
