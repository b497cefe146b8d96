/* What the files of host/ share about the kernels of kernels.def. */
#ifndef MSA_PLAN_H
#define MSA_PLAN_H

#include "../../ref/stages.h"
#include "msa_cuda.h"

/* What a kernel takes, a bit for each word of takes.def. */
enum {
#define TAKES(word, ...) TAKES_BIT_##word,
#include "../takes.def"
};
enum {
#define TAKES(word, ...) TAKES_##word = 1 << TAKES_BIT_##word,
#include "../takes.def"
};

/* What the kernel "STAGE/NAME" of kernels.def takes; of another, nothing. */
unsigned plan_takes(const char *name);
/* The oldest architecture that has its instructions: 80 or 90; of another, 0. */
int plan_sm(const char *name);

/* The same in words: "di 64 or 128, k <= 32", or "any shape" where there is nothing to say. */
const char *plan_text(const char *name);
/* Those sizes of a shape that these words speak of: "di 8, k 64". Returns `text`. */
char *plan_sizes(const char *name, const msa_shape *s, char *text, size_t size);

#endif
