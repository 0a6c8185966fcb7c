#include "worker/child.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/scope.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct child {
    struct family family;
    pid_t guardian;  /* 0: none */
    int guardian_fd; /* closed, by us or by our death: the guardian kills the family */
    bool exited;     /* the leader */
    bool reaped;
    int status;
    char record_path[PATH_MAX];
};

enum { BOOT_ID = 36, HIGH_FD = 10, CLEAN_STEP_MS = 5 };

static void
close_fd(int *fd_p)
{
    if (*fd_p >= 0) {
        close(*fd_p);
        *fd_p = -1;
    }
}

static void
sleep_ms(int ms)
{
    struct timespec pause = { .tv_nsec = ms * 1000000L };
    nanosleep(&pause, NULL);
}

/* -- in the child: only what is allowed after a fork of a program with threads -- */

struct launch {
    pid_t parent;
    int release; /* a byte comes when we are recorded; its end means that the parent died */
    int log;
    char *const *arguments;
    char *const *environment;
};

static void
reset_signals(void)
{
    static const int numbers[] = { SIGPIPE, SIGTERM, SIGINT, SIGCHLD, SIGHUP, SIGQUIT };
    sigset_t none;
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++) {
        signal(numbers[i], SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void
child_main(const struct launch *launch)
{
    char byte;
    setsid(); /* its own group, and a session: both carry its pid */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != launch->parent) {
        _exit(127); /* died before the line above */
    }
    int release = fcntl(launch->release, F_DUPFD, HIGH_FD); /* out of the way of 0, 1, 2 and 3 */
    int log = fcntl(launch->log, F_DUPFD, HIGH_FD);
    int null = open("/dev/null", O_RDONLY);
    if (release < 0 || log < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0 || dup2(release, 3) < 0) {
        _exit(127);
    }
    close_range(4, ~0U, 0); /* sockets of libraries that forget CLOEXEC, other guardians' pipes */
    reset_signals();
    ssize_t n;
    do {
        n = read(3, &byte, 1);
    } while (n < 0 && errno == EINTR);
    if (n != 1) {
        _exit(127);
    }
    close(3);
    execve(launch->arguments[0], launch->arguments, launch->environment);
    _exit(127);
}

static _Noreturn void
guardian_main(int pipe_fd, const struct family *family)
{
    char byte;
    setsid();
    prctl(PR_SET_NAME, "drawbar-guard");
    int fd = fcntl(pipe_fd, F_DUPFD, HIGH_FD);
    if (fd < 0 || dup2(fd, STDIN_FILENO) < 0) {
        _exit(1);
    }
    close_range(1, ~0U, 0); /* above all our copies of other pipes: they would never end */
    ssize_t n;
    do {
        n = read(STDIN_FILENO, &byte, 1);
    } while (n < 0 && errno == EINTR);
    if (n == 0) {
        int64_t end_ms = clock_mono_ms() + LIMIT_KILL_MS;
        while (family_signal(family, SIGKILL) > 0 && clock_mono_ms() < end_ms) {
            sleep_ms(CLEAN_STEP_MS);
        }
    }
    _exit(0);
}

/* -- in the agent -- */

/* Signals are blocked over the fork: a handler of ours that ran in the child would write into the
 * pipe by which the loop learns of signals. The guardian leaves them blocked for good. */
static pid_t
fork_blocked(sigset_t *before)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, before);
    return fork();
}

static int
guardian_start(struct child *self)
{
    int ends[2];
    sigset_t before;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return -errno;
    }
    pid_t pid = fork_blocked(&before);
    if (pid == 0) {
        close(ends[1]);
        guardian_main(ends[0], &self->family);
    }
    int rc = pid < 0 ? -errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(ends[0]);
    if (rc != 0) {
        close(ends[1]);
        return rc;
    }
    self->guardian = pid;
    self->guardian_fd = ends[1];
    return 0;
}

static void
guardian_dismiss(struct child *self)
{
    if (self->guardian_fd >= 0) {
        ssize_t n = write(self->guardian_fd, "x", 1);
        (void)n; /* it may be dead already: SIGPIPE is ignored */
        close_fd(&self->guardian_fd);
    }
}

/* Reads at most size - 1 bytes of a small file; "" if it cannot be read. */
static void
read_text(int directory, const char *name, char *out, size_t size)
{
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, out, size - 1);
    out[n < 0 ? 0 : n] = '\0';
    if (fd >= 0) {
        close(fd);
    }
}

static bool
boot_id(char out[BOOT_ID + 1])
{
    read_text(AT_FDCWD, "/proc/sys/kernel/random/boot_id", out, BOOT_ID + 1);
    return strlen(out) == BOOT_ID;
}

static int
record_write(const struct child *self, uint16_t port)
{
    char boot[BOOT_ID + 1];
    char text[256];
    char temporary[PATH_MAX + 8];
    boot_id(boot);
    int length =
        snprintf(text, sizeof text, "pid=%d group=%d start=%llu port=%u boot=%s token=%s\n",
                 (int)self->family.leader, (int)self->family.leader,
                 (unsigned long long)self->family.start, port, boot, self->family.token);
    snprintf(temporary, sizeof temporary, "%s.tmp", self->record_path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -errno;
    }
    int rc = write(fd, text, (size_t)length) == length ? 0 : -EIO;
    rc = close(fd) == 0 ? rc : -errno;
    if (rc == 0 && rename(temporary, self->record_path) != 0) {
        rc = -errno;
    }
    return rc;
}

static size_t
count_of(char *const *strings)
{
    size_t n = 0;
    while (strings != NULL && strings[n] != NULL) {
        n++;
    }
    return n;
}

static bool
is_replaced(const char *variable, char *const *by)
{
    size_t name = strcspn(variable, "=") + 1;
    for (; by != NULL && *by != NULL; by++) {
        if (strncmp(variable, *by, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Our environment without our own settings, which the instance would take for its own, and with the
 * family's word in front, then the variables that replace ours. The strings are borrowed; the array
 * is the caller's. */
static char **
environment_new(char *token, char *const *variables)
{
    static const char ours[] = "DRAWBAR_";
    size_t n_variables = count_of(variables);
    char **out = calloc(count_of(environ) + n_variables + 2, sizeof *out);
    size_t used = 0;
    if (out == NULL) {
        return NULL;
    }
    out[used++] = token;
    for (size_t i = 0; i < n_variables; i++) {
        out[used++] = variables[i];
    }
    for (char *const *at = environ; *at != NULL; at++) {
        if (strncmp(*at, ours, sizeof ours - 1) != 0 && !is_replaced(*at, variables)) {
            out[used++] = *at;
        }
    }
    return out;
}

static void
token_make(char out[FAMILY_TOKEN + 1])
{
    uint8_t bytes[FAMILY_TOKEN / 2];
    random_fill(bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    }
}

static int
fork_child(struct child *self, const struct launch *launch)
{
    sigset_t before;
    pid_t pid = fork_blocked(&before);
    if (pid == 0) {
        child_main(launch);
    }
    int rc = pid < 0 ? -errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0) {
        self->family.leader = pid;
        self->family.start = process_start(pid);
    }
    return rc;
}

/* Forks the leader, its guardian, writes the record, and only then lets the leader run. */
static int
launch_child(struct child *self, const struct child_spec *spec, char *const *environment)
{
    char *arguments[] = { "/bin/sh", "-c", (char *)spec->command, NULL };
    int ends[2];
    CLEANUP(close_fd)
    int log = open(spec->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (log < 0 || pipe2(ends, O_CLOEXEC) != 0) {
        return -errno;
    }
    CLEANUP(close_fd) int release_read = ends[0];
    CLEANUP(close_fd) int release = ends[1];
    struct launch launch = { .parent = getpid(),
                             .release = release_read,
                             .log = log,
                             .arguments = arguments,
                             .environment = environment };
    int rc = fork_child(self, &launch);
    if (rc != 0) {
        return rc;
    }
    rc = guardian_start(self);
    rc = rc ? rc : record_write(self, spec->port);
    if (rc == 0 && write(release, "x", 1) != 1) {
        rc = -errno;
    }
    if (rc != 0) {
        kill(self->family.leader, SIGKILL); /* waits for the byte: has started nothing yet */
        self->reaped = waitpid(self->family.leader, &self->status, 0) == self->family.leader;
        self->exited = true;
    }
    return rc;
}

int
child_start(struct child **out, const struct child_spec *spec)
{
    char variable[sizeof FAMILY_VARIABLE + 1 + FAMILY_TOKEN];
    if (strlen(spec->record_path) >= PATH_MAX) {
        return -ENAMETOOLONG;
    }
    CLEANUP(child_destroy) struct child *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->guardian_fd = -1;
    snprintf(self->record_path, sizeof self->record_path, "%s", spec->record_path);
    token_make(self->family.token);
    snprintf(variable, sizeof variable, "%s=%s", FAMILY_VARIABLE, self->family.token);
    char **environment = environment_new(variable, spec->variables);
    int rc = environment == NULL ? -ENOMEM : launch_child(self, spec, environment);
    free(environment);
    if (rc != 0) {
        return rc;
    }
    *out = self;
    self = NULL;
    return 0;
}

pid_t
child_pid(const struct child *self)
{
    return self->family.leader;
}

const struct family *
child_family(const struct child *self)
{
    return &self->family;
}

bool
child_exited(struct child *self, int *status)
{
    siginfo_t info = { 0 };
    if (!self->exited &&
        waitid(P_PID, (id_t)self->family.leader, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        info.si_pid == self->family.leader) {
        /* What waitpid would tell; the zombie stays. */
        self->exited = true;
        self->status = info.si_code == CLD_EXITED ? W_EXITCODE(info.si_status, 0)
                                                  : W_EXITCODE(0, info.si_status);
    }
    *status = self->status;
    return self->exited;
}

bool
child_reaped(struct child *self, pid_t pid, int status)
{
    if (pid == self->family.leader && !self->reaped) {
        self->exited = self->reaped = true;
        self->status = status;
        return true;
    }
    if (pid != self->guardian || pid == 0) {
        return false;
    }
    self->guardian = 0;
    if (self->guardian_fd >= 0) {
        close_fd(&self->guardian_fd);
        int rc = guardian_start(self);
        log_warn("guardian-replaced pid=%d of=%d rc=%d", (int)pid, (int)self->family.leader, rc);
    }
    return true;
}

void
child_terminate(struct child *self)
{
    if (!self->reaped) {
        kill(-self->family.leader, SIGTERM);
    }
}

void
child_kill(struct child *self)
{
    family_signal(&self->family, SIGKILL);
}

bool
child_gone(struct child *self)
{
    int status;
    return child_exited(self, &status) && family_signal(&self->family, 0) == 0;
}

void
child_destroy(struct child **self_p)
{
    struct child *self = *self_p;
    if (self == NULL) {
        return;
    }
    if (self->family.leader == 0 || child_gone(self)) {
        guardian_dismiss(self);
        if (self->family.leader != 0 && !self->reaped) {
            waitpid(self->family.leader, NULL, WNOHANG);
        }
        unlink(self->record_path);
    }
    close_fd(&self->guardian_fd);
    free(self);
    *self_p = NULL;
}

/* -- what an earlier agent left behind -- */

int
children_adopt(void)
{
    return prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 ? 0 : -errno;
}

static const char *
record_value(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    return at == NULL ? "" : at + strlen(key);
}

/* False: the record is damaged, or of before the last reboot. */
static bool
record_parse(const char *text, struct family *out)
{
    char boot[BOOT_ID + 1];
    const char *token = record_value(text, "token=");
    out->leader = (pid_t)strtol(record_value(text, "pid="), NULL, 10);
    out->start = strtoull(record_value(text, "start="), NULL, 10);
    snprintf(out->token, sizeof out->token, "%s", token);
    return out->leader > 1 && out->start != 0 &&
           strspn(token, "0123456789abcdef") == FAMILY_TOKEN && boot_id(boot) &&
           strncmp(record_value(text, "boot="), boot, BOOT_ID) == 0;
}

static int
record_clean(int directory, const char *name)
{
    char text[256];
    struct family family;
    read_text(directory, name, text, sizeof text);
    if (record_parse(text, &family)) {
        int64_t end_ms = clock_mono_ms() + LIMIT_CLEAN_MS;
        uint32_t first = family_signal(&family, 0);
        uint32_t left = family_signal(&family, SIGKILL);
        while (left > 0 && clock_mono_ms() < end_ms) {
            sleep_ms(CLEAN_STEP_MS);
            left = family_signal(&family, SIGKILL);
        }
        if (first > 0) {
            log_warn("leftover-killed record=%s pid=%d processes=%u left=%u", name,
                     (int)family.leader, first, left);
        }
        if (left > 0) {
            return -EBUSY;
        }
    }
    unlinkat(directory, name, 0);
    return 0;
}

int
children_clean(const char *directory)
{
    char name[32];
    int rc = 0;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    for (int i = 0; i < LIMIT_INSTANCES; i++) {
        snprintf(name, sizeof name, "%d.child", i);
        rc = record_clean(fd, name) == 0 ? rc : -EBUSY;
    }
    close(fd);
    return rc;
}

const char *
exit_text(int status, char *out, size_t size)
{
    if (WIFSIGNALED(status)) {
        snprintf(out, size, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else {
        snprintf(out, size, "exit code %d", WEXITSTATUS(status));
    }
    return out;
}
