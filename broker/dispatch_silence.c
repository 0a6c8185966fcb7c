#include "broker/dispatch_private.h"
#include <string.h>

void
worker_second(struct dispatch *self)
{
    for (uint32_t slot = 0; slot < self->roster.n_workers; slot++) {
        struct worker *worker = &self->roster.workers[slot];
        if (worker->used && worker->session != 0 &&
            self->now.mono_ms - worker->heard_ms >= LIMIT_SUSPECT_MS) {
            worker->pull = 0; /* suspect: its next STATE says anew */
            roster_refresh(&self->roster, slot);
        }
    }
    roster_count_kinds(&self->roster);
    static const struct list nothing;
    if (self->orphans.count > 0 && self->now.mono_ms >= self->adopt_until_ms) {
        release_unheld(self, &self->orphans, &nothing);
    }
}

static int64_t
beat_silence_ms(const struct dispatch *self, const struct worker *worker)
{
    int64_t longest = self->now.mono_ms - self->silence_from_ms;
    int64_t beat = self->now.mono_ms - worker->beat_ms;
    return beat < longest ? beat : longest;
}

static bool
is_silent(const struct dispatch *self, const struct worker *worker)
{
    int64_t longest = self->now.mono_ms - self->silence_from_ms;
    int64_t beat = beat_silence_ms(self, worker);
    int64_t state = self->now.mono_ms - worker->heard_ms;
    state = state < longest ? state : longest;
    return (beat >= LIMIT_SILENCE_BOTH_MS && state >= LIMIT_SILENCE_BOTH_MS) ||
           state >= LIMIT_SILENCE_STATE_MS || beat >= LIMIT_SILENCE_BEAT_MS;
}

static void
worker_evict(struct dispatch *self, uint32_t slot)
{
    struct worker *worker = &self->roster.workers[slot];
    uint32_t next;
    for (uint32_t index = worker->leases.first; index != JOB_NOBODY; index = next) {
        next = job_at(&self->jobs, index)->next;
        release_lost(self, index, FAIL_WORKER_LOST, job_at(&self->jobs, index)->taken);
    }
    self->stats.evicted++;
    roster_remove(&self->roster, slot);
    self->rematch = true;
}

static void
evict_name(struct dispatch *self, struct slice name)
{
    char *copy = effects_memory(self->effects, LIMIT_WORKER_NAME + 1);
    memcpy(copy, name.bytes, name.length < LIMIT_WORKER_NAME ? name.length : LIMIT_WORKER_NAME);
    struct op *op = &effects_add(self->effects, EFFECT_COMMIT)->op;
    *op = (struct op){ .kind = OP_WORKER_EVICTED, .worker = slice_of(copy) };
}

/* True if Redis TIME and our clock went on alike since the last sweep. */
static bool
clocks_agree(struct dispatch *self)
{
    int64_t ours = self->now.mono_ms - self->sweep_ms;
    int64_t theirs = (int64_t)(self->now.redis_ms - self->sweep_redis_ms);
    bool first = self->sweep_ms == 0;
    if (first || ours > LIMIT_CLOCK_SLIP_MS) {
        self->steady_from_ms = self->now.mono_ms;
    }
    self->sweep_ms = self->now.mono_ms;
    self->sweep_redis_ms = self->now.redis_ms;
    int64_t slip = theirs > ours ? theirs - ours : ours - theirs;
    return first || (slip <= LIMIT_CLOCK_SLIP_MS && ours <= LIMIT_SUSPECT_MS);
}

static void
sweep_beats(struct dispatch *self, const struct dispatch_event *event)
{
    for (uint32_t slot = 0; slot < self->roster.n_workers; slot++) {
        self->roster.workers[slot].beat_ms = self->now.mono_ms;
    }
    for (uint32_t i = 0; i < event->n_quiet; i++) {
        const struct quiet_worker *quiet = &event->quiet[i];
        uint32_t slot = roster_by_name(&self->roster, quiet->name);
        if (slot != ROSTER_NOBODY) {
            self->roster.workers[slot].beat_ms = self->now.mono_ms - quiet->quiet_ms;
        } else if (quiet->quiet_ms >= LIMIT_SILENCE_BOTH_MS &&
                   self->now.mono_ms - self->silence_from_ms >= LIMIT_SILENCE_BOTH_MS) {
            evict_name(self, quiet->name); /* nobody we know: an agent that died before our time */
        }
    }
}

void
worker_sweep(struct dispatch *self, const struct dispatch_event *event)
{
    if (!self->loaded) {
        return; /* silences are counted from there on */
    }
    if (!clocks_agree(self)) {
        self->silence_from_ms = self->now.mono_ms; /* a step of the clock evicts nobody */
        return;
    }
    sweep_beats(self, event);
    uint32_t silent = 0;
    uint32_t all = 0;
    for (uint32_t slot = 0; slot < self->roster.n_workers; slot++) {
        struct worker *worker = &self->roster.workers[slot];
        if (worker->used) {
            all++;
            silent += is_silent(self, worker);
            worker->quiet = beat_silence_ms(self, worker) >= LIMIT_SILENCE_BOTH_MS;
            roster_refresh(&self->roster, slot);
        }
    }
    if (all < 4 || silent * 2 <= all) {
        self->mass_since_ms = 0;
    } else if (self->mass_since_ms == 0) {
        self->mass_since_ms = self->now.mono_ms; /* rather our own trouble than theirs */
    }
    if (self->mass_since_ms != 0 &&
        self->now.mono_ms - self->mass_since_ms < LIMIT_SILENCE_BOTH_MS) {
        return; /* one limit more */
    }
    for (uint32_t slot = 0; slot < self->roster.n_workers; slot++) {
        if (self->roster.workers[slot].used && is_silent(self, &self->roster.workers[slot])) {
            evict_name(self, slice_of(self->roster.workers[slot].name));
            worker_evict(self, slot);
        }
    }
    roster_count_kinds(&self->roster);
}
