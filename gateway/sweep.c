#include "gateway/sweep.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/redis_client.h"
#include "common/scope.h"
#include "proto/keys.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WANTED_MODE = 0640, MARKED_MODE = 0440 };

enum want {
    WANT_UNKNOWN, /* Redis did not say */
    WANT_YES,
    WANT_NO,
    WANT_COUNT,
};

/* A picture that Redis is asked about. */
struct item {
    struct sweep *sweep;
    struct picture_name name;
    enum want want;
};

struct sweep {
    const struct picture_dir *dir;
    int64_t period_ms, grace_s;
    struct redis_client *redis;
    struct timer *timer;
    struct kick *slice; /* the next slice of the walk */
    DIR *shards;        /* the directory being walked; NULL: no sweep is on */
    DIR *shard;         /* one in it; NULL: the next is to be opened */
    char shard_name[PICTURE_SHARD_MAX];
    struct item items[LIMIT_SWEEP_SLICE];
    uint32_t n_items, n_unanswered;
    bool asking;   /* for the store's id */
    bool stopping; /* being destroyed */
    bool silent;   /* Redis did not answer: this sweep ends */
    uint64_t n_seen, n_unknown, n_marked, n_removed;
};

/* -- what Redis says -- */

static enum want
want_of(const redisReply *reply, const struct lease *lease)
{
    struct job_header header;
    if (reply == NULL || reply->type != REDIS_REPLY_STRING) {
        return WANT_UNKNOWN;
    }
    if (reply->len == 0) {
        return WANT_NO; /* no record */
    }
    if (!job_header_decode(reply->str, reply->len, &header)) {
        return WANT_UNKNOWN;
    }
    if (!job_is_terminal((enum job_state)header.state)) {
        return WANT_YES; /* this or another attempt may still be accepted */
    }
    return header.state == JOB_SUCCEEDED && header.epoch == lease->epoch &&
                   header.grant == lease->grant
               ? WANT_YES
               : WANT_NO;
}

static void batch_answered(struct sweep *self);

static void
on_header(void *context, const redisReply *reply)
{
    struct item *item = context;
    struct sweep *self = item->sweep;
    item->want = want_of(reply, &item->name.lease);
    self->n_unknown += item->want == WANT_UNKNOWN;
    self->silent = self->silent || reply == NULL;
    assert(self->n_unanswered > 0);
    self->n_unanswered--;
    if (self->n_unanswered == 0) {
        batch_answered(self);
    }
}

static void
ask(struct sweep *self)
{
    char job[JOB_ID_TEXT + 1];
    self->n_unanswered = self->n_items + 1; /* one for us: replies may come before we are through */
    for (uint32_t i = 0; i < self->n_items; i++) {
        job_id_print(&self->items[i].name.lease.job, job);
        redis_client_call(self->redis, on_header, &self->items[i], "GETRANGE " KEY_JOB "%s 0 %d",
                          job, JOB_HEADER_BYTES - 1);
    }
    self->n_unanswered--;
    if (self->n_unanswered == 0) {
        batch_answered(self);
    }
}

/* -- what is done to files -- */

static void
remove_file(struct sweep *self, int dir, const char *name)
{
    if (unlinkat(dir, name, 0) == 0) {
        self->n_removed++;
    } else if (errno != ENOENT) { /* another gateway sweeps the directory as well */
        log_warn("sweep-remove-failed name=%s error=\"%s\"", name, strerror(errno));
    }
}

static void
set_mode(int dir, const char *name, mode_t mode)
{
    if (fchmodat(dir, name, mode, 0) != 0 && errno != ENOENT) {
        log_warn("sweep-mark-failed name=%s error=\"%s\"", name, strerror(errno));
    }
}

static void
act(struct sweep *self, const struct item *item)
{
    char name[PICTURE_NAME_MAX];
    struct stat status;
    int dir = dirfd(self->shard);
    picture_name_print(&item->name, name);
    if (item->want == WANT_UNKNOWN || fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(status.st_mode)) {
        return;
    }
    bool marked = (status.st_mode & S_IWUSR) == 0;
    if (item->want == WANT_YES) {
        if (marked) {
            set_mode(dir, name, WANTED_MODE);
        }
        return;
    }
    if (!marked) {
        set_mode(dir, name, MARKED_MODE);
        self->n_marked++;
    } else if (clock_wall_ms() / 1000 - status.st_ctime >= self->grace_s) {
        remove_file(self, dir, name);
    }
}

static void
remove_old_temporary(struct sweep *self, int dir, const char *name)
{
    struct stat status;
    if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode) &&
        clock_wall_ms() / 1000 - status.st_mtime >= LIMIT_TEMPORARY_FILE_S) {
        remove_file(self, dir, name);
    }
}

/* -- the walk -- */

static void
sweep_end(struct sweep *self, const char *how)
{
    if (self->shard != NULL) {
        closedir(self->shard);
        self->shard = NULL;
    }
    closedir(self->shards);
    self->shards = NULL;
    log_info("sweep-end how=%s seen=%llu unknown=%llu marked=%llu removed=%llu", how,
             (unsigned long long)self->n_seen, (unsigned long long)self->n_unknown,
             (unsigned long long)self->n_marked, (unsigned long long)self->n_removed);
}

static void
batch_answered(struct sweep *self)
{
    if (self->stopping) {
        return;
    }
    for (uint32_t i = 0; i < self->n_items; i++) {
        act(self, &self->items[i]);
    }
    self->n_items = 0;
    kick_now(self->slice);
}

/* How long ago the hour that a shard is named after began. False: not the name of a shard. */
static bool
shard_age_s(const char *name, int64_t *out)
{
    struct tm utc = { 0 };
    size_t length = strlen(name);
    if (length < 10 || length >= PICTURE_SHARD_MAX || strspn(name, "0123456789") != length) {
        return false;
    }
    /* Years have four digits, or five at the far end of job ids. */
    const char *end = strptime(name + length - 6, "%m%d%H", &utc);
    char year[PICTURE_SHARD_MAX];
    snprintf(year, sizeof year, "%.*s", (int)(length - 6), name);
    utc.tm_year = (int)strtol(year, NULL, 10) - 1900;
    *out = clock_wall_ms() / 1000 - (int64_t)timegm(&utc);
    return end != NULL && *end == '\0';
}

/* Opens the next shard. False: there is none. */
static bool
shard_next(struct sweep *self)
{
    int64_t age_s = 0;
    for (uint32_t i = 0; i < LIMIT_SWEEP_SLICE; i++) {
        // cppcheck-suppress readdirCalled ; the stream is ours alone
        const struct dirent *entry = readdir(self->shards);
        if (entry == NULL) {
            return false;
        }
        if (picture_name_is_temporary(entry->d_name)) {
            remove_old_temporary(self, dirfd(self->shards), entry->d_name);
        } else if (shard_age_s(entry->d_name, &age_s)) {
            int fd = openat(dirfd(self->shards), entry->d_name,
                            O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
            self->shard = fd < 0 ? NULL : fdopendir(fd);
            if (self->shard != NULL) {
                snprintf(self->shard_name, sizeof self->shard_name, "%.*s", PICTURE_SHARD_MAX - 1,
                         entry->d_name);
                return true;
            }
            if (fd >= 0) {
                close(fd);
            }
        }
    }
    return true; /* none so far: go on in the next turn */
}

static void
shard_end(struct sweep *self)
{
    int64_t age_s = 0;
    closedir(self->shard);
    self->shard = NULL;
    /* Removes only what is empty; an upload that comes in between makes the shard anew. */
    if (shard_age_s(self->shard_name, &age_s) && age_s >= 3600 + LIMIT_SHARD_AGE_S &&
        unlinkat(dirfd(self->shards), self->shard_name, AT_REMOVEDIR) == 0) {
        log_debug("sweep-shard-removed shard=%s", self->shard_name);
    }
}

/* Collects pictures of the shard. False: nothing of it is left. */
static bool
shard_read(struct sweep *self)
{
    char shard[PICTURE_SHARD_MAX];
    for (uint32_t i = 0; i < LIMIT_SWEEP_SLICE; i++) {
        // cppcheck-suppress readdirCalled ; the stream is ours alone
        const struct dirent *entry = readdir(self->shard);
        struct item *item = &self->items[self->n_items];
        if (entry == NULL) {
            return self->n_items > 0;
        }
        if (picture_name_is_temporary(entry->d_name)) {
            remove_old_temporary(self, dirfd(self->shard), entry->d_name);
        } else if (picture_name_parse(entry->d_name, &item->name)) {
            picture_shard_print(&item->name.lease.job, shard);
            if (strcmp(shard, self->shard_name) == 0) {
                item->sweep = self;
                item->want = WANT_UNKNOWN;
                self->n_items++;
                self->n_seen++;
            }
        }
    }
    return true;
}

static void
on_slice(void *context)
{
    struct sweep *self = context;
    if (self->silent) {
        sweep_end(self, "redis-silent");
        return;
    }
    if (self->shard == NULL) {
        if (!shard_next(self)) {
            sweep_end(self, "done");
            return;
        }
    } else if (!shard_read(self)) {
        shard_end(self);
    } else if (self->n_items > 0) {
        ask(self); /* batch_answered() goes on */
        return;
    }
    kick_now(self->slice);
}

/* -- the sweep -- */

static void
begin(struct sweep *self)
{
    int fd = openat(picture_dir_fd(self->dir), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    self->shards = fd < 0 ? NULL : fdopendir(fd);
    if (self->shards == NULL) {
        log_error("sweep-failed error=\"%s\"", strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    self->silent = false;
    self->n_seen = self->n_unknown = self->n_marked = self->n_removed = 0;
    kick_now(self->slice);
}

static void
on_store(void *context, const redisReply *reply)
{
    struct sweep *self = context;
    const char *id = picture_dir_id(self->dir);
    self->asking = false;
    if (self->stopping) {
        return;
    }
    if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        log_warn("sweep-put-off error=\"%s\"", reply == NULL ? "no answer" : reply->str);
    } else if (reply->type != REDIS_REPLY_STRING || strcmp(reply->str, id) != 0) {
        log_warn("sweep-put-off store=%s redis=%s "
                 "cure=\"this directory is not the store of this Redis: check both\"",
                 id, redis_client_address(self->redis));
    } else {
        begin(self);
    }
}

static void
on_period(void *context)
{
    struct sweep *self = context;
    timer_in_ms(self->timer, self->period_ms);
    if (self->shards == NULL && !self->asking) {
        self->asking = true;
        redis_client_call(self->redis, on_store, self, "HGET " KEY_META " store");
    }
}

int
sweep_new(struct sweep **out, struct reactor *reactor, const struct picture_dir *dir,
          const struct sweep_config *config)
{
    static const struct redis_events events = { 0 };
    CLEANUP(sweep_destroy) struct sweep *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    assert(config->period_ms > 0 && config->grace_s >= 0);
    self->dir = dir;
    self->period_ms = config->period_ms;
    self->grace_s = config->grace_s;
    int rc = timer_new(&self->timer, reactor, on_period, self);
    rc = rc ? rc : kick_new(&self->slice, reactor, on_slice, self);
    rc = rc ? rc : redis_client_new(&self->redis, reactor, config->redis_url, &events);
    if (rc != 0) {
        return rc;
    }
    timer_in_ms(self->timer, config->period_ms < LIMIT_SWEEP_FIRST_MS ? config->period_ms
                                                                      : LIMIT_SWEEP_FIRST_MS);
    *out = self;
    self = NULL;
    return 0;
}

void
sweep_destroy(struct sweep **self_p)
{
    struct sweep *self = *self_p;
    if (self == NULL) {
        return;
    }
    self->stopping = true;
    redis_client_destroy(&self->redis); /* answers what is open, with NULL */
    kick_destroy(&self->slice);
    timer_destroy(&self->timer);
    if (self->shards != NULL) {
        sweep_end(self, "stopped");
    }
    free(self);
    *self_p = NULL;
}
