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

static bool
found(char *out, size_t size, const char *directory, size_t length, const char *between,
      const char *name)
{
    int n = snprintf(out, size, "%.*s%s/%s", (int)length, directory, between, name);
    return n > 0 && (size_t)n < size && out[0] == '/' && is_program(out);
}

int
program_find(const char *name, char *out, size_t size)
{
    /* Installed programs lie beside us; in a build directory each lies in its own folder. */
    static const char *const below[] = { "", "/../broker", "/../gateway", "/../worker",
                                         "/../worker/instance" };
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    const char *slash = strrchr(self, '/');
    for (size_t i = 0; slash != NULL && i < ARRAY_LENGTH(below); i++) {
        char path[PATH_MAX];
        if (found(path, sizeof path, self, (size_t)(slash - self), below[i], name) &&
            strlen(path) < size && size >= PATH_MAX && realpath(path, out) != NULL) {
            return 0;
        }
    }
    const char *directories = getenv("PATH");
    directories = directories != NULL ? directories : "/usr/local/bin:/usr/bin:/bin:/usr/sbin";
    while (*directories != '\0') {
        size_t length = strcspn(directories, ":");
        if (found(out, size, directories, length, "", name)) {
            return 0;
        }
        directories += length + (directories[length] == ':');
    }
    return -ENOENT;
}
