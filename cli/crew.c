#include "cli/crew.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/scope.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum crew_state { CREW_IDLE, CREW_STARTING, CREW_UP, CREW_STOPPING, CREW_OVER, CREW_STATE_COUNT };

struct seat {
    struct crew_member member;
    pid_t pid; /* 0: does not live */
    bool ready, stopping;
    int64_t started_ms, restart_ms, kill_ms; /* restart_ms 0: not waiting to be started again */
    int64_t back_off_ms;
};

struct crew {
    struct reactor *reactor;
    struct crew_events events;
    struct event *sigchld;
    struct timer *timer;
    enum crew_state state;
    struct seat seats[CREW_MAX];
    uint32_t n_seats;
    uint32_t rank; /* being started, or stopped */
    pid_t guest;
    int64_t guest_kill_ms;
};

/* -- starting one -- */

static _Noreturn void
exec_words(const char *const *words, char *const *environment)
{
    static const int numbers[] = { SIGPIPE, SIGTERM, SIGINT, SIGCHLD, SIGHUP };
    sigset_t none;
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++) {
        (void)signal(numbers[i], SIG_DFL);
    }
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)execve(words[0], (char *const *)words, environment);
    (void)dprintf(STDERR_FILENO, "cannot run %s: %s\n", words[0], strerror(errno));
    _exit(127);
}

/* In the child. Dies with its parent, whose death before the prctl is seen by getppid(). */
static _Noreturn void
member_main(const struct seat *seat, const char *const *words, pid_t parent)
{
    (void)setsid();
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(127);
    }
    int null = open("/dev/null", O_RDONLY);
    int log = open(seat->member.log_path, O_WRONLY | O_CREAT | O_APPEND, 0640);
    if (null < 0 || log < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
        dup2(log, STDERR_FILENO) < 0) {
        _exit(127);
    }
    (void)close_range(STDERR_FILENO + 1, ~0U, 0);
    exec_words(words, seat->member.environment);
}

/* Signals are blocked over the fork: a handler of ours that ran in the child would write into the
 * pipe by which the loop learns of signals. */
static pid_t
fork_blocked(sigset_t *before)
{
    sigset_t all;
    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, before);
    return fork();
}

static int
seat_start(struct seat *seat)
{
    const char *words[CREW_WORDS] = { NULL };
    sigset_t before;
    pid_t parent = getpid();
    seat->member.command(seat->member.context, words);
    if (seat->member.ready_path != NULL) {
        (void)unlink(seat->member.ready_path);
    }
    pid_t pid = fork_blocked(&before);
    if (pid == 0) {
        member_main(seat, words, parent);
    }
    int rc = pid < 0 ? -errno : 0;
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    seat->pid = rc == 0 ? pid : 0;
    seat->ready = seat->stopping = false;
    seat->restart_ms = seat->kill_ms = 0;
    seat->started_ms = clock_mono_ms();
    return rc;
}

/* -- news -- */

__attribute__((format(printf, 2, 3))) static void
tell(struct crew *self, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    self->events.on_news(self->events.context, line);
}

static void
ending_text(char *out, size_t size, int status)
{
    if (WIFSIGNALED(status)) {
        (void)snprintf(out, size, "signal %d, %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else {
        (void)snprintf(out, size, "exit status %d", WEXITSTATUS(status));
    }
}

/* -- the start -- */

static void
start_failed(struct crew *self, const struct seat *seat, const char *why)
{
    uint32_t index = (uint32_t)(seat - self->seats);
    self->state = CREW_IDLE;
    self->events.on_failed(self->events.context, index, why);
}

/* Starts the members of this rank; if there are none, of the next one. */
static void
rank_start(struct crew *self)
{
    for (uint32_t i = 0; i < self->n_seats; i++) {
        struct seat *seat = &self->seats[i];
        int rc = seat->member.rank == self->rank ? seat_start(seat) : 0;
        if (rc != 0) {
            start_failed(self, seat, strerror(-rc));
            return;
        }
    }
}

static void
start_go_on(struct crew *self)
{
    uint32_t next = UINT32_MAX;
    for (uint32_t i = 0; i < self->n_seats; i++) {
        const struct seat *seat = &self->seats[i];
        if (seat->member.rank <= self->rank && !seat->ready) {
            return;
        }
        if (seat->member.rank > self->rank && seat->member.rank < next) {
            next = seat->member.rank;
        }
    }
    if (next != UINT32_MAX) {
        self->rank = next;
        rank_start(self);
        return;
    }
    self->state = CREW_UP;
    self->events.on_up(self->events.context);
}

static void
seat_ready(struct crew *self, struct seat *seat)
{
    if (seat->ready || seat->pid == 0) {
        return;
    }
    seat->ready = true;
    self->events.on_ready(self->events.context, (uint32_t)(seat - self->seats));
    if (self->state == CREW_STARTING) {
        start_go_on(self);
    } else if (self->state == CREW_UP) {
        tell(self, "%s is back", seat->member.name);
    }
}

void
crew_mark_ready(struct crew *self, uint32_t index)
{
    assert(index < self->n_seats);
    seat_ready(self, &self->seats[index]);
}

/* -- the stop -- */

static bool
rank_lives(const struct crew *self, uint32_t rank)
{
    for (uint32_t i = 0; i < self->n_seats; i++) {
        if (self->seats[i].pid != 0 && self->seats[i].member.rank == rank) {
            return true;
        }
    }
    return false;
}

static void
stop_go_on(struct crew *self)
{
    int64_t now_ms = clock_mono_ms();
    if (self->guest != 0) {
        return;
    }
    while (!rank_lives(self, self->rank)) {
        if (self->rank == 0) {
            self->state = CREW_OVER;
            self->events.on_over(self->events.context);
            return;
        }
        self->rank--;
    }
    for (uint32_t i = 0; i < self->n_seats; i++) {
        struct seat *seat = &self->seats[i];
        if (seat->pid != 0 && seat->member.rank == self->rank && !seat->stopping) {
            seat->stopping = true;
            seat->kill_ms = now_ms + LIMIT_UP_STOP_MS;
            (void)kill(seat->pid, SIGTERM);
        }
    }
}

void
crew_stop(struct crew *self)
{
    if (self->state == CREW_STOPPING || self->state == CREW_OVER) {
        return;
    }
    self->state = CREW_STOPPING;
    self->rank = 0;
    for (uint32_t i = 0; i < self->n_seats; i++) {
        uint32_t rank = self->seats[i].member.rank;
        self->rank = rank > self->rank ? rank : self->rank;
        self->seats[i].restart_ms = 0;
    }
    if (self->guest != 0) {
        self->guest_kill_ms = clock_mono_ms() + LIMIT_UP_GUEST_MS;
        (void)kill(self->guest, SIGTERM);
    }
    stop_go_on(self);
}

/* -- ends, and time -- */

/* "log/broker.log": the rest is known from the banner. */
static const char *
last_parts(const char *path)
{
    const char *name = strrchr(path, '/');
    while (name != NULL && name > path && name[-1] != '/') {
        name--;
    }
    return name != NULL ? name : path;
}

static void
seat_ended(struct crew *self, struct seat *seat, int status)
{
    char why[96];
    int64_t now_ms = clock_mono_ms();
    seat->pid = 0;
    seat->ready = false;
    ending_text(why, sizeof why, status);
    if (self->state == CREW_STARTING) {
        start_failed(self, seat, why);
    } else if (self->state == CREW_STOPPING) {
        stop_go_on(self);
    } else if (self->state == CREW_UP && seat->member.may_leave && status == 0) {
        tell(self, "%s has finished and left", seat->member.name);
    } else if (self->state == CREW_UP) {
        bool steady = now_ms - seat->started_ms >= LIMIT_UP_STEADY_MS;
        seat->back_off_ms =
            steady || seat->back_off_ms == 0 ? LIMIT_RESTART_MIN_MS : 2 * seat->back_off_ms;
        if (seat->back_off_ms > LIMIT_RESTART_MAX_MS) {
            seat->back_off_ms = LIMIT_RESTART_MAX_MS;
        }
        seat->restart_ms = now_ms + seat->back_off_ms;
        tell(self, "%s ended (%s); started again in %.1f s, see %s", seat->member.name, why,
             (double)seat->back_off_ms / 1000, last_parts(seat->member.log_path));
    }
}

static void
on_sigchld(evutil_socket_t number, short what, void *context)
{
    struct crew *self = context;
    int status;
    (void)number;
    (void)what;
    if (self->guest != 0 && waitpid(self->guest, &status, WNOHANG) == self->guest) {
        self->guest = 0;
        self->events.on_guest(self->events.context, status);
        if (self->state == CREW_STOPPING) {
            stop_go_on(self);
        }
    }
    for (uint32_t i = 0; i < self->n_seats; i++) {
        struct seat *seat = &self->seats[i];
        if (seat->pid != 0 && waitpid(seat->pid, &status, WNOHANG) == seat->pid) {
            seat_ended(self, seat, status);
        }
    }
}

static void
seat_tick(struct crew *self, struct seat *seat, int64_t now_ms)
{
    if (seat->kill_ms != 0 && now_ms >= seat->kill_ms && seat->pid != 0) {
        tell(self, "%s does not end; killed", seat->member.name);
        (void)kill(seat->pid, SIGKILL);
        seat->kill_ms = now_ms + LIMIT_UP_STOP_MS;
    }
    if (seat->restart_ms != 0 && now_ms >= seat->restart_ms && self->state == CREW_UP) {
        int rc = seat_start(seat);
        if (rc != 0) {
            seat->restart_ms = now_ms + LIMIT_RESTART_MAX_MS;
            tell(self, "%s cannot be started: %s", seat->member.name, strerror(-rc));
        }
    }
    if (seat->pid != 0 && !seat->ready && seat->member.ready_path != NULL &&
        access(seat->member.ready_path, F_OK) == 0) {
        seat_ready(self, seat);
    }
    if (self->state == CREW_STARTING && seat->pid != 0 && !seat->ready &&
        now_ms - seat->started_ms > LIMIT_UP_READY_MS) {
        start_failed(self, seat, "not ready in time");
    }
}

static void
on_timer(void *context)
{
    struct crew *self = context;
    int64_t now_ms = clock_mono_ms();
    for (uint32_t i = 0; i < self->n_seats; i++) {
        seat_tick(self, &self->seats[i], now_ms);
    }
    if (self->guest != 0 && self->guest_kill_ms != 0 && now_ms >= self->guest_kill_ms) {
        self->guest_kill_ms = 0;
        (void)kill(self->guest, SIGKILL);
    }
}

/* -- the crew -- */

int
crew_new(struct crew **out, struct reactor *reactor, const struct crew_events *events)
{
    CLEANUP(crew_destroy) struct crew *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->reactor = reactor;
    self->events = *events;
    self->sigchld = evsignal_new(reactor_base(reactor), SIGCHLD, on_sigchld, self);
    if (self->sigchld == NULL || event_add(self->sigchld, NULL) != 0 ||
        timer_new(&self->timer, reactor, on_timer, self) != 0) {
        return -ENOMEM;
    }
    *out = self;
    self = NULL;
    return 0;
}

void
crew_destroy(struct crew **self_p)
{
    struct crew *self = *self_p;
    if (self == NULL) {
        return;
    }
    if (self->guest != 0) {
        (void)kill(self->guest, SIGKILL);
    }
    for (uint32_t i = 0; i < self->n_seats; i++) {
        if (self->seats[i].pid != 0) {
            (void)kill(self->seats[i].pid, SIGKILL);
            (void)waitpid(self->seats[i].pid, NULL, 0);
        }
    }
    if (self->sigchld != NULL) {
        event_free(self->sigchld);
    }
    timer_destroy(&self->timer);
    free(self);
    *self_p = NULL;
}

uint32_t
crew_add(struct crew *self, const struct crew_member *member)
{
    assert(self->state == CREW_IDLE && self->n_seats < CREW_MAX);
    self->seats[self->n_seats] = (struct seat){ .member = *member };
    return self->n_seats++;
}

void
crew_start(struct crew *self)
{
    self->state = CREW_STARTING;
    self->rank = 0;
    timer_every_ms(self->timer, LIMIT_TICK_MS / 2);
    rank_start(self);
}

int
crew_run_guest(struct crew *self, const char *const *words)
{
    sigset_t before;
    pid_t parent = getpid();
    pid_t pid = fork_blocked(&before);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent) {
            _exit(127);
        }
        (void)close_range(STDERR_FILENO + 1, ~0U, 0);
        exec_words(words, environ);
    }
    int rc = pid < 0 ? -errno : 0;
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    self->guest = rc == 0 ? pid : 0;
    return rc;
}

const char *
crew_waits_for(const struct crew *self)
{
    for (uint32_t i = 0; i < self->n_seats; i++) {
        const struct seat *seat = &self->seats[i];
        if ((self->state == CREW_STARTING && seat->pid != 0 && !seat->ready) ||
            (self->state == CREW_STOPPING && seat->pid != 0 && seat->stopping)) {
            return seat->member.name;
        }
    }
    return NULL;
}
