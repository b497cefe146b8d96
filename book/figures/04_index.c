/* Index scores of tokens and of blocks. */
#include "blocks.h"

int main(void)
{
    return blocks(0);
}
