#pragma once
/*
 * sweep — removes the pictures that nobody can ask for any more.
 *
 * Each period it walks the shards, at most LIMIT_SWEEP_SLICE files in a turn of the loop, and reads
 * the header of each file's job from Redis. A picture is
 *
 *     wanted      while its job is live, and when its job succeeded with just this attempt
 *     unwanted    when its job has no record any more, or ended in another way
 *     unknown     when Redis did not answer, or answered what we cannot read: left alone
 *
 *                 unwanted                     unwanted, marked grace_s ago
 *     (0640) ------------------> marked (0440) -----------------------------> removed
 *        ^                          | wanted again
 *        `--------------------------'
 *
 * So it takes two sweeps, at least grace_s apart, to remove a picture: a client that was just told
 * of it can still fetch it, and a record that Redis lost and the broker writes anew brings it back.
 * The mark is the file's mode and the time of the mark its ctime, so it outlives a restart, needs
 * no memory, and is shared by all gateways of the directory.
 *
 * A sweep begins only if {drawbar}:meta names this directory's id as the store, so that a gateway
 * with the address of another Redis removes nothing. The first command that Redis does not answer
 * ends it. Files that a killed writer left are removed when LIMIT_TEMPORARY_FILE_S old; shards that
 * are empty when their hour has been over for LIMIT_SHARD_AGE_S; what is not ours is never touched.
 */
#include "common/reactor.h"
#include "gateway/picture_dir.h"

struct sweep;

struct sweep_config {
    const char *redis_url;
    int64_t period_ms;
    int64_t grace_s;
};

/* Connects to Redis and starts the timer: the first sweep comes after a period, but within
 * LIMIT_SWEEP_FIRST_MS. `dir` outlives the sweep. 0, -EINVAL (bad URL, logged), -ENOMEM. */
int sweep_new(struct sweep **out, struct reactor *reactor, const struct picture_dir *dir,
              const struct sweep_config *config);
void sweep_destroy(struct sweep **self_p);
