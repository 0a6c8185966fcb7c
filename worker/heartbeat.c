#include "worker/heartbeat.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/redis_client.h"
#include "common/scope.h"
#include "proto/keys.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct heartbeat {
    struct redis_client *redis;
    struct heartbeat_events events;
    const char *name;
    bool closing;
    char trouble[128]; /* the last error told; "": none */
};

/* Tells an error once, not at every beat. */
static void
tell_trouble(struct heartbeat *self, const char *what)
{
    if (strncmp(self->trouble, what, sizeof self->trouble - 1) == 0) {
        return;
    }
    snprintf(self->trouble, sizeof self->trouble, "%s", what);
    if (what[0] != '\0') {
        log_warn("redis-refused error=\"%s\"", self->trouble);
    }
}

int
heartbeat_new(struct heartbeat **out, struct reactor *reactor, const char *redis_url,
              const char *name, const struct heartbeat_events *events)
{
    CLEANUP(heartbeat_destroy) struct heartbeat *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->events = *events;
    self->name = name;
    static const struct redis_events no_events; /* the connection logs its ups and downs itself */
    int rc = redis_client_new(&self->redis, reactor, redis_url, &no_events);
    if (rc != 0) {
        return rc;
    }
    *out = self;
    self = NULL;
    return 0;
}

void
heartbeat_destroy(struct heartbeat **self_p)
{
    struct heartbeat *self = *self_p;
    if (self != NULL) {
        self->closing = true;
        redis_client_destroy(&self->redis);
        free(self);
        *self_p = NULL;
    }
}

/* -- beats -- */

/* The text of an incarnation: 16 hex digits. 0: it is not one. */
static uint64_t
read_hex(const redisReply *reply)
{
    if ((reply->type != REDIS_REPLY_STRING && reply->type != REDIS_REPLY_STATUS) ||
        reply->len != 16 || strspn(reply->str, "0123456789abcdef") != 16) {
        return 0;
    }
    return strtoull(reply->str, NULL, 16);
}

static void
on_beat(void *context, const redisReply *reply)
{
    struct heartbeat *self = context;
    uint64_t incarnation = 0;
    bool newer = false;
    if (self->closing) {
        return;
    }
    if (reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2) {
        incarnation = read_hex(reply->element[1]);
        newer = incarnation != 0 && reply->element[0]->type == REDIS_REPLY_INTEGER &&
                reply->element[0]->integer == 0;
        tell_trouble(self, incarnation == 0 ? "a beat's answer is not an incarnation" : "");
    } else if (reply != NULL && reply->type == REDIS_REPLY_ERROR &&
               strstr(reply->str, "Function not found") == NULL) {
        tell_trouble(self, reply->str); /* without the function: the broker has yet to load it */
    }
    self->events.on_beat(self->events.context, newer ? 0 : incarnation, newer);
}

void
heartbeat_beat(struct heartbeat *self, uint64_t incarnation, const char *facts)
{
    char hex[20] = "";
    if (incarnation != 0) {
        snprintf(hex, sizeof hex, "%016" PRIx64, incarnation);
    }
    const char *arguments[] = { "FCALL", FUNCTION_BEAT, "0", self->name, hex, facts };
    redis_client_command(self->redis, on_beat, self, ARRAY_LENGTH(arguments), arguments, NULL);
}

/* -- who leads -- */

/* "<nonce> <epoch number> <gateway door> <worker door>"; 0: not that, or the door is closed. */
static uint64_t
read_leader(const char *text, size_t length, struct slice *door)
{
    char copy[2 * LIMIT_URL + 128];
    if (length >= sizeof copy || memchr(text, '\0', length) != NULL) {
        return 0;
    }
    memcpy(copy, text, length);
    copy[length] = '\0';
    const char *at = strchr(copy, ' ');
    char *end = NULL;
    uint64_t epoch = at == NULL ? 0 : strtoull(at + 1, &end, 10);
    const char *gateways = epoch == 0 || *end != ' ' ? NULL : end + 1;
    const char *workers = gateways == NULL ? NULL : strchr(gateways, ' ');
    if (workers == NULL || strcmp(workers + 1, "-") == 0 || strchr(workers + 1, ' ') != NULL) {
        return 0;
    }
    size_t start = (size_t)(workers + 1 - copy);
    *door = (struct slice){ .bytes = text + start, .length = (uint32_t)(length - start) };
    return door->length > 0 && door->length <= LIMIT_URL ? epoch : 0;
}

static void
on_leader(void *context, const redisReply *reply)
{
    struct heartbeat *self = context;
    struct slice door = { .bytes = "", .length = 0 };
    uint64_t epoch = 0;
    if (self->closing) {
        return;
    }
    if (reply != NULL && reply->type == REDIS_REPLY_STRING) {
        epoch = read_leader(reply->str, reply->len, &door);
    } else if (reply != NULL && reply->type == REDIS_REPLY_ERROR) {
        tell_trouble(self, reply->str);
    }
    self->events.on_leader(self->events.context, epoch, door);
}

void
heartbeat_read_leader(struct heartbeat *self)
{
    static const char *arguments[] = { "GET", KEY_LEADER };
    redis_client_command(self->redis, on_leader, self, ARRAY_LENGTH(arguments), arguments, NULL);
}
