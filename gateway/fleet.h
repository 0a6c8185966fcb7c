#pragma once
/*
 * fleet — the workers as Redis knows them: who beats, and what each says about itself.
 */
#include "common/redis_client.h"
#include <jansson.h>
#include <stdint.h>

struct fleet_worker {
    const char *name;        /* borrowed for the callback, like all of it */
    const char *incarnation; /* 16 hex digits */
    const char *state;       /* alive; silent: no beat for LIMIT_SILENCE_BOTH_MS; gone: forgotten */
    int64_t beat_age_ms;     /* -1: no beat is kept */
    const json_t *facts;     /* an object: what the worker says of itself */
};

/* Called once: `workers` is NULL when Redis did not answer. */
typedef void (*fleet_fn)(void *context, const struct fleet_worker *workers, uint32_t n);

/* Reads all workers. fn may be called before this returns. */
void fleet_read(struct redis_client *redis, fleet_fn fn, void *context);
