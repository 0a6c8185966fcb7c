#pragma once
/*
 * broker_link — one reactor's session with the leading broker.
 *
 *     AWAY --leader key names a door--> GREETING --WELCOME--> OPEN
 *      ^                                 |   ^                 |
 *      |                                 |   `--- NO_SESSION --+
 *      `------ silence, another door, a higher epoch ----------'
 *
 * Reads {drawbar}:leader every LIMIT_STANDBY_POLL_MS while not OPEN, each second while OPEN. A PING
 * goes out each second. Frames of another session, or of an epoch lower than the highest seen, are
 * ignored. Frames given while not OPEN are refused: their owners keep them and send them again in
 * on_open. PROTOCOL.md, "Sessions".
 */
#include "common/reactor.h"
#include "common/redis_client.h"
#include "proto/frames.h"

struct broker_link;

struct broker_link_config {
    const char *name;  /* tells gateways apart in the broker's log; at most LIMIT_WORKER_NAME */
    const char *store; /* artifacts_store_id() */
    const char *uploads_url; /* where workers reach the upload listener */
    bool (*storage_full)(void *context);
    /* A session opened: `welcome` is borrowed. */
    void (*on_open)(void *context, const struct gateway_welcome *welcome);
    void (*on_lost)(void *context); /* the session is over */
    /* A frame of this session, other than those of the session itself; borrowed. */
    void (*on_frame)(void *context, const struct frame *frame);
    /* The broker will never take us, logged with the cure: leave. */
    void (*on_refused)(void *context);
    void *context;
};

/* What the broker said last. */
struct broker_facts {
    uint64_t epoch; /* number of the leader's term; 0: none seen */
    uint32_t queued, running, workers;
    uint32_t retention_s;
    enum durability durability;
};

/* Starts looking for the leader. Strings of the config are borrowed for good. 0 or -ENOMEM. */
int broker_link_new(struct broker_link **out, struct reactor *reactor, struct redis_client *redis,
                    const struct broker_link_config *config);
void broker_link_destroy(struct broker_link **self_p);
bool broker_link_is_open(const struct broker_link *self);
/* Fills in session and epoch and sends. False: no session, or no room; nothing was sent. */
bool broker_link_send(struct broker_link *self, struct frame *frame);
const struct broker_facts *broker_link_facts(const struct broker_link *self);
/* Redis TIME now by the last WELCOME or PONG; 0: none yet. */
uint64_t broker_link_redis_ms(const struct broker_link *self);
/* Redis is about to be destroyed: asks it nothing more. */
void broker_link_stop(struct broker_link *self);
