#pragma once
/*
 * artifacts — the pictures, in one directory, and the listener that workers upload them to.
 *
 * It joins three parts on one thread with its own reactor: picture_dir (files, and the id that all
 * gateways of a directory agree on), uploads (the listener; at most max_parallel bodies in memory)
 * and sweep (what nobody can ask for any more). Downloads are read by the caller's helper thread.
 * API reactors never touch a file. One object a process, used by all its reactors.
 *
 * A picture lives as long as its job's record. The sweep marks the file of a job that is gone,
 * ended otherwise, or accepted another attempt, and removes it when it is still so in a later
 * sweep, grace_s after the mark. Nothing is removed while Redis does not answer, nor if
 * {drawbar}:meta does not name this directory as the store.
 */
#include "common/helper_thread.h"
#include "common/reactor.h"
#include "proto/grant.h"

struct artifacts;

struct artifacts_config {
    const char *dir;       /* made if absent; must be writable */
    const char *host;      /* of the upload listener */
    uint16_t port;         /* 0: any */
    const char *redis_url; /* for the sweep */
    uint32_t max_parallel; /* LIMIT_UPLOADS_PARALLEL */
    int64_t sweep_ms;      /* LIMIT_SWEEP_FILES_MS */
    int64_t grace_s;       /* LIMIT_PICTURE_GRACE_S */
    uint32_t free_mib_min; /* less free is full; 0: LIMIT_STORE_FREE_MIB */
};

/* Opens the directory, binds the listener, starts the thread. 0, or -errno (logged: what to do).
 * Takes copies of what `config` points to. */
int artifacts_open(struct artifacts **out, const struct artifacts_config *config);
/* Stops the thread; unfinished uploads are cut. Helper threads given to artifacts_read() are
 * destroyed before. */
void artifacts_destroy(struct artifacts **self_p);
/* Stops accepting uploads and waits, at most limit_ms, until those that are whole are answered.
 * Blocks its caller: a step of an orderly stop, called once at most. */
void artifacts_drain(struct artifacts *self, int64_t limit_ms);

uint16_t artifacts_port(const struct artifacts *self);
const char *artifacts_store_id(const struct artifacts *self); /* 32 hex digits */
/* True below free_mib_min or LIMIT_STORE_FREE_PERCENT free; the thread looks every
 * LIMIT_STORE_LOOK_MS. Any thread may ask. Uploads are answered 507 meanwhile. */
bool artifacts_full(const struct artifacts *self);
/* The keys that grants are checked with (1 or 2) and the difference of Redis TIME to
 * clock_mono_ms(); from any thread. Uploads are answered 503 until it was called. */
void artifacts_set_keys(struct artifacts *self, const uint8_t keys[][GRANT_KEY_BYTES], uint32_t n,
                        int64_t redis_minus_mono_ms);

/* Reads one picture on the caller's helper thread. `done` is called on the caller's reactor with
 * malloc'ed bytes that become the callee's, or NULL and rc: -ENOENT, -EIO, or -EAGAIN (too much
 * waits or the helper thread ends; may be called before this returns). */
typedef void (*artifact_read_fn)(void *context, int rc, void *bytes, size_t length);
void artifacts_read(struct artifacts *self, struct helper_thread *helper, const struct lease *lease,
                    uint8_t index, artifact_read_fn done, void *context);
