#pragma once
/*
 * election — one connection to Redis, and whether this broker leads.
 *
 *               connected, checked            elect won                     renew refused
 *     OFFLINE ---------------------> STANDBY ----------> LEADING ------------------------> STANDBY
 *                                       ^ every LIMIT_STANDBY_POLL_MS         (on_lost)
 *
 * A term lasts LIMIT_LEADER_TTL_MS from each renewal. While Redis is away a leader keeps its term:
 * it can commit nothing, so it promises nothing, and its renewal succeeds as long as nobody else
 * was elected. A leader that finds its term gone from a restarted Redis stands for election at once
 * and keeps its memory if it wins, unless the new term's number shows that somebody led after it. A
 * Redis that could lose acknowledged jobs by its configuration (appendonly off, a policy other than
 * noeviction) is refused, unless `accept_volatile`.
 */
#include "common/redis_client.h"

struct election;

struct term {
    const char *token; /* "<number>:<random>" */
    uint64_t number;
    uint64_t sequence;      /* highest given out so far */
    uint8_t upload_key[32]; /* kept in Redis, the same for all leaders */
};

struct election_events {
    void (*on_elected)(void *context, const struct term *term);
    /* Redis lost its tail and with it our term, and nobody else was elected: a new term of ours.
     * The memory is still the truth. */
    void (*on_regained)(void *context, const struct term *term);
    /* Somebody else leads now. */
    void (*on_lost)(void *context);
    /* Redis answers again and the term stands; restarted: it is not the process it was. */
    void (*on_redis_back)(void *context, bool restarted);
    /* Redis TIME, as just told. */
    void (*on_redis_time)(void *context, uint64_t redis_ms);
    /* The configuration of Redis is refused (logged with the cure); the broker cannot work. */
    void (*on_refused)(void *context);
    void *context;
};

struct election_config {
    const char *redis_url;
    bool accept_volatile;
};

/* 0, -EINVAL (bad URL, logged), -ENOMEM. */
int election_new(struct election **out, struct reactor *reactor,
                 const struct election_config *config, const struct election_events *events);
void election_destroy(struct election **self_p);
struct redis_client *election_redis(struct election *self);
/* The doors are open: told to gateways and workers with the next renewal, which happens now. */
void election_open(struct election *self, const char *gateways, const char *workers);
/* Orderly stop: gives up the term; done(context) when Redis has answered or does not. */
void election_resign(struct election *self, reactor_fn done, void *context);
