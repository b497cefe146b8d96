/* What float32 cannot hold is done in double. The rule is one for all stages: a kernel computes in float32
 * and lets every overflow show, as a row that is not finite; then each row in doubt, and no other, is done
 * again in double, as the reference does it. So ordinary calls pay for one look at their outputs, and NaN and
 * infinities end exactly where the reference has them. */
#ifndef MSA_EXACT_H
#define MSA_EXACT_H

#include "heads.h"

/* ---- Magnitudes --------------------------------------------------------------------------------------- */

/* Below this rounding to multiples of 2^-149 costs more than float32's own rounding, sums of thousands
 * included. */
#define FAINT 0x1p-100f

/* The largest |x|; infinity if one is NaN. */
float most_of(const float *x, int64_t n);
float most_of_halves(const uint16_t *x, int64_t n); /* bf16 */
/* The smallest |x| that is not 0; infinity where there is none. */
float least_of(const float *x, int64_t n);

/* ---- Attention ---------------------------------------------------------------------------------------- */

/* Looks through the outputs of a call and does again what is in doubt. ids NULL: every visible token. */
void attend_again(const msa_shape *s, const msa_pages *p, cached q, cached k, cached v, const int32_t *ids,
                  float *o, float *lse, void *work);
size_t attend_again_workspace(const msa_shape *s);

/* ---- Index -------------------------------------------------------------------------------------------- */

/* An index query brought to a range where no product with finite keys can overflow. The power of two that
 * does so keeps the order of the scores, and costs no bit but where the query itself spans more than
 * float32's exponents. What is left is that products vanish. */
typedef struct fitted {
    double unit;   /* the query is so many times what is multiplied */
    float least;   /* smallest magnitude that is multiplied */
    int64_t faint; /* blocks so far that scored next to nothing */
} fitted;

fitted fit_query(const float *q, int d, float *rows);
/* Counts a block's score. Tiles take what is below 2^-126 for 0, products included, which may matter to scores below 2^-95:
 * times TILES_HELD these are as faint as float32's. */
#define TILES_HELD 0x1p-27f
void fit_count(fitted *f, float score);

/* The keys that it met. */
typedef struct met_keys {
    cached ki;
    const request *at;
    int64_t n;
    float least; /* smallest magnitude; 0: not found yet, as few ask for it */
} met_keys;
/* Whether scores may not be what they seem, of which `most` may be faint. `rows` has room for HEADS_KEYS
 * keys. */
bool fit_doubtful(const fitted *f, int64_t most, met_keys *k, int d, float *rows);

/* Scores of the blocks up to the local one, in double, and what follows from them; either may be NULL. */
typedef struct chooser {
    double *m, *best;
    float *room;
} chooser;
chooser chooser_take(const msa_shape *s, arena *a);
void choose_again(const msa_shape *s, const request *where, int64_t at, const float *qi, cached ki, chooser c,
                  float *scores, int32_t *ids);

/* A row of a sequence, query row / groups of group row % groups, has met its keys: what its list says is written, after a
 * second look where that is in doubt. q [d]; index_tiles.c. */
void end_row(const msa_shape *s, const msa_seq *seq, int64_t row, const float *q, const best_list *best,
             const fitted *fit, met_keys *keys, chooser again, float *scores, int32_t *ids);

/* ---- Gradients ----------------------------------------------------------------------------------------- */

/* These are sums over many rows, so that the whole call is done again, with a few numbers a row for memory.
 */

/* Whether what is to be multiplied is so small that products vanish. */
bool backward_faint(const msa_shape *s, cached q, cached k, cached v, cached dout);
bool kl_faint(const msa_shape *s, cached qi, cached ki, double weight);
/* Whether float32 held the results. */
bool backward_held(const msa_shape *s, const float *dq, const float *dk, const float *dv);
bool kl_held(const msa_shape *s, double loss, const float *dqi, const float *dki);

void backward_again(const msa_shape *s, cached q, cached k, cached v, const int32_t *ids, cached dout,
                    float *dq, float *dk, float *dv, void *work);
size_t backward_again_workspace(const msa_shape *s);
void kl_again(const msa_shape *s, cached q, cached k, cached qi, cached ki, const int32_t *ids, double weight,
              double *loss, float *dqi, float *dki, void *work);
size_t kl_again_workspace(const msa_shape *s);

#endif
