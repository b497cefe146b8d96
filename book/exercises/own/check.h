/* What the two files of the check share: steps 1 to 8 are judged in check.c, the model in check_text.c. */
#ifndef MSA_OWN_CHECK_H
#define MSA_OWN_CHECK_H

#include "../exercise.h"
#include "own.h"

/** Step 9: the logits of a passage, then what follows it, or what follows `prompt` if there is one. */
void judge_text(const char *prompt);

#endif
