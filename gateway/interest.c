#include "gateway/interest.h"
#include <stdlib.h>
#include <string.h>

static void
slice_free(struct slice *self)
{
    free((void *)self->bytes); /* ours: made by slice_copy() */
    *self = (struct slice){ 0 };
}

static struct slice
slice_copy(struct slice from)
{
    if (from.length == 0) {
        return (struct slice){ 0 };
    }
    void *bytes = malloc(from.length);
    if (bytes == NULL) {
        abort();
    }
    memcpy(bytes, from.bytes, from.length);
    return (struct slice){ bytes, from.length };
}

/* Replaces a copy, unless it is the same already. */
static void
slice_replace(struct slice *self, struct slice from)
{
    if (!slice_equal(*self, from)) {
        struct slice copy = slice_copy(from);
        slice_free(self);
        *self = copy;
    }
}

bool
interest_take(struct interest *self, struct record_unpacker *unpacker,
              const struct job_entry *entry)
{
    struct job_entry *kept = &self->view.entry;
    struct job_entry owned = *kept;
    if (entry->request.length > 0 && !slice_equal(owned.request, entry->request)) {
        struct envelope envelope;
        struct job_body body;
        slice_replace(&owned.request, entry->request);
        kept->request = owned.request;
        self->tenant = (struct slice){ 0 };
        if (job_request_decode(unpacker, owned.request, &envelope, &body) != 0) {
            return false;
        }
        self->tenant = envelope.tenant;
    }
    if (self->tenant.length == 0) {
        return false;
    }
    if (entry->result.length > 0) {
        slice_replace(&owned.result, entry->result);
    }
    slice_replace(&owned.worker, entry->worker);
    slice_replace(&owned.message, entry->message);
    *kept = *entry;
    kept->request = owned.request;
    kept->result = owned.result;
    kept->worker = owned.worker;
    kept->message = owned.message;
    return true;
}

static void
attempts_clear(struct interest *self)
{
    for (uint32_t i = 0; i < self->view.n_attempts; i++) {
        slice_free(&self->view.attempts[i]);
    }
    self->view.n_attempts = 0;
    self->has_attempts = false;
}

void
interest_take_attempts(struct interest *self, const struct slice *attempts, uint32_t n)
{
    attempts_clear(self);
    for (uint32_t i = 0; i < n && i < LIMIT_GRANTS; i++) {
        self->view.attempts[self->view.n_attempts++] = slice_copy(attempts[i]);
    }
    self->has_attempts = true;
}

void
interest_clear(struct interest *self)
{
    struct job_entry *kept = &self->view.entry;
    attempts_clear(self);
    slice_free(&kept->request);
    slice_free(&kept->result);
    slice_free(&kept->worker);
    slice_free(&kept->message);
    self->tenant = (struct slice){ 0 };
}

bool
interest_news(const struct interest *self, struct lookup *lookup)
{
    const struct job_entry *entry = &self->view.entry;
    if (lookup->told && lookup->revision == entry->header.revision && lookup->step == entry->step &&
        lookup->position == entry->position && lookup->eta_s == entry->eta_s &&
        lookup->reason == entry->reason) {
        return false;
    }
    lookup->told = true;
    lookup->revision = entry->header.revision;
    lookup->step = entry->step;
    lookup->position = entry->position;
    lookup->eta_s = entry->eta_s;
    lookup->reason = entry->reason;
    return true;
}
