#include "cli/programs.h"
#include "common/scope.h"
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool
is_program(const char *path)
{
    struct stat facts;
    return stat(path, &facts) == 0 && S_ISREG(facts.st_mode) && access(path, X_OK) == 0;
}

int
program_find(const char *name, char out[PATH_MAX])
{
    /* Installed programs lie beside us; in a build directory each lies in its own folder. */
    static const char *const below[] = { "", "/../broker", "/../gateway", "/../worker",
                                         "/../worker/instance" };
    char self[PATH_MAX];
    char path[2 * PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    const char *slash = strrchr(self, '/');
    for (size_t i = 0; slash != NULL && i < ARRAY_LENGTH(below); i++) {
        (void)snprintf(path, sizeof path, "%.*s%s/%s", (int)(slash - self), self, below[i], name);
        if (is_program(path) && realpath(path, out) != NULL) {
            return 0;
        }
    }
    const char *directories = getenv("PATH");
    directories = directories != NULL ? directories : "/usr/local/bin:/usr/bin:/bin:/usr/sbin";
    while (*directories != '\0') {
        size_t length = strcspn(directories, ":");
        int written = snprintf(out, PATH_MAX, "%.*s/%s", (int)length, directories, name);
        if (out[0] == '/' && written < PATH_MAX && is_program(out)) {
            return 0;
        }
        directories += length + (directories[length] == ':');
    }
    return -ENOENT;
}
