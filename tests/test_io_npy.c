/**
 * @file test_io_npy.c
 * @brief .npy files: what NumPy writes is read, what we write is what NumPy writes, anything else is refused
 * in one line.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../ref/io/io.h"
#include "support/scratch.h"
#include "support/tap.h"

/* ---- Building files ------------------------------------------------------------------------------- */

static const float six[6] = {0.5f, -1, 2, 3.25f, 1e-30f, -7};

/* A file of the given version with this dict, not padded, and this data. */
static const char *put_npy(int version, const char *dict, const void *data, size_t bytes)
{
    unsigned char file[1024] = "\x93NUMPY";
    size_t n = strlen(dict), start = version == 1 ? 10 : 12;
    file[6] = (unsigned char)version;
    file[8] = (unsigned char)(n & 0xff);
    file[9] = (unsigned char)(n >> 8);
    memcpy(file + start, dict, n);
    if (bytes)
        memcpy(file + start + n, data, bytes);
    const char *path = scratch("array.npy");
    scratch_put(path, file, start + n + bytes);
    return path;
}

static bool refused(const char *path, npy_type type, int ndim, const char *word)
{
    npy_array a;
    io_error err = "", note = "?";
    bool read = io_read_tensor(path, type, ndim, true, &a, note, err);
    bool ok = !read && !*note && !a.data && a.count == 0 && scratch_one_line(err, path, word);
    if (read)
        npy_free(&a);
    return ok;
}

/* ---- What is read --------------------------------------------------------------------------------- */

static void test_round_trips(void)
{
    static const struct {
        int ndim;
        int64_t dim[IO_MAX_DIMS];
        size_t count;
    } shape[] = {{0, {0}, 1},
                 {1, {1}, 1},
                 {1, {6}, 6},
                 {2, {2, 3}, 6},
                 {3, {3, 1, 2}, 6},
                 {1, {0}, 0},
                 {3, {2, 0, 5}, 0},
                 {2, {0, INT64_MAX / 4}, 0},
                 {8, {1, 1, 2, 1, 3, 1, 1, 1}, 6}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (npy_type type = NPY_F32; type <= NPY_I32; type++) {
            const char *path = scratch("trip.npy");
            npy_array exact = {0}, any = {0};
            io_error err = "", note = "?";
            bool ok = npy_write(path, type, shape[i].ndim, shape[i].dim, six, err) &&
                      io_read_tensor(path, type, shape[i].ndim, true, &exact, note, err) && !*note &&
                      io_read_tensor(path, type, -1, true, &any, note, err);
            ok = ok && exact.ndim == shape[i].ndim && exact.count == shape[i].count && exact.data &&
                 memcmp(exact.dim, shape[i].dim, (size_t)exact.ndim * sizeof *exact.dim) == 0 &&
                 memcmp(exact.data, six, 4 * exact.count) == 0 && any.ndim == exact.ndim &&
                 memcmp(any.data, exact.data, 4 * exact.count) == 0;
            tap(scratch_no_error(ok, err), "round trip %zu of %s", i, type == NPY_F32 ? "float32" : "int32");
            npy_free(&exact);
            npy_free(&any);
        }
}

static void test_writer_bytes(void)
{
    char expected[128 + sizeof six];
    memset(expected, ' ', 128);
    memcpy(expected, "\x93NUMPY\x01\x00\x76\x00", 10);
    static const char dict[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    memcpy(expected + 10, dict, sizeof dict - 1);
    expected[127] = '\n';
    memcpy(expected + 128, six, sizeof six);
    io_error err = "";
    const char *path = scratch("bytes.npy");
    bool ok = npy_write(path, NPY_F32, 2, (int64_t[]){2, 3}, six, err);
    tap(scratch_no_error(ok && scratch_holds(path, expected, sizeof expected), err),
        "the bytes that NumPy writes");
    const float wild[2] = {-INFINITY, NAN};
    ok = npy_write(path, NPY_F32, 1, (int64_t[]){2}, wild, err);
    tap(ok && refused(path, NPY_F32, 1, "-inf at [0]"),
        "-inf is written (block scores hold it) but not read");
}

static void test_accepted_headers(void)
{
    static const struct {
        int version;
        const char *dict;
    } header[] = {
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n"},
        {2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n"},
        {3, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n"},
        {1, "{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}"},
        {1, "{\"descr\":\"<f4\",\"fortran_order\":False,\"shape\":(2,3)}"},
        {1, " {\n'fortran_order' :False\t,\r\n 'shape': ( 2 , 3 , ) , 'descr' : '<f4' , } \n\n"},
    };
    for (size_t i = 0; i < sizeof header / sizeof *header; i++) {
        npy_array a = {0};
        io_error err = "", note;
        bool ok = io_read_tensor(put_npy(header[i].version, header[i].dict, six, sizeof six), NPY_F32, 2,
                                 true, &a, note, err) &&
                  a.dim[0] == 2 && a.dim[1] == 3 && memcmp(a.data, six, sizeof six) == 0;
        tap(scratch_no_error(ok, err), "header variant %zu of version %d is read", i, header[i].version);
        npy_free(&a);
    }
}

/* ---- What is refused ------------------------------------------------------------------------------- */

#define HEADER(descr, order, shape) "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }\n"
#define SHAPE(shape) HEADER("'<f4'", "False", shape)
#define DESCR(descr) HEADER(descr, "False", "(2, 3)")

static void test_refused_headers(void)
{
    static const struct {
        const char *dict, *word;
    } header[] = {
        {DESCR("'>f4'"), "expected float32, or float64, float16 or bfloat16 to convert, found dtype '>f4'"},
        {DESCR("'<f8'"), "truncated: shape (2, 3) takes 48 bytes of data, found 24"},
        {DESCR("'<f2'"), "overlong: shape (2, 3) takes 12 bytes of data, found 24"},
        {DESCR("'<i4'"), "found dtype '<i4'"},
        {DESCR("'<u4'"), "found dtype '<u4'"},
        {DESCR("'<c8'"), "found dtype '<c8'"},
        {DESCR("'|O'"), "found dtype '|O'"},
        {DESCR("'|b1'"), "found dtype '|b1'"},
        {DESCR("'=f4'"), "found dtype '=f4'"},
        {DESCR("''"), "found dtype ''"},
        {DESCR("'<f4\\n'"), "found dtype '<f4"},
        {DESCR("'a name that is much longer than any dtype could be'"), "a quoted dtype"},
        {DESCR("[('x', '<f4')]"), "a quoted dtype"},
        {DESCR("'<f4"), "'"},
        {DESCR("<f4"), "a quoted dtype"},
        {HEADER("'<f4'", "True", "(2, 3)"), "Fortran order"},
        {HEADER("'<f4'", "0", "(2, 3)"), "True or False"},
        {HEADER("'<f4'", "false", "(2, 3)"), "True or False"},
        {HEADER("'<f4'", "Falsehood", "(2, 3)"), "',' or '}'"},
        {SHAPE("(2, 3, 1)"), "expected 2 dimensions, found 3: shape (2, 3, 1)"},
        {SHAPE("()"), "overlong: shape () takes 4 bytes of data, found 24"},
        {SHAPE("(6,)"), "found 1: shape (6,)"},
        {SHAPE("(6)"), "a tuple such as (3,)"},
        {SHAPE("6"), "a tuple"},
        {SHAPE("[2, 3]"), "a tuple"},
        {SHAPE("(2 3)"), "',' or ')'"},
        {SHAPE("(2,, 3)"), "a length"},
        {SHAPE("(, )"), "a length"},
        {SHAPE("(-2, -3)"), "a length"},
        {SHAPE("(2.0, 3)"), "',' or ')'"},
        {SHAPE("(0x2, 3)"), "',' or ')'"},
        {SHAPE("(02, 3)"), "a length"},
        {SHAPE("(2, 3"), "a length"},
        {SHAPE("(2, 4)"), "truncated: shape (2, 4) takes 32 bytes of data, found 24"},
        {SHAPE("(2, 2)"), "overlong: shape (2, 2) takes 16 bytes of data, found 24"},
        {SHAPE("(0, 3)"), "overlong"},
        {SHAPE("(1000000000, 1000)"), "truncated"},
        {SHAPE("(4294967296, 4294967296)"), "fits in memory"},
        {SHAPE("(9223372036854775807, 9223372036854775807)"), "fits in memory"},
        {SHAPE("(0, 9223372036854775807)"), "fits in memory"},
        {SHAPE("(9223372036854775808, 1)"), "below 2^63"},
        {SHAPE("(99999999999999999999999999999999, 1)"), "below 2^63"},
        {SHAPE("(1, 1, 1, 1, 1, 1, 1, 2, 3)"), "at most 8 dimensions"},
        {"", "expected '{'"},
        {"\n", "expected '{'"},
        {"[]", "expected '{'"},
        {"{", "a quoted key"},
        {"{}", "found no descr"},
        {"{,}", "a quoted key"},
        {"{'descr': '<f4'}", "found no fortran_order"},
        {"{'descr': '<f4', 'fortran_order': False}", "found no shape"},
        {"{'descr': '<f4' 'fortran_order': False}", "',' or '}'"},
        {"{'descr' '<f4'}", "':'"},
        {"{descr: '<f4'}", "a quoted key"},
        {"{'descr", "a quoted key"},
        {"{'descr\": '<f4'}", "the key 'descr"},
        {"{'descr': '<f4', 'descr': '<f4'}", "a second 'descr'"},
        {"{'descr': '<f4', 'order': 'C'}", "the key 'order'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'x': 1}", "the key 'x'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x", "nothing after"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)", "',' or '}'"},
        {"{'descr': '<f4',\x1b[31m 'shape': (2, 3)}", "a quoted key"},
    };
    for (size_t i = 0; i < sizeof header / sizeof *header; i++)
        tap(refused(put_npy(1, header[i].dict, six, sizeof six), NPY_F32, 2, header[i].word), "refused: %s",
            header[i].dict);
}

static void test_other_types(void)
{
    io_error err, note;
    const char *path = scratch("type.npy");
    const int32_t bits[2] = {0x7f800000, -1}; /* inf and nan, if they were floats */
    npy_array a = {0};
    bool ok = npy_write(path, NPY_I32, 1, (int64_t[]){2}, bits, err) &&
              io_read_tensor(path, NPY_I32, 1, true, &a, note, err);
    tap(ok && memcmp(a.data, bits, sizeof bits) == 0, "any int32 is fine");
    npy_free(&a);
    tap(refused(path, NPY_F32, 1,
                "expected float32, or float64, float16 or bfloat16 to convert, found dtype '<i4'"),
        "int32 is not float32");
    npy_write(path, NPY_F32, 1, (int64_t[]){2}, six, err);
    tap(refused(path, NPY_I32, 1, "expected int32, or int64, int16 or int8 to convert, found dtype '<f4'"),
        "float32 is not int32");
    tap(refused(path, NPY_F32, 2, "expected 2 dimensions, found 1: shape (2,)"), "one dimension is not two");
    tap(refused(path, NPY_F32, 0, "expected 0 dimensions, found 1"), "one dimension is not none");
}

/* ---- What is converted ----------------------------------------------------------------------------- */

#define MOST 6
#define HALVES(...) (const uint16_t[]){__VA_ARGS__}, 2
#define DOUBLES(...) (const double[]){__VA_ARGS__}, 8
#define INT64S(...) (const int64_t[]){__VA_ARGS__}, 8
#define INT16S(...) (const int16_t[]){__VA_ARGS__}, 2
#define INT8S(...) (const int8_t[]){__VA_ARGS__}, 1

/* The n elements that dtype and data say, read as float32 or int32. */
static const char *put_elements(const char *dtype, const void *data, size_t width, int n)
{
    char dict[128];
    snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': (%d,), }\n", dtype, n);
    return put_npy(1, dict, data, width * (size_t)n);
}

static void test_converted_floats(void)
{
    const struct {
        const char *dtype;
        const void *data;
        size_t width;
        int n;
        float expected[MOST];
        const char *note;
    } file[] = {
        {"<f8",
         DOUBLES(1.5, -0.0, 1e-310),
         3,
         {1.5f, -0.0f, 0},
         "float64 read as float32, 1 of 3 values rounded"},
        {"<f8", DOUBLES(1.5, 0.25), 2, {1.5f, 0.25f}, "float64 read as float32"},
        {"<f8", DOUBLES(0.1, 0x1.fffffep127), 2, {0.1f, FLT_MAX}, "1 of 2 values rounded"},
        {"<f2",
         HALVES(0x3c00, 0xc100, 0x7bff, 0x0001, 0x83ff, 0x0400),
         6,
         {1, -2.5f, 65504, 0x1p-24f, -0x1.ff8p-15f, 0x1p-14f},
         "float16 read as float32"},
        {"<V2",
         HALVES(0x3f80, 0xc020, 0x7f7f, 0x0001),
         4,
         {1, -2.5f, 0x1.fep127f, 0x1p-133f},
         "<V2, as which ml_dtypes saves bfloat16, read as float32"},
        {"|V2", HALVES(0x3f80), 1, {1}, "|V2, as which"},
    };
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        npy_array a = {0};
        io_error err = "", note = "";
        const char *path = put_elements(file[i].dtype, file[i].data, file[i].width, file[i].n);
        bool ok = io_read_tensor(path, NPY_F32, 1, true, &a, note, err) &&
                  memcmp(a.data, file[i].expected, 4 * a.count) == 0 &&
                  scratch_one_line(note, path, file[i].note);
        tap(scratch_no_error(ok, err), "floats %zu: %s", i, file[i].note);
        npy_free(&a);
    }
}

static void test_converted_integers(void)
{
    const struct {
        const char *dtype;
        const void *data;
        size_t width;
        int n;
        int32_t expected[MOST];
        const char *note;
    } file[] = {
        {"<i8", INT64S(0, -1, INT32_MAX, INT32_MIN), 4, {0, -1, INT32_MAX, INT32_MIN}, "int64 read as int32"},
        {"<i2", INT16S(7, -1, INT16_MIN), 3, {7, -1, INT16_MIN}, "int16 read as int32"},
        {"|i1", INT8S(7, -1, INT8_MIN), 3, {7, -1, INT8_MIN}, "int8 read as int32"},
    };
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        npy_array a = {0};
        io_error err = "", note = "";
        const char *path = put_elements(file[i].dtype, file[i].data, file[i].width, file[i].n);
        bool ok = io_read_tensor(path, NPY_I32, 1, true, &a, note, err) &&
                  memcmp(a.data, file[i].expected, 4 * a.count) == 0 &&
                  scratch_one_line(note, path, file[i].note);
        tap(scratch_no_error(ok, err), "integers: %s", file[i].note);
        npy_free(&a);
    }
}

/* More elements than are converted at a time, the last of which does not fit. */
static void test_beyond_range(void)
{
    enum { N = 5000 };
    static int64_t x[N];
    io_error err = "", note;
    npy_array a = {0};
    char dict[] = "\x93NUMPY\x01\x00\x3c\x00{'descr': '<i8', 'fortran_order': False, 'shape': (5000,)}\n   ";
    static unsigned char file[sizeof dict - 1 + sizeof x];
    const char *path = scratch("long.npy");
    for (int i = 0; i < N; i++)
        x[i] = i;
    dict[8] = (char)(sizeof dict - 1 - 10);
    memcpy(file, dict, sizeof dict - 1);
    memcpy(file + sizeof dict - 1, x, sizeof x);
    scratch_put(path, file, sizeof file);
    bool ok = io_read_tensor(path, NPY_I32, 1, true, &a, note, err);
    for (int i = 0; i < N && ok; i++)
        ok = ((int32_t *)a.data)[i] == i;
    tap(scratch_no_error(ok, err), "5000 integers, in several pieces");
    npy_free(&a);
    x[N - 1] = (int64_t)INT32_MAX + 1;
    memcpy(file + sizeof dict - 1, x, sizeof x);
    scratch_put(path, file, sizeof file);
    tap(refused(path, NPY_I32, 1, "the int64 at [4999] is beyond the range of int32"), "2^31 is no int32");
    tap(refused(put_elements("<i8", INT64S(0, INT32_MIN - (int64_t)1), 2), NPY_I32, 1, "the int64 at [1]"),
        "-2^31 - 1 is no int32");
    tap(refused(put_elements("<f8", DOUBLES(1, -3.5e38), 2), NPY_F32, 1,
                "the float64 at [1] is beyond the range of float32"),
        "3.5e38 is no float32");
    tap(refused(put_elements("<f8", DOUBLES(1, NAN), 2), NPY_F32, 1, "nan at [1]"), "nan of a double");
    tap(refused(put_elements("<f2", HALVES(0xfc00), 1), NPY_F32, 1, "-inf at [0]"), "-inf of a half");
    tap(refused(put_elements("<f2", HALVES(0x7c01), 1), NPY_F32, 1, "nan at [0]"), "nan of a half");
    tap(refused(put_elements("<u8", INT64S(1), 1), NPY_I32, 1, "found dtype '<u8'"), "unsigned integers");
    const char *wild = put_elements("<V2", HALVES(0x7f80, 0x7fc0), 2);
    ok = io_read_tensor(wild, NPY_F32, 1, false, &a, note, err) && isinf(((float *)a.data)[0]) &&
         isnan(((float *)a.data)[1]);
    tap(ok, "what need not be finite is read");
    npy_free(&a);
}

static void test_non_finite(void)
{
    static const struct {
        float value;
        const char *word;
    } wild[] = {{NAN, "nan at [1, 2, 0]"}, {INFINITY, "inf at [1, 2, 0]"}, {-INFINITY, "-inf at [1, 2, 0]"}};
    for (size_t i = 0; i < sizeof wild / sizeof *wild; i++) {
        float x[12] = {0, FLT_MAX, -0.0f, 1e-45f, 1};
        io_error err;
        x[10] = wild[i].value;
        npy_write(scratch("wild.npy"), NPY_F32, 3, (int64_t[]){2, 3, 2}, x, err);
        tap(refused(scratch("wild.npy"), NPY_F32, 3, wild[i].word), "%s", wild[i].word);
    }
    tap(refused(put_npy(1, SHAPE("()"), &(float){NAN}, 4), NPY_F32, 0, "nan at []"),
        "nan without dimensions");
}

/* A whole file in memory, to be damaged: at most 256 bytes. */
static size_t load_sample(unsigned char *to)
{
    io_error err;
    unsigned char *data = NULL;
    size_t bytes = 0;
    npy_write(scratch("sample.npy"), NPY_F32, 2, (int64_t[]){2, 3}, six, err);
    if (io_read_file(scratch("sample.npy"), 256, &data, &bytes, err))
        memcpy(to, data, bytes);
    free(data);
    return bytes;
}

static void test_damage(void)
{
    unsigned char good[256], bad[256] = {0};
    const size_t bytes = load_sample(good), header = 128;
    const char *path = scratch("damaged.npy");
    bool ok = bytes == header + sizeof six;
    for (size_t n = 0; n < bytes && ok; n++) {
        scratch_put(path, good, n);
        ok = refused(path, NPY_F32, 2, "truncated");
    }
    tap(ok, "truncated at every byte");
    ok = true;
    for (size_t n = bytes + 1; n <= bytes + 9 && ok; n++) {
        memcpy(bad, good, bytes);
        scratch_put(path, bad, n);
        ok = refused(path, NPY_F32, 2, "overlong");
    }
    tap(ok, "overlong by 1 to 9 bytes");
    ok = true;
    for (size_t bit = 0; bit < 8 * header && ok; bit++) {
        memcpy(bad, good, bytes);
        bad[bit / 8] ^= (unsigned char)(1 << bit % 8);
        scratch_put(path, bad, bytes);
        ok = refused(path, NPY_F32, 2, "");
        if (!ok)
            tap_note("bit %zu of byte %zu", bit % 8, bit / 8);
    }
    tap(ok, "any one bit of the header flipped");
    ok = true;
    for (size_t at = 0; at < header && ok; at++)
        for (int value = 0; value < 256; value += 5) {
            memcpy(bad, good, bytes);
            bad[at] = (unsigned char)value;
            scratch_put(path, bad, bytes);
            npy_array a;
            io_error err = "", note;
            bool read = io_read_tensor(path, NPY_F32, 2, true, &a, note, err);
            ok = ok && (read ? a.count == 6 : scratch_one_line(err, path, ""));
            npy_free(&a);
        }
    tap(ok, "bytes of the header overwritten: an array of 6 or one line");
}

static void test_absurd_header_length(void)
{
    unsigned char file[64] = "\x93NUMPY\x02";
    memset(file + 8, 0xff, 4);
    scratch_put(scratch("long.npy"), file, sizeof file);
    tap(refused(scratch("long.npy"), NPY_F32, 2, "at most 65535 bytes, found 4294967295"),
        "a header of 4 GiB");
    memcpy(file + 8, "\xff\xff\0\0", 4);
    scratch_put(scratch("long.npy"), file, sizeof file);
    tap(refused(scratch("long.npy"), NPY_F32, 2, "truncated: expected 65535 bytes of npy header, found 52"),
        "a header longer than the file");
    file[6] = 4;
    scratch_put(scratch("long.npy"), file, sizeof file);
    tap(refused(scratch("long.npy"), NPY_F32, 2, "found 4.0"), "version 4.0");
    file[6] = 1;
    file[7] = 1;
    scratch_put(scratch("long.npy"), file, sizeof file);
    tap(refused(scratch("long.npy"), NPY_F32, 2, "found 1.1"), "version 1.1");
    scratch_put(scratch("long.npy"), "PK\3\4 an .npz archive", 20);
    tap(refused(scratch("long.npy"), NPY_F32, 2, "not a .npy file"), "another kind of file");
}

static void test_no_such_file(void)
{
    tap(refused(scratch("absent.npy"), NPY_F32, 2, "No such file"), "a missing file");
    tap(refused(scratch("."), NPY_F32, 2, "found a directory"), "a directory");
    tap(refused(scratch("array.npy/x"), NPY_F32, 2, "Not a directory"), "a file in the place of a directory");
    const char *pipe = scratch("pipe.npy");
    tap(mkfifo(pipe, 0600) == 0 && refused(pipe, NPY_F32, 2, "pipe"), "a pipe without a writer");
    scratch_put(scratch("empty.npy"), "", 0);
    tap(refused(scratch("empty.npy"), NPY_F32, 2, "truncated"), "an empty file");
    npy_array a;
    io_error err = "", note;
    tap(!io_read_tensor("", NPY_F32, 2, true, &a, note, err) && scratch_one_line(err, "'': ", "No such file"),
        "an empty name");
    if (geteuid() == 0) {
        tap_skip("an unreadable file", "root reads everything");
        return;
    }
    const char *locked = put_npy(1, SHAPE("(2, 3)"), six, sizeof six);
    chmod(locked, 0);
    tap(refused(locked, NPY_F32, 2, "Permission denied"), "an unreadable file");
    chmod(locked, 0600);
}

/* A tensor that stays in its file: parts are those of the whole, one that is read twice too, and checks say the same. */
static void test_parts(void)
{
    enum { N = 10000, WIDTH = 7 };
    static double x[N * WIDTH];
    const int64_t dim[] = {N, WIDTH};
    char dict[128];
    static unsigned char file[sizeof x + 256] = "\x93NUMPY\x01\x00";
    for (int i = 0; i < N * WIDTH; i++)
        x[i] = i % 3 ? 0.25 * i : 0.1 * i; /* of the latter most are rounded */
    const int n = snprintf(dict, sizeof dict, "{'descr': '<f8', 'fortran_order': False, 'shape': (%d, %d), }",
                           N, WIDTH);
    const char *path = scratch("parts.npy");
    file[8] = (unsigned char)n;
    memcpy(file + 10, dict, (size_t)n);
    memcpy(file + 10 + n, x, sizeof x);
    scratch_put(path, file, 10 + (size_t)n + sizeof x);

    npy_array whole;
    io_source source;
    io_error err = "", note = "", again = "?";
    bool ok = io_read_tensor(path, NPY_F32, 2, true, &whole, note, err) &&
              io_open_source(path, NPY_F32, 2, &source, err) && source.stored.dim[0] == dim[0] &&
              source.stored.count == whole.count;
    tap(scratch_no_error(ok, err), "a tensor that stays in its file");
    static const int at[] = {5000 * WIDTH, 0, 4096, N * WIDTH - 1, 3}, count[] = {WIDTH, 9999, 4097, 1, 0};
    size_t rounded = 0, expected = 0;
    for (int i = 0; ok && i < 5; i++) {
        static float part[10000];
        ok = io_read_part(&source, (size_t)at[i], (size_t)count[i], part, &rounded, err) &&
             memcmp(part, (float *)whole.data + at[i], (size_t)count[i] * sizeof *part) == 0;
        for (int j = at[i]; j < at[i] + count[i]; j++)
            expected += x[j] != (double)(float)x[j];
    }
    tap(scratch_no_error(ok && rounded == expected, err), "... in parts, %zu of them rounded", expected);
    ok = io_check_source(&source, true, again, err) && strcmp(note, again) == 0;
    tap(scratch_no_error(ok, err), "... all of it checked: %s",
        strrchr(again, ',') ? strrchr(again, ',') : "");
    x[60001] = NAN;
    memcpy(file + 10 + n, x, sizeof x);
    scratch_put(path, file, 10 + (size_t)n + sizeof x);
    ok = !io_check_source(&source, true, again, err);
    tap(ok && scratch_one_line(err, path, "nan at [8571, 4]"), "... with its first nan");
    if (truncate(path, 10 + n + 800) != 0)
        exit(1);
    float part[14];
    tap(io_read_part(&source, 14, 14, part, &rounded, err) &&
            !io_read_part(&source, 98, 14, part, &rounded, err) &&
            scratch_one_line(err, path, "shrank while it was read: expected 112 more bytes, found 16"),
        "... that became shorter");
    io_close_source(&source), npy_free(&whole);
    tap(!io_open_source(path, NPY_I32, 2, &source, err) && scratch_one_line(err, path, "") && !source.path,
        "... and is no more what its head says");
}

static void test_refused_writes(void)
{
    io_error err = "";
    const char *path = scratch("never.npy");
    tap(!npy_write(path, NPY_F32, 1, (int64_t[]){-1}, six, err) &&
            scratch_one_line(err, path, "cannot write"),
        "a negative dimension is not written");
    tap(!npy_write(path, NPY_F32, 2, (int64_t[]){INT64_MAX, INT64_MAX}, six, err) &&
            scratch_one_line(err, path, "fit in memory"),
        "an impossible shape is not written");
    tap(!npy_write(path, NPY_F32, 9, (int64_t[]){1, 1, 1, 1, 1, 1, 1, 1, 1}, six, err) &&
            scratch_one_line(err, path, "0 to 8 dimensions"),
        "nine dimensions are not written");
    tap(access(path, F_OK) != 0, "and no file is left");
}

int main(void)
{
    test_round_trips();
    test_writer_bytes();
    test_accepted_headers();
    test_refused_headers();
    test_other_types();
    test_converted_floats();
    test_converted_integers();
    test_beyond_range();
    test_non_finite();
    test_damage();
    test_absurd_header_length();
    test_no_such_file();
    test_parts();
    test_refused_writes();
    return tap_done();
}
