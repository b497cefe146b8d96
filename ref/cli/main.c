/* The program `msa`: finds the subcommand and runs it. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ranks.h"

static const struct {
    const char *name;
    cli_command *run;
    const char *summary;
} commands[] = {
#define COMMAND(name, summary) {#name, cmd_##name, summary},
#include "commands.def"
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static cli_command *find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return commands[i].run;
    return NULL;
}

static int unknown(const char *name)
{
    return cli_fail(NULL, "expected a command that 'msa help' lists, found '%s'", name);
}

int cmd_version(int argc, char **argv)
{
    static const cli_option none[] = {{0}};
    int status = cli_parse(argc, argv, none, NULL);
    if (status == 0)
        printf("msa %s\n", MSA_VERSION);
    return status;
}

int cmd_help(int argc, char **argv)
{
    static const cli_option none[] = {{0}};
    cli_list words = {0};
    int status = cli_parse(argc, argv, none, &words);
    if (status)
        return status;
    for (int i = 0; i < words.n; i++)
        if (!find(words.item[i]))
            return unknown(words.item[i]);
    for (int i = 0; i < words.n; i++) {
        char name[32], option[] = "--help", *args[] = {name, option, NULL};
        snprintf(name, sizeof name, "%s", words.item[i]);
        find(name)(2, args);
    }
    if (words.n == 0) {
        printf("usage: msa COMMAND [OPTION...]\n\n");
        for (size_t i = 0; i < N_COMMANDS; i++)
            printf("  %-10s %s\n", commands[i].name, commands[i].summary);
        printf("\n'msa help COMMAND' shows the options. A tensor F is a .npy file in C order or one tensor "
               "of a\n"
               "file, FILE.safetensors:NAME; float64, float16, bfloat16 and int64 are converted.\n");
    }
    return 0;
}

/* A closed standard descriptor would be given to the next file that is opened, and what is printed would end
 * up in it. Opened the wrong way round, it fails as a closed one does. */
static void fill_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            _exit(2);
}

/* Without memory for its threads OpenMP says so in a line of its own and exits with 1, which is a verdict
 * here. */
static bool returned;

static void correct_exit(void)
{
    if (returned)
        return;
    io_abandon();
    _exit(2);
}

static int run_command(int argc, char **argv)
{
    if (!cli_same_command(argc < 2 ? "" : argv[1]))
        return 2;
    if (argc < 2)
        return cli_fail(NULL, "expected a command that 'msa help' lists, found none");
    const char *name = strcmp(argv[1], "--help") == 0      ? "help"
                       : strcmp(argv[1], "--version") == 0 ? "version"
                                                           : argv[1];
    cli_command *run = find(name);
    if (!run)
        return unknown(name);
    if (transport_world() && transport_world()->ranks > 1 && !cli_takes_ranks(name))
        return cli_fail(
            name,
            "expected one process, found %d: mpirun can have forward, backward, dense, decode and train",
            transport_world()->ranks);
    cli_keep_will(name, "");
    cli_start_threads();
    return run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    fill_descriptors();
    cli_start_ranks();
    signal(SIGXFSZ, SIG_IGN); /* a file at its limit is an error of write(2), with a line */
    atexit(correct_exit);
    int status = cli_agree(run_command(argc, argv));
    returned = true;
    io_abandon(); /* what a command began and could not end */
    if (status < 0)
        status = 0; /* --help was asked for and given */
    /* ferror: one line lost among others that arrived. */
    const bool lost = ferror(stdout) != 0;
    if ((fclose(stdout) != 0 || lost) && status < 2)
        status = cli_fail(argc < 2 ? NULL : argv[1], CLI_STDOUT_LOST);
    transport_leave();
    return status;
}
