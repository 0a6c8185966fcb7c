#pragma once
/* A directory of the test's own, and which processes live: for tests with real processes. */
#include "common/clock.h"
#include "common/scope.h"
#include "worker/child.h"
#include "worker/instance.h"
#include "worker/port.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[64];

static inline void
make_directory(void)
{
    snprintf(directory, sizeof directory, "/tmp/test-supervisor-XXXXXX");
    cr_assert(ne(ptr, mkdtemp(directory), NULL));
    process_setup();
}

static inline int
remove_one(const char *path, const struct stat *stat, int kind, struct FTW *where)
{
    (void)stat;
    (void)kind;
    (void)where;
    return remove(path);
}

static inline void
remove_directory(void)
{
    cr_assert(zero(int, nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS)));
}

static inline const char *
path_of(const char *name)
{
    static char paths[4][128];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static inline bool
lives(pid_t pid)
{
    char path[64];
    char text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return false;
    }
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    const char *state = n > 0 ? strrchr(text, ')') : NULL;
    return state != NULL && state[2] != 'Z' && state[2] != 'X';
}

/* The text of a file of the directory; "" if there is none. */
static inline const char *
text_of(const char *name)
{
    static char text[65536];
    FILE *file = fopen(path_of(name), "r");
    size_t n = file == NULL ? 0 : fread(text, 1, sizeof text - 1, file);
    text[n] = '\0';
    if (file != NULL) {
        fclose(file);
    }
    return text;
}
