/* The blocks that are kept. */
#include "blocks.h"

int main(void)
{
    return blocks(1);
}
