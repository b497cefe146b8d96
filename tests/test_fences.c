/* What a kernel writes behind an array is found by the fence there, and the array named. The engine would
 * stop such a store itself, so this one is made when the kernel has run. */
#include "support/check.h"

#ifndef HAVE_SIMT
int main(void)
{
    tap_skip("fences behind arrays", "no C++ compiler here");
    return tap_done();
}
#else
#include <string.h>

#include "../cuda/host/host.h"

static const msa_device *engine;
static msa_device writer; /* the same, but writes where it should not */
#define msa_engine() (&writer)
#define host_kernels kernels_of
#define host_index8 index8_of
#include "../cuda/host/host.c"

static int64_t written; /* this byte of O */

static msa_status run_and_write(const struct msa_entry *entry, const msa_shape *s, msa_dtype type,
                                const msa_arrays *a, void *work, void *stream)
{
    const msa_status status = engine->run(entry, s, type, a, work, stream);
    ((unsigned char *)a->o)[written] = 0;
    return status;
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    check_case c = check_begin("a byte written behind an array is found, and the array named");
    const msa_shape s = {1, 40, 2, 1, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};
    const int64_t bytes = s.n_q * s.n_heads * s.d_head * 4;
    const struct {
        int64_t byte;
        msa_status expected;
    } cases[] = {{bytes - 1, MSA_OK}, {bytes, MSA_ERR_DEVICE}, {bytes + FENCE - 1, MSA_ERR_DEVICE}};
    engine = (msa_engine)();
    writer = *engine;
    writer.run = run_and_write;
    inputs in;
    float o[2 * 64], lse[2];
    if (!inputs_new(&in, &s, INPUTS_NORMAL, check_seed(0)))
        return 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        written = cases[i].byte;
        const msa_status status = kernels_of("simt")->run(
            &s, &(msa_arrays){.q = in.q, .k = in.k, .v = in.v, .o = o, .lse = lse}, NULL);
        check_true(&c, status == cases[i].expected, "byte %lld: %s", (long long)written,
                   msa_strerror(status));
        check_true(&c, status == MSA_OK || strcmp(engine->trouble(), "written outside o") == 0, "%s",
                   engine->trouble());
    }
    inputs_free(&in);
    check_end(&c);
    return check_done();
}
#endif
