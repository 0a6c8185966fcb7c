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
    pid_t pid, parent, group, session;
    char state;
    uint64_t start;
};

enum { STAT_BYTES = 1024, LIST_BYTES = 16384, WINDOW_BYTES = 16384, ANCESTORS = 4 };

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
    enum { STATE = 3, PARENT = 4, GROUP = 5, SESSION = 6, START = 22 };
    const char *at = strrchr(text, ')');
    if (at == NULL || at[1] != ' ') {
        return false;
    }
    at += 2;
    out->state = *at;
    for (int field = STATE; at != NULL && field <= START; field++) {
        switch (field) {
        case PARENT:
            out->parent = (pid_t)strtol(at, NULL, 10);
            break;
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

/* An environment can be long: it is looked at through a window that overlaps by what is sought and
 * what follows it. Copies the `more` bytes that follow the first place where `word` stands. */
static bool
find_in_environment(int directory, const char *word, char *out, size_t more)
{
    char window[WINDOW_BYTES];
    size_t length = strlen(word);
    size_t kept = 0;
    ssize_t n;
    CLEANUP(close_fd) int fd = openat(directory, "environ", O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (n = read(fd, window + kept, sizeof window - kept)) > 0) {
        size_t have = kept + (size_t)n;
        const char *at = memmem(window, have, word, length);
        if (at != NULL && (size_t)(window + have - at) >= length + more) {
            memcpy(out, at + length, more);
            return true;
        }
        kept = have < length + more ? have : length + more - 1;
        memmove(window, window + have - kept, kept);
    }
    return false;
}

static bool
has_token(int directory, const char *token)
{
    char nothing[1];
    return find_in_environment(directory, token, nothing, 0);
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

void
process_identify(struct process_identity *out, pid_t pid)
{
    char path[32];
    struct process process = { 0 };
    *out = (struct process_identity){ .pid = pid };
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    CLEANUP(close_fd) int directory = open_process(AT_FDCWD, path);
    if (directory < 0 || !read_process(directory, &process)) {
        return;
    }
    out->parent = process.parent;
    out->group = process.group;
    out->session = process.session;
    read_at(directory, "comm", out->name, sizeof out->name);
    out->name[strcspn(out->name, "\n")] = '\0';
    if (!find_in_environment(directory, FAMILY_VARIABLE "=", out->token, FAMILY_TOKEN)) {
        out->token[0] = '\0';
    }
}

bool
family_has(const struct family *family, const struct process_identity *process)
{
    return process->group == family->leader || process->session == family->leader ||
           strcmp(process->token, family->token) == 0;
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
    if (self->name == NULL) {
        return true;
    }
    self->pid = (pid_t)strtol(name, NULL, 10);
    if (read_at(directory, "comm", self->name, self->size) > 0) {
        self->name[strcspn(self->name, "\n")] = '\0';
    }
    return true;
}

bool
process_serves(const struct process_identity *process, uint64_t inode)
{
    struct search search = { .name = NULL };
    char name[16];
    CLEANUP(close_fd) int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(search.wanted, sizeof search.wanted, "socket:[%llu]", (unsigned long long)inode);
    pid_t pid = process->group == 0 ? 0 : process->pid;
    for (int i = 0; i <= ANCESTORS && pid > 1; i++) {
        struct process next = { 0 };
        snprintf(name, sizeof name, "%d", (int)pid);
        if (holds_socket(&search, proc, name)) {
            return true;
        }
        CLEANUP(close_fd) int directory = open_process(proc, name);
        pid = directory >= 0 && read_process(directory, &next) ? next.parent : 0;
    }
    return false;
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
