/* Chapter 10: where the stages of MSA lie under the roofs of a GPU, and what its parts count. */
#include "10_machine.h"
#include "engine.h"
#include "stages.h"

static void print_roofline(void)
{
    const roofline_gpu *gpu = &roofline_gpus[0];
    stage_point p[STAGES];
    stages_of(p);
    printf("one layer of M3, %d tokens; %s: %.0f operations a byte; %s: %.0f\n", STAGE_TOKENS, gpu->name,
           gpu->flops / gpu->bytes, roofline_gpus[1].name, roofline_gpus[1].flops / roofline_gpus[1].bytes);
    printf("%-44s %10s %10s %8s   estimate, ms\n", "", "operations", "bytes", "op/byte");
    for (int i = 0; i < STAGES; i++) {
        /* [estimate] */
        const double products = p[i].operations / gpu->flops, moving = p[i].bytes / gpu->bytes;
        const double seconds = products > moving ? products : moving;
        /* [estimate] */
        printf("%-44s %10.2e %10.2e %8.1f %10.3g %s\n", p[i].name, p[i].operations, p[i].bytes, p[i].operations / p[i].bytes,
               1e3 * seconds, products > moving ? "products" : "memory");
    }
    msa_shape s = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};
    msa_cost_row row;
    must(msa_cost(&s, STAGE_TOKENS, &row));
    printf("dense over MSA: %.2f in operations (msa_cost)\n", row.flop_ratio);
}

static void print_sectors(void)
{
    static const struct {
        int bytes, stride;
    } access[] = {{2, 1}, {4, 1}, {16, 1}, {4, 2}, {4, 8}, {2, 64}, {4, 32}};
    const msa_device *engine = table_device("simt");
    void *in = engine->alloc(32 * 64 * 16), *out = engine->alloc(32 * 16);
    engine->fill(in, 0, 32 * 64 * 16);
    printf("\na warp loads 32 words; words are 'stride' words apart\nbytes a word  stride  bytes used  sectors  bytes moved\n");
    for (size_t i = 0; i < sizeof access / sizeof *access; i++) {
        machine_strided(access[i].bytes, access[i].stride, in, out);
        const simt_counters *n = simt_counts();
        printf("%12d %7d %11d %8d %12d\n", access[i].bytes, access[i].stride, (int)n->load_bytes, (int)n->load_sectors,
               32 * (int)n->load_sectors);
    }
    engine->free(in);
    engine->free(out);
}

static void print_banks(void)
{
    static const int stride[] = {0, 1, 2, 4, 16, 31, 32, 33};
    float out[32];
    printf("\na warp reads 32 words of shared memory\nstride      ");
    for (size_t i = 0; i < sizeof stride / sizeof *stride; i++)
        printf("%5d", stride[i]);
    printf("\npasses      ");
    for (size_t i = 0; i < sizeof stride / sizeof *stride; i++) {
        machine_banks(stride[i], out);
        printf("%5d", 1 + (int)simt_counts()->shared_conflicts);
    }
    printf("\n");
}

static void print_products(void)
{
    static const int width[] = {8, 64, 128, 256};
    float out[128];
    printf("\none wgmma, 64 x 16 times 16 x n\nn           ");
    for (int i = 0; i < 4; i++)
        printf("%8d", width[i]);
    printf("\nmultiply-adds");
    for (int i = 0; i < 4; i++) {
        machine_product(width[i], out);
        printf("%*d", i ? 8 : 7, (int)simt_counts()->tensor_fma);
    }
    printf("\nat 2048 a clock");
    for (int i = 0; i < 4; i++)
        printf("%*d", i ? 8 : 5, 64 * 16 * width[i] / 2048);
    printf("\n");
}

static void print_ring(void)
{
    static const int stages[] = {1, 2, 3, 4, 6};
    const simt_model model = simt_costs();
    const msa_device *engine = table_device("simt");
    const size_t bytes = MACHINE_TILES * MACHINE_TILE_BYTES;
    float *in = engine->alloc(bytes), *out = engine->alloc(128 * sizeof *out);
    engine->fill(in, 0, bytes);
    printf("\n%d tiles of 8 KiB through a ring, on the engine's model clock\n(copies: %.0f bytes a clock, %.0f clocks until they land)\n"
           "stages   clocks   bytes a clock\n",
           MACHINE_TILES, model.copy_bytes, model.copy_latency);
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        size_t n;
        double end = 0;
        simt_record(0);
        machine_stream(stages[i], in, out);
        simt_record(-1);
        const simt_event *e = simt_events(&n);
        for (size_t a = 0; a < n; a++)
            end = e[a].end > end ? e[a].end : end;
        printf("%6d %8.0f %15.1f\n", stages[i], end, (double)bytes / end);
    }
    engine->free(in);
    engine->free(out);
}

int main(void)
{
    print_roofline();
    engine_needed();
    print_sectors();
    print_banks();
    print_products();
    print_ring();
    return 0;
}
