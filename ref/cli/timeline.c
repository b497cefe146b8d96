#include "cli.h"
int cmd_timeline(int argc, char **argv)
{
    (void)argc;
    return cli_fail(argv[0], "not yet");
}
