/* What chapter 11's figure steps through: each access to the scores of one CTA, with what its thread knows of the warps,
 * as the engine had them in four runs. A script on standard output. */
#include "../examples/index_text.h"

enum { WARPS = KEYS / 32 };

static void see(void *context, const simt_access *a)
{
    int *n = context;
    if (!a->shared || a->bytes != sizeof(float)) /* keys and the query are bf16 */
        return;
    /* The scores begin at a multiple of what they take. */
    printf("%s[%u,%u,%d,%u,%u", (*n)++ ? "," : "", a->thread, (unsigned)(a->address / sizeof(float) % KEYS), a->write,
           a->line, (unsigned)a->stamp);
    for (int warp = 0; warp < WARPS; warp++)
        printf(",%u", (unsigned)a->clock[warp]);
    printf("]");
}

static void record(const msa_device *engine, const index_text *x, enum version v, int order, const char *title)
{
    int n = 0;
    printf("{title:\"%s\",accesses:[", title);
    simt_watch(see, &n);
    const char *report = attempt(engine, x, v, order, 0, 1);
    simt_watch(NULL, NULL);
    printf("],report:\"");
    for (; report && *report; report++)
        putchar(*report == '\n' || *report == '"' ? ' ' : *report);
    printf("\"},\n");
}

int main(void)
{
    engine_needed();
    const msa_device *engine = table_device("simt");
    index_text x = begin_text(engine, 1);
    printf("lab.recordings[\"11_engine\"] = [\n");
    record(engine, &x, COPIED, 0, "right, forward");
    record(engine, &x, COPIED, 2, "right, at random");
    record(engine, &x, NO_BARRIER, 0, "no barrier, forward");
    record(engine, &x, NO_BARRIER, 1, "no barrier, reverse");
    printf("];\n");
    end_text(engine, &x);
    return 0;
}
