/* The table of stages.def for code that walks it: what there is of an array, and what a stage reads and
 * writes. */
#ifndef MSA_STAGES_H
#define MSA_STAGES_H

#include "msa.h"

typedef enum array_id {
#define ARRAY(NAME, name, sizes, element) ARRAY_##NAME,
#include "stages.def"
    ARRAY_N
} array_id;

/* A stage by the name that tables of kernels call it. */
enum {
#define STAGE(NAME, name, ...) STAGE_##name = MSA_STAGE_##NAME,
#include "stages.def"
};

typedef enum element_kind { ELEMENT_HALF, ELEMENT_FLOAT, ELEMENT_INTEGER } element_kind;

/* What there is of an array and of a stage. The library shows both tables, from which ref/python makes a function a
 * stage: they end with an entry without a name. */
typedef struct array_line {
    const char *name, *sizes;
    element_kind element;
} array_line;
typedef struct stage_line {
    const char *name;
    unsigned in, out, optional; /* sets of arrays; optional: of both, those that may be NULL */
} stage_line;
extern const array_line msa_array_lines[ARRAY_N + 1];
extern const stage_line msa_stage_lines[MSA_N_STAGES + 1];

const char *array_name(array_id a);
/* A letter a dimension. */
const char *array_sizes(array_id a);
element_kind array_element(array_id a);
/* Whether an implementation of bf16 tensors reads it as bf16: all but O, which it may leave as float32. */
bool array_is_half(array_id a);
/* Its sizes; of fewer than three, the first are 1. */
void array_dims(const msa_shape *s, array_id a, int64_t dim[3]);
/* How many elements it has in a call; with p, keys lie in pages. */
int64_t array_count(const msa_shape *s, const msa_pages *p, array_id a);
/* Where it lies; putting it there; and the member that says so. */
void *array_get(const msa_arrays *arrays, array_id a);
void array_set(msa_arrays *arrays, array_id a, const void *at);
void *array_place(msa_arrays *arrays, array_id a);

/* NULL, as the stages' functions take it, is a call without pages. */
static inline msa_pages pages_of(const msa_pages *p)
{
    const msa_pages none = {0, NULL, NULL, NULL, NULL, 0};
    return p ? *p : none;
}

/* Whether a call says anything of pages; then it has to say all of it. */
static inline bool has_pages(const msa_arrays *a)
{
    return a->pages.table || a->pages.lens || a->pages.n_pages;
}

/* The number that a letter of stages.def stands for, and what it is called where sizes are shown: "Hq". */
int64_t msa_size_of_letter(const msa_shape *s, char letter);
const char *msa_name_of_letter(char letter);

/* Sets of arrays. */
#define ARRAY_BIT(NAME) (1u << ARRAY_##NAME)
#define HAS(set, a) ((set) >> (a)&1u)
stage_line arrays_of(msa_stage stage);

/* Whether it is a step of generation, whose keys may lie in pages. */
static inline bool stage_is_step(msa_stage stage)
{
    return stage == MSA_STAGE_DECODE || stage == MSA_STAGE_DENSE_DECODE;
}

/* Whether one that the stage has to have is NULL. */
bool arrays_missing(msa_stage stage, const msa_arrays *arrays);

/* "STAGE/NAME", which it returns. */
#define KERNEL_NAME 96
const char *kernel_name(const msa_kernel *kernel, char name[KERNEL_NAME]);

#endif
