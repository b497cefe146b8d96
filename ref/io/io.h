/**
 * @file io.h
 * @brief Files in and out: NumPy arrays, safetensors.
 *
 * Readers trust nothing: every size is checked against the file's length before memory is taken.
 * Writers are atomic: a file is written aside, flushed to disk and renamed, so that a target is either its
 * old self or complete; several files can be made to appear together. A function that can fail returns false
 * and leaves one line in `err` (where, what, expected, found), without a newline; it then owns nothing to
 * free.
 */
#ifndef MSA_IO_H
#define MSA_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the file formats are little-endian and are read without a swap"
#endif

#define IO_ERR 512
typedef char io_error[IO_ERR];

#define IO_MAX_DIMS 8

/* ---- Checks that all readers share (error.c) ----------------------------------------------------- */

/** Writes "PATH: message" into err, control characters replaced; returns false. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
bool io_fail(io_error err, const char *path, const char *format, ...);

/** Replaces by '?' what a name or an excerpt from outside must not bring to a terminal or into a file of text:
 *  control characters (of ASCII and of Latin 1), line breaks, bytes that are not UTF-8. */
void io_make_printable(char *line);

/** The product of the dimensions; false if one is negative or the array would exceed PTRDIFF_MAX bytes. */
bool io_count(int ndim, const int64_t *dim, size_t *count);

#define IO_PLACE (24 * IO_MAX_DIMS)
/** "[1, 0, 2]": where element `at` of an array of these dimensions is. */
void io_place(int ndim, const int64_t *dim, size_t at, char text[IO_PLACE]);
/** The shape as Python writes a tuple: "()", "(3,)", "(2, 3)". */
void io_shape(int ndim, const int64_t *dim, char text[IO_PLACE]);

/** Fails with "PATH: WHATnan at [1, 0, 2], ..." if one of the n values is not finite, of which the first is number `at` of
 *  the array. */
bool io_check_finite(const char *path, const char *what, int ndim, const int64_t *dim, const float *x,
                     size_t at, size_t n, io_error err);

/* ---- Files, alone and in sets (file.c, set.c) --------------------------------------------------- */

/** One piece of a file to write. */
typedef struct io_chunk {
    const void *data;
    size_t bytes;
} io_chunk;

/** Writes the chunks to `path`, atomically. What is no regular file is refused: a directory, /dev/null, a
 *  symbolic link, which the rename would destroy (/dev/stdout is one). */
bool io_write_file(const char *path, const io_chunk *chunks, int n, io_error err);

/** Begins a set: what io_write_file() is then given, all in this directory, appears together in io_commit(),
 *  and until then, or after io_abandon() or a signal that ends the process, nothing of it does. The directory
 *  is created (one level) where absent. With a label the set has a file LABEL.sha256 that `sha256sum -c` can
 *  read: after a power cut in the middle its sums are wrong. Such a set replaces files of earlier ones only,
 *  which a *.sha256 of the directory names. One set at a time. */
bool io_begin(const char *dir, const char *label, io_error err);
/** Whether a set with a label, in that directory, may write a file of that name: there is none, or it is of
 *  an earlier set. */
bool io_may_replace(const char *dir, const char *name, io_error err);
bool io_commit(io_error err);
/** Forgets the set, if one is open. */
void io_abandon(void);

/** Writes so many bytes to a descriptor; errno says why not. */
bool io_write_all(int fd, const void *data, size_t bytes);

/** Opens a regular file for reading and tells its size. NULL on failure. */
FILE *io_open(const char *path, size_t *bytes, io_error err);

/** Reads exactly so many bytes. */
bool io_read(FILE *f, const char *path, void *to, size_t bytes, io_error err);
/** The same from byte `at` of the file on, wherever it stands; several threads may. */
bool io_read_at(FILE *f, const char *path, off_t at, void *to, size_t bytes, io_error err);

/** Reads a whole file of at most `max` bytes; the caller frees *data. A NUL follows the last byte. */
bool io_read_file(const char *path, size_t max, unsigned char **data, size_t *bytes, io_error err);

/** Whether this process has read that file, under whatever name. */
bool io_was_read(const char *path);
/** "a file", "a directory", "a symbolic link" or "a device, pipe or socket". */
const char *io_kind(mode_t mode);

/* ---- Memory (memory.c) ---------------------------------------------------------------------------- */

/** Bytes that can still be taken: the machine's, its control groups' or the process's limit, whichever is
 *  least, without what was taken already and not used yet. */
double io_memory_left(void);
/** Tells of memory that was taken and will for the most part never be used: it counts as free. */
void io_memory_idle(double bytes);

/* ---- Tensors from any file (tensor.c) ------------------------------------------------------------- */

/** What elements of a file can be turned into floats or 32-bit integers. */
typedef enum io_element {
    IO_F64,
    IO_F32,
    IO_F16,
    IO_BF16,
    IO_I64,
    IO_I32,
    IO_I16,
    IO_I8,
    IO_N_ELEMENTS /**< any other */
} io_element;

/** Bytes of one element. */
size_t io_element_bytes(io_element e);
/** n stored elements of a type of floats as floats; a float64 is rounded. */
void io_to_floats(io_element e, const unsigned char *from, size_t n, float *to);

/** A tensor that was found in a file but not read: the file stands at its first element. */
typedef struct io_stored {
    FILE *f;
    const char *path;
    char what[224]; /**< "tensor 'x': ", or nothing where the file holds but one */
    char dtype[32]; /**< as the file spells it */
    io_element element;
    int ndim;
    int64_t dim[IO_MAX_DIMS];
    size_t count; /**< product of dim; so many elements do follow */
} io_stored;

typedef enum npy_type { NPY_F32, NPY_I32 } npy_type;

/** A C-ordered array in memory. */
typedef struct npy_array {
    npy_type type;
    int ndim;
    int64_t dim[IO_MAX_DIMS];
    size_t count; /**< product of dim */
    void *data;   /**< float or int32_t */
} npy_array;

/** Reads the array NAME.npy, or of FILE.safetensors:NAME the one tensor of that name and nothing else of it.
 *  Floats of any width become float32, signed integers of any width int32; `note` then says so in one line
 *  ("q.npy: float64 read as float32, 7 of 12 values rounded"), and is empty where nothing was converted.
 *  Refuses floats for integers and the reverse, other element types, byte orders and Fortran order, another
 *  number of dimensions than `ndim` (-1: any up to IO_MAX_DIMS), a truncated or overlong file, a value that
 *  the type in memory cannot hold, and, where `finite` is asked for, NaN and infinities.
 *  An empty array has count 0 and data that is not NULL. */
bool io_read_tensor(const char *name, npy_type type, int ndim, bool finite, npy_array *out, io_error note,
                    io_error err);
void npy_free(npy_array *a);

/** A tensor that stays in its file, for readers of parts. */
typedef struct io_source {
    io_stored stored;
    npy_type type; /**< what it is read as */
    char *path;    /**< owned; stored.path */
    off_t begin;   /**< of its first element in the file */
} io_source;
/** Opens what io_read_tensor() would read, and checks its kind and number of dimensions. */
bool io_open_source(const char *name, npy_type type, int ndim, io_source *out, io_error err);
/** Elements at .. at+n-1, and how many of them were rounded. Several threads may. */
bool io_read_part(const io_source *x, size_t at, size_t n, void *to, size_t *rounded, io_error err);
/** Reads and checks all of it as io_read_tensor() does, and keeps none of it. */
bool io_check_source(const io_source *x, bool finite, io_error note, io_error err);
void io_close_source(io_source *x);

/* ---- NumPy .npy (npy.c) --------------------------------------------------------------------------- */

/** Finds the array of a .npy file, whose header is checked against the file's length. */
bool npy_open(const char *path, io_stored *out, io_error err);
/** Writes format version 1.0, byte for byte as NumPy does. Any values: an array of -inf is fine. */
bool npy_write(const char *path, npy_type type, int ndim, const int64_t *dim, const void *data, io_error err);

/* ---- safetensors (safetensors.c) ---------------------------------------------------------------- */

/** A named float32 tensor. */
typedef struct st_tensor {
    const char *name;
    int ndim;
    int64_t dim[IO_MAX_DIMS];
    float *data;
} st_tensor;

typedef struct st_meta {
    const char *key, *value;
} st_meta;

/** A file's content. st_read() fills it and st_free() releases it; a writer points it at its own memory. */
typedef struct st_file {
    int n_tensors;
    st_tensor *tensor;
    int n_meta;
    st_meta *meta;
    void *owned; /**< what st_free() releases besides the two arrays; NULL for a writer */
} st_file;

/** Whether this build can read and write safetensors (it needs the JSON library jansson). */
bool st_available(void);
/** Finds one tensor among those of a file, whose whole header is checked; the others may be of any type. */
bool st_open(const char *path, const char *name, io_stored *out, io_error err);
/** Where a tensor's data lie in its file. */
typedef struct st_place {
    const char *name, *dtype;
    io_element element;
    int ndim;
    int64_t dim[IO_MAX_DIMS];
    size_t count;     /**< product of dim */
    size_t at, bytes; /**< first byte, from the file's beginning; so many do follow */
} st_place;

/** What a file holds, in the order of the data; st_list_free() releases it. */
typedef struct st_listing {
    int n;
    st_place *place;
    void *owned;
} st_listing;

/** Reads and checks a file's header, as st_open() does, and none of its data. */
bool st_list(const char *path, st_listing *out, io_error err);
void st_list_free(st_listing *l);
/** Reads the tensors in the order of their data. Refuses another type than F32, tensors that overlap or
 *  leave holes, repeated names, and values that are not finite. */
bool st_read(const char *path, st_file *out, io_error err);
/** Writes tensors and metadata in the order given: the same content makes the same bytes. Refuses values
 *  that are not finite, so that a training run that has diverged keeps its last good checkpoint. */
bool st_write(const char *path, const st_file *f, io_error err);
void st_free(st_file *f);
/** The tensor or metadata value of that name, or NULL. */
const st_tensor *st_find(const st_file *f, const char *name);
const char *st_get_meta(const st_file *f, const char *key);

#endif
