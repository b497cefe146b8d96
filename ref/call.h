/* From the arrays of a call to the arguments of a stage's function: call_dense(f, s, a, work) and so on for
 * each row of stages.def. */
#ifndef MSA_CALL_H
#define MSA_CALL_H

#include "stages.h"

#define OUT(name) (void *)(uintptr_t)a->name
#define PAGES has_pages(a) ? &a->pages : NULL
#define STAGE(NAME, name, idea, in, out, optional, ...)                                                      \
    static inline msa_status call_##name(msa_##name##_fn *f, const msa_shape *s, const msa_arrays *a,        \
                                         void *work)                                                         \
    {                                                                                                        \
        return f(__VA_ARGS__);                                                                               \
    }
#include "stages.def"
#undef OUT
#undef PAGES

/* An entry's run, which calls that function of the entry's stage. */
#define RUN(stage, function)                                                                                 \
    static msa_status function##_run(const msa_shape *s, const msa_arrays *a, void *work)                    \
    {                                                                                                        \
        return a ? call_##stage(function, s, a, work) : MSA_ERR_NULL;                                        \
    }

#endif
