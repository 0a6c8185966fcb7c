#include "broker/dispatch_private.h"
#include "tests/storm/storm.h"
#include <string.h>

/*
 * The promises of the queue, held against every transition that a core decides: its order, its
 * bounds, its fairness. The core's jobs are looked at, its sums and turns are not believed.
 */

enum { TENANTS = 3, KINDS = 8 };

/* What one term did so far. */
static struct account {
    uint32_t term;
    bool fresh; /* nothing was loaded: virtual time is whole */
    struct kind_account {
        struct capability can;
        uint32_t passed[CLASS_COUNT][CLASS_COUNT]; /* [of][by], since `of` had its last turn */
    } kinds[KINDS];
    uint32_t n_kinds;
    struct tenant_account {
        uint64_t end; /* of the keys given out */
        uint64_t cost_max;
        /* since both this and that tenant wait: */
        bool both[TENANTS];
        uint64_t from[TENANTS];   /* key of that tenant's first job then */
        uint64_t ahead[TENANTS];  /* how far that one stood behind ours */
        uint64_t served[TENANTS]; /* cost of ours */
        struct place { /* left empty: its job ended in the queue, was not taken, or never was */
            uint64_t key, cost;
        } left[2 * JOBS];
        uint32_t n_left;
    } tenants[CLASS_COUNT][TENANTS];
    uint64_t granted_key[CLASS_COUNT];
} accounts[BROKERS];

static struct account *
account_of(const struct broker_host *broker)
{
    struct account *account = &accounts[broker->index];
    if (account->term != broker->term) {
        *account = (struct account){ .term = broker->term };
    }
    account->fresh = !broker->has_loaded;
    return account;
}

void
check_queue_forget(void)
{
    memset(accounts, 0, sizeof accounts);
}

static uint32_t
tenant_number(const struct dispatch *core, const struct job *job)
{
    return (uint32_t)(core->queue.tenants[job->tenant].name[1] - '0');
}

/* Could be granted now to whoever is able. */
static bool
waits(const struct job *job)
{
    return job->request != NULL && job->pending == PENDING_NONE &&
           job->header.state == JOB_QUEUED && job->ordeal == NULL;
}

/* ---- order ---- */

static bool
stands_before(const struct job *a, const struct job *b)
{
    uint64_t key_a = storm.truth[job_number(&a->id)].key;
    uint64_t key_b = storm.truth[job_number(&b->id)].key;
    return key_a != key_b ? key_a < key_b : a->header.sequence < b->header.sequence;
}

/* A granted job was the first of its class among those that the same workers can take, by the keys
 * that Redis has. */
static void
check_order(const struct dispatch *core, const struct job *granted)
{
    for (uint32_t i = 0; i < core->jobs.n_used; i++) {
        const struct job *other = job_at(&core->jobs, i);
        if (waits(other) && other->bucket == granted->bucket &&
            other->header.class_ == granted->header.class_ && stands_before(other, granted)) {
            broken("job %u is granted before job %u, which stands before it",
                   job_number(&granted->id), job_number(&other->id));
        }
    }
}

/* ---- turns of the classes ---- */

static struct kind_account *
kind_of(struct account *account, const struct capability *can)
{
    for (uint32_t i = 0; i < account->n_kinds; i++) {
        if (capability_equal(&account->kinds[i].can, can)) {
            return &account->kinds[i];
        }
    }
    if (account->n_kinds == KINDS) {
        return NULL;
    }
    struct kind_account *kind = &account->kinds[account->n_kinds++];
    *kind = (struct kind_account){ .can = *can };
    return kind;
}

static bool
class_waits(const struct dispatch *core, enum job_class class_, const struct capability *can)
{
    for (uint32_t i = 0; i < core->jobs.n_used; i++) {
        const struct job *job = job_at(&core->jobs, i);
        if (waits(job) && job->header.class_ == class_ &&
            bucket_fits(&core->queue.buckets[job->bucket], can)) {
            return true;
        }
    }
    return false;
}

/* 16 : 4 : 1 while all wait: among workers that can do the same, between two turns of a class that
 * waits another has as many as its weight is larger, and one. */
static void
check_turns(struct account *account, const struct dispatch *core, const struct job *granted)
{
    static const uint32_t weights[CLASS_COUNT] = { 16, 4, 1 };
    enum job_class by = granted->header.class_;
    uint32_t slot = worker_of(core, granted);
    struct kind_account *kind =
        slot == ROSTER_NOBODY ? NULL : kind_of(account, &core->roster.workers[slot].can);
    if (kind == NULL) {
        return;
    }
    for (enum job_class of = CLASS_HIGH; of < CLASS_COUNT; of++) {
        if (of == by || !class_waits(core, of, &kind->can)) {
            memset(kind->passed[of], 0, sizeof kind->passed[of]);
            continue;
        }
        uint32_t bound = (weights[by] + weights[of] - 1) / weights[of] + 1;
        if (++kind->passed[of][by] > bound) {
            broken("job %u of class %u is turn %u past a waiting job of class %u",
                   job_number(&granted->id), by, kind->passed[of][by], of);
        }
    }
}

/* ---- shares of the tenants ---- */

/* The least key of the tenant's jobs of this class that wait for their first lease. */
static bool
tenant_head(const struct dispatch *core, enum job_class class_, uint32_t tenant, uint64_t *key)
{
    bool any = false;
    for (uint32_t i = 0; i < core->jobs.n_used; i++) {
        const struct job *job = job_at(&core->jobs, i);
        if (waits(job) && job->header.class_ == class_ && job->header.grant == 0 &&
            tenant_number(core, job) == tenant && (!any || job->key < *key)) {
            *key = job->key;
            any = true;
        }
    }
    return any;
}

/* Cost of the places that the tenant left between two keys. */
static uint64_t
left_between(const struct tenant_account *tenant, uint64_t from, uint64_t to)
{
    uint64_t cost = 0;
    for (uint32_t i = 0; i < tenant->n_left; i++) {
        bool between_them = tenant->left[i].key >= from && tenant->left[i].key < to;
        cost += between_them ? tenant->left[i].cost : 0;
    }
    return cost;
}

static void
leave(struct tenant_account *tenant, uint64_t key, uint64_t cost)
{
    if (tenant->n_left < 2 * JOBS) {
        tenant->left[tenant->n_left++] = (struct place){ key, cost };
    }
}

/* Both wait from now on: the one that stands before may catch up, and no more. */
static void
both_wait(struct tenant_account *one, uint32_t other, uint64_t own_head, uint64_t other_head)
{
    one->both[other] = true;
    one->from[other] = other_head;
    one->served[other] = 0;
    one->ahead[other] = other_head > own_head ? other_head - own_head : 0;
}

/* Start-time fair queueing: while two tenants wait in the same trees, neither is served more than
 * the other by more than the largest job of each. */
static void
check_share(struct account *account, const struct dispatch *core, const struct job *granted)
{
    enum job_class class_ = granted->header.class_;
    struct tenant_account *tenants = account->tenants[class_];
    uint32_t f = tenant_number(core, granted);
    for (uint32_t g = 0; g < TENANTS; g++) {
        struct tenant_account *one = &tenants[f];
        struct tenant_account *other = &tenants[g];
        uint64_t head = 0;
        if (g == f) {
            continue;
        }
        if (!tenant_head(core, class_, g, &head)) {
            one->both[g] = other->both[f] = false;
            continue;
        }
        if (!one->both[g]) {
            both_wait(one, g, granted->key, head);
            both_wait(other, f, head, granted->key);
        }
        one->served[g] += granted->cost;
        uint64_t most = other->served[f] + left_between(other, one->from[g], head) + one->cost_max +
                        other->cost_max + one->ahead[g];
        if (one->served[g] > most) {
            broken("job %u: tenant t%u is served %llu of class %u while t%u waits with %llu",
                   job_number(&granted->id), f, (unsigned long long)one->served[g], class_, g,
                   (unsigned long long)other->served[f]);
        }
    }
}

/* A job is paid for behind its tenant's last one, and stands no further back than what was served
 * last: who comes new does not wait for other tenants' queues. */
static void
check_key(struct account *account, const struct dispatch *core, const struct job *job)
{
    enum job_class class_ = job->header.class_;
    struct tenant_account *tenant = &account->tenants[class_][tenant_number(core, job)];
    uint64_t latest = account->granted_key[class_];
    latest = latest > tenant->end ? latest : tenant->end;
    if (account->fresh && (job->key < tenant->end || job->key > latest)) {
        broken("job %u: key %llu, its tenant's jobs end at %llu, the last one served had %llu",
               job_number(&job->id), (unsigned long long)job->key, (unsigned long long)tenant->end,
               (unsigned long long)account->granted_key[class_]);
    }
    if (job->key > tenant->end) { /* virtual time ran on while it had nothing in the queue */
        leave(tenant, tenant->end, job->key - tenant->end);
    }
    tenant->end = job->key + job->cost;
    tenant->cost_max = job->cost > tenant->cost_max ? job->cost : tenant->cost_max;
}

static void
give_up(struct account *account, const struct dispatch *core, const struct job *job)
{
    leave(&account->tenants[job->header.class_][tenant_number(core, job)], job->key, job->cost);
}

/* A submit that Redis did not take: a second one with its idempotency key, or no room. Its place is
 * paid for. */
void
check_not_taken(const struct broker_host *broker, uint32_t number)
{
    struct job_id id = job_named(number);
    uint32_t index = jobs_find(&broker->dispatch->jobs, &id);
    if (index != JOB_NOBODY) {
        give_up(account_of(broker), broker->dispatch, job_at(&broker->dispatch->jobs, index));
    }
}

/* ---- bounds ---- */

enum { STRUCTURES = sizeof(struct job) + 20 };

struct load {
    uint32_t jobs, of_tenant, others;
    uint64_t bytes, bytes_of_tenant;
};

/* Live jobs: those on their way in and out included, ended ones in memory not. */
static struct load
load_of(const struct dispatch *core, struct slice tenant)
{
    struct load load = { 0 };
    for (uint32_t i = 0; i < core->jobs.n_used; i++) {
        const struct job *job = job_at(&core->jobs, i);
        if (job->request == NULL) {
            continue;
        }
        load.bytes += (uint64_t)job->request_length + job->result_length;
        if (job->pending == PENDING_NONE && job_is_terminal(job->header.state)) {
            continue;
        }
        bool its = slice_is(tenant, core->queue.tenants[job->tenant].name);
        load.jobs++;
        load.bytes += STRUCTURES;
        load.of_tenant += its;
        load.bytes_of_tenant += its ? job->request_length : 0;
        load.others += !its;
    }
    return load;
}

/* A submit that is on its way to Redis is within all bounds. */
static void
check_taken_in(const struct dispatch *core, const struct job *job)
{
    uint32_t number = job_number(&job->id);
    struct load load = load_of(core, slice_of(core->queue.tenants[job->tenant].name));
    if (load.jobs > core->config.max_jobs || load.bytes > core->config.max_bytes) {
        broken("job %u is taken as number %u of %u, %llu bytes of %llu", number, load.jobs,
               core->config.max_jobs, (unsigned long long)load.bytes,
               (unsigned long long)core->config.max_bytes);
    }
    uint64_t share = LIMIT_TENANT_SHARE_PERCENT;
    if (load.others > 0 && load.of_tenant > 1 &&
        ((load.of_tenant - 1) * 100 >= core->config.max_jobs * share ||
         (load.bytes_of_tenant - job->request_length) * 100 >= core->config.max_bytes * share)) {
        broken("job %u is its tenant's number %u of %u, and others wait", number, load.of_tenant,
               core->config.max_jobs);
    }
}

/* A submit is refused for a bound only if it would pass it. */
void
check_refused(const struct broker_host *broker, const struct refused *refused)
{
    const struct dispatch *core = broker->dispatch;
    const struct ticket *ticket = &storm.tickets[job_number(&refused->id)];
    struct load load = load_of(core, slice_of(ticket->tenant));
    uint64_t bytes = load.bytes + ticket->n_request + STRUCTURES;
    uint64_t share = LIMIT_TENANT_SHARE_PERCENT;
    bool full = load.jobs >= core->config.max_jobs || bytes > core->config.max_bytes;
    bool greedy = load.others > 0 && (load.of_tenant * 100ULL >= core->config.max_jobs * share ||
                                      load.bytes_of_tenant * 100 >= core->config.max_bytes * share);
    if ((refused->reason == REFUSAL_QUEUE_FULL && !full) ||
        (refused->reason == REFUSAL_TENANT_FULL && !greedy)) {
        broken("job %u is refused for reason %u with %u jobs of %u, %u of its tenant",
               job_number(&refused->id), refused->reason, load.jobs, core->config.max_jobs,
               load.of_tenant);
    }
}

/* ---- all of it ---- */

static const char *
core_worker_name(const struct dispatch *core, const struct job *job)
{
    uint32_t slot = worker_of(core, job);
    return slot == ROSTER_NOBODY ? "nobody" : core->roster.workers[slot].name;
}

/* A drained worker takes nothing new. */
static void
check_drained(const struct broker_host *broker, const struct job *granted)
{
    for (uint32_t i = 0; i < storm.n_drained; i++) {
        const struct drained *drained = &storm.drained[i];
        if (drained->broker == broker->index && drained->term == broker->term &&
            drained->incarnation == granted->header.worker) {
            broken("job %u is granted to %s, which was drained", job_number(&granted->id),
                   core_worker_name(broker->dispatch, granted));
        }
    }
}

void
check_op(const struct broker_host *broker, const struct op *op)
{
    const struct dispatch *core = broker->dispatch;
    struct account *account = account_of(broker);
    bool of_job = op->kind == OP_SUBMIT || op->kind == OP_TOUCH || op->kind == OP_FINISH;
    uint32_t index = of_job ? jobs_find(&core->jobs, &op->id) : JOB_NOBODY;
    if (index == JOB_NOBODY) {
        return;
    }
    const struct job *job = job_at(&core->jobs, index);
    if (op->kind == OP_SUBMIT) {
        check_taken_in(core, job);
        check_key(account, core, job);
    } else if (op->kind == OP_FINISH && job->was == JOB_QUEUED && job->header.grant == 0) {
        give_up(account, core, job);
    } else if (op->kind == OP_TOUCH && op->header.state == JOB_RUNNING) {
        check_order(core, job);
        check_drained(broker, job);
        check_turns(account, core, job);
        uint64_t *last = &account->granted_key[job->header.class_];
        if (storm.one_bucket && account->fresh && job->header.grant == 1) {
            check_share(account, core, job);
        }
        *last = job->key > *last ? job->key : *last;
    }
}
