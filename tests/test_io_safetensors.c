/**
 * @file test_io_safetensors.c
 * @brief safetensors: what is written is read back and is the same bytes every time; a damaged file is
 * refused in one line.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../ref/io/io.h"
#include "support/scratch.h"
#include "support/tap.h"

static float six[6] = {0.5f, -1, 2, 3.25f, 1e-30f, -7};

/* A file with this header and `bytes` bytes of data (of `six`). */
static const char *put_st(const char *json, size_t bytes)
{
    unsigned char file[2048] = {0};
    size_t n = strlen(json);
    file[0] = (unsigned char)(n & 0xff);
    file[1] = (unsigned char)(n >> 8);
    memcpy(file + 8, json, n);
    memcpy(file + 8 + n, six, bytes < sizeof six ? bytes : sizeof six);
    const char *path = scratch("model.safetensors");
    scratch_put(path, file, 8 + n + bytes);
    return path;
}

static bool refused(const char *path, const char *word)
{
    st_file f;
    io_error err = "";
    bool read = st_read(path, &f, err);
    bool ok = !read && !f.owned && !f.tensor && f.n_tensors == 0 && scratch_one_line(err, path, word);
    st_free(&f);
    return ok;
}

/* ---- What is written and read --------------------------------------------------------------------- */

static st_tensor sample_tensor[] = {{"wq", 2, {2, 3}, six},
                                    {"a scalar", 0, {0}, six + 1},
                                    {"empty", 3, {2, 0, 4}, six},
                                    {"quote \" slash / tab \t and \xc3\xa9", 1, {4}, six + 2}};
static st_meta sample_meta[] = {
    {"step", "700"}, {"empty", ""}, {"text", "line\none \"two\" \\ \xe2\x82\xac"}};
static const st_file sample = {.n_tensors = 4, .tensor = sample_tensor, .n_meta = 3, .meta = sample_meta};

static bool same_tensor(const st_tensor *a, const st_tensor *b)
{
    size_t count;
    return strcmp(a->name, b->name) == 0 && a->ndim == b->ndim &&
           memcmp(a->dim, b->dim, (size_t)a->ndim * sizeof *a->dim) == 0 &&
           io_count(a->ndim, a->dim, &count) && memcmp(a->data, b->data, 4 * count) == 0;
}

static bool same_file(const st_file *a, const st_file *b)
{
    bool same = a->n_tensors == b->n_tensors && a->n_meta == b->n_meta;
    for (int i = 0; same && i < a->n_tensors; i++)
        same = same_tensor(&a->tensor[i], &b->tensor[i]);
    for (int i = 0; same && i < a->n_meta; i++)
        same = strcmp(a->meta[i].key, b->meta[i].key) == 0 && strcmp(a->meta[i].value, b->meta[i].value) == 0;
    return same;
}

static void test_round_trip(void)
{
    io_error err = "";
    const char *path = scratch("trip.safetensors"), *again = scratch("again.safetensors");
    st_file f = {0};
    bool ok = st_write(path, &sample, err) && st_read(path, &f, err);
    tap(scratch_no_error(ok && same_file(&sample, &f), err), "tensors and metadata come back in order");
    const st_tensor *t = ok ? st_find(&f, "a scalar") : NULL;
    tap(t && t->data[0] == -1 && !st_find(&f, "absent"), "a tensor is found by name");
    const char *value = ok ? st_get_meta(&f, "step") : NULL;
    tap(value && strcmp(value, "700") == 0 && !st_get_meta(&f, "absent"), "metadata is found by key");

    unsigned char *data = NULL;
    size_t bytes = 0;
    ok = ok && st_write(again, &f, err) && io_read_file(path, 4096, &data, &bytes, err);
    tap(ok && scratch_holds(again, data, bytes), "written again, it is the same bytes");
    free(data);
    st_free(&f);

    ok = st_write(path, &(st_file){0}, err) && st_read(path, &f, err) && f.n_tensors == 0 && f.n_meta == 0;
    tap(scratch_no_error(ok, err), "a file without tensors");
    st_free(&f);
}

static void test_writer_bytes(void)
{
    static const char header[] = "{\"__metadata__\":{\"step\":\"7\"},"
                                 "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
                                 "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]}}       ";
    _Static_assert(sizeof header % 8 == 1, "the header ends at a multiple of 8");
    char expected[8 + sizeof header - 1 + 12] = {(char)(sizeof header - 1)};
    memcpy(expected + 8, header, sizeof header - 1);
    memcpy(expected + 8 + sizeof header - 1, six, 12);
    st_tensor tensor[] = {{"b", 2, {2, 1}, six}, {"a", 0, {0}, six + 2}};
    st_meta meta[] = {{"step", "7"}};
    io_error err = "";
    const char *path = scratch("bytes.safetensors");
    bool ok = st_write(path, &(st_file){.n_tensors = 2, .tensor = tensor, .n_meta = 1, .meta = meta}, err);
    tap(scratch_no_error(ok && scratch_holds(path, expected, sizeof expected), err),
        "exactly the bytes of the format");
}

static void test_accepted(void)
{
    static const struct {
        const char *json;
        size_t bytes;
        int n_tensors;
    } good[] = {
        {"{}", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24]}}       ", 24, 1},
        {" {\"x\": {\"data_offsets\": [0, 24], \"shape\": [2, 3], \"dtype\": \"F32\"}}\n", 24, 1},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
         "\"\\u00e9\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}",
         8, 2},
        {"{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
         "\"c\":{\"dtype\":\"F32\",\"shape\":[0,9223372036854775],\"data_offsets\":[4,4]}}",
         4, 3},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        st_file f;
        io_error err = "";
        bool ok = st_read(put_st(good[i].json, good[i].bytes), &f, err) && f.n_tensors == good[i].n_tensors;
        tap(scratch_no_error(ok, err), "read: %s", good[i].json);
        st_free(&f);
    }
}

/* ---- What is refused -------------------------------------------------------------------------------- */

#define TENSOR(dtype, shape, offsets)                                                                        \
    "\"x\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define F32(shape, offsets) TENSOR("\"F32\"", shape, offsets)

static void test_refused_headers(void)
{
    static const struct {
        const char *json;
        size_t bytes;
        const char *word;
    } bad[] = {
        {"", 0, "expected JSON"},
        {"{", 0, "expected JSON"},
        {"{}{}", 0, "expected JSON"},
        {"[]", 0, "expected a JSON object"},
        {"null", 0, "expected JSON"},
        {"{'x':1}", 0, "expected JSON"},
        {"{\"x\\u0000\":1}", 0, "expected JSON"},
        {"{\"\xff\":1}", 0, "expected JSON"},
        {"{\"x\n\x1b[31m\":1}", 0, "expected JSON"},
        {"{\"x\":99999999999999999999}", 0, "expected JSON"},
        {"{\"x\":1}", 0, "tensor 'x': expected an object"},
        {"{\"x\":{}}", 0, "tensor 'x': expected an object of dtype, shape and data_offsets"},
        {"{" F32("[1]", "[0,4]") "," F32("[1]", "[4,8]") "}", 8, "duplicate"},
        {"{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "duplicate"},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"offsets\":[0,4]}}", 4, "data_offsets"},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"y\":0}}", 4,
         "expected an object of"},
        {"{" TENSOR("\"BF16\"", "[1]", "[0,2]") "}", 2, "tensor 'x': expected dtype F32, found BF16"},
        {"{" TENSOR("\"F64\"", "[1]", "[0,8]") "}", 8, "found F64"},
        {"{" TENSOR("\"f32\"", "[1]", "[0,4]") "}", 4, "found f32"},
        {"{" TENSOR("32", "[1]", "[0,4]") "}", 4, "expected an object of"},
        {"{" F32("1", "[0,4]") "}", 4, "tensor 'x': expected a shape"},
        {"{" F32("[1.0]", "[0,4]") "}", 4, "expected a shape"},
        {"{" F32("[-1]", "[0,4]") "}", 4, "expected a shape"},
        {"{" F32("[\"1\"]", "[0,4]") "}", 4, "expected a shape"},
        {"{" F32("[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "0 to 8"},
        {"{" F32("[9223372036854775807]", "[0,4]") "}", 4, "fits in memory"},
        {"{" F32("[4294967296,4294967296]", "[0,0]") "}", 0, "fits in memory"},
        {"{" F32("[0,9223372036854775807]", "[0,0]") "}", 0, "fits in memory"},
        {"{" F32("[1]", "{}") "}", 4, "expected data_offsets"},
        {"{" F32("[1]", "[0]") "}", 4, "expected data_offsets"},
        {"{" F32("[1]", "[0,4,4]") "}", 4, "expected data_offsets"},
        {"{" F32("[1]", "[4,0]") "}", 4, "expected data_offsets"},
        {"{" F32("[1]", "[-4,0]") "}", 4, "expected data_offsets"},
        {"{" F32("[1]", "[0.0,4.0]") "}", 4, "expected data_offsets"},
        {"{" F32("[1]", "[0,9223372036854775807]") "}", 4, "truncated: expected 9223372036854775807 bytes"},
        {"{" F32("[2]", "[0,8]") "}", 4, "truncated: expected 8 bytes of data, found 4"},
        {"{" F32("[2]", "[0,4]") "}", 4, "expected 8 bytes for its shape, found 4"},
        {"{" F32("[1]", "[0,8]") "}", 8, "expected 4 bytes for its shape, found 8"},
        {"{" F32("[1]", "[0,4]") "}", 5, "overlong: expected 4 bytes of data, found 5"},
        {"{}", 4, "overlong: expected 0 bytes of data, found 4"},
        {"{" F32("[1]", "[4,8]") "}", 8, "expected its data at byte 0, found it at 4: a hole"},
        {"{" F32("[2]", "[0,8]") ",\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
         "tensor 'y': expected its data at byte 8, found it at 4: an overlap"},
        {"{" F32("[1]", "[0,4]") ",\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "an overlap"},
        {"{" F32("[1]", "[0,4]") ",\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 12,
         "tensor 'y': expected its data at byte 4, found it at 8: a hole"},
        {"{" F32("[2]", "[0,8]") ",\"y\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]}}", 8,
         "an overlap"},
        {"{\"__metadata__\":[]}", 0, "__metadata__: expected an object of strings"},
        {"{\"__metadata__\":null}", 0, "__metadata__: expected an object of strings"},
        {"{\"__metadata__\":{\"step\":700}}", 0, "__metadata__: expected a string for 'step'"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        tap(refused(put_st(bad[i].json, bad[i].bytes), bad[i].word), "refused, %zu bytes of data: %s",
            bad[i].bytes, bad[i].json);
}

/* ---- One tensor of many ----------------------------------------------------------------------------- */

/* Seven tensors of seven types in 24 bytes: those of six floats, read otherwise. */
static const char seven[] = "{" TENSOR(
    "\"F8_E4M3\"", "[1,3]", "[0,3]") ","
                                     "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]},"
                                     "\"half\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]},"
                                     "\"brain\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[8,12]},"
                                     "\"f4:x\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[12,13]},"
                                     "\"i8\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[13,16]},"
                                     "\"long\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[16,24]}}";
static const unsigned char many_data[24] = {1, 2, 3,   4,   0,    0x3c, 0,    0xc1, 0x80, 0x3f, 0x20, 0xc0,
                                            9, 7, 255, 128, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static const char *put_many(void)
{
    unsigned char file[1024] = {0};
    const size_t n = sizeof seven - 1;
    file[0] = (unsigned char)(n & 0xff);
    file[1] = (unsigned char)(n >> 8);
    memcpy(file + 8, seven, n);
    memcpy(file + 8 + n, many_data, sizeof many_data);
    const char *path = scratch("many.safetensors");
    scratch_put(path, file, 8 + n + sizeof many_data);
    return path;
}

static bool read_named(const char *path, const char *name, npy_type type, int ndim, npy_array *a,
                       io_error note, io_error err)
{
    char full[512];
    snprintf(full, sizeof full, "%s:%s", path, name);
    return io_read_tensor(full, type, ndim, true, a, note, err);
}

static void test_named(void)
{
    static const struct {
        const char *name;
        npy_type type;
        int ndim, count;
        float x[2];
        int32_t i[3];
        const char *note;
    } good[] = {{"half", NPY_F32, 1, 2, {1, -2.5f}, {0}, "tensor 'half': float16 read as float32"},
                {"brain", NPY_F32, 2, 2, {1, -2.5f}, {0}, "tensor 'brain': bfloat16 read as float32"},
                {"i8", NPY_I32, 1, 3, {0}, {7, -1, -128}, "tensor 'i8': int8 read as int32"},
                {"long", NPY_I32, 0, 1, {0}, {-2}, "tensor 'long': int64 read as int32"}};
    const char *path = put_many();
    for (size_t n = 0; n < sizeof good / sizeof *good; n++) {
        npy_array a = {0};
        io_error note = "", err = "";
        bool ok = read_named(path, good[n].name, good[n].type, good[n].ndim, &a, note, err) &&
                  a.count == (size_t)good[n].count && scratch_one_line(note, path, good[n].note);
        ok = ok &&
             memcmp(a.data, good[n].type == NPY_F32 ? (const void *)good[n].x : good[n].i, 4 * a.count) == 0;
        tap(scratch_no_error(ok, err), "%s", good[n].note);
        npy_free(&a);
    }
    static const struct {
        const char *name;
        npy_type type;
        const char *word;
    } bad[] = {{"long", NPY_F32,
                "tensor 'long': expected float32, or float64, float16 or bfloat16 to convert, found "
                "dtype 'I64'"},
               {"half", NPY_I32,
                "tensor 'half': expected int32, or int64, int16 or int8 to convert, found dtype 'F16'"},
               {"x", NPY_F32,
                "tensor 'x': expected float32, or float64, float16 or bfloat16 to convert, found dtype "
                "'F8_E4M3'"},
               {"b", NPY_I32, "found dtype 'U8'"},
               {"f4:x", NPY_F32,
                "tensor 'f4:x': expected float32, or float64, float16 or bfloat16 to convert, found "
                "dtype 'F4'"},
               {"half", NPY_F32, "tensor 'half': expected 0 dimensions, found 1: shape (2,)"},
               {"Half", NPY_F32,
                "one of its 7 tensors, as in FILE:NAME, found 'Half'; it has x, b, half, brain, f4:x, i8"},
               {"", NPY_F32, "found ''; it has x,"}};
    for (size_t n = 0; n < sizeof bad / sizeof *bad; n++) {
        npy_array a = {0};
        io_error note = "?", err = "";
        bool ok =
            !read_named(path, bad[n].name, bad[n].type, n == 5 ? 0 : -1, &a, note, err) && !a.data && !*note;
        tap(ok && scratch_one_line(err, path, bad[n].word), "refused: %s", bad[n].word);
    }
    npy_array a = {0};
    io_error note, err = "";
    tap(!io_read_tensor(path, NPY_F32, -1, true, &a, note, err) &&
            scratch_one_line(err, path, "as in FILE:NAME"),
        "a file of many tensors without a name");
    tap(refused(path, "tensor 'x': expected dtype F32, found F8_E4M3"), "a model is float32 throughout");
}

/* A tensor of 64 GiB, all of it a hole, before one of 4 bytes. */
static void test_ranges(void)
{
    static const char json[] =
        "{" F32("[17179869184]", "[0,68719476736]") ","
                                                    "\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":"
                                                    "[68719476736,68719476740]}}";
    const off_t at = 8 + sizeof json - 1 + (off_t)68719476736;
    const char *path = scratch("huge.safetensors");
    FILE *f = fopen(path, "wb");
    const unsigned char length[8] = {sizeof json - 1};
    bool ok = f && fwrite(length, 1, 8, f) == 8 && fwrite(json, 1, sizeof json - 1, f) == sizeof json - 1 &&
              fseeko(f, at, SEEK_SET) == 0 && fwrite(six, 4, 1, f) == 1;
    ok = f && fclose(f) == 0 && ok;
    if (!ok) {
        tap_skip("one tensor of 64 GiB", "no files of that size here");
        return;
    }
    npy_array a = {0};
    io_error note = "", err = "";
    ok = read_named(path, "y", NPY_F32, 1, &a, note, err) && !*note && *(float *)a.data == six[0];
    tap(scratch_no_error(ok, err), "only the tensor asked for is read");
    npy_free(&a);
    unlink(path);
}

static void test_non_finite(void)
{
    const float wild[] = {NAN, INFINITY, -INFINITY};
    const char *const word[] = {"tensor 'x': nan at [1, 2]", "tensor 'x': inf at [1, 2]",
                                "tensor 'x': -inf at [1, 2]"};
    for (int i = 0; i < 3; i++) {
        float kept = six[5];
        six[5] = wild[i];
        const char *path = put_st("{" F32("[2,3]", "[0,24]") "}", 24);
        six[5] = kept;
        tap(refused(path, word[i]), "%s", word[i]);
    }
}

static void test_deep_json(void)
{
    static char text[8 + 100000] = {(char)0xa0, (char)0x86, 1}; // 100000, little-endian
    memset(text + 8, '[', sizeof text - 8);
    scratch_put(scratch("deep"), text, sizeof text);
    tap(refused(scratch("deep"), "expected JSON"), "100000 brackets");
    /* Parsed, each number would take a hundred times its two bytes. */
    enum { MANY = 3 << 20 };
    char *header = malloc(8 + MANY);
    if (!header)
        return;
    memcpy(header, "\0\0\x30\0\0\0\0\0[", 9);
    for (int i = 9; i < 8 + MANY; i++)
        header[i] = i % 2 ? '1' : ',';
    header[8 + MANY - 1] = ']';
    scratch_put(scratch("header"), header, 8 + MANY);
    free(header);
    tap(refused(scratch("header"), "at most 1048576 values, found 1572"), "a header of 1.6 million numbers");
}

static void test_absurd_lengths(void)
{
    const char *path = scratch("length");
    static const struct {
        const char *bytes;
        size_t n;
        const char *word;
    } file[] = {
        {"", 0, "expected at least 8 bytes, found 0"},
        {"1234567", 7, "expected at least 8 bytes, found 7"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "at most 2 bytes, found a length of 18446744073709551615"},
        {"\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10, "at most 2 bytes, found a length of 9223372036854775807"},
        {"\3\0\0\0\0\0\0\0{}", 10, "at most 2 bytes, found a length of 3"},
        {"\2\0\0\0\0\0\0\1{}", 10, "at most 2 bytes"},
        {"\0\0\0\0\0\0\0\0", 8, "expected JSON"},
    };
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        scratch_put(path, file[i].bytes, file[i].n);
        tap(refused(path, file[i].word), "length of the header: %s", file[i].word);
    }
    /* A file with a hole takes no space: its header would have 101 MB. */
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite("\x40\x25\x05\x06\0\0\0\0", 1, 8, f) == 8 && fflush(f) == 0 &&
              ftruncate(fileno(f), 200000000) == 0;
    ok = f && fclose(f) == 0 && ok;
    tap(ok && refused(path, "at most 16777216 bytes, found a length of 101000512"),
        "a header above the limit");
    tap(refused(scratch("absent"), "No such file"), "a missing file");
    tap(refused(scratch("."), "found a directory"), "a directory");
}

static void test_damage(void)
{
    io_error err = "";
    const char *path = scratch("damaged");
    unsigned char *good = NULL;
    size_t bytes = 0, header = 0;
    bool ok = st_write(path, &sample, err) && io_read_file(path, 4096, &good, &bytes, err);
    if (!scratch_no_error(ok, err)) {
        tap(false, "a sample to damage");
        return;
    }
    header = 8 + good[0] + 256u * good[1];
    unsigned char bad[4096] = {0};
    for (size_t n = 0; n < bytes && ok; n++) {
        scratch_put(path, good, n);
        ok = refused(path, "");
    }
    tap(ok, "truncated at every byte");
    for (size_t n = bytes + 1; n < bytes + 9 && ok; n++) {
        memcpy(bad, good, bytes);
        scratch_put(path, bad, n);
        ok = refused(path, "overlong");
    }
    tap(ok, "overlong by 1 to 8 bytes");
    /* A flip inside a name makes another valid name; everything else must be noticed. */
    int accepted = 0;
    for (size_t bit = 0; bit < 8 * header && ok; bit++) {
        memcpy(bad, good, bytes);
        bad[bit / 8] ^= (unsigned char)(1 << bit % 8);
        scratch_put(path, bad, bytes);
        st_file f;
        *err = 0;
        bool read = st_read(path, &f, err);
        accepted += read;
        ok = read ? f.n_tensors == 4 || f.n_tensors == 5 : scratch_one_line(err, path, "");
        st_free(&f);
    }
    tap(ok && accepted < (int)(8 * header) / 2, "any one bit of the header flipped: other names or one line");
    tap_note("%d of %zu flips only changed a name or a text", accepted, 8 * header);
    free(good);
}

static bool not_written(const st_file *f, const char *word)
{
    io_error err = "";
    const char *path = scratch("kept.safetensors");
    scratch_put(path, "old", 3);
    int before = scratch_count();
    return !st_write(path, f, err) && scratch_one_line(err, path, word) && scratch_holds(path, "old", 3) &&
           scratch_count() == before;
}

static void test_refused_writes(void)
{
    static float wild[2] = {1, NAN};
    st_tensor twice[] = {{"x", 1, {1}, six}, {"x", 1, {1}, six}};
    st_tensor one = {"x", 1, {2}, wild};
    st_meta meta[] = {{"k", "1"}, {"k", "2"}};
    st_file f = {.n_tensors = 2, .tensor = twice};
    tap(not_written(&f, "distinct names"), "two tensors of one name");
    f = (st_file){.n_tensors = 1, .tensor = &one};
    tap(not_written(&f, "tensor 'x': nan at [1]"), "nan is not written over a good file");
    one = (st_tensor){"\xff", 1, {1}, six};
    tap(not_written(&f, "UTF-8"), "a name that is not UTF-8");
    one = (st_tensor){"__metadata__", 1, {1}, six};
    tap(not_written(&f, "distinct names"), "a tensor named __metadata__");
    one = (st_tensor){"x", 2, {INT64_MAX, 2}, six};
    tap(not_written(&f, "fit in memory"), "an impossible shape");
    f = (st_file){.n_meta = 2, .meta = meta};
    tap(not_written(&f, "distinct keys"), "one metadata key twice");
    meta[1] = (st_meta){"j", "\xff"};
    tap(not_written(&f, "UTF-8"), "metadata that is not UTF-8");
}

int main(void)
{
    if (!st_available()) {
        io_error err;
        tap(refused(scratch("absent"), "libjansson-dev"), "without jansson reading names the package");
        tap(!st_write(scratch("x"), &sample, err) && scratch_one_line(err, scratch("x"), "libjansson-dev"),
            "without jansson writing names the package");
        tap_skip("safetensors files", "built without jansson");
        return tap_done();
    }
    test_round_trip();
    test_writer_bytes();
    test_accepted();
    test_refused_headers();
    test_named();
    test_ranges();
    test_non_finite();
    test_deep_json();
    test_absurd_lengths();
    test_damage();
    test_refused_writes();
    return tap_done();
}
