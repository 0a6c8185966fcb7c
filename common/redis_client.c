#include "common/redis_client.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/redis_adapter.h"
#include "common/redis_sentinel.h"
#include "common/redis_url.h"
#include "common/scope.h"
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/queue.h>

enum client_state {
    CLIENT_WAITING, /* no context; the retry timer runs */
    CLIENT_ASKING,  /* no context; the Sentinels are asked for the master */
    CLIENT_CONNECTING,
    CLIENT_GREETING,
    CLIENT_UP,
    CLIENT_LOST, /* hiredis is calling back what is unanswered, then on_disconnect */
};

/* What was logged last: each kind of trouble once until the connection is up again. */
enum trouble {
    TROUBLE_NONE,
    TROUBLE_UNREACHABLE,
    TROUBLE_REFUSED,
    TROUBLE_LOADING,
};

enum { RECONNECT_MIN_MS = 50, READ_GRACE_MS = 10 };

struct command { /* sent, not yet answered */
    TAILQ_ENTRY(command) link;
    struct redis_client *client;
    redis_reply_fn fn;
    void *context;
    int64_t sent_ms;
};

struct redis_client {
    struct reactor *reactor;
    struct redis_events events;
    struct redis_url url;
    enum client_state state;
    redisAsyncContext *connection;   /* NULL only if WAITING or ASKING */
    struct redis_host at;            /* where it goes; host "": to the Unix socket */
    struct redis_sentinel *sentinel; /* NULL: the URL names the Redis itself */
    struct timer *look;              /* asks the Sentinels again while all is well */
    TAILQ_HEAD(, command) unanswered;
    struct timer *retry;
    struct timer *watch; /* looks after the oldest unanswered command, or the connect */
    bool watching;
    int64_t connect_ms;
    int64_t pause_ms;
    enum trouble logged;
    bool announced;       /* on_up was called */
    uint64_t connections; /* for which it was */
    bool dead;
    char why[160]; /* the connection was or is being ended */
    char run_id[64];
};

static void client_start(void *context);
static void client_free(struct redis_client *self);

/* -- losing a connection -- */

static void
say_trouble(struct redis_client *self, enum trouble trouble, const char *event)
{
    if (self->logged != trouble) {
        self->logged = trouble;
        log_warn("%s address=%s why=\"%s\"", event, self->url.address, self->why);
    }
}

/* The context is gone or will be when its caller in hiredis returns. */
static void
client_lost(struct redis_client *self)
{
    bool announced = self->announced;
    self->connection = NULL;
    self->state = CLIENT_WAITING;
    self->announced = false;
    if (self->dead) {
        client_free(self);
        return;
    }
    timer_stop(self->watch);
    self->watching = false;
    timer_in_ms(self->retry, self->pause_ms);
    self->pause_ms *= 2;
    self->pause_ms = self->pause_ms > LIMIT_RECONNECT_MS ? LIMIT_RECONNECT_MS : self->pause_ms;
    if (announced) {
        log_warn("redis-down address=%s why=\"%s\"", self->url.address, self->why);
        if (self->events.on_down != NULL) {
            self->events.on_down(self->events.context, self->why); /* may destroy self */
        }
    }
}

/* Ends the connection. Inside a reply's callback hiredis frees the context after it; else now. */
static void
client_drop(struct redis_client *self, const char *why)
{
    redisAsyncContext *connection = self->connection;
    bool was_connected = (connection->c.flags & REDIS_CONNECTED) != 0;
    self->state = CLIENT_LOST;
    if (why != self->why) {
        snprintf(self->why, sizeof self->why, "%s", why);
    }
    redisAsyncFree(connection); /* on_disconnect may free self */
    if (!was_connected) {
        client_lost(self); /* hiredis tells only of those that were connected */
    }
}

static void
on_disconnect(const redisAsyncContext *connection, int status)
{
    struct redis_client *self = connection->data;
    if (status != REDIS_OK) {
        snprintf(self->why, sizeof self->why, "%s", connection->c.errstr);
    }
    if (status != REDIS_OK && !self->announced && !self->dead) {
        say_trouble(self, TROUBLE_UNREACHABLE, "redis-unreachable");
    }
    client_lost(self);
}

/* Commands wait in the order of their answers: the first one is the oldest. */
static void
on_watch(void *context)
{
    struct redis_client *self = context;
    const struct command *oldest = TAILQ_FIRST(&self->unanswered);
    bool starting = self->state == CLIENT_CONNECTING || self->state == CLIENT_GREETING;
    self->watching = false;
    if (self->connection == NULL || (!starting && oldest == NULL)) {
        return;
    }
    int64_t since_ms = oldest != NULL ? oldest->sent_ms : self->connect_ms;
    int64_t left_ms = since_ms + LIMIT_REDIS_MS - clock_mono_ms();
    int unread = 0;
    /* If we ourselves stood still, the answer may be here already. */
    if (left_ms <= 0 && oldest != NULL && ioctl(self->connection->c.fd, FIONREAD, &unread) == 0 &&
        unread > 0) {
        left_ms = READ_GRACE_MS;
    }
    if (left_ms > 0) {
        self->watching = true;
        timer_in_ms(self->watch, left_ms);
        return;
    }
    snprintf(self->why, sizeof self->why, "no answer for %d ms", (int)LIMIT_REDIS_MS);
    if (self->state != CLIENT_UP) {
        say_trouble(self, TROUBLE_UNREACHABLE, "redis-unreachable");
    }
    client_drop(self, self->why);
}

static void
client_watch(struct redis_client *self)
{
    if (!self->watching) {
        self->watching = true;
        timer_in_ms(self->watch, LIMIT_REDIS_MS);
    }
}

/* -- commands -- */

static void
on_reply(redisAsyncContext *connection, void *reply, void *context)
{
    struct command *command = context;
    struct redis_client *self = command->client;
    const redisReply *answer = reply;
    redis_reply_fn fn = command->fn;
    void *fn_context = command->context;
    if (answer == NULL) {
        self->state = CLIENT_LOST; /* what fn wants to send now cannot be sent */
    }
    assert(command == TAILQ_FIRST(&self->unanswered));
    TAILQ_REMOVE(&self->unanswered, command, link);
    free(command);
    bool loading = answer != NULL && answer->type == REDIS_REPLY_ERROR &&
                   strncmp(answer->str, "LOADING", 7) == 0;
    if (fn != NULL) {
        fn(fn_context, answer); /* may end the connection, not free self: that is on_disconnect's */
    }
    if (loading && self->state == CLIENT_UP && self->connection == connection) {
        client_drop(self, "LOADING: Redis is reading its data");
    }
}

/* False: not sent, fn not called. */
static bool
client_send(struct redis_client *self, struct command model, int argc, const char **argv,
            const size_t *lengths)
{
    struct command *command = malloc(sizeof *command);
    if (command == NULL) {
        return false;
    }
    *command = model;
    command->client = self;
    command->sent_ms = clock_mono_ms();
    if (redisAsyncCommandArgv(self->connection, on_reply, command, argc, argv, lengths) !=
        REDIS_OK) {
        free(command);
        return false;
    }
    TAILQ_INSERT_TAIL(&self->unanswered, command, link);
    client_watch(self);
    return true;
}

void
// NOLINTNEXTLINE(readability-function-size): a binary-safe command needs argc, argv and lengths
redis_client_command(struct redis_client *self, redis_reply_fn fn, void *context, int argc,
                     const char **argv, const size_t *lengths)
{
    struct command model = { .fn = fn, .context = context };
    assert(argc > 0);
    bool sent =
        self->state == CLIENT_UP && !self->dead && client_send(self, model, argc, argv, lengths);
    if (!sent && fn != NULL) {
        fn(context, NULL);
    }
}

void
redis_client_call(struct redis_client *self, redis_reply_fn fn, void *context, const char *format,
                  ...)
{
    struct command *command = NULL;
    bool sent = false;
    va_list arguments;
    va_start(arguments, format);
    if (self->state == CLIENT_UP && !self->dead) {
        command = malloc(sizeof *command);
    }
    if (command != NULL) {
        *command = (struct command){
            .client = self, .fn = fn, .context = context, .sent_ms = clock_mono_ms()
        };
        sent =
            redisvAsyncCommand(self->connection, on_reply, command, format, arguments) == REDIS_OK;
    }
    va_end(arguments);
    if (sent) {
        TAILQ_INSERT_TAIL(&self->unanswered, command, link);
        client_watch(self);
        return;
    }
    free(command);
    if (fn != NULL) {
        fn(context, NULL);
    }
}

/* -- greeting: AUTH, SELECT, PING, ROLE, INFO, all sent at once -- */

static bool
starts_with(const redisReply *reply, const char *prefix)
{
    return reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, prefix, strlen(prefix)) == 0;
}

/* Ends the greeting with the server's own words; the next try comes by itself. */
static void
greeting_failed(struct redis_client *self, enum trouble trouble, const redisReply *reply)
{
    snprintf(self->why, sizeof self->why, "%s", reply->str);
    say_trouble(self, trouble, trouble == TROUBLE_LOADING ? "redis-loading" : "redis-refused");
    client_drop(self, self->why);
}

static void
on_login(void *context, const redisReply *reply) /* AUTH or SELECT */
{
    struct redis_client *self = context;
    if (reply != NULL && self->state == CLIENT_GREETING && reply->type == REDIS_REPLY_ERROR) {
        greeting_failed(self, TROUBLE_REFUSED, reply);
    }
}

/* INFO and SELECT are answered while Redis loads its data, PING is not. That our user may not PING
 * or that the disk is full is no reason not to begin: reads still work. */
static void
on_ping(void *context, const redisReply *reply)
{
    struct redis_client *self = context;
    if (reply == NULL || self->state != CLIENT_GREETING || reply->type != REDIS_REPLY_ERROR ||
        starts_with(reply, "NOPERM") || starts_with(reply, "MISCONF")) {
        return;
    }
    bool loading = starts_with(reply, "LOADING") || starts_with(reply, "MASTERDOWN");
    greeting_failed(self, loading ? TROUBLE_LOADING : TROUBLE_REFUSED, reply);
}

/* A replica takes no writes, and what it answers may be old. */
static void
on_role(void *context, const redisReply *reply)
{
    struct redis_client *self = context;
    if (reply == NULL || self->state != CLIENT_GREETING || reply->type != REDIS_REPLY_ARRAY ||
        reply->elements == 0 || reply->element[0]->type != REDIS_REPLY_STRING ||
        strcmp(reply->element[0]->str, "master") == 0) {
        return; /* an error: our user may not ask */
    }
    snprintf(self->why, sizeof self->why, "%.100s:%u is no master: its role is %.20s",
             self->at.host, (unsigned)self->at.port, reply->element[0]->str);
    say_trouble(self, TROUBLE_REFUSED, "redis-refused");
    client_drop(self, self->why);
}

static void
on_info(void *context, const redisReply *reply)
{
    struct redis_client *self = context;
    if (reply == NULL || self->state != CLIENT_GREETING) {
        return;
    }
    if (reply->type == REDIS_REPLY_ERROR && !starts_with(reply, "NOPERM")) {
        bool loading = starts_with(reply, "LOADING");
        greeting_failed(self, loading ? TROUBLE_LOADING : TROUBLE_REFUSED, reply);
        return;
    }
    const char *found = reply->type == REDIS_REPLY_STRING ? strstr(reply->str, "\nrun_id:") : NULL;
    const char *run_id = found == NULL ? "" : found + strlen("\nrun_id:");
    snprintf(self->run_id, sizeof self->run_id, "%.*s", (int)strcspn(run_id, "\r\n"), run_id);
    self->state = CLIENT_UP;
    self->announced = true;
    self->connections++;
    self->pause_ms = RECONNECT_MIN_MS;
    self->logged = TROUBLE_NONE;
    self->why[0] = '\0';
    log_info("redis-up address=%s%s%s run_id=%s", self->url.address,
             self->sentinel != NULL ? " master=" : "", self->sentinel != NULL ? self->at.host : "",
             self->run_id);
    if (self->events.on_up != NULL) {
        self->events.on_up(self->events.context, self->run_id);
    }
}

static void
client_greet(struct redis_client *self)
{
    char db[16];
    const char *auth[3] = { "AUTH", self->url.user, self->url.password };
    const char *select[2] = { "SELECT", db };
    const char *ping[1] = { "PING" };
    const char *role[1] = { "ROLE" };
    const char *info[2] = { "INFO", "server" };
    const struct command login = { .fn = on_login, .context = self };
    bool sent = true;
    snprintf(db, sizeof db, "%u", (unsigned)self->url.db);
    if (self->url.password[0] != '\0') {
        bool has_user = self->url.user[0] != '\0';
        auth[1] = has_user ? self->url.user : self->url.password;
        sent = client_send(self, login, has_user ? 3 : 2, auth, NULL);
    }
    if (self->url.db != 0) {
        sent = sent && client_send(self, login, 2, select, NULL);
    }
    sent = sent &&
           client_send(self, (struct command){ .fn = on_ping, .context = self }, 1, ping, NULL);
    sent = sent &&
           client_send(self, (struct command){ .fn = on_role, .context = self }, 1, role, NULL);
    sent = sent &&
           client_send(self, (struct command){ .fn = on_info, .context = self }, 2, info, NULL);
    /* Out of memory: the connection must not be freed here, so the watch ends it. */
    client_watch(self);
    (void)sent;
}

/* -- connecting -- */

/* Hiredis frees a context that it could not connect after this returns, and must not be made to do
 * it here in either case. */
static void
on_connect(const redisAsyncContext *connection, int status)
{
    struct redis_client *self = connection->data;
    if (status != REDIS_OK) {
        snprintf(self->why, sizeof self->why, "%s", connection->c.errstr);
        say_trouble(self, TROUBLE_UNREACHABLE, "redis-unreachable");
        client_lost(self);
        return;
    }
    self->state = CLIENT_GREETING;
    client_greet(self);
}

static void
client_connect(struct redis_client *self)
{
    bool over_tcp = self->at.host[0] != '\0';
    redisAsyncContext *connection = over_tcp ? redisAsyncConnect(self->at.host, self->at.port)
                                             : redisAsyncConnectUnix(self->url.path);
    bool failed = connection == NULL || connection->err != 0;
    if (!failed) {
        redis_adapter_tune(connection, over_tcp);
        failed = redis_adapter_attach(reactor_base(self->reactor), connection) != 0;
    }
    if (failed) {
        const char *words =
            connection == NULL || connection->err == 0 ? "out of memory" : connection->c.errstr;
        snprintf(self->why, sizeof self->why, "%s", words);
        say_trouble(self, TROUBLE_UNREACHABLE, "redis-unreachable");
        if (connection != NULL) {
            redisAsyncFree(connection);
        }
        client_lost(self);
        return;
    }
    connection->data = self;
    redisAsyncSetConnectCallback(connection, on_connect);
    redisAsyncSetDisconnectCallback(connection, on_disconnect);
    self->connection = connection;
    self->state = CLIENT_CONNECTING;
    self->connect_ms = clock_mono_ms();
    client_watch(self);
}

/* -- Sentinels -- */

static void
on_master(void *context, const struct redis_host *master, const char *why)
{
    struct redis_client *self = context;
    if (self->state == CLIENT_ASKING && master != NULL) {
        self->at = *master;
        client_connect(self);
    } else if (self->state == CLIENT_ASKING) {
        snprintf(self->why, sizeof self->why, "%s", why);
        say_trouble(self, TROUBLE_UNREACHABLE, "redis-unreachable");
        client_lost(self);
    } else if (self->state == CLIENT_UP && master != NULL &&
               (master->port != self->at.port || strcmp(master->host, self->at.host) != 0)) {
        redis_client_reset(self, "the Sentinels name another master");
    }
}

static void
on_look(void *context)
{
    struct redis_client *self = context;
    if (self->state == CLIENT_UP) {
        redis_sentinel_ask(self->sentinel);
    }
}

static void
client_start(void *context)
{
    struct redis_client *self = context;
    if (self->sentinel == NULL) {
        client_connect(self);
        return;
    }
    self->state = CLIENT_ASKING;
    redis_sentinel_ask(self->sentinel);
}

/* -- life -- */

static void
client_free(struct redis_client *self)
{
    assert(TAILQ_EMPTY(&self->unanswered));
    redis_sentinel_destroy(&self->sentinel);
    timer_destroy(&self->look);
    timer_destroy(&self->retry);
    timer_destroy(&self->watch);
    explicit_bzero(&self->url, sizeof self->url);
    free(self);
}

int
redis_client_new(struct redis_client **out, struct reactor *reactor, const char *url,
                 const struct redis_events *events)
{
    CLEANUP(redis_client_destroy) struct redis_client *self = calloc(1, sizeof *self);
    const char *why = NULL;
    if (self == NULL) {
        return -ENOMEM;
    }
    self->reactor = reactor;
    self->events = *events;
    self->pause_ms = RECONNECT_MIN_MS;
    TAILQ_INIT(&self->unanswered);
    int rc = redis_url_parse(&self->url, url, &why);
    if (rc != 0) {
        log_error("redis-url-bad why=\"%s\"", why); /* the URL itself may hold a password */
    }
    self->at = self->url.at;
    rc = rc ? rc : timer_new(&self->retry, reactor, client_start, self);
    rc = rc ? rc : timer_new(&self->watch, reactor, on_watch, self);
    rc = rc ? rc : timer_new(&self->look, reactor, on_look, self);
    if (rc == 0 && self->url.n_sentinels > 0) {
        rc = redis_sentinel_new(&self->sentinel, reactor, &self->url, on_master, self);
    }
    if (rc != 0) {
        return rc;
    }
    if (self->sentinel != NULL) {
        timer_every_ms(self->look, LIMIT_SENTINEL_LOOK_MS);
    }
    client_start(self);
    *out = self;
    self = NULL;
    return 0;
}

void
redis_client_destroy(struct redis_client **self_p)
{
    struct redis_client *self = *self_p;
    *self_p = NULL;
    if (self == NULL || self->dead) {
        return;
    }
    self->dead = true;
    if (self->connection == NULL) {
        client_free(self);
    } else if (self->state != CLIENT_LOST) { /* else on_disconnect is on its way and frees it */
        client_drop(self, "destroyed");
    }
}

bool
redis_client_is_up(const struct redis_client *self)
{
    return self->state == CLIENT_UP && !self->dead;
}

uint64_t
redis_client_connection(const struct redis_client *self)
{
    return self->connections;
}

void
redis_client_reset(struct redis_client *self, const char *why)
{
    if (self->connection != NULL && self->state != CLIENT_LOST && !self->dead) {
        client_drop(self, why);
    }
}

const char *
redis_client_address(const struct redis_client *self)
{
    return self->url.address;
}
