#include "gateway/jobs.h"
#include "common/clock.h"
#include "common/scope.h"
#include "gateway/artifacts.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool
storage_full(void *context)
{
    const struct jobs *self = context;
    return artifacts_full(self->artifacts);
}

static void
on_open(void *context, const struct gateway_welcome *welcome)
{
    struct jobs *self = context;
    const struct upload_key *items = welcome->keys.items;
    uint8_t keys[2][GRANT_KEY_BYTES];
    uint32_t n = 0;
    for (uint32_t i = 0; i < welcome->keys.count && n < 2; i++) {
        if (items[i].key.length == GRANT_KEY_BYTES) {
            memcpy(keys[n++], items[i].key.bytes, GRANT_KEY_BYTES);
        }
    }
    if (n > 0) {
        artifacts_set_keys(self->artifacts, (const uint8_t(*)[GRANT_KEY_BYTES])keys, n,
                           (int64_t)welcome->redis_ms - clock_mono_ms());
    }
    submits_on_open(self->submits);
    cancels_on_open(self->cancels);
    drains_on_open(self->drains);
    lookups_on_open(self->lookups);
}

static void
on_lost(void *context)
{
    struct jobs *self = context;
    lookups_on_lost(self->lookups);
}

static void
on_frame(void *context, const struct frame *frame)
{
    struct jobs *self = context;
    if (frame->kind == FRAME_JOBS) {
        lookups_on_jobs(self->lookups, &frame->jobs);
    } else if (frame->kind == FRAME_ANSWER) {
        cancels_on_answer(self->cancels, &frame->answer);
        submits_on_frame(self->submits, frame);
    } else if (frame->kind == FRAME_ADMIN_ANSWER) {
        drains_on_answer(self->drains, &frame->admin_answer);
    } else if (frame->kind == FRAME_ACCEPTED || frame->kind == FRAME_KNOWN ||
               frame->kind == FRAME_REFUSED) {
        submits_on_frame(self->submits, frame);
    }
}

static void
on_refused(void *context)
{
    struct jobs *self = context;
    self->on_refused(self->context);
}

int
jobs_new(struct jobs **out, const struct jobs_config *config)
{
    CLEANUP(jobs_destroy) struct jobs *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    const struct broker_link_config link = {
        .name = config->name,
        .store = artifacts_store_id(config->artifacts),
        .uploads_url = config->uploads_url,
        .storage_full = storage_full,
        .on_open = on_open,
        .on_lost = on_lost,
        .on_frame = on_frame,
        .on_refused = on_refused,
        .context = self,
    };
    self->artifacts = config->artifacts;
    self->on_refused = config->on_refused;
    self->context = config->context;
    int rc = broker_link_new(&self->link, config->reactor, config->redis, &link);
    rc = rc ? rc : submits_new(&self->submits, config->reactor, self->link);
    rc = rc ? rc : cancels_new(&self->cancels, config->reactor, self->link);
    rc = rc ? rc : drains_new(&self->drains, config->reactor, self->link);
    rc = rc ? rc : lookups_new(&self->lookups, config->reactor, self->link, config->redis);
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

void
jobs_stop(struct jobs *self)
{
    broker_link_stop(self->link);
}

void
jobs_destroy(struct jobs **self_p)
{
    struct jobs *self = *self_p;
    if (self == NULL) {
        return;
    }
    submits_destroy(&self->submits);
    cancels_destroy(&self->cancels);
    drains_destroy(&self->drains);
    lookups_destroy(&self->lookups);
    broker_link_destroy(&self->link);
    free(self);
    *self_p = NULL;
}
