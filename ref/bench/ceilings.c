/* What the machine can do: a large matrix product and a large copy. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "../fast/amx_kernels.h"
#include "../internal.h"
#include "timing.h"

#define CPU_SIZE 2048
#define GPU_SIZE 8192
#define USUAL_CACHE ((size_t)32 << 20)
#define PIECE 4096 /* words that are read at a time */
#define LINE 16
#define LARGE ((size_t)256 << 20) /* bytes of a copy at least: the source is as large as this */

/* ---- What it is ------------------------------------------------------------------------------------ */

static void read_cpu_name(char *name, size_t size)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(name, size, "CPU");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            const char *text = strchr(line, ':') + 1;
            text += strspn(text, " ");
            snprintf(name, size, "%.*s", (int)strcspn(text, "\n"), text);
            break;
        }
    if (f)
        fclose(f);
}

static size_t cache_of_cpu(void)
{
    long bytes = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return bytes > 0 ? (size_t)bytes : USUAL_CACHE;
}

static int threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

msa_about timing_about_cpu(void)
{
    msa_about about = {.cache = cache_of_cpu()};
    char name[96];
    read_cpu_name(name, sizeof name);
    snprintf(about.name, sizeof about.name, "%s, %d thread%s", name, threads(), threads() > 1 ? "s" : "");
    return about;
}

/* ---- A CPU ----------------------------------------------------------------------------------------- */

static void draw(float *x, int64_t n, uint64_t seed)
{
    inputs_rng rng = {seed};
    for (int64_t i = 0; i < n; i++)
        x[i] = inputs_normal(&rng);
}

static double cpu_product(double seconds)
{
    const int64_t n = CPU_SIZE;
    float *a = malloc((size_t)(3 * n * n) * sizeof *a);
    int runs = 0;
    if (!a)
        return 0;
    draw(a, 3 * n * n, 1);
    msa_fast_ops.gemm(false, false, n, n, n, a, a + n * n, 0, a + 2 * n * n);
    const double start = timing_now();
    for (; runs < 3 || timing_now() - start < seconds; runs++)
        msa_fast_ops.gemm(false, false, n, n, n, a, a + n * n, 0, a + 2 * n * n);
    const double elapsed = timing_now() - start;
    free(a);
    return 2e-12 * (double)n * (double)n * (double)n * runs / elapsed;
}

#define TILE_SIZE 1024                  /* bytes */
#define TILE_FLOPS (2.0 * 16 * 16 * 32) /* of a product of two */
#define AT_ONCE 1000                    /* times four products before the clock is asked */

/* Tiles of normal numbers in bf16. */
static void *draw_tiles(size_t bytes)
{
    uint16_t *x = aligned_alloc(64, bytes);
    inputs_rng rng = {1};
    for (size_t i = 0; x && i < bytes / sizeof *x; i++)
        x[i] = msa_bf16_bits(inputs_normal(&rng));
    return x;
}

/* Over memory. */
static double cpu_tile_product(double seconds)
{
    const int64_t n = CPU_SIZE;
    const size_t bytes = (size_t)(n * n) * sizeof(uint16_t);
    void *a = draw_tiles(bytes), *b = draw_tiles(bytes);
    float *c = calloc((size_t)(n * n), sizeof *c);
    double tflops = 0;
    int runs = 0;
    if (a && b && c) {
        amx_matrices(n, a, b, c);
        const double start = timing_now();
        for (; runs < 3 || timing_now() - start < seconds; runs++)
            amx_matrices(n, a, b, c);
        tflops = 2e-12 * (double)n * (double)n * (double)n * runs / (timing_now() - start);
    }
    free(a);
    free(b);
    free(c);
    return tflops;
}

/* In registers, on all cores. */
static double cpu_tile_rate(double seconds)
{
    void *factor = draw_tiles(4 * TILE_SIZE);
    double tflops = 0;
    if (factor) {
        int64_t done = 0;
        const double start = timing_now();
#pragma omp parallel reduction(+ : done)
        {
            _Alignas(64) unsigned char sum[4 * TILE_SIZE];
            for (; done == 0 || timing_now() - start < seconds; done += 4 * AT_ONCE)
                amx_products(AT_ONCE, factor, (void *)sum);
        }
        tflops = 1e-12 * TILE_FLOPS * (double)done / (timing_now() - start);
    }
    free(factor);
    return tflops;
}

/* Every thread copies a part. */
static void copy_all(unsigned char *to, const unsigned char *from, size_t bytes)
{
    const size_t piece = (size_t)1 << 20;
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < bytes; at += piece)
        memcpy(to + at, from + at, at + piece < bytes ? piece : bytes - at);
}

static double cpu_copy(double seconds)
{
    const size_t large = 4 * cache_of_cpu(), bytes = large > LARGE ? large : LARGE;
    unsigned char *from = malloc(bytes), *to = malloc(bytes);
    double gbps = 0;
    int runs = 0;
    if (from && to) {
        memset(from, 1, bytes);
        copy_all(to, from, bytes);
        const double start = timing_now();
        for (; runs < 3 || timing_now() - start < seconds; runs++)
            copy_all(to, from, bytes);
        gbps = 2e-9 * (double)bytes * runs / (timing_now() - start);
    }
    free(from);
    free(to);
    return gbps;
}

/* Every thread adds up a part, piece by piece in lines of LINE sums, which the compiler makes vectors of. */
static uint64_t read_all(const uint64_t *x, size_t n)
{
    uint64_t total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
    for (size_t at = 0; at < n; at += PIECE) {
        uint64_t sum[LINE] = {0};
        for (size_t i = at; i < at + PIECE; i += LINE)
            for (size_t l = 0; l < LINE; l++)
                sum[l] += x[i + l];
        for (size_t l = 0; l < LINE; l++)
            total += sum[l];
    }
    return total;
}

static double cpu_read(double seconds)
{
    const size_t large = 4 * cache_of_cpu(), bytes = large > LARGE ? large : LARGE;
    uint64_t *from = malloc(bytes), seen = 0;
    double gbps = 0;
    int runs = 0;
    if (from) {
        memset(from, 1, bytes);
        seen = read_all(from, bytes / sizeof *from);
        const double start = timing_now();
        for (; runs < 3 || timing_now() - start < seconds; runs++)
            seen += read_all(from, bytes / sizeof *from);
        gbps = 1e-9 * (double)bytes * runs / (timing_now() - start);
    }
    free(from);
    return seen ? gbps : 0; /* what was read is of use, so the compiler may not leave it out */
}

/* ---- A device -------------------------------------------------------------------------------------- */

/* A piece of work for a device to do in turn. */
typedef msa_status device_work(const msa_device *device, void *const *buffer, size_t bytes);

/* Seconds a piece when n follow each other; negative if one failed. */
static double device_seconds(const msa_device *device, device_work *work, void *const *buffer, size_t bytes,
                             int n)
{
    double ms = 0;
    msa_status status = device->mark(0, NULL);
    for (int i = 0; i < n && status == MSA_OK; i++)
        status = work(device, buffer, bytes);
    if (status == MSA_OK)
        status = device->mark(1, NULL);
    if (status == MSA_OK)
        status = device->between(0, 1, &ms);
    return status == MSA_OK ? 1e-3 * ms / n : -1;
}

static double sustained(const msa_device *device, device_work *work, void *const *buffer, size_t bytes,
                        double seconds)
{
    double once = device_seconds(device, work, buffer, bytes, 1); /* the first loads the library */
    once = once > 0 ? device_seconds(device, work, buffer, bytes, 3) : once;
    if (once <= 0)
        return 0;
    const double n = seconds / once;
    return device_seconds(device, work, buffer, bytes, n < 3 ? 3 : (int)n);
}

static msa_status work_copy(const msa_device *device, void *const *buffer, size_t bytes)
{
    return device->copy(buffer[0], buffer[1], bytes);
}

static msa_status work_product(const msa_device *device, void *const *buffer, size_t bytes)
{
    (void)bytes;
    return device->product(GPU_SIZE, buffer[0], buffer[1], buffer[2]);
}

/* Normal numbers in bf16 for the first two matrices. */
static bool draw_matrices(const msa_device *device, void *const *buffer, size_t bytes)
{
    uint16_t *x = malloc(bytes);
    inputs_rng rng = {1};
    bool ok = x != NULL;
    for (int j = 0; j < 2 && ok; j++) {
        for (size_t i = 0; i < bytes / 2; i++)
            x[i] = msa_bf16_bits(inputs_normal(&rng));
        ok = device->upload(buffer[j], x, bytes) == MSA_OK;
    }
    free(x);
    return ok;
}

static ceilings device_ceilings(const msa_device *device, double seconds)
{
    const size_t matrix = (size_t)GPU_SIZE * GPU_SIZE * 2, copy = (size_t)1 << 30;
    ceilings c = {0};
    void *buffer[3];
    bool ok = true;
    for (int i = 0; i < 3; i++) {
        buffer[i] = device->alloc(i < 2 ? copy : matrix);
        ok = ok && buffer[i];
    }
    if (ok) {
        device->fill(buffer[1], 1, copy);
        const double copying = sustained(device, work_copy, buffer, copy, seconds);
        c.copy_gbps = copying > 0 ? 2e-9 * (double)copy / copying : 0;
        const double product = draw_matrices(device, buffer, matrix)
                                   ? sustained(device, work_product, buffer, matrix, seconds)
                                   : 0;
        c.bf16_tflops = product > 0 ? 2e-12 * GPU_SIZE * GPU_SIZE * (double)GPU_SIZE / product : 0;
    }
    for (int i = 0; i < 3; i++)
        if (buffer[i])
            device->free(buffer[i]);
    return c;
}

ceilings ceilings_of(const msa_device *device, double seconds)
{
    if (device)
        return device_ceilings(device, seconds);
    ceilings c = {.tiles = amx_at_hand()}; /* asked for before threads use them */
    c.f32_tflops = cpu_product(seconds);
    c.bf16_tflops = cpu_tile_product(seconds);
    c.register_tflops = cpu_tile_rate(seconds);
    c.copy_gbps = cpu_copy(seconds);
    c.read_gbps = cpu_read(seconds);
    return c;
}
