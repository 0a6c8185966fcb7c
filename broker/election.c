#include "broker/election.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/scope.h"
#include "proto/keys.h"
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const char functions_lua[]; /* proto/functions.lua, embedded by the build */
extern const size_t functions_lua_length;

enum standing { OFFLINE, STANDBY, LEADING, REGAINING };

struct election {
    struct redis_client *redis;
    struct timer *timer; /* next elect or renew */
    struct election_events events;
    struct election_config config;
    enum standing standing;
    struct term candidate; /* elected; the replicas have not confirmed it yet */
    char candidate_token[64];
    int64_t watched_from_ms, watched_ms; /* the key was seen without a gap from then until then */
    bool asked;                          /* an elect or renew is under way */
    char nonce[17];
    char token[64];
    char run_id[64];   /* of the Redis that knows our term */
    char seen_run[64]; /* of the Redis that we are connected to */
    char gateways[160], workers[160];
    reactor_fn resigned;
    void *resigned_context;
    bool is_new; /* no leader was heard of yet, and Redis was always this one */
    bool told_waiting, told_unreplicated, told_refused;
    bool unloaded; /* this connection's FUNCTION LOAD was refused for want of room */
};

static void
hex16(char out[17])
{
    (void)snprintf(out, 17, "%016llx", (unsigned long long)random_u64());
}

/* ---- leading ---- */

/* Commits under the old token have numbers: it must not be had again, as a candidate of the same
 * nonce would where the election that followed ours was lost. */
static void
step_down(struct election *self)
{
    self->standing = STANDBY;
    hex16(self->nonce);
}

static void
lost(struct election *self)
{
    step_down(self);
    log_warn("leader-lost token=%s", self->token);
    self->events.on_lost(self->events.context);
}

/* Not left to the next renewal: Redis may have lost the other election by then, and would take it,
 * for a leader without a term. */
void
election_fenced(struct election *self)
{
    if (self->standing == LEADING) {
        step_down(self);
    }
}

static void
say_unreplicated(struct election *self, int64_t replicas)
{
    if (!self->told_unreplicated) {
        self->told_unreplicated = true;
        log_warn("redis-unreplicated replicas=%lld wanted=%u effect=\"nothing is accepted\" "
                 "cure=\"bring a replica back; --redis-wait says how many there must be\"",
                 (long long)replicas, self->config.replicas);
    }
}

void
election_unreplicated(struct election *self, int64_t replicas)
{
    if (self->standing != LEADING) {
        return;
    }
    say_unreplicated(self, replicas);
    step_down(self);
    redis_client_call(self->redis, NULL, NULL, "FCALL " FUNCTION_RESIGN " 0 %s", self->token);
}

/* The answer to a WAIT: true if enough replicas have what was written before it. */
static bool
is_replicated(struct election *self, const redisReply *reply)
{
    bool number = reply->type == REDIS_REPLY_INTEGER;
    if (number && reply->integer >= (int64_t)self->config.replicas) {
        self->told_unreplicated = false;
        return true;
    }
    if (!number) {
        log_error("redis-wait-refused error=\"%s\"",
                  reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected reply");
    }
    return false;
}

static void
on_renewal_replicated(void *context, const redisReply *reply)
{
    struct election *self = context;
    if (reply != NULL && self->standing == LEADING && !is_replicated(self, reply)) {
        election_unreplicated(self, reply->type == REDIS_REPLY_INTEGER ? reply->integer : 0);
        self->events.on_lost(self->events.context);
    }
}

static bool
is_number(const redisReply *reply, size_t i)
{
    return reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements > i &&
           reply->element[i]->type == REDIS_REPLY_INTEGER;
}

static void elect(struct election *self);

/* The last term that Redis knows of came before ours: it lost its tail, and our election with it.
 */
static bool
is_older(const struct election *self, const redisReply *refusal)
{
    return refusal->elements > 1 && refusal->element[1]->type == REDIS_REPLY_STRING &&
           strtoull(refusal->element[1]->str, NULL, 10) < strtoull(self->token, NULL, 10);
}

static void
on_renewed(void *context, const redisReply *reply)
{
    struct election *self = context;
    self->asked = false;
    if (reply == NULL || self->standing != LEADING) {
        return;
    }
    if (is_number(reply, 0) && reply->element[0]->integer == 0) {
        if (strcmp(self->run_id, self->seen_run) == 0 || !is_older(self, reply)) {
            lost(self);
        } else {
            self->standing = REGAINING;
            elect(self);
        }
        return;
    }
    if (!is_number(reply, 1)) {
        if (!self->told_refused) { /* a full disk, for one, lasts; each commit says more */
            log_error("renew-refused error=\"%s\"",
                      reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected reply");
        }
        self->told_refused = true;
        return;
    }
    self->told_refused = false;
    self->events.on_redis_time(self->events.context, (uint64_t)reply->element[1]->integer);
    if (strcmp(self->run_id, self->seen_run) != 0) {
        (void)snprintf(self->run_id, sizeof self->run_id, "%s", self->seen_run);
        self->events.on_redis_back(self->events.context, true);
    }
}

static void
renew(struct election *self)
{
    self->asked = true;
    redis_client_call(self->redis, on_renewed, self, "FCALL " FUNCTION_RENEW " 0 %s %d %s %s %s",
                      self->token, (int)LIMIT_LEADER_TTL_MS, self->nonce, self->gateways,
                      self->workers);
    if (self->config.replicas > 0) {
        redis_client_call(self->redis, on_renewal_replicated, self, "WAIT %d %d",
                          (int)self->config.replicas, (int)LIMIT_WAIT_MS);
    }
}

static bool
key_parse(const redisReply *reply, uint8_t out[32])
{
    size_t length = 0;
    return reply->type == REDIS_REPLY_STRING && reply->len == 64 &&
           sodium_hex2bin(out, 32, reply->str, reply->len, NULL, &length, NULL) == 0 &&
           length == 32;
}

/* The term begins. */
static void
lead(struct election *self)
{
    bool regaining = self->standing == REGAINING;
    struct term term = self->candidate;
    if (regaining && term.number > strtoull(self->token, NULL, 10)) {
        lost(self); /* somebody led after us: what we remember is older than what Redis has */
        regaining = false;
    }
    (void)snprintf(self->token, sizeof self->token, "%s", self->candidate_token);
    (void)snprintf(self->run_id, sizeof self->run_id, "%s", self->seen_run);
    self->standing = LEADING;
    self->is_new = false;
    self->told_waiting = false;
    term.token = self->token;
    log_info("leader-elected epoch=%llu%s", (unsigned long long)term.number,
             regaining ? " regained=yes" : "");
    (regaining ? self->events.on_regained : self->events.on_elected)(self->events.context, &term);
}

/* Nobody leads with an election that a fail-over of Redis would undo. */
static void
on_election_replicated(void *context, const redisReply *reply)
{
    struct election *self = context;
    self->asked = false;
    if (reply == NULL || (self->standing != STANDBY && self->standing != REGAINING)) {
        return;
    }
    if (is_replicated(self, reply)) {
        lead(self);
    } else { /* asked again: the key is ours until a replica is there or it runs out */
        say_unreplicated(self, reply->type == REDIS_REPLY_INTEGER ? reply->integer : 0);
    }
}

/* {1, token, sequence, secret} */
static bool
candidate_read(struct election *self, const redisReply *reply)
{
    struct term *term = &self->candidate;
    if (reply->elements < 4 || reply->element[1]->type != REDIS_REPLY_STRING ||
        reply->element[2]->type != REDIS_REPLY_STRING ||
        !key_parse(reply->element[3], term->upload_key)) {
        log_error("elect-refused error=\"{drawbar}:secret is not 64 hex digits\"");
        return false;
    }
    (void)snprintf(self->candidate_token, sizeof self->candidate_token, "%s",
                   reply->element[1]->str);
    term->number = strtoull(self->candidate_token, NULL, 10);
    term->sequence = strtoull(reply->element[2]->str, NULL, 10);
    return true;
}

/* An answer came: how long has the key been watched without a gap? */
static void
watch(struct election *self)
{
    int64_t now = clock_mono_ms();
    if (self->watched_ms == 0 || now - self->watched_ms > LIMIT_STANDBY_GAP_MS) {
        self->watched_from_ms = now;
    }
    self->watched_ms = now;
}

static bool
is_steady(const struct election *self)
{
    int64_t now = clock_mono_ms();
    return self->watched_ms != 0 && now - self->watched_ms <= LIMIT_STANDBY_GAP_MS &&
           now - self->watched_from_ms >= LIMIT_LEADER_TTL_MS;
}

static void
on_elect(void *context, const redisReply *reply)
{
    struct election *self = context;
    self->asked = false;
    bool regaining = self->standing == REGAINING;
    if (reply == NULL || (self->standing != STANDBY && !regaining)) {
        return;
    }
    if (!is_number(reply, 0)) {
        log_error("elect-refused error=\"%s\"",
                  reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected reply");
        return;
    }
    watch(self);
    if (reply->element[0]->integer == 0) {
        self->is_new = self->is_new && reply->element[1]->len == 0;
        if (regaining) {
            lost(self);
        } else if (!self->told_waiting && reply->element[1]->len > 0) {
            self->told_waiting = true;
            log_info("standby leader=\"%s\"", reply->element[1]->str);
        }
        return;
    }
    if (!candidate_read(self, reply)) {
        return;
    }
    if (self->config.replicas == 0) {
        lead(self);
        return;
    }
    self->asked = true;
    redis_client_call(self->redis, on_election_replicated, self, "WAIT %d %d",
                      (int)self->config.replicas, (int)LIMIT_WAIT_MS);
}

static void
elect(struct election *self)
{
    char random[17];
    char key[65];
    hex16(random);
    for (size_t i = 0; i < 4; i++) {
        hex16(key + 16 * i);
    }
    const char *standing = self->is_new ? "new" : "waits";
    if (self->standing == REGAINING || is_steady(self)) {
        standing = "steady";
    }
    self->asked = true;
    redis_client_call(self->redis, on_elect, self, "FCALL " FUNCTION_ELECT " 0 %s %d %s %s %s",
                      self->nonce, (int)LIMIT_LEADER_TTL_MS, random, key, standing);
}

static void functions_load(struct election *self, redis_reply_fn fn);

static bool
is_without_room(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_ERROR &&
           (strncmp(reply->str, "OOM", 3) == 0 || strncmp(reply->str, "MISCONF", 7) == 0);
}

static void
on_loaded_late(void *context, const redisReply *reply)
{
    struct election *self = context;
    if (reply != NULL && reply->type != REDIS_REPLY_ERROR) {
        self->unloaded = false;
    } /* else: the next timer */
}

static void
on_timer(void *context)
{
    struct election *self = context;
    bool leading = self->standing == LEADING;
    bool standing = self->standing == STANDBY || self->standing == REGAINING;
    timer_in_ms(self->timer, leading ? LIMIT_RENEW_MS : LIMIT_STANDBY_POLL_MS);
    if (self->asked || !redis_client_is_up(self->redis) || self->resigned != NULL) {
        return;
    }
    if (self->unloaded) {
        functions_load(self, on_loaded_late);
    }
    if (leading) {
        renew(self);
    } else if (standing) {
        elect(self);
    }
}

/* ---- a new connection ---- */

static const char *
setting(const redisReply *pairs, const char *name)
{
    for (size_t i = 0; i + 1 < pairs->elements; i += 2) {
        if (strcmp(pairs->element[i]->str, name) == 0) {
            return pairs->element[i + 1]->str;
        }
    }
    return "";
}

/* What a Redis so configured may lose. */
static enum durability
durability_of(const struct election *self, const redisReply *pairs)
{
    bool appends = strcmp(setting(pairs, "appendonly"), "yes") == 0;
    bool keeps = strcmp(setting(pairs, "maxmemory-policy"), "noeviction") == 0;
    if (!appends || !keeps) {
        return DURABILITY_VOLATILE;
    }
    if (self->config.fails_over && self->config.replicas == 0) {
        return DURABILITY_UNREPLICATED;
    }
    if (strcmp(setting(pairs, "appendfsync"), "always") == 0) {
        return DURABILITY_ALWAYS;
    }
    return self->config.replicas > 0 ? DURABILITY_REPLICATED : DURABILITY_EVERYSEC;
}

/* Says what an operator should know; false: such a Redis is not led on. */
static bool
durability_tell(const struct election *self, enum durability durability, const redisReply *pairs)
{
    switch (durability) {
    case DURABILITY_EVERYSEC:
    case DURABILITY_REPLICATED:
        log_warn(
            "redis-loss-bound appendfsync=%s loss=\"about the last second of accepted jobs, if "
            "Redis's host%s and this broker lose power together\" cure=\"appendfsync always\"",
            setting(pairs, "appendfsync"),
            durability == DURABILITY_REPLICATED ? ", its replicas" : "");
        return true;
    case DURABILITY_UNREPLICATED:
        log_warn(
            "redis-loss-bound loss=\"accepted jobs that no replica had when Redis fails over\" "
            "cure=\"start without --accept-loss and --redis-wait 0\"");
        return true;
    case DURABILITY_VOLATILE:
        log_write(
            self->config.accept_volatile ? LOG_WARN : LOG_ERROR,
            "redis-would-lose-jobs appendonly=%s maxmemory-policy=%s loss=\"a restart of Redis "
            "loses jobs\" cure=\"set appendonly yes and maxmemory-policy noeviction in "
            "redis.conf%s\"",
            setting(pairs, "appendonly"), setting(pairs, "maxmemory-policy"),
            self->config.accept_volatile ? "" : ", or start with --volatile");
        return self->config.accept_volatile;
    case DURABILITY_UNKNOWN:
    case DURABILITY_ALWAYS:
    case DURABILITY_COUNT:
        break;
    }
    return true;
}

static void
on_config(void *context, const redisReply *reply)
{
    struct election *self = context;
    if (reply == NULL) {
        return;
    }
    enum durability durability = DURABILITY_UNKNOWN;
    if (reply->type != REDIS_REPLY_ARRAY) {
        log_warn("redis-config-unknown error=\"%s\"", reply->str); /* ACL without +config|get */
    } else {
        durability = durability_of(self, reply);
        if (!durability_tell(self, durability, reply)) {
            self->events.on_refused(self->events.context);
            return;
        }
    }
    self->events.on_durability(self->events.context, durability);
    if (self->standing == OFFLINE) {
        self->standing = STANDBY;
    } else if (self->standing == LEADING) {
        if (strcmp(self->run_id, self->seen_run) == 0) {
            self->events.on_redis_back(self->events.context, false);
        } /* else: told when the renewal says that the term stands */
    }
    timer_in_ms(self->timer, 0);
}

static void
on_loaded(void *context, const redisReply *reply)
{
    struct election *self = context;
    if (reply == NULL) {
        return;
    }
    self->unloaded = is_without_room(reply);
    if (self->unloaded) {
        /* Those that a broker loaded before are there, and jobs that end make room. */
        log_warn("redis-without-room error=\"%s\"", reply->str);
    } else if (reply->type == REDIS_REPLY_ERROR) {
        log_error("redis-functions-refused error=\"%s\" cure=\"Redis 7.0 or newer is needed\"",
                  reply->str);
        self->events.on_refused(self->events.context);
        return;
    }
    redis_client_call(self->redis, on_config, self,
                      "CONFIG GET appendonly appendfsync maxmemory-policy");
}

static void
functions_load(struct election *self, redis_reply_fn fn)
{
    redis_client_call(self->redis, fn, self, "FUNCTION LOAD REPLACE %b", functions_lua,
                      functions_lua_length);
}

static void
on_up(void *context, const char *run_id)
{
    struct election *self = context;
    if (run_id[0] == '\0' || strcmp(run_id, self->seen_run) != 0) {
        self->watched_ms = 0; /* restarted, however fast: what it lost may be a renewal, or all */
        self->is_new = self->is_new && self->seen_run[0] == '\0';
    }
    (void)snprintf(self->seen_run, sizeof self->seen_run, "%s", run_id);
    self->asked = false;
    functions_load(self, on_loaded);
}

static void
on_down(void *context, const char *why)
{
    struct election *self = context;
    (void)why; /* logged by the client */
    self->asked = false;
}

/* ---- life ---- */

int
election_new(struct election **out, struct reactor *reactor, const struct election_config *config,
             const struct election_events *events)
{
    CLEANUP(election_destroy) struct election *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->events = *events;
    self->config = *config;
    self->is_new = true;
    hex16(self->nonce);
    (void)snprintf(self->gateways, sizeof self->gateways, "-");
    (void)snprintf(self->workers, sizeof self->workers, "-");
    struct redis_events redis_events = { on_up, on_down, self };
    int rc = timer_new(&self->timer, reactor, on_timer, self);
    rc = rc ? rc : redis_client_new(&self->redis, reactor, config->redis_url, &redis_events);
    if (rc != 0) {
        return rc;
    }
    timer_in_ms(self->timer, LIMIT_STANDBY_POLL_MS);
    *out = self;
    self = NULL;
    return 0;
}

void
election_destroy(struct election **self_p)
{
    struct election *self = *self_p;
    if (self != NULL) {
        self->standing = OFFLINE;
        redis_client_destroy(&self->redis);
        timer_destroy(&self->timer);
        free(self);
        *self_p = NULL;
    }
}

struct redis_client *
election_redis(struct election *self)
{
    return self->redis;
}

void
election_open(struct election *self, const char *gateways, const char *workers)
{
    (void)snprintf(self->gateways, sizeof self->gateways, "%s", gateways);
    (void)snprintf(self->workers, sizeof self->workers, "%s", workers);
    if (self->standing == LEADING) {
        renew(self);
    }
}

static void
on_resigned(void *context, const redisReply *reply)
{
    (void)reply;
    struct election *self = context;
    if (self->resigned != NULL) {
        self->resigned(self->resigned_context);
    }
}

void
election_resign(struct election *self, reactor_fn done, void *context)
{
    self->resigned = done;
    self->resigned_context = context;
    if (self->standing != LEADING) {
        done(context);
        return;
    }
    self->standing = STANDBY;
    redis_client_call(self->redis, on_resigned, self, "FCALL " FUNCTION_RESIGN " 0 %s",
                      self->token);
}
