#pragma once
/*
 * jobs — what a face can do with jobs: submit, cancel, look up, watch; and drain a worker.
 *
 * One a reactor. It owns the session with the broker and hands each frame to the part that waits
 * for it. Faces use the parts directly: submits_add(), cancels_add(), drains_add(),
 * lookups_ask(), lookups_watch(), and job_wait.h for "until it has ended".
 */
#include "gateway/cancels.h"
#include "gateway/drains.h"
#include "gateway/lookups.h"
#include "gateway/submits.h"

struct artifacts;

struct jobs {
    struct broker_link *link;
    struct submits *submits;
    struct cancels *cancels;
    struct drains *drains;
    struct lookups *lookups;
    struct artifacts *artifacts; /* told the upload keys; borrowed */
    reactor_fn on_refused;
    void *context;
};

struct jobs_config {
    struct reactor *reactor;
    struct redis_client *redis;
    struct artifacts *artifacts;
    const char *name, *uploads_url; /* see broker_link_config; borrowed for good */
    reactor_fn on_refused;          /* the broker will never take us, logged: leave */
    void *context;
};

int jobs_new(struct jobs **out, const struct jobs_config *config); /* 0 or -ENOMEM */
/* Redis is about to be destroyed: no new question to it. */
void jobs_stop(struct jobs *self);
void jobs_destroy(struct jobs **self_p);
