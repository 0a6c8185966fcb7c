#include "common/http_guard.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include <errno.h>
#include <event2/buffer.h>
#include <stdlib.h>
#include <sys/socket.h>

#define DEADLINE_NONE INT64_MAX

enum guard_phase {
    GUARD_NEW,     /* accepted, not a byte came */
    GUARD_PART,    /* a part of a request came */
    GUARD_TAKEN,   /* the request is in our hands, or its answer is being written */
    GUARD_RESTING, /* answered, and nothing came since */
    GUARD_PHASE_COUNT,
};

struct guard_entry {
    struct http_guard *guard;
    uint64_t cookie; /* 0: no connection */
    int64_t deadline_ms;
    enum guard_phase phase;
};

struct http_guard {
    int64_t request_ms;
    reactor_fn sweep;
    void *context;
    struct timer *tick;
    struct kick *fresh_kick;
    struct bufferevent **fresh; /* accepted in this turn; one reference each */
    uint32_t n_fresh, fresh_max;
    uint32_t n_open;
    int top; /* no descriptor above this one was ever watched: the sweep ends there */
    struct guard_entry entries[LIMIT_HTTP_CONNECTIONS];
};

static bool
cookie_of(int fd, uint64_t *cookie)
{
    socklen_t size = sizeof *cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &size) == 0;
}

static struct guard_entry *
entry_of(struct http_guard *self, int fd)
{
    bool known = fd >= 0 && fd < LIMIT_HTTP_CONNECTIONS && self->entries[fd].cookie != 0;
    return known ? &self->entries[fd] : NULL;
}

static void
entry_forget(struct guard_entry *entry)
{
    entry->cookie = 0;
    entry->deadline_ms = DEADLINE_NONE;
    entry->guard->n_open--;
}

static void
bytes_came(struct evbuffer *input, const struct evbuffer_cb_info *info, void *context)
{
    (void)input;
    struct guard_entry *entry = context;
    if (info->n_added == 0 || entry->phase == GUARD_PART || entry->phase == GUARD_TAKEN) {
        return;
    }
    if (entry->phase == GUARD_RESTING) {
        entry->deadline_ms = clock_mono_ms() + entry->guard->request_ms;
    }
    entry->phase = GUARD_PART;
}

static void
watch(struct http_guard *self, struct bufferevent *connection)
{
    int fd = bufferevent_getfd(connection);
    uint64_t cookie = 0;
    if (fd < 0) {
        return; /* closed in the turn it was accepted */
    }
    if (fd >= LIMIT_HTTP_CONNECTIONS || !cookie_of(fd, &cookie)) {
        log_warn("http-connection-refused fd=%d limit=%d", fd, LIMIT_HTTP_CONNECTIONS);
        http_guard_shut(fd);
        return;
    }
    struct guard_entry *entry = &self->entries[fd];
    self->n_open += entry->cookie == 0;
    *entry = (struct guard_entry){ self, cookie, clock_mono_ms() + self->request_ms, GUARD_NEW };
    self->top = fd > self->top ? fd : self->top;
    evbuffer_add_cb(bufferevent_get_input(connection), bytes_came, entry);
}

static void
watch_fresh(void *context)
{
    struct http_guard *self = context;
    while (self->n_fresh > 0) {
        struct bufferevent *connection = self->fresh[--self->n_fresh];
        watch(self, connection);
        bufferevent_decref(connection);
    }
}

void
http_guard_adopt(struct http_guard *self, struct bufferevent *connection)
{
    if (self->n_fresh == self->fresh_max) {
        uint32_t wanted = self->fresh_max == 0 ? 64 : 2 * self->fresh_max;
        struct bufferevent **grown = reallocarray(self->fresh, wanted, sizeof(void *));
        if (grown == NULL) {
            abort(); /* without the guard the connection would have no deadline */
        }
        self->fresh = grown;
        self->fresh_max = wanted;
    }
    bufferevent_incref(connection);
    self->fresh[self->n_fresh++] = connection;
    kick_now(self->fresh_kick);
}

void
http_guard_clear(struct http_guard *self, int fd)
{
    struct guard_entry *entry = entry_of(self, fd);
    if (entry != NULL) {
        entry->deadline_ms = DEADLINE_NONE;
        entry->phase = GUARD_TAKEN;
    }
}

void
http_guard_arm(struct http_guard *self, int fd, int64_t delay_ms)
{
    struct guard_entry *entry = entry_of(self, fd);
    if (entry != NULL) {
        entry->deadline_ms = clock_mono_ms() + delay_ms;
    }
}

void
http_guard_rest(struct http_guard *self, int fd)
{
    struct guard_entry *entry = entry_of(self, fd);
    if (entry != NULL) {
        entry->deadline_ms = DEADLINE_NONE;
        entry->phase = GUARD_RESTING;
    }
}

void
http_guard_forget(struct http_guard *self, int fd)
{
    struct guard_entry *entry = entry_of(self, fd);
    if (entry != NULL) {
        entry_forget(entry);
    }
}

uint32_t
http_guard_count(const struct http_guard *self)
{
    return self->n_open + self->n_fresh;
}

void
http_guard_recount(struct http_guard *self)
{
    for (int fd = 0; fd <= self->top && self->n_open > 0; fd++) {
        uint64_t cookie = 0;
        struct guard_entry *entry = entry_of(self, fd);
        if (entry != NULL && !(cookie_of(fd, &cookie) && cookie == entry->cookie)) {
            entry_forget(entry);
        }
    }
}

bool
http_guard_expects(const struct http_guard *self)
{
    int64_t now_ms = clock_mono_ms();
    for (int fd = 0; fd <= self->top; fd++) {
        const struct guard_entry *entry = &self->entries[fd];
        int64_t age_ms = now_ms - (entry->deadline_ms - self->request_ms);
        uint64_t cookie = 0;
        bool comes = entry->phase == GUARD_PART ||
                     (entry->phase == GUARD_NEW && age_ms < LIMIT_HTTP_FIRST_MS);
        if (entry->cookie != 0 && comes && cookie_of(fd, &cookie) && cookie == entry->cookie) {
            return true;
        }
    }
    return self->n_fresh > 0;
}

void
http_guard_shut_all(struct http_guard *self)
{
    for (int fd = 0; fd <= self->top; fd++) {
        uint64_t cookie = 0;
        if (entry_of(self, fd) != NULL && cookie_of(fd, &cookie) &&
            cookie == self->entries[fd].cookie) {
            http_guard_shut(fd);
        }
    }
}

void
http_guard_shut(int fd)
{
    (void)shutdown(fd, SHUT_RDWR); /* an error means that the peer was faster */
}

static void
look_at_deadlines(void *context)
{
    struct http_guard *self = context;
    int64_t now_ms = clock_mono_ms();
    for (int fd = 0; fd <= self->top; fd++) {
        struct guard_entry *entry = &self->entries[fd];
        uint64_t cookie = 0;
        if (entry->cookie == 0 || entry->deadline_ms > now_ms) {
            continue;
        }
        if (cookie_of(fd, &cookie) && cookie == entry->cookie) {
            http_guard_shut(fd);
        }
        entry_forget(entry);
    }
    self->sweep(self->context);
}

int
http_guard_new(struct http_guard **out, struct reactor *reactor, int64_t request_ms,
               reactor_fn sweep, void *context)
{
    struct http_guard *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->request_ms = request_ms;
    self->sweep = sweep;
    self->context = context;
    self->top = -1;
    int rc = timer_new(&self->tick, reactor, look_at_deadlines, self);
    rc = rc ? rc : kick_new(&self->fresh_kick, reactor, watch_fresh, self);
    if (rc != 0) {
        http_guard_destroy(&self);
        return rc;
    }
    timer_every_ms(self->tick, LIMIT_HTTP_SWEEP_MS);
    *out = self;
    return 0;
}

void
http_guard_destroy(struct http_guard **self_p)
{
    struct http_guard *self = *self_p;
    if (self == NULL) {
        return;
    }
    while (self->n_fresh > 0) {
        bufferevent_decref(self->fresh[--self->n_fresh]);
    }
    kick_destroy(&self->fresh_kick);
    timer_destroy(&self->tick);
    free(self->fresh);
    free(self);
    *self_p = NULL;
}
