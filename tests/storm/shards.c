#include "tests/storm/storm.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * Many worlds at once: a process a core, each with every jobs-th seed. Worlds share nothing, so a
 * seed means the same world whoever runs it.
 */

enum { SHARDS = 256 };
struct shard {
    pid_t pid;
    int from; /* its totals come through here */
};

static void
run(uint64_t first, uint64_t end, uint64_t step, void (*world)(uint64_t seed))
{
    for (uint64_t seed = first; seed < end; seed += step) {
        world(seed);
    }
}

static bool
shard_start(struct shard *self)
{
    int ends[2];
    if (pipe(ends) != 0) {
        return false;
    }
    self->pid = fork();
    self->from = ends[0];
    if (self->pid != 0) {
        close(ends[1]);
        return self->pid > 0;
    }
    close(ends[0]);
    self->from = ends[1]; /* we are the child */
    return true;
}

static void
totals_add(const struct totals *more)
{
    const uint64_t *from = (const uint64_t *)more;
    uint64_t *to = (uint64_t *)&totals;
    for (size_t i = 0; i < sizeof totals / sizeof *to; i++) {
        to[i] += from[i];
    }
}
_Static_assert(sizeof(struct totals) % sizeof(uint64_t) == 0, "nothing but sums of 64 bits");
_Static_assert(sizeof(struct totals) <= 4096, "a pipe takes it in one piece");

/* Ends with exit(0) in a shard; the totals of the shards are ours afterwards. */
bool
shards_run(uint32_t jobs, uint64_t from, uint64_t n, void (*world)(uint64_t seed))
{
    static struct shard shards[SHARDS];
    jobs = jobs > SHARDS ? SHARDS : jobs;
    if (jobs <= 1) {
        run(from, from + n, 1, world);
        return true;
    }
    for (uint32_t i = 0; i < jobs; i++) {
        if (!shard_start(&shards[i])) {
            abort();
        }
        if (shards[i].pid == 0) {
            run(from + i, from + n, jobs, world);
            bool told = write(shards[i].from, &totals, sizeof totals) == sizeof totals;
            _exit(told ? 0 : 1);
        }
    }
    bool good = true;
    for (uint32_t left = jobs; left > 0 && good; left--) {
        int status = 0;
        pid_t pid = wait(&status);
        for (uint32_t i = 0; i < jobs; i++) {
            struct totals more;
            if (shards[i].pid == pid) {
                shards[i].pid = 0;
                good = WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
                       read(shards[i].from, &more, sizeof more) == sizeof more;
                if (good) {
                    totals_add(&more);
                }
            }
        }
    }
    for (uint32_t i = 0; i < jobs; i++) {
        if (shards[i].pid > 0) {
            kill(shards[i].pid, SIGKILL);
            waitpid(shards[i].pid, NULL, 0);
        }
        close(shards[i].from);
    }
    return good;
}
