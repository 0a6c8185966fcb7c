#include "common/reactor.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include <arpa/inet.h>
#include <assert.h>
#include <czmq.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reactor {
    struct event_base *base;
    struct event *signals[2]; /* NULL: not the main thread's */
    reactor_fn on_stop;
    void *context;
    bool asked_to_stop; /* the first signal came */
    bool stopped;       /* rc is given */
    int rc;
};

void
process_setup(void)
{
    setenv("ZSYS_SIGHANDLER", "false", 1);
    zsys_handler_set(NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void
on_signal(evutil_socket_t number, short what, void *context)
{
    struct reactor *self = context;
    (void)what;
    if (self->asked_to_stop) {
        log_warn("stop-forced signal=%d", (int)number);
        reactor_stop(self, -EINTR);
        event_base_loopbreak(self->base);
        return;
    }
    self->asked_to_stop = true;
    log_info("stop-asked signal=%d", (int)number);
    if (self->on_stop == NULL) {
        reactor_stop(self, 0);
        return;
    }
    self->on_stop(self->context);
}

static int
take_signals(struct reactor *self)
{
    static const int numbers[ARRAY_LENGTH(self->signals)] = { SIGTERM, SIGINT };
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++) {
        self->signals[i] = evsignal_new(self->base, numbers[i], on_signal, self);
        if (self->signals[i] == NULL || event_add(self->signals[i], NULL) != 0) {
            return -ENOMEM;
        }
    }
    return 0;
}

int
reactor_new(struct reactor **out, bool with_signals)
{
    CLEANUP(reactor_destroy) struct reactor *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->base = event_base_new();
    if (self->base == NULL || (with_signals && take_signals(self) != 0)) {
        return -ENOMEM;
    }
    *out = self;
    self = NULL;
    return 0;
}

void
reactor_destroy(struct reactor **self_p)
{
    struct reactor *self = *self_p;
    if (self == NULL) {
        return;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(self->signals); i++) {
        if (self->signals[i] != NULL) {
            event_free(self->signals[i]);
        }
    }
    if (self->base != NULL) {
        event_base_free(self->base);
    }
    free(self);
    *self_p = NULL;
}

struct event_base *
reactor_base(struct reactor *self)
{
    return self->base;
}

void
reactor_on_stop(struct reactor *self, reactor_fn on_stop, void *context)
{
    self->on_stop = on_stop;
    self->context = context;
}

int
reactor_run(struct reactor *self)
{
    /* A loop without events waits too: a thread's reactor may get its first one from another. */
    int rc = event_base_loop(self->base, EVLOOP_NO_EXIT_ON_EMPTY);
    if (self->stopped) {
        rc = self->rc;
    } else if (rc < 0) {
        rc = -EIO;
    }
    self->stopped = false; /* may be run again */
    return rc;
}

void
reactor_stop(struct reactor *self, int rc)
{
    if (self->stopped) {
        return;
    }
    self->stopped = true;
    self->rc = rc;
    event_base_loopexit(self->base, NULL);
}

/* -- timer -- */

struct timer {
    struct event *event;
    reactor_fn fn;
    void *context;
    int64_t due_us;
    int64_t period_ms; /* 0: once */
};

static void
timer_arm(struct timer *self, int64_t now_us)
{
    int64_t wait_us = self->due_us > now_us ? self->due_us - now_us : 0;
    struct timeval wait = { .tv_sec = wait_us / 1000000, .tv_usec = wait_us % 1000000 };
    event_add(self->event, &wait);
}

/* libevent counts from the time at which its pass began, by a coarse clock: a timer can fire some
 * milliseconds early, and a core whose deadline is not yet reached would be asked in vain. */
static void
on_timer(evutil_socket_t fd, short what, void *context)
{
    struct timer *self = context;
    int64_t now_us = clock_mono_us();
    (void)fd;
    (void)what;
    if (now_us < self->due_us) {
        timer_arm(self, now_us);
        return;
    }
    if (self->period_ms > 0) {
        self->due_us += self->period_ms * 1000;
        if (self->due_us <= now_us) {
            self->due_us = now_us + self->period_ms * 1000; /* beats missed are not made up for */
        }
        timer_arm(self, now_us);
    }
    self->fn(self->context); /* may destroy self */
}

int
timer_new(struct timer **out, struct reactor *reactor, reactor_fn fn, void *context)
{
    struct timer *self = calloc(1, sizeof *self);
    struct event *event = self == NULL ? NULL : evtimer_new(reactor->base, on_timer, self);
    if (event == NULL) {
        free(self);
        return -ENOMEM;
    }
    *self = (struct timer){ .event = event, .fn = fn, .context = context };
    *out = self;
    return 0;
}

void
timer_destroy(struct timer **self_p)
{
    if (*self_p != NULL) {
        event_free((*self_p)->event);
        free(*self_p);
        *self_p = NULL;
    }
}

static void
timer_start(struct timer *self, int64_t delay_ms, int64_t period_ms)
{
    int64_t now_us = clock_mono_us();
    self->due_us = now_us + delay_ms * 1000;
    self->period_ms = period_ms;
    timer_arm(self, now_us);
}

void
timer_in_ms(struct timer *self, int64_t delay_ms)
{
    timer_start(self, delay_ms < 0 ? 0 : delay_ms, 0);
}

void
timer_every_ms(struct timer *self, int64_t period_ms)
{
    assert(period_ms > 0);
    timer_start(self, period_ms, period_ms);
}

void
timer_stop(struct timer *self)
{
    event_del(self->event);
    self->period_ms = 0;
}

/* -- kick -- */

struct kick {
    struct event *event;
    reactor_fn fn;
    void *context;
    bool pending;
    bool *gone; /* while fn runs: set if it destroys self */
};

static void
on_kick(evutil_socket_t fd, short what, void *context)
{
    struct kick *self = context;
    bool gone = false;
    (void)fd;
    (void)what;
    self->pending = false;
    self->gone = &gone;
    self->fn(self->context);
    if (!gone) {
        self->gone = NULL;
    }
}

int
kick_new(struct kick **out, struct reactor *reactor, reactor_fn fn, void *context)
{
    struct kick *self = calloc(1, sizeof *self);
    struct event *event = self == NULL ? NULL : event_new(reactor->base, -1, 0, on_kick, self);
    if (event == NULL) {
        free(self);
        return -ENOMEM;
    }
    *self = (struct kick){ .event = event, .fn = fn, .context = context };
    *out = self;
    return 0;
}

void
kick_destroy(struct kick **self_p)
{
    struct kick *self = *self_p;
    if (self == NULL) {
        return;
    }
    if (self->gone != NULL) {
        *self->gone = true;
    }
    event_free(self->event);
    free(self);
    *self_p = NULL;
}

void
kick_now(struct kick *self)
{
    static const struct timeval next_turn = { 0, 0 };
    if (self->pending) {
        return;
    }
    self->pending = true;
    if (self->gone != NULL) {
        /* From its own fn: libevent goes on as long as anything is active, so a kick that kicks
         * itself would starve all sockets. A timer of 0 runs after they were looked at. */
        event_add(self->event, &next_turn);
        return;
    }
    event_active(self->event, EV_READ, 0);
}

/* -- the rest -- */

static int
write_by_rename(const char *path, const char *text)
{
    char temporary[4096];
    int length = snprintf(temporary, sizeof temporary, "%s.%d.tmp", path, (int)getpid());
    if (length < 0 || (size_t)length >= sizeof temporary) {
        return -ENAMETOOLONG;
    }
    FILE *file = fopen(temporary, "we");
    if (file == NULL) {
        return -errno;
    }
    int rc = fputs(text, file) < 0 ? -EIO : 0;
    rc = fclose(file) != 0 && rc == 0 ? -errno : rc;
    if (rc == 0 && rename(temporary, path) != 0) {
        rc = -errno;
    }
    if (rc != 0) {
        unlink(temporary);
    }
    return rc;
}

int
ready_print(const char *ready_file, const char *role, const char *format, ...)
{
    char pairs[1024];
    char line[1200];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(pairs, sizeof pairs, format, arguments);
    va_end(arguments);
    assert(length >= 0 && (size_t)length < sizeof pairs);
    length = snprintf(line, sizeof line, "ready role=%.64s %s\n", role, pairs);
    assert(length >= 0 && (size_t)length < sizeof line);
    fputs(line, stdout);
    fflush(stdout);
    int rc = ready_file == NULL ? 0 : write_by_rename(ready_file, line);
    if (rc != 0) {
        log_error("ready-file-failed path=\"%s\" error=\"%s\"", ready_file, strerror(-rc));
    }
    return rc;
}

bool
host_is_loopback(const char *host)
{
    size_t length = strlen(host);
    bool bracketed = length > 2 && host[0] == '[' && host[length - 1] == ']';
    char bare[64];
    struct in_addr v4;
    struct in6_addr v6;
    if (host[0] == '/' || strcasecmp(host, "localhost") == 0) {
        return true;
    }
    if (length >= sizeof bare) {
        return false;
    }
    snprintf(bare, sizeof bare, "%.*s", (int)(bracketed ? length - 2 : length), host + bracketed);
    if (!bracketed && inet_pton(AF_INET, bare, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    if (inet_pton(AF_INET6, bare, &v6) == 1) {
        return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
    }
    return false;
}
