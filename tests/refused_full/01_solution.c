/* wants: was not run, since it includes book/exercises/01_attention/solution.c */
#include "solution.c"
