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
 * was elected. A standby that has not watched the leader's key for a whole term without a gap of
 * more than LIMIT_STANDBY_GAP_MS is elected only where the last leader resigned, or where
 * nobody led before and it has itself never heard of a leader nor of another Redis: after an outage
 * the leader, whose memory may be needed, comes first.
 *
 * With `replicas` an election or a renewal counts only when so many replicas have confirmed it
 * (WAIT): on the wrong side of a partition nobody leads. A leader that finds fewer gives up its
 * term (on_lost).
 *
 * A leader that finds its term gone from a restarted Redis stands for election at once
 * and keeps its memory if it wins, unless the new term's number shows that somebody led after it. A
 * Redis that could lose acknowledged jobs by its configuration (appendonly off, a policy other than
 * noeviction) is refused, unless `accept_volatile`.
 */
#include "common/redis_client.h"
#include "proto/job.h"

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
    /* The term is over: somebody else leads now, or the replicas are gone. */
    void (*on_lost)(void *context);
    /* Redis answers again and the term stands; restarted: it is not the process it was. */
    void (*on_redis_back)(void *context, bool restarted);
    /* Redis TIME, as just told. */
    void (*on_redis_time)(void *context, uint64_t redis_ms);
    /* How much Redis may lose by its configuration; before the first election and again whenever a
     * new connection finds another answer. */
    void (*on_durability)(void *context, enum durability durability);
    /* The configuration of Redis is refused (logged with the cure); the broker cannot work. */
    void (*on_refused)(void *context);
    void *context;
};

struct election_config {
    const char *redis_url;
    bool accept_volatile;
    bool fails_over;   /* a replica may take Redis's place (Sentinels) */
    uint32_t replicas; /* that must confirm what is written; 0: none is asked */
};

/* 0, -EINVAL (bad URL, logged), -ENOMEM. */
int election_new(struct election **out, struct reactor *reactor,
                 const struct election_config *config, const struct election_events *events);
void election_destroy(struct election **self_p);
struct redis_client *election_redis(struct election *self);
/* The doors are open: told to gateways and workers with the next renewal, which happens now. */
void election_open(struct election *self, const char *gateways, const char *workers);
/* A commit was refused: somebody else leads, or did. Gives up the term; on_lost is not called. */
void election_fenced(struct election *self);
/* Only so many replicas confirmed a commit: gives up the term; on_lost is not called. */
void election_unreplicated(struct election *self, int64_t replicas);
/* Orderly stop: gives up the term; done(context) when Redis has answered or does not. */
void election_resign(struct election *self, reactor_fn done, void *context);
