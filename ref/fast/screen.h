/* Screening by 8-bit index keys: what is the same whatever multiplies. */
#ifndef MSA_SCREEN_H
#define MSA_SCREEN_H

#include "heads.h"

/* The copy of sequence r's complete blocks, on all threads; ki [S,di]. */
void screen_copy(const msa_shape *s, int r, cached ki, const msa_index8 *to, void *work);
size_t screen_copy_workspace(const msa_shape *s);

/* The smallest magnitude in sequence r's complete blocks that is not 0: no row asks for other keys. */
float screen_least(const msa_shape *s, int r, const msa_index8 *copy);

void screening_add(msa_screening *sum, const msa_screening *own);

#endif
