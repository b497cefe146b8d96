/* What stages.def says, as a table. */
#include "stages.h"

#include <stdio.h>
#include <string.h>

const array_line msa_array_lines[ARRAY_N + 1] = {
#define ARRAY(NAME, name, sizes, element) {#name, sizes, ELEMENT_##element},
#include "stages.def"
};

/* msa_arrays begins with them, in this order. */
#define ARRAY(NAME, name, sizes, element)                                                                    \
    _Static_assert(offsetof(msa_arrays, name) == ARRAY_##NAME * sizeof(void *), #name " has another place");
#include "stages.def"

const stage_line msa_stage_lines[MSA_N_STAGES + 1] = {
#define A ARRAY_BIT
#define STAGE(NAME, name, idea, in, out, optional, ...) {#name, in, out, optional},
#include "stages.def"
#undef A
};

const char *msa_stage_name(msa_stage stage)
{
    return stage >= 0 && stage < MSA_N_STAGES ? msa_stage_lines[stage].name : "unknown";
}

const char *msa_array_name(int i)
{
    return i >= 0 && i < ARRAY_N ? msa_array_lines[i].name : NULL;
}

const char *array_name(array_id a)
{
    return msa_array_lines[a].name;
}

const char *array_sizes(array_id a)
{
    return msa_array_lines[a].sizes;
}

element_kind array_element(array_id a)
{
    return msa_array_lines[a].element;
}

bool array_is_half(array_id a)
{
    return array_element(a) == ELEMENT_HALF && a != ARRAY_O;
}

int64_t msa_size_of_letter(const msa_shape *s, char letter)
{
    switch (letter) {
    case 'T':
        return s->n_q;
    case 'S':
        return s->n_kv;
    case 'H':
        return s->n_heads;
    case 'G':
        return s->n_kv_heads;
    case 'd':
        return s->d_head;
    case 'i':
        return s->d_index;
    case 'k':
        return s->topk;
    case 'B':
        return msa_n_blocks(s);
    case 'F':
        return msa_n_blocks(s) + 1;
    case 't':
        return msa_get_seq(s, 0).n_q;
    case 'R':
        return msa_n_seqs(s);
    case 'W':
        return msa_first_item(s, msa_n_seqs(s));
    default:
        return letter - '0';
    }
}

const char *msa_name_of_letter(char letter)
{
    static const struct {
        char letter;
        const char *name;
    } names[] = {{'H', "Hq"}, {'G', "Hkv"}, {'d', "dh"}, {'i', "di"}, {'t', "Tq"},  {'T', "T"}, {'S', "S"},
                 {'k', "k"},  {'B', "B"},   {'R', "R"},  {'W', "W"},  {'F', "B+1"}, {'4', "4"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].letter == letter)
            return names[i].name;
    return NULL;
}

void array_dims(const msa_shape *s, array_id a, int64_t dim[3])
{
    const int n = (int)strlen(msa_array_lines[a].sizes);
    for (int i = 0; i < 3; i++)
        dim[i] = i < 3 - n ? 1 : msa_size_of_letter(s, msa_array_lines[a].sizes[i - (3 - n)]);
}

int64_t array_count(const msa_shape *s, const msa_pages *p, array_id a)
{
    int64_t n = 1;
    for (const char *c = msa_array_lines[a].sizes; *c; c++)
        n *= p && *c == 'S' ? p->n_pages * (p->page ? p->page : s->block) : msa_size_of_letter(s, *c);
    return n;
}

void *array_get(const msa_arrays *from, array_id a)
{
    void *at;
    memcpy(&at, (const char *)from + (size_t)a * sizeof at, sizeof at);
    return at;
}

void *array_place(msa_arrays *of, array_id a)
{
    return (char *)of + (size_t)a * sizeof(void *);
}

void array_set(msa_arrays *to, array_id a, const void *at)
{
    memcpy(array_place(to, a), &at, sizeof at);
}

stage_line arrays_of(msa_stage stage)
{
    return msa_stage_lines[stage];
}

bool arrays_missing(msa_stage stage, const msa_arrays *given)
{
    const stage_line all = arrays_of(stage);
    for (array_id a = 0; a < ARRAY_N; a++)
        if (HAS((all.in | all.out) & ~all.optional, a) && !array_get(given, a))
            return true;
    return false;
}

const char *kernel_name(const msa_kernel *kernel, char name[KERNEL_NAME])
{
    snprintf(name, KERNEL_NAME, "%s/%s", msa_stage_name(kernel->stage), kernel->name);
    return name;
}
