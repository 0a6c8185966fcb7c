#pragma once
/*
 * redis_client — one asynchronous connection to Redis that comes back by itself.
 *
 * For URLs see redis_url.h. HOST should be an address: hiredis resolves names on the caller's
 * thread. With Sentinels in the URL they are asked for the master before each connect, and each
 * LIMIT_SENTINEL_LOOK_MS while it is up: if the master has moved the connection follows. After each
 * connect it authenticates, selects, waits until Redis has loaded its data, makes sure that it is a
 * master, and asks INFO server for run_id before on_up is called. A lost connection is remade after
 * 50 ms, doubling to LIMIT_RECONNECT_MS. A command not answered within LIMIT_REDIS_MS ends the
 * connection, so that every callback is called exactly once, soon.
 *
 *   ASKING (Sentinels)
 *       | master
 *       v     connected               greeted
 *   CONNECTING ---------> GREETING -----------> UP (on_up)
 *       ^  | refused          | refused, loading  | lost, time-out, reset (on_down)
 *       |  v                  v                   v
 *       `-- or ASKING -- WAITING <-------- LOST: unanswered commands are called back
 */
#include "common/reactor.h"
#include <hiredis/hiredis.h>
#include <stddef.h>

struct redis_client;

/* reply == NULL: not connected, time-out or connection lost; whether the command ran is unknown.
 * An error reply of Redis is passed on (type REDIS_REPLY_ERROR); after -LOADING the connection is
 * made anew. The reply is borrowed. */
typedef void (*redis_reply_fn)(void *context, const redisReply *reply);

struct redis_events {
    /* Connected and ready; run_id changes when the server restarted or is another one. It is "" if
     * our user may not ask (ACL without INFO). */
    void (*on_up)(void *context, const char *run_id);
    /* The connection is lost; every unanswered command has been called back with NULL before. */
    void (*on_down)(void *context, const char *why);
    void *context;
};

/* Checks the URL and starts connecting. 0, -EINVAL (bad URL, logged), -ENOMEM. events may hold
 * NULLs. */
int redis_client_new(struct redis_client **out, struct reactor *reactor, const char *url,
                     const struct redis_events *events);
/* Calls back what is unanswered with NULL; on_down is not called. May be called inside callbacks.
 */
void redis_client_destroy(struct redis_client **self_p);
bool redis_client_is_up(const struct redis_client *self);
/* Which connection that is: counts them. */
uint64_t redis_client_connection(const struct redis_client *self);
/* Sends one command. If it cannot be sent, fn is called (with NULL) before this returns. fn may be
 * NULL. argv and lengths are copied. */
void redis_client_command(struct redis_client *self, redis_reply_fn fn, void *context, int argc,
                          const char **argv, const size_t *lengths);
/* The same with printf-like arguments of hiredis (%s, %b with a size_t). */
void redis_client_call(struct redis_client *self, redis_reply_fn fn, void *context,
                       const char *format, ...);
/* Ends the connection now and connects anew (a late reply must not be taken for another's). */
void redis_client_reset(struct redis_client *self, const char *why);
/* What is safe to print: the URL without its password. Lives as long as self. */
const char *redis_client_address(const struct redis_client *self);
