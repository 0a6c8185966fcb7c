#include "gateway/picture_dir.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/scope.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum {
    DIR_MODE = 0750,
    FILE_MODE = 0640,
    TEMPORARY_MAX = 24,
    TEMPORARY_DIGITS = 16,
    SHARD_TRIES = 8, /* the sweep may remove an empty shard while we are about to write into it */
};

static const char id_file[] = ".drawbar-store";

struct picture_dir {
    int fd;
    char id[PICTURE_DIR_ID + 1];
};

static void
fd_close(int *fd_p)
{
    if (*fd_p >= 0) {
        close(*fd_p);
        *fd_p = -1;
    }
}

static bool
is_hex(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f'))) {
            return false;
        }
    }
    return true;
}

/* -- names -- */

void
picture_name_print(const struct picture_name *name, char out[PICTURE_NAME_MAX])
{
    char job[JOB_ID_TEXT + 1];
    job_id_print(&name->lease.job, job);
    snprintf(out, PICTURE_NAME_MAX, "%s.%08" PRIx32 ".%u.%u", job, name->lease.epoch,
             (unsigned)name->lease.grant, (unsigned)name->index);
}

/* Reads `.` and a number, and moves *at behind it. */
static bool
read_part(const char **at, int base, unsigned long max, unsigned long *out)
{
    char *end = NULL;
    if (**at != '.') {
        return false;
    }
    *out = strtoul(*at + 1, &end, base);
    *at = end;
    return *out <= max;
}

bool
picture_name_parse(const char *text, struct picture_name *out)
{
    struct picture_name name = { 0 };
    unsigned long epoch = 0;
    unsigned long grant = 0;
    unsigned long index = 0;
    char printed[PICTURE_NAME_MAX];
    const char *at = text + JOB_ID_TEXT;
    if (strlen(text) <= JOB_ID_TEXT || !job_id_parse(text, JOB_ID_TEXT, &name.lease.job) ||
        !read_part(&at, 16, UINT32_MAX, &epoch) || !read_part(&at, 10, UINT8_MAX, &grant) ||
        !read_part(&at, 10, UINT8_MAX, &index)) {
        return false;
    }
    name.lease.epoch = (uint32_t)epoch;
    name.lease.grant = (uint8_t)grant;
    name.index = (uint8_t)index;
    /* strtoul lets spaces, signs and more pass: only what prints the same is a name. */
    picture_name_print(&name, printed);
    if (strcmp(printed, text) != 0) {
        return false;
    }
    *out = name;
    return true;
}

void
picture_shard_print(const struct job_id *job, char out[PICTURE_SHARD_MAX])
{
    struct tm utc;
    time_t seconds = (time_t)(job_id_ms(job) / 1000);
    if (gmtime_r(&seconds, &utc) == NULL ||
        strftime(out, PICTURE_SHARD_MAX, "%Y%m%d%H", &utc) == 0) {
        assert(false); /* 48 bits of milliseconds end in the year 10889 */
    }
}

static void
temporary_print(char out[TEMPORARY_MAX])
{
    snprintf(out, TEMPORARY_MAX, ".%016" PRIx64 ".tmp", random_u64());
}

bool
picture_name_is_temporary(const char *text)
{
    return strlen(text) == TEMPORARY_DIGITS + 5 && text[0] == '.' &&
           is_hex(text + 1, TEMPORARY_DIGITS) && strcmp(text + 1 + TEMPORARY_DIGITS, ".tmp") == 0;
}

/* -- whole files -- */

static int
write_all(int fd, const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t n = write(fd, at, length);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

/* Reads until `length` bytes are there or the file ends; how many, or -errno. */
static ssize_t
read_all(int fd, void *out, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t n = read(fd, (char *)out + done, length - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        if (n == 0) {
            break;
        }
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* Writes a durable file under a temporary name, which is printed into `temporary`. */
static int
write_temporary(int dir, const void *bytes, size_t length, char temporary[TEMPORARY_MAX])
{
    temporary_print(temporary);
    CLEANUP(fd_close)
    int fd =
        openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, FILE_MODE);
    if (fd < 0) {
        return -errno;
    }
    int rc = write_all(fd, bytes, length);
    if (rc == 0 && fsync(fd) != 0) {
        rc = -errno;
    }
    if (rc != 0) {
        unlinkat(dir, temporary, 0);
    }
    return rc;
}

/* Puts a file with these bytes at `name`, durable, unless there is one already: -EEXIST. */
static int
write_once(int dir, const char *name, const void *bytes, size_t length)
{
    char temporary[TEMPORARY_MAX];
    int rc = write_temporary(dir, bytes, length, temporary);
    if (rc != 0) {
        return rc;
    }
    if (linkat(dir, temporary, dir, name, 0) != 0) { /* unlike rename, never replaces */
        rc = -errno;
    }
    unlinkat(dir, temporary, 0);
    if (rc == 0 && fsync(dir) != 0) {
        rc = -errno;
    }
    return rc;
}

/* -- pictures -- */

static int
shard_open(const struct picture_dir *self, const struct job_id *job, bool make)
{
    char shard[PICTURE_SHARD_MAX];
    picture_shard_print(job, shard);
    if (make) {
        if (mkdirat(self->fd, shard, DIR_MODE) == 0) {
            if (fsync(self->fd) != 0) {
                return -errno;
            }
        } else if (errno != EEXIST) {
            return -errno;
        }
    }
    int fd = openat(self->fd, shard, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return -errno;
    }
    return fd;
}

static int
compare_open(int fd, const void *bytes, size_t length, enum picture_put *verdict)
{
    char chunk[16384];
    struct stat status;
    *verdict = PICTURE_OTHER;
    if (fstat(fd, &status) != 0) {
        return -errno;
    }
    if (status.st_size < 0 || (size_t)status.st_size != length) {
        return 0;
    }
    for (size_t at = 0; at < length;) {
        size_t want = length - at < sizeof chunk ? length - at : sizeof chunk;
        ssize_t got = read_all(fd, chunk, want);
        if (got < 0) {
            return (int)got;
        }
        if ((size_t)got != want || memcmp(chunk, (const char *)bytes + at, want) != 0) {
            return 0;
        }
        at += want;
    }
    *verdict = PICTURE_SAME;
    return 0;
}

/* Compares a file that is there with the bytes; -ENOENT if it is not. */
static int
compare(int dir, const char *name, const void *bytes, size_t length, enum picture_put *verdict)
{
    CLEANUP(fd_close) int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return -errno;
    }
    int rc = compare_open(fd, bytes, length, verdict);
    /* Whoever linked it may have been killed before the directory was durable. */
    if (rc == 0 && *verdict == PICTURE_SAME && fsync(dir) != 0) {
        rc = -errno;
    }
    return rc;
}

static int
put_in_shard(int shard, const char *name, const void *bytes, size_t length,
             enum picture_put *verdict)
{
    int rc = compare(shard, name, bytes, length, verdict);
    if (rc != -ENOENT) {
        return rc;
    }
    rc = write_once(shard, name, bytes, length);
    if (rc == -EEXIST) { /* another gateway was faster */
        return compare(shard, name, bytes, length, verdict);
    }
    *verdict = PICTURE_STORED;
    return rc;
}

int
picture_dir_put(const struct picture_dir *self, const struct picture_name *name, const void *bytes,
                size_t length, enum picture_put *verdict)
{
    char text[PICTURE_NAME_MAX];
    int rc = -ENOENT;
    picture_name_print(name, text);
    for (int i = 0; rc == -ENOENT && i < SHARD_TRIES; i++) {
        CLEANUP(fd_close) int shard = shard_open(self, &name->lease.job, true);
        rc = shard < 0 ? shard : put_in_shard(shard, text, bytes, length, verdict);
    }
    return rc;
}

static int
read_picture(int fd, void **bytes, size_t *length)
{
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return -errno;
    }
    if (!S_ISREG(status.st_mode) || status.st_size <= 0 || status.st_size > LIMIT_PICTURE_BYTES) {
        return -EBADMSG;
    }
    size_t size = (size_t)status.st_size;
    void *out = malloc(size);
    if (out == NULL) {
        return -ENOMEM;
    }
    ssize_t got = read_all(fd, out, size);
    if (got < 0 || (size_t)got != size) {
        free(out);
        return got < 0 ? (int)got : -EBADMSG;
    }
    *bytes = out;
    *length = size;
    return 0;
}

int
picture_dir_get(const struct picture_dir *self, const struct picture_name *name, void **bytes,
                size_t *length)
{
    char text[PICTURE_NAME_MAX];
    int rc;
    picture_name_print(name, text);
    CLEANUP(fd_close) int fd = -1;
    CLEANUP(fd_close) int shard = shard_open(self, &name->lease.job, false);
    if (shard < 0) {
        rc = shard;
    } else {
        fd = openat(shard, text, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        rc = fd < 0 ? -errno : read_picture(fd, bytes, length);
    }
    if (rc != 0 && rc != -ENOENT) {
        log_error("picture-read-failed name=%s error=\"%s\"", text, strerror(-rc));
        rc = -EIO;
    }
    return rc;
}

bool
picture_dir_is_full(const struct picture_dir *self, uint32_t free_mib_min)
{
    struct statvfs status;
    if (fstatvfs(self->fd, &status) != 0) {
        log_error("store-look-failed error=\"%s\"", strerror(errno));
        return true;
    }
    uint64_t free_mib = (uint64_t)status.f_bavail * status.f_frsize / (UINT64_C(1) << 20);
    return free_mib < free_mib_min ||
           (uint64_t)status.f_bavail * 100 < (uint64_t)status.f_blocks * LIMIT_STORE_FREE_PERCENT;
}

/* -- the directory -- */

/* 0, -ENOENT, -EINVAL or -errno. */
static int
id_read(int dir, char id[PICTURE_DIR_ID + 1])
{
    char text[PICTURE_DIR_ID + 2];
    CLEANUP(fd_close) int fd = openat(dir, id_file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    ssize_t got = read_all(fd, text, sizeof text);
    if (got < 0) {
        return (int)got;
    }
    if (got != PICTURE_DIR_ID + 1 || !is_hex(text, PICTURE_DIR_ID) ||
        text[PICTURE_DIR_ID] != '\n') {
        return -EINVAL;
    }
    memcpy(id, text, PICTURE_DIR_ID);
    id[PICTURE_DIR_ID] = '\0';
    return 0;
}

/* Reads the id, or makes one; of several that make one at once the first to link it wins. */
static int
id_agree(int dir, char id[PICTURE_DIR_ID + 1])
{
    char text[PICTURE_DIR_ID + 2];
    int rc = id_read(dir, id);
    if (rc != -ENOENT) {
        return rc;
    }
    snprintf(text, sizeof text, "%016" PRIx64 "%016" PRIx64 "\n", random_u64(), random_u64());
    rc = write_once(dir, id_file, text, PICTURE_DIR_ID + 1);
    return rc == 0 || rc == -EEXIST ? id_read(dir, id) : rc;
}

static int
dir_open(int *fd, const char *path)
{
    if (mkdir(path, DIR_MODE) != 0 && errno != EEXIST) {
        return -errno;
    }
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0 || faccessat(*fd, ".", R_OK | W_OK | X_OK, AT_EACCESS) != 0) {
        return -errno;
    }
    return 0;
}

int
picture_dir_open(struct picture_dir **out, const char *path)
{
    char id[PICTURE_DIR_ID + 1] = "";
    CLEANUP(fd_close) int fd = -1;
    int rc = dir_open(&fd, path);
    if (rc != 0) {
        log_error("store-open-failed dir=\"%s\" error=\"%s\" "
                  "cure=\"make its parent, and let this user write in it\"",
                  path, strerror(-rc));
        return rc;
    }
    rc = id_agree(fd, id);
    if (rc != 0) {
        log_error("store-id-failed file=\"%s/%s\" error=\"%s\" cure=\"%s\"", path, id_file,
                  strerror(-rc),
                  rc == -EINVAL ? "restore it: 32 hex digits and a line end"
                                : "let this user read and write it");
        return rc;
    }
    struct picture_dir *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->fd = fd;
    fd = -1;
    memcpy(self->id, id, sizeof self->id);
    *out = self;
    return 0;
}

void
picture_dir_destroy(struct picture_dir **self_p)
{
    if (*self_p != NULL) {
        fd_close(&(*self_p)->fd);
        free(*self_p);
        *self_p = NULL;
    }
}

const char *
picture_dir_id(const struct picture_dir *self)
{
    return self->id;
}

int
picture_dir_fd(const struct picture_dir *self)
{
    return self->fd;
}
