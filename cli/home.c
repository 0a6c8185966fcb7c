#include "cli/home.h"
#include "common/ids.h"
#include "common/scope.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* The longest path below, with room for temporary files beside it. */
enum { BELOW_MAX = 256, PASSWORD_BYTES = 20, OWNER_BYTES = 512 };

#define SOCKET_BELOW "/run/redis.sock"

struct home {
    char directory[HOME_PATH - BELOW_MAX];
    int lock;
};

static int
trouble(const char *path, int error, const char *cure)
{
    (void)fprintf(stderr, "drawbar up: %s: %s; %s\n", path, strerror(error), cure);
    return -error;
}

static int
directory_choose(struct home *self, const char *directory)
{
    const char *xdg = getenv("XDG_DATA_HOME");
    const char *user = getenv("HOME");
    char here[PATH_MAX];
    char chosen[PATH_MAX];
    int length;
    if (directory != NULL && directory[0] == '/') {
        length = snprintf(chosen, sizeof chosen, "%s", directory);
    } else if (directory != NULL) {
        if (getcwd(here, sizeof here) == NULL) {
            return trouble(".", errno, "give an absolute --data");
        }
        length = snprintf(chosen, sizeof chosen, "%s/%s", here, directory);
    } else if (xdg != NULL && xdg[0] == '/') {
        length = snprintf(chosen, sizeof chosen, "%s/drawbar", xdg);
    } else if (user != NULL && user[0] == '/') {
        length = snprintf(chosen, sizeof chosen, "%s/.local/share/drawbar", user);
    } else {
        (void)fprintf(stderr, "drawbar up: HOME is not set; give --data DIR\n");
        return -EINVAL;
    }
    while (length > 1 && (size_t)length < sizeof chosen && chosen[length - 1] == '/') {
        chosen[--length] = '\0';
    }
    /* The socket of Redis must fit into sun_path; paths go into redis.conf and into lines. */
    size_t room = sizeof((struct sockaddr_un *)NULL)->sun_path - sizeof SOCKET_BELOW;
    if (length < 1 || (size_t)length > room || strpbrk(chosen, "\"\\\n\r'") != NULL) {
        (void)fprintf(stderr,
                      "drawbar up: --data: %s: must have at most %zu bytes, and no quotes or "
                      "backslashes; give another directory\n",
                      chosen, room);
        return -EINVAL;
    }
    memcpy(self->directory, chosen, (size_t)length + 1);
    return 0;
}

/* The directory, and those above it. */
static int
directory_make(struct home *self)
{
    char *path = self->directory;
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash != NULL) {
            *slash = '\0';
        }
        bool made = mkdir(path, slash != NULL ? 0755 : 0700) == 0;
        int error = errno;
        struct stat facts;
        if (!made && (stat(path, &facts) != 0 || !S_ISDIR(facts.st_mode))) {
            return trouble(path, error, "give a --data directory that can be made and written");
        }
        if (slash == NULL) {
            break;
        }
        *slash = '/';
    }
    return access(path, R_OK | W_OK | X_OK) == 0
               ? 0
               : trouble(path, errno, "give a --data directory that you can write");
}

static int
lock_take(struct home *self)
{
    char path[HOME_PATH];
    char owner[OWNER_BYTES];
    home_path(self, path, "lock");
    self->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (self->lock < 0) {
        return trouble(path, errno, "give a --data directory that you can write");
    }
    if (flock(self->lock, LOCK_EX | LOCK_NB) == 0) {
        home_announce(self, "not yet ready");
        return 0;
    }
    ssize_t n = pread(self->lock, owner, sizeof owner - 1, 0);
    owner[n > 0 ? n : 0] = '\0';
    owner[strcspn(owner, "\n")] = '\0';
    (void)fprintf(stderr,
                  "drawbar up: %s is in use by another drawbar up (%s); use that one, stop it, or "
                  "give another --data DIR\n",
                  self->directory, owner);
    return -EBUSY;
}

int
home_open(struct home **out, const char *directory)
{
    static const char *const below[] = { "redis", "pictures", "workers", "log", "run" };
    CLEANUP(home_close) struct home *self = calloc(1, sizeof *self);
    char path[HOME_PATH];
    if (self == NULL) {
        return -ENOMEM;
    }
    self->lock = -1;
    int rc = directory_choose(self, directory);
    rc = rc ? rc : directory_make(self);
    rc = rc ? rc : lock_take(self);
    for (size_t i = 0; rc == 0 && i < ARRAY_LENGTH(below); i++) {
        home_path(self, path, "%s", below[i]);
        if (mkdir(path, 0700) != 0 && errno != EEXIST) {
            rc = trouble(path, errno, "give a --data directory that you can write");
        }
    }
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

void
home_close(struct home **self_p)
{
    struct home *self = *self_p;
    if (self != NULL) {
        if (self->lock >= 0) {
            (void)close(self->lock); /* the lock goes with it; the file stays */
        }
        free(self);
        *self_p = NULL;
    }
}

const char *
home_directory(const struct home *self)
{
    return self->directory;
}

void
home_announce(struct home *self, const char *address)
{
    char owner[OWNER_BYTES];
    int length = snprintf(owner, sizeof owner, "process %d, %s\n", (int)getpid(), address);
    if (ftruncate(self->lock, 0) == 0) {
        (void)!pwrite(self->lock, owner, (size_t)length, 0);
    }
}

void
home_path(const struct home *self, char out[HOME_PATH], const char *format, ...)
{
    va_list arguments;
    int used = snprintf(out, HOME_PATH, "%s/", self->directory);
    va_start(arguments, format);
    int length = vsnprintf(out + used, (size_t)(HOME_PATH - used), format, arguments);
    va_end(arguments);
    if (length < 0 || length >= HOME_PATH - used) {
        abort();
    }
}

void
home_log_rotate(const struct home *self, const char *name)
{
    char path[HOME_PATH];
    char old[HOME_PATH];
    home_path(self, path, "log/%s.log", name);
    home_path(self, old, "log/%s.log.1", name);
    (void)rename(path, old);
}

int
home_password(const struct home *self, char out[HOME_PASSWORD])
{
    char path[HOME_PATH];
    uint8_t bytes[PASSWORD_BYTES];
    home_path(self, path, "redis-password");
    FILE *file = fopen(path, "re");
    bool kept = file != NULL && fgets(out, HOME_PASSWORD, file) != NULL;
    if (file != NULL) {
        (void)fclose(file);
    }
    if (kept) {
        out[strcspn(out, "\n")] = '\0';
        if (strspn(out, "0123456789abcdef") == strlen(out) && strlen(out) >= 2 * sizeof bytes) {
            return 0;
        }
    }
    random_fill(bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        (void)snprintf(out + 2 * i, (size_t)HOME_PASSWORD - 2 * i, "%02x", bytes[i]);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || dprintf(fd, "%s\n", out) < 0 || close(fd) != 0) {
        return trouble(path, errno, "is the disk full?");
    }
    return 0;
}
