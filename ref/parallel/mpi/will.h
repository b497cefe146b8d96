/* Who says that a rank has died: will.c. */
#ifndef MSA_WILL_H
#define MSA_WILL_H

#include "../transport.h"

/* All ranks of mpirun together. */
void will_open(void);

#endif
