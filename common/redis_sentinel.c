#include "common/redis_sentinel.h"
#include "common/redis_adapter.h"
#include "common/scope.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct redis_sentinel {
    struct reactor *reactor;
    const struct redis_url *url;
    sentinel_fn fn;
    void *context;
    struct timer *timer;           /* the next Sentinel's turn */
    redisAsyncContext *connection; /* its `data` is self as long as it stands here */
    uint32_t next, tried;
    bool asking;
    char why[160];
};

/* Lets go of the connection; hiredis frees it after its callback, if one is under way. */
static void
forget(struct redis_sentinel *self)
{
    redisAsyncContext *connection = self->connection;
    self->connection = NULL;
    if (connection != NULL) {
        connection->data = NULL;
        redisAsyncFree(connection);
    }
}

static void
finish(struct redis_sentinel *self, const struct redis_host *master)
{
    self->asking = false;
    timer_stop(self->timer);
    self->fn(self->context, master, self->why); /* may destroy self */
}

/* This one was of no use: the next one's turn. */
static void
pass_over(struct redis_sentinel *self, const char *why)
{
    (void)snprintf(self->why, sizeof self->why, "Sentinel %s:%u: %s",
                   self->url->sentinels[self->next].host,
                   (unsigned)self->url->sentinels[self->next].port, why);
    self->next = (self->next + 1) % self->url->n_sentinels;
    self->tried++;
    timer_in_ms(self->timer, 0);
}

static bool
master_read(const redisReply *reply, struct redis_host *out)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
        reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[1]->type != REDIS_REPLY_STRING || reply->element[0]->len == 0 ||
        reply->element[0]->len >= sizeof out->host) {
        return false;
    }
    memcpy(out->host, reply->element[0]->str, reply->element[0]->len + 1);
    unsigned long port = strtoul(reply->element[1]->str, NULL, 10);
    out->port = (uint16_t)port;
    return port > 0 && port <= UINT16_MAX;
}

static void
on_master(redisAsyncContext *connection, void *reply, void *unused)
{
    struct redis_sentinel *self = connection->data;
    (void)unused;
    if (self == NULL) {
        return; /* forgotten */
    }
    const redisReply *answer = reply;
    if (answer == NULL) { /* hiredis ends the connection by itself */
        self->connection = NULL;
        connection->data = NULL;
        pass_over(self, connection->errstr[0] != '\0' ? connection->errstr : "it hung up");
        return;
    }
    struct redis_host master = { .port = 0 };
    bool known = master_read(answer, &master);
    forget(self);
    if (known) {
        finish(self, &master);
    } else if (answer->type == REDIS_REPLY_ERROR) {
        pass_over(self, answer->str);
    } else {
        pass_over(self, "it knows no master of this name");
    }
}

static void
ask_one(struct redis_sentinel *self)
{
    const struct redis_host *at = &self->url->sentinels[self->next];
    redisAsyncContext *connection = redisAsyncConnect(at->host, at->port);
    bool failed = connection == NULL || connection->err != 0;
    failed = failed || redis_adapter_attach(reactor_base(self->reactor), connection) != 0;
    if (failed) {
        pass_over(self, connection == NULL || connection->err == 0 ? "out of memory"
                                                                   : connection->errstr);
        if (connection != NULL) {
            redisAsyncFree(connection);
        }
        return;
    }
    redis_adapter_tune(connection, 1);
    connection->data = self;
    self->connection = connection;
    timer_in_ms(self->timer, LIMIT_SENTINEL_MS);
    const struct redis_url *url = self->url;
    if (url->password[0] != '\0' && url->user[0] != '\0') { /* one without a password refuses it */
        redisAsyncCommand(connection, NULL, NULL, "AUTH %s %s", url->user, url->password);
    } else if (url->password[0] != '\0') {
        redisAsyncCommand(connection, NULL, NULL, "AUTH %s", url->password);
    }
    redisAsyncCommand(connection, on_master, NULL, "SENTINEL get-master-addr-by-name %s",
                      url->master);
}

static void
on_timer(void *context)
{
    struct redis_sentinel *self = context;
    if (self->connection != NULL) {
        forget(self);
        pass_over(self, "no answer");
    } else if (self->tried == self->url->n_sentinels) {
        finish(self, NULL);
    } else {
        ask_one(self);
    }
}

void
redis_sentinel_ask(struct redis_sentinel *self)
{
    if (!self->asking) {
        self->asking = true;
        self->tried = 0;
        timer_in_ms(self->timer, 0);
    }
}

int
redis_sentinel_new(struct redis_sentinel **out, struct reactor *reactor,
                   const struct redis_url *url, sentinel_fn fn, void *context)
{
    CLEANUP(redis_sentinel_destroy) struct redis_sentinel *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->reactor = reactor;
    self->url = url;
    self->fn = fn;
    self->context = context;
    int rc = timer_new(&self->timer, reactor, on_timer, self);
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

void
redis_sentinel_destroy(struct redis_sentinel **self_p)
{
    struct redis_sentinel *self = *self_p;
    if (self != NULL) {
        forget(self);
        timer_destroy(&self->timer);
        free(self);
        *self_p = NULL;
    }
}
