#pragma once
/*
 * redis_sentinel — asks Redis Sentinels, one after another, where the master is.
 *
 * The first that knows it is believed, and asked first the next time. One that does not answer
 * within LIMIT_SENTINEL_MS, or does not know the name, is passed over. A Sentinel that is cut off
 * from the others may name a master that they have deposed: who writes must have each write
 * confirmed by a replica (WAIT).
 */
#include "common/reactor.h"
#include "common/redis_url.h"

struct redis_sentinel;

/* master NULL: no Sentinel named one, and `why` is what the last one had to say. Called once an
 * ask, never inside redis_sentinel_ask(); may destroy the asker. */
typedef void (*sentinel_fn)(void *context, const struct redis_host *master, const char *why);

/* `url` is borrowed as long as self lives. 0, -ENOMEM. */
int redis_sentinel_new(struct redis_sentinel **out, struct reactor *reactor,
                       const struct redis_url *url, sentinel_fn fn, void *context);
void redis_sentinel_destroy(struct redis_sentinel **self_p); /* nobody is called any more */
/* Asks; nothing if an answer is still awaited. */
void redis_sentinel_ask(struct redis_sentinel *self);
