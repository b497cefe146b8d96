/**
 * @file test_io_file.c
 * @brief Whole files: a target is its old self or its new one whatever goes wrong, and nothing else is left
 * behind.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../ref/io/io.h"
#include "support/scratch.h"
#include "support/tap.h"

static bool put(const char *path, const char *text, io_error err)
{
    const io_chunk chunk = {text, strlen(text)};
    return io_write_file(path, &chunk, 1, err);
}

/* ---- Reading and writing ----------------------------------------------------------------------- */

static void test_write_and_read(void)
{
    io_error err = "";
    const char *path = scratch("file");
    const io_chunk chunks[] = {{"one ", 4}, {NULL, 0}, {"two", 3}};
    tap(scratch_no_error(io_write_file(path, chunks, 3, err) && scratch_holds(path, "one two", 7), err),
        "chunks in order");
    tap(scratch_no_error(put(path, "new", err) && scratch_holds(path, "new", 3), err), "a file is replaced");
    tap(scratch_no_error(io_write_file(path, NULL, 0, err) && scratch_holds(path, "", 0), err),
        "an empty file");

    unsigned char *data = NULL;
    size_t bytes = 1;
    bool ok = io_read_file(path, 0, &data, &bytes, err);
    tap(scratch_no_error(ok && bytes == 0 && data && data[0] == 0, err), "an empty file is read");
    free(data);
    put(path, "some text", err);
    ok = io_read_file(path, 9, &data, &bytes, err);
    ok = ok && bytes == 9 && strcmp((char *)data, "some text") == 0;
    tap(scratch_no_error(ok, err), "a file is read, a NUL after it");
    free(data);
    ok = io_read_file(path, 8, &data, &bytes, err);
    tap(!ok && !data && scratch_one_line(err, path, "expected at most 8 bytes, found 9"),
        "a file above the limit");
    ok = io_read_file(scratch("absent"), 8, &data, &bytes, err);
    tap(!ok && scratch_one_line(err, scratch("absent"), "No such file"), "a missing file");
}

static void test_one_line(void)
{
    io_error err;
    io_fail(err, "a\nb\x1b[31m", "found %s", "x\r\ny");
    tap(strcmp(err, "a?b?[31m: found x??y") == 0, "control characters do not reach the line");
    char path[2000];
    memset(path, 'x', sizeof path);
    strcpy(path + sizeof path - 10, "/name.npy");
    io_fail(err, path, "the reason");
    tap(strlen(err) < 250 && strstr(err, "x/name.npy: the reason"),
        "a long path does not push the reason out");
}

/* ---- What is refused, and what is left then ----------------------------------------------------- */

static void test_bad_targets(void)
{
    io_error err = "";
    int before;
    mkdir(scratch("dir"), 0700);
    mkfifo(scratch("pipe"), 0600);
    put(scratch("file"), "old", err);
    before = scratch_count();
    tap(!put(scratch("dir"), "new", err) && scratch_one_line(err, scratch("dir"), "found a directory"),
        "a directory is not replaced");
    /* /dev/null would be next, and the tests may run as root. */
    tap(!put(scratch("pipe"), "new", err) &&
            scratch_one_line(err, scratch("pipe"), "found a device, pipe or socket"),
        "a pipe is not replaced");
    for (int there = 0; there < 2; there++) {
        const bool made = symlink(there ? scratch("file") : scratch("absent"), scratch("link")) == 0;
        tap(made && !put(scratch("link"), "new", err) &&
                scratch_one_line(err, scratch("link"), "found a symbolic link"),
            "nor is a link, to %s", there ? "a file" : "nothing");
        unlink(scratch("link"));
    }
    tap(!put(scratch("absent/file"), "new", err) &&
            scratch_one_line(err, scratch("absent/file"), "No such file"),
        "no directory is made for a file");
    tap(!put(scratch("file/x"), "new", err) && scratch_one_line(err, scratch("file/x"), "Not a directory"),
        "a file is not a directory");
    tap(!put("", "new", err) && scratch_one_line(err, "'': ", "cannot write"), "an empty name");
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    tap(!put(scratch(name), "new", err) && strstr(err, "File name too long"), "a name that is too long");
    tap(scratch_count() == before && scratch_holds(scratch("file"), "old", 3), "nothing is left behind");
}

static bool make_dir(const char *path, io_error err)
{
    const bool ok = io_begin(path, NULL, err);
    io_abandon();
    return ok;
}

static void test_directories(void)
{
    io_error err = "";
    const char *fresh = scratch("fresh");
    struct stat st;
    tap(scratch_no_error(make_dir(fresh, err), err) && stat(fresh, &st) != 0,
        "a directory that was made for a set goes with it");
    bool ok = io_begin(fresh, NULL, err) && put(scratch("fresh/a"), "text", err) && io_commit(err);
    tap(scratch_no_error(ok, err) && scratch_holds(scratch("fresh/a"), "text", 4), "a directory is made");
    tap(scratch_no_error(make_dir(fresh, err), err), "one that exists will do");
    tap(unlink(scratch("fresh/a")) == 0 && rmdir(fresh) == 0, "and nothing else is in it");
    put(scratch("file"), "old", err);
    tap(!make_dir(scratch("file"), err) &&
            scratch_one_line(err, scratch("file"), "expected a directory, found a file"),
        "a file in the way");
    tap(!make_dir(scratch("absent/deep"), err) &&
            scratch_one_line(err, scratch("absent/deep"), "No such file"),
        "only one level is made");
    tap(!make_dir("", err) && scratch_one_line(err, "'': ", "No such file"), "an empty name for a directory");
    tap(!make_dir("/proc/self/fd", err) && scratch_one_line(err, "/proc/self/fd: ", "cannot write into"),
        "a directory where not even root can create a file");
    if (geteuid() == 0) {
        tap_skip("a directory without write permission", "root writes everywhere");
        return;
    }
    const char *locked = scratch("locked");
    mkdir(locked, 0500);
    tap(!make_dir(locked, err) && scratch_one_line(err, locked, "Permission denied"),
        "a directory without write permission");
}

/* ---- Sets ------------------------------------------------------------------------------------------ */

/* The sums of FIPS 180-4's examples: "abc", and 56 bytes, whose padding takes a second block. */
static void test_sums(void)
{
    static const char sums[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  short\n"
                               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1  long\n"
                               "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  empty\n";
    io_error err = "";
    bool ok = io_begin(scratch("set"), "sums", err) && put(scratch("set/short"), "abc", err);
    const io_chunk two[] = {{"abcdbcdecdefdefgefghfghig", 25}, {"hijhijkijkljklmklmnlmnomnopnopq", 31}};
    ok = ok && io_write_file(scratch("set/long"), two, 2, err) && put(scratch("set/empty"), "", err) &&
         io_commit(err);
    tap(scratch_no_error(ok, err) && scratch_holds(scratch("set/sums.sha256"), sums, sizeof sums - 1),
        "a set ends with its sums");
}

/* What a set may replace: files of earlier ones, whatever was left out in between; nobody else's. */
static void test_owners(void)
{
    static const char *const foreign[] = {"none of ours\n", "", "# \n", "# mine", "ba78  mine\n"};
    io_error err = "";
    char *const mine = strdup(scratch("set/mine"));
    bool ok = put(mine, "the user's", err);
    tap(ok && io_begin(scratch("set"), "sums", err) && !put(mine, "new", err) &&
            scratch_one_line(err, mine, "expected no file of that name, or one of an earlier result") &&
            !io_may_replace(scratch("set"), "mine", err) && io_may_replace(scratch("set"), "yours", err),
        "a file that no earlier set has written is refused");
    io_abandon();
    bool kept = true;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        kept = kept && put(scratch("set/other.sha256"), foreign[i], err) &&
               !io_may_replace(scratch("set"), "mine", err) && !io_may_replace(scratch("set"), "other.sha256", err);
        unlink(scratch("set/other.sha256"));
    }
    tap(kept && scratch_holds(mine, "the user's", 10), "a file that only looks like sums names nothing");
    mkdir(scratch("set/other.sha256"), 0777);
    tap(!io_may_replace(scratch("set"), "mine", err) && io_may_replace(scratch("set"), "short", err) &&
            scratch_one_line(err, "mine", "a .sha256 file beside it cannot be read"),
        "sums that cannot be read are said to be, and are in nobody else's way");
    rmdir(scratch("set/other.sha256"));
    ok = io_begin(scratch("set"), "sums", err) && put(scratch("set/short"), "abc", err) && io_commit(err);
    ok = ok && io_begin(scratch("set"), "sums", err) && put(scratch("set/empty"), "", err) && io_commit(err);
    static const char left[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  empty\n"
                               "# short\n# long\n";
    tap(scratch_no_error(ok, err) && scratch_holds(scratch("set/sums.sha256"), left, sizeof left - 1),
        "files of earlier sets stay known");
    ok = io_begin(scratch("set"), "another", err) && put(scratch("set/long"), "now short", err) && io_commit(err);
    tap(scratch_no_error(ok, err) && scratch_holds(scratch("set/long"), "now short", 9),
        "and may be replaced, by a set of another label too");
    free(mine);
}

static void test_sets(void)
{
    io_error err = "";
    struct stat st;
    put(scratch("a"), "old", err);
    const int before = scratch_count();
    bool ok = io_begin(scratch("."), NULL, err) && put(scratch("./a"), "new", err) &&
              put(scratch("./b"), "new", err);
    tap(scratch_no_error(ok, err) && scratch_holds(scratch("a"), "old", 3) && stat(scratch("b"), &st) != 0,
        "nothing of a set appears before its end");
    io_abandon();
    tap(scratch_holds(scratch("a"), "old", 3) && scratch_count() == before,
        "and nothing after it is abandoned");
    mkdir(scratch("c"), 0700);
    ok = io_begin(scratch("."), NULL, err) && put(scratch("./a"), "new", err) &&
         !put(scratch("./c"), "new", err);
    io_abandon();
    tap(ok && scratch_one_line(err, scratch("./c"), "found a directory") &&
            scratch_holds(scratch("a"), "old", 3),
        "one that cannot be written leaves the others as they were");
    rmdir(scratch("c"));
    ok = io_begin(scratch("."), NULL, err) && put(scratch("./a"), "new", err) &&
         put(scratch("./c"), "new", err);
    mkdir(scratch("c"), 0700); /* in the way only when it comes to the rename */
    ok = ok && !io_commit(err);
    tap(ok && scratch_one_line(err, scratch("./c"), "cannot write") && scratch_holds(scratch("a"), "old", 3) &&
            scratch_count() == before + 1,
        "a rename that fails puts back what was replaced before it");
    rmdir(scratch("c"));
}

/* What a killed process left is removed, what a living one is at work on is not. */
static void test_leftovers(void)
{
    io_error err = "";
    const int before = scratch_count();
    int pipes[2];
    char byte;
    bool ok = pipe(pipes) == 0;
    const pid_t child = ok ? fork() : -1;
    if (child == 0) {
        ok = io_begin(scratch("."), NULL, err) && put(scratch("./x"), "half", err) &&
             write(pipes[1], "!", 1) == 1;
        pause();
        _exit(ok);
    }
    ok = child > 0 && read(pipes[0], &byte, 1) == 1 && put(scratch("file"), "old", err);
    tap(scratch_no_error(ok, err) && scratch_count() > before,
        "files that wait for the end of a living process stay");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    ok = put(scratch("file"), "old", err);
    tap(scratch_no_error(ok, err) && scratch_count() == before, "a dead one's are removed");
    close(pipes[0]);
    close(pipes[1]);
}

/* A disk that is full after `limit` bytes, for this process. */
static void limit_files(rlim_t limit)
{
    struct rlimit r;
    getrlimit(RLIMIT_FSIZE, &r);
    r.rlim_cur = limit;
    setrlimit(RLIMIT_FSIZE, &r);
}

static void test_write_fails_at_every_byte(void)
{
    io_error err = "";
    const char *path = scratch("target");
    static const char text[] = "the new content of the target";
    put(path, "old", err);
    int before = scratch_count();
    signal(SIGXFSZ, SIG_IGN); // so that write(2) fails with EFBIG instead
    bool ok = true;
    for (size_t n = 0; n < sizeof text - 1 && ok; n++) {
        /* Nothing is printed under the limit: standard output may be a file too. */
        limit_files(n);
        bool written = put(path, text, err);
        limit_files(RLIM_INFINITY);
        ok = !written && scratch_one_line(err, path, "cannot write: ") && scratch_holds(path, "old", 3) &&
             scratch_count() == before;
    }
    tap(ok, "a write that fails at any byte leaves the old file and nothing else");
    ok = put(path, text, err) && scratch_holds(path, text, sizeof text - 1);
    tap(scratch_no_error(ok, err), "and then one that succeeds");
}

/* ---- Killed while writing ------------------------------------------------------------------------ */

enum { BIG = 1 << 18 };

/* Writes BIG bytes of 'a', of 'b', of 'c' ... over and over, until it is killed. */
static void write_for_ever(const char *path)
{
    char *data = malloc(BIG);
    io_error err;
    for (char letter = 'a'; data; letter = letter == 'z' ? 'a' : (char)(letter + 1)) {
        memset(data, letter, BIG);
        const io_chunk halves[] = {{data, BIG / 2}, {data + BIG / 2, BIG / 2}};
        if (!io_write_file(path, halves, 2, err))
            break;
    }
    _exit(1);
}

static bool is_whole(const char *path)
{
    unsigned char *data;
    size_t bytes;
    io_error err = "";
    if (!io_read_file(path, BIG, &data, &bytes, err)) {
        tap_note("%s", err);
        return false;
    }
    bool whole = bytes == BIG && memcmp(data, data + 1, BIG - 1) == 0;
    free(data);
    return whole;
}

static pid_t start_writer(const char *path)
{
    pid_t child = fork();
    if (child == 0)
        write_for_ever(path);
    return child;
}

static bool kill_writer(pid_t child)
{
    int status = 0;
    return child > 0 && kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child &&
           WIFSIGNALED(status);
}

static void test_killed(void)
{
    const char *path = scratch("killed");
    io_error err = "";
    char *data = calloc(BIG, 1);
    bool ok = data && io_write_file(path, &(io_chunk){data, BIG}, 1, err);
    free(data);
    for (int i = 0; i < 20 && ok; i++) {
        pid_t one = start_writer(path), other = start_writer(path);
        nanosleep(&(struct timespec){0, (1 + i * 7 % 20) * 1000000L}, NULL);
        ok = is_whole(path);
        ok = kill_writer(one) && is_whole(path) && ok;
        ok = kill_writer(other) && is_whole(path) && ok;
    }
    tap(scratch_no_error(ok, err), "two writers of one file, killed at 20 moments, leave it whole");
}

/* ---- Several writers of one set ------------------------------------------------------------------ */

enum { WRITERS = 4, ROUNDS = 25 };

/* Two files that hold the letter, and their sums. */
static bool put_pair(char letter, io_error err)
{
    const char text[] = {letter, 0};
    return io_begin(scratch("shared"), "pair", err) && put(scratch("shared/a"), text, err) &&
           put(scratch("shared/b"), text, err) && io_commit(err);
}

/* A set that is begun and abandoned flushes nothing: many meet in a short time. */
static bool begin_often(io_error err)
{
    bool ok = true;
    for (int i = 0; i < 50 && ok; i++) {
        ok = io_begin(scratch("shared"), "pair", err);
        io_abandon();
    }
    return ok;
}

/* Starts when somebody closes the other end of `gate`. */
static pid_t start_pair(char letter, const int gate[2])
{
    const pid_t child = fork();
    if (child == 0) {
        io_error err = "";
        char byte;
        close(gate[1]);
        const bool ok = read(gate[0], &byte, 1) == 0 && put_pair(letter, err) && begin_often(err);
        if (!ok)
            tap_note("%s", err);
        fflush(stdout);
        _exit(!ok);
    }
    return child;
}

static bool all_at_once(void)
{
    int gate[2], status;
    bool ok = pipe(gate) == 0;
    pid_t child[WRITERS];
    for (int i = 0; i < WRITERS; i++)
        child[i] = start_pair((char)('a' + i), gate);
    close(gate[0]);
    close(gate[1]);
    for (int i = 0; i < WRITERS; i++)
        ok = waitpid(child[i], &status, 0) == child[i] && status == 0 && ok;
    return ok;
}

static void test_several_sets(void)
{
    io_error err = "";
    char sums[WRITERS][256];
    unsigned char *data;
    size_t bytes = 0;
    bool ok = true, whole = true;
    for (int i = 0; i < WRITERS && ok; i++) {
        ok = put_pair((char)('a' + i), err) &&
             io_read_file(scratch("shared/pair.sha256"), sizeof sums[i] - 1, &data, &bytes, err);
        if (ok) {
            memcpy(sums[i], data, bytes);
            free(data);
        }
    }
    fflush(stdout);
    for (int round = 0; round < ROUNDS && ok && whole; round++) {
        ok = all_at_once();
        whole = false;
        for (int i = 0; i < WRITERS; i++) {
            const char text[] = {(char)('a' + i), 0};
            whole = whole || (scratch_holds(scratch("shared/a"), text, 1) &&
                              scratch_holds(scratch("shared/b"), text, 1) &&
                              scratch_holds(scratch("shared/pair.sha256"), sums[i], bytes));
        }
    }
    tap(scratch_no_error(ok, err), "several sets for one directory at once all succeed");
    tap(whole, "and one of them, the whole of it, stays");
}

int main(void)
{
    test_write_and_read();
    test_one_line();
    test_bad_targets();
    test_directories();
    test_sums();
    test_owners();
    test_sets();
    test_leftovers();
    test_write_fails_at_every_byte();
    test_killed();
    test_several_sets();
    return tap_done();
}
