#include "broker/roster.h"
#include "common/mutant.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

int
roster_setup(struct roster *self)
{
    memset(self, 0, sizeof *self);
    self->free_first = self->free_last = ROSTER_NOBODY;
    self->workers = calloc(LIMIT_WORKERS, sizeof *self->workers);
    return self->workers == NULL ? -1 : 0;
}

void
roster_clear(struct roster *self)
{
    free(self->workers);
    table_clear(&self->by_session);
    table_clear(&self->by_name);
    memset(self, 0, sizeof *self);
}

bool
peer_equal(const struct peer *a, const struct peer *b)
{
    return a->side == b->side && a->length == b->length && memcmp(a->id, b->id, a->length) == 0;
}

struct worker_sought {
    const struct roster *roster;
    uint64_t session;
    struct slice name;
};

static bool
session_matches(const void *context, uint32_t index)
{
    const struct worker_sought *sought = context;
    return sought->roster->workers[index].session == sought->session;
}

static bool
name_matches(const void *context, uint32_t index)
{
    const struct worker_sought *sought = context;
    const char *name = sought->roster->workers[index].name;
    return strlen(name) == sought->name.length &&
           memcmp(name, sought->name.bytes, sought->name.length) == 0;
}

uint32_t
roster_by_session(const struct roster *self, uint64_t session)
{
    struct worker_sought sought = { self, session, { 0 } };
    return session == 0 ? ROSTER_NOBODY
                        : table_find(&self->by_session, table_hash(&session, sizeof session),
                                     session_matches, &sought);
}

uint32_t
roster_by_name(const struct roster *self, struct slice name)
{
    struct worker_sought sought = { self, 0, name };
    return table_find(&self->by_name, table_hash(name.bytes, name.length), name_matches, &sought);
}

/* A slot that nobody uses: the one that this worker had, if it is still there; one whose worker is
 * to drain when it comes back only if all others are taken. */
static uint32_t
slot_free(const struct roster *self, struct slice name)
{
    uint32_t drained = LIMIT_WORKERS;
    uint32_t other = self->n_workers;
    for (uint32_t slot = 0; slot < self->n_workers; slot++) {
        const struct worker *worker = &self->workers[slot];
        if (worker->used) {
            continue;
        }
        if (slice_is(name, worker->name)) {
            return slot;
        }
        drained = worker->draining ? slot : drained;
        other = other == self->n_workers && !worker->draining ? slot : other;
    }
    return other < LIMIT_WORKERS ? other : drained;
}

uint32_t
roster_add(struct roster *self, struct slice name)
{
    assert(name.length <= LIMIT_WORKER_NAME);
    uint32_t slot = slot_free(self, name);
    if (slot == LIMIT_WORKERS ||
        !table_add(&self->by_name, table_hash(name.bytes, name.length), slot)) {
        return ROSTER_NOBODY;
    }
    struct worker *worker = &self->workers[slot];
    bool back = slot < self->n_workers && slice_is(name, worker->name);
    self->n_workers += slot == self->n_workers;
    *worker = (struct worker){ .used = true,
                               .draining = back && worker->draining,
                               .incarnation = back ? worker->incarnation : 0,
                               .free_previous = ROSTER_NOBODY,
                               .free_next = ROSTER_NOBODY };
    job_list_setup(&worker->leases);
    memcpy(worker->name, name.bytes, name.length);
    return slot;
}

bool
roster_open(struct roster *self, uint32_t slot, uint64_t session, const struct peer *peer)
{
    roster_close(self, slot);
    if (!table_add(&self->by_session, table_hash(&session, sizeof session), slot)) {
        return false;
    }
    struct worker *worker = &self->workers[slot];
    worker->session = session;
    worker->peer = *peer;
    worker->pull = 0;
    worker->last_job = worker->sent_jobs = 0;
    worker->told_ms = 0;
    self->alive++;
    return true;
}

void
roster_close(struct roster *self, uint32_t slot)
{
    struct worker *worker = &self->workers[slot];
    if (worker->session != 0) {
        table_remove(&self->by_session, table_hash(&worker->session, sizeof worker->session), slot);
        worker->session = 0;
        self->alive--;
    }
    worker->pull = 0;
    roster_refresh(self, slot);
}

void
roster_remove(struct roster *self, uint32_t slot)
{
    struct worker *worker = &self->workers[slot];
    assert(worker->leases.count == 0);
    roster_close(self, slot);
    table_remove(&self->by_name, table_hash(worker->name, strlen(worker->name)), slot);
    worker->used = false;
}

void
roster_count_kinds(struct roster *self)
{
    self->n_kinds = 0;
    for (uint32_t slot = 0; slot < self->n_workers; slot++) {
        const struct worker *worker = &self->workers[slot];
        if (!worker->used || worker->session == 0) {
            continue;
        }
        uint32_t k = 0;
        while (k < self->n_kinds && !capability_equal(&self->kinds[k].can, &worker->can)) {
            k++;
        }
        if (k == LIMIT_KINDS) {
            continue; /* estimates ignore the 65th kind; dispatch does not use kinds */
        }
        if (k == self->n_kinds) {
            self->kinds[self->n_kinds++] = (struct kind){ .can = worker->can };
        }
        double speed = worker->speed > 0 ? worker->speed : SPEED_GUESS;
        self->kinds[k].workers++;
        self->kinds[k].instances += worker->instances;
        self->kinds[k].speed += speed * worker->instances;
    }
}

uint32_t
worker_credit(const struct worker *worker)
{
    if (worker->session == 0 || (worker->draining && !MUTANT(DRAINPULL)) || worker->quiet ||
        worker->pull == 0) {
        return 0;
    }
    uint32_t on_the_way = worker->sent_jobs - worker->last_job + worker->granting;
    return worker->pull > on_the_way ? worker->pull - on_the_way : 0;
}

void
roster_refresh(struct roster *self, uint32_t slot)
{
    struct worker *worker = &self->workers[slot];
    bool wanted = worker_credit(worker) > 0;
    if (wanted == worker->in_free) {
        return;
    }
    worker->in_free = wanted;
    if (wanted) { /* to the end: the longest idle stands first */
        worker->free_previous = self->free_last;
        worker->free_next = ROSTER_NOBODY;
        if (self->free_last != ROSTER_NOBODY) {
            self->workers[self->free_last].free_next = slot;
        } else {
            self->free_first = slot;
        }
        self->free_last = slot;
        return;
    }
    if (worker->free_previous != ROSTER_NOBODY) {
        self->workers[worker->free_previous].free_next = worker->free_next;
    } else {
        self->free_first = worker->free_next;
    }
    if (worker->free_next != ROSTER_NOBODY) {
        self->workers[worker->free_next].free_previous = worker->free_previous;
    } else {
        self->free_last = worker->free_previous;
    }
}

uint32_t
roster_gateway(const struct roster *self, uint64_t session)
{
    for (uint32_t i = 0; i < LIMIT_GATEWAYS; i++) {
        if (self->gateways[i].used && self->gateways[i].session == session) {
            return i;
        }
    }
    return ROSTER_NOBODY;
}

uint32_t
roster_gateway_at(const struct roster *self, const struct peer *peer)
{
    for (uint32_t i = 0; i < LIMIT_GATEWAYS; i++) {
        if (self->gateways[i].used && peer_equal(&self->gateways[i].peer, peer)) {
            return i;
        }
    }
    return ROSTER_NOBODY;
}

uint32_t
roster_gateway_add(struct roster *self, uint64_t session, const struct peer *peer)
{
    for (uint32_t i = 0; i < LIMIT_GATEWAYS; i++) {
        if (!self->gateways[i].used) {
            self->gateways[i] = (struct gateway){ .used = true, .session = session, .peer = *peer };
            return i;
        }
    }
    return ROSTER_NOBODY;
}

void
roster_gateway_remove(struct roster *self, uint32_t slot)
{
    self->gateways[slot].used = false;
    self->gateways[slot].session = 0;
}
