#include "worker/procfs.h"
#include "common/scope.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct process {
    pid_t pid, group, session;
    char state;
    uint64_t start;
};

enum { STAT_BYTES = 1024, LIST_BYTES = 16384, WINDOW_BYTES = 16384 };

static void
close_fd(int *fd_p)
{
    if (*fd_p >= 0) {
        close(*fd_p);
    }
}

/* `name` is relative to the directory; at most size - 1 bytes, NUL-terminated. -1: unreadable. */
static ssize_t
read_at(int directory, const char *name, char *out, size_t size)
{
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);
    out[n < 0 ? 0 : n] = '\0';
    close_fd(&fd);
    return n;
}

/* pid (name) state ppid group session ... and the start as the 22nd; the name may hold anything. */
static bool
parse_stat(const char *text, struct process *out)
{
    enum { STATE = 3, GROUP = 5, SESSION = 6, START = 22 };
    const char *at = strrchr(text, ')');
    if (at == NULL || at[1] != ' ') {
        return false;
    }
    at += 2;
    out->state = *at;
    for (int field = STATE; at != NULL && field <= START; field++) {
        switch (field) {
        case GROUP:
            out->group = (pid_t)strtol(at, NULL, 10);
            break;
        case SESSION:
            out->session = (pid_t)strtol(at, NULL, 10);
            break;
        case START:
            out->start = strtoull(at, NULL, 10);
            return true;
        default:
            break;
        }
        at = strchr(at, ' ');
        at = at == NULL ? NULL : at + 1;
    }
    return false;
}

static bool
read_process(int directory, struct process *out)
{
    char text[STAT_BYTES];
    return read_at(directory, "stat", text, sizeof text) > 0 && parse_stat(text, out);
}

static int
open_process(int proc, const char *name)
{
    return openat(proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Calls fn for each numbered entry of the directory until it returns true. */
typedef bool (*entry_fn)(void *context, int directory, const char *name);

static bool
each_number(int directory, entry_fn fn, void *context)
{
    _Alignas(struct dirent64) char list[LIST_BYTES];
    ssize_t n;
    while ((n = getdents64(directory, list, sizeof list)) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *entry = (const void *)(list + at);
            at += entry->d_reclen;
            if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' &&
                fn(context, directory, entry->d_name)) {
                return true;
            }
        }
    }
    return false;
}

/* An environment can be long: it is looked at through a window that overlaps by the word's length.
 */
static bool
has_token(int directory, const char *token)
{
    char window[WINDOW_BYTES];
    size_t kept = 0;
    ssize_t n;
    CLEANUP(close_fd) int fd = openat(directory, "environ", O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (n = read(fd, window + kept, sizeof window - kept)) > 0) {
        size_t length = kept + (size_t)n;
        if (memmem(window, length, token, FAMILY_TOKEN) != NULL) {
            return true;
        }
        kept = length < FAMILY_TOKEN ? length : FAMILY_TOKEN - 1;
        memmove(window, window + length - kept, kept);
    }
    return false;
}

uint64_t
process_start(pid_t pid)
{
    char path[32];
    char text[STAT_BYTES];
    struct process process = { 0 };
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    return read_at(AT_FDCWD, path, text, sizeof text) > 0 && parse_stat(text, &process)
               ? process.start
               : 0;
}

struct sending {
    const struct family *family;
    int number;
    bool leader_known; /* the leader's pid is still his: group and session are proof */
    uint32_t count;
};

static bool
send_to_member(void *context, int proc, const char *name)
{
    struct sending *self = context;
    const struct family *family = self->family;
    struct process process = { .pid = (pid_t)strtol(name, NULL, 10) };
    CLEANUP(close_fd) int directory = open_process(proc, name);
    if (directory < 0 || process.pid == getpid() || !read_process(directory, &process) ||
        process.state == 'Z' || process.state == 'X') {
        return false;
    }
    bool same_group = process.group == family->leader || process.session == family->leader;
    if ((self->leader_known && same_group) || has_token(directory, family->token)) {
        self->count++;
        if (self->number != 0) {
            kill(process.pid, self->number);
        }
    }
    return false;
}

uint32_t
family_signal(const struct family *family, int number)
{
    struct sending sending = { .family = family, .number = number };
    assert(family->leader > 1 && strlen(family->token) == FAMILY_TOKEN);
    sending.leader_known = family->start != 0 && process_start(family->leader) == family->start;
    if (sending.leader_known && number == SIGKILL) {
        kill(-family->leader, number); /* all at once: none can fork away between two looks */
    }
    CLEANUP(close_fd) int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (proc >= 0) {
        each_number(proc, send_to_member, &sending);
    }
    return sending.count;
}

struct search {
    char wanted[40];
    pid_t pid;
    char *name;
    uint32_t size;
};

static bool
is_wanted_socket(void *context, int directory, const char *name)
{
    struct search *self = context;
    char target[64];
    ssize_t n = readlinkat(directory, name, target, sizeof target - 1);
    target[n < 0 ? 0 : n] = '\0';
    return strcmp(target, self->wanted) == 0;
}

static bool
holds_socket(void *context, int proc, const char *name)
{
    struct search *self = context;
    CLEANUP(close_fd) int directory = open_process(proc, name);
    CLEANUP(close_fd) int fds = directory < 0 ? -1 : open_process(directory, "fd");
    if (fds < 0 || !each_number(fds, is_wanted_socket, self)) {
        return false;
    }
    self->pid = (pid_t)strtol(name, NULL, 10);
    if (read_at(directory, "comm", self->name, self->size) > 0) {
        self->name[strcspn(self->name, "\n")] = '\0';
    }
    return true;
}

pid_t
process_of_socket(uint64_t inode, char *name, uint32_t size)
{
    struct search search = { .name = name, .size = size };
    CLEANUP(close_fd) int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(search.wanted, sizeof search.wanted, "socket:[%llu]", (unsigned long long)inode);
    name[0] = '\0';
    if (proc >= 0) {
        each_number(proc, holds_socket, &search);
    }
    return search.pid;
}
