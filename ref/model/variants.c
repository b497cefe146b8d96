/* Departures from MSA, to see what its choices are worth: each replaces an entry of the table. The selectors are
 * ref/fast/index_selectors.c. */
#include <string.h>

#include "../call.h"
#include "../fast/selectors.h"
#include "../internal.h"
#include "internal.h"

const char model_selector_help[] = "NAME of a rule by which blocks are chosen: max"
#define SELECTOR(NAME, name, learned, words) ", " #name
#include "../fast/selectors.def"
    ;

model_selector model_selector_named(const char *name)
{
    int i = 0;
    if (strcmp(name, "max") == 0)
        return SELECTOR_MAX;
    while (index_selectors[i].name && strcmp(index_selectors[i].name, name) != 0)
        i++;
    return (model_selector)(i + 1);
}

RUN(kl, msa_kl_reverse)
CHECKED_WORKSPACE(kl)
static const msa_kernel reverse_kl_kernel = {.stage = MSA_STAGE_KL,
                                             .name = "reverse",
                                             .backend = "ref",
                                             .constraints = "any shape",
                                             .idea = "KL(u || t) in double",
                                             .workspace = kl_checked,
                                             .run = msa_kl_reverse_run};

const msa_ops *variant_ops(const model_config *c, const msa_ops *ops, msa_ops *own)
{
    if (!c->selector && !c->reverse_kl)
        return ops;
    *own = *ops;
    if (c->selector)
        own->stage[MSA_STAGE_INDEX] = &index_selectors[c->selector - 1];
    if (c->reverse_kl)
        own->stage[MSA_STAGE_KL] = &reverse_kl_kernel;
    return own;
}
