#include "tests/storm/storm.h"
#include <stdio.h>
#include <string.h>

/*
 * What goes wrong while the storm lasts, one thing after the other; then everything is mended.
 *
 * Allowed to lose: with appendfsync everysec, Redis's power cut and the loss of the leader's memory
 * within the second before it, or until the restore is done. Only that pair is kept apart.
 */

static const char *const worker_names[] = { "w0", "w1", "w2", "w3" };
static const char *const worker_models[] = { "x", "m", "m", "x" };

/* ---- workers ---- */

static void
revive_worker(void *owner, void *data)
{
    struct worker_host *self = owner;
    (void)data;
    if (!self->process.up && !self->twin) {
        worker_start(self, worker_names[self->index], worker_models[self->index]);
    }
}

static void
pause_process(struct process *process, int64_t ms, enum fault_kind kind)
{
    if (process->up && process->paused_until <= storm.now_ms) {
        fault(kind);
        trace("host %u: paused for %lld ms", process->host, (long long)ms);
        process->paused_until = storm.now_ms + ms;
        if (ms > LIMIT_LINK_SILENCE_MS) {
            net_break_host(process->host, storm.now_ms + LIMIT_LINK_SILENCE_MS);
        }
    }
}

/* While a worker sleeps somebody starts another process of its name. */
static void
start_twin(struct worker_host *sleeper)
{
    for (uint32_t i = storm.n_workers; i < WORKERS; i++) {
        struct worker_host *twin = &storm.workers[i];
        if (!twin->process.up) {
            fault(FAULT_WORKER_TWIN);
            twin->twin = true;
            twin->n_instances = 1;
            worker_start(twin, sleeper->name, sleeper->model);
            return;
        }
    }
}

/* SIGTERM, or `drawbar drain`. */
static void
drain_worker(struct worker_host *worker)
{
    fault(FAULT_WORKER_DRAIN);
    if (chance(500)) {
        gateway_drain(&storm.gateways[any(GATEWAYS)], worker->name);
    } else {
        trace("worker %s: drains", worker->name);
        worker_drain(worker);
    }
}

static void
fault_worker(void)
{
    struct worker_host *worker = &storm.workers[any(storm.n_workers)];
    if (!worker->process.up) {
        return;
    }
    switch (any(8)) {
    case 0:
    case 1:
        fault(FAULT_WORKER_CRASH);
        worker_crash(worker);
        sim_at(storm.now_ms + between(1, 9000), NULL, revive_worker, worker, NULL);
        break;
    case 2:
    case 3:
        pause_process(&worker->process, between(100, 16000), FAULT_WORKER_PAUSE);
        if (chance(200) && worker->process.paused_until > storm.now_ms + 2000) {
            start_twin(worker);
        }
        break;
    case 4:
        fault(FAULT_WORKER_SLOW);
        worker->slow = !worker->slow;
        break;
    case 5:
        worker_break_instance(worker, (uint8_t)any(worker->n_instances));
        break;
    case 6:
        if (worker->process.paused_until <= storm.now_ms) {
            drain_worker(worker);
        }
        break;
    default:
        fault(FAULT_CONNECTION_LOST);
        net_break_host(worker->process.host, storm.now_ms);
        break;
    }
}

static void
revive_broker(void *owner, void *data)
{
    struct broker_host *self = owner;
    (void)data;
    if (!self->process.up) {
        broker_start(self);
    }
}

/* Those that left come back now and then. */
static void
on_supervisor(void *owner, void *data)
{
    (void)owner;
    for (uint32_t i = 0; i < storm.n_workers; i++) {
        if (!storm.workers[i].process.up && (chance(500) || !storm.weather.faults_on)) {
            revive_worker(&storm.workers[i], NULL);
        }
    }
    for (uint32_t i = 0; i < storm.n_brokers && !storm.weather.faults_on; i++) {
        revive_broker(&storm.brokers[i], NULL); /* one that took its time to resign */
    }
    sim_at(storm.now_ms + 2000, NULL, on_supervisor, owner, data);
}

/* ---- brokers ---- */

/* Only the leader's memory has what a power cut took. */
static bool
memory_is_needed(void)
{
    return storm.now_ms < storm.no_broker_faults_until || check_recovering();
}

enum { HAND_OVER_MS = 1000 }; /* a poll, an election, a rebuild: no time to live runs out */

static void
on_handed_over(void *owner, void *data)
{
    (void)owner;
    (void)data;
    if (broker_leader() == NULL) {
        broken("a leader resigned %d ms ago, another broker stood by, and nobody leads",
               (int)HAND_OVER_MS);
    }
}

static void
stop_broker(struct broker_host *broker)
{
    bool ready = storm.weather.calm && broker == broker_leader();
    bool standby = false;
    for (uint32_t i = 0; i < storm.n_brokers; i++) {
        const struct broker_host *other = &storm.brokers[i];
        standby |= other != broker && other->process.up && other->standing == STANDING_STANDBY &&
                   storm.now_ms - other->polls_from_ms >= (int64_t)2 * LIMIT_LEADER_TTL_MS;
    }
    if (broker->process.paused_until > storm.now_ms) {
        return;
    }
    fault(FAULT_BROKER_STOP);
    broker_stop(broker);
    sim_at(storm.now_ms + between(1500, 5000), NULL, revive_broker, broker, NULL);
    if (ready && standby) {
        sim_at(storm.now_ms + HAND_OVER_MS, NULL, on_handed_over, NULL, NULL);
    }
}

static void
fault_broker(void)
{
    struct broker_host *leader = broker_leader();
    struct broker_host *broker =
        leader != NULL && chance(700) ? leader : &storm.brokers[any(storm.n_brokers)];
    if (!broker->process.up || memory_is_needed()) {
        return;
    }
    switch (any(6)) {
    case 0:
    case 1:
        fault(FAULT_BROKER_CRASH);
        broker_crash(broker);
        sim_at(storm.now_ms + between(1, 5000), NULL, revive_broker, broker, NULL);
        break;
    case 2:
        stop_broker(broker);
        break;
    case 3:
    case 4:
        pause_process(&broker->process, between(100, 8000), FAULT_BROKER_PAUSE);
        break;
    default:
        fault(FAULT_CONNECTION_LOST);
        net_break_host(broker->process.host, storm.now_ms);
        break;
    }
}

/* ---- the network ---- */

static void
fault_network(void)
{
    uint8_t a = (uint8_t)any(HOST_STRANGER);
    uint8_t b = (uint8_t)any(HOST_STRANGER);
    int64_t until = storm.now_ms + between(200, 9000);
    bool brokers = a < HOST_WORKER || b < HOST_WORKER;
    if (a == b || (brokers && memory_is_needed())) {
        return;
    }
    trace("network: host %u to %u blocked until %lld", a, b, (long long)until);
    net_block(a, b, until);
    bool both = chance(500);
    fault(both ? FAULT_BLOCKED_BOTH_WAYS : FAULT_BLOCKED_ONE_WAY);
    if (both) {
        trace("network: and back");
        net_block(b, a, until);
    }
}

/* ---- Redis ---- */

static void
start_redis(void *owner, void *data)
{
    (void)owner;
    (void)data;
    if (!storm.redis.process.up && !(storm.redis.replicated && storm.redis.replica_cut && data)) {
        redis_start();
    }
}

static void
stop_redis(bool power_cut, int64_t down_ms)
{
    redis_stop(power_cut);
    for (uint32_t i = 0; i < BROKERS; i++) {
        edge_redis_stopped(&storm.brokers[i].redis);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        if (storm.workers[i].process.up) {
            edge_redis_stopped(&storm.workers[i].redis);
        }
    }
    for (uint32_t i = 0; i < GATEWAYS; i++) {
        edge_redis_stopped(&storm.gateways[i].redis);
    }
    sim_at(storm.now_ms + down_ms, NULL, start_redis, NULL, NULL);
}

/* If a power cut took everything, a broker that never heard of a leader would take Redis for new.
 */
static bool
emptiness_is_noticed(void)
{
    for (uint32_t i = 0; i < storm.n_brokers && storm.redis.synced.epoch.number == 0; i++) {
        if (!storm.brokers[i].process.up || storm.brokers[i].is_new) {
            return false;
        }
    }
    return true;
}

/* What ended just before a takeover is in the memory of the leader before alone. */
static bool
knows_too_little(const struct broker_host *leader)
{
    return leader->token.number > 1 && storm.now_ms - leader->loaded_ms < 1500;
}

/* True if one leader's memory holds all that a power cut could take. */
static bool
memory_is_safe(void)
{
    const struct broker_host *leader = broker_leader();
    if (leader == NULL || leader->process.paused_until > storm.now_ms || !leader->redis.up ||
        leader->standing != STANDING_LEADING || knows_too_little(leader) ||
        !emptiness_is_noticed() || check_recovering()) {
        return false;
    }
    for (uint32_t host = 0; host < HOST_WORKER; host++) {
        for (uint32_t other = 0; other < HOST_WORKER; other++) {
            if (net_blocked((uint8_t)host, (uint8_t)other)) {
                return false;
            }
        }
    }
    return true;
}

/* Those that see only one of two masters lose their connection to the other. */
static void
move_clients(void)
{
    struct redis_link *links[BROKERS + WORKERS + GATEWAYS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < BROKERS; i++) {
        links[n++] = &storm.brokers[i].redis;
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        links[n++] = &storm.workers[i].redis;
    }
    for (uint32_t i = 0; i < GATEWAYS; i++) {
        links[n++] = &storm.gateways[i].redis;
    }
    for (uint32_t i = 0; i < n; i++) {
        bool old = links[i]->process != NULL && storm.redis.old_lives &&
                   storm.redis.sees_old[links[i]->process->host];
        if (links[i]->process != NULL && links[i]->reign != storm.redis.reign - old) {
            edge_redis_stopped(links[i]);
        }
    }
}

static void
old_follows(void *owner, void *data)
{
    (void)owner;
    (void)data;
    redis_old_ends();
    move_clients();
}

static void
promote(void *owner, void *data)
{
    (void)owner;
    bool old_lives = tag_of(data) != 0;
    if (!old_lives) {
        memset(storm.redis.sees_old, 0, sizeof storm.redis.sees_old);
    }
    redis_fail_over(old_lives);
    start_redis(NULL, NULL);
    move_clients();
    sim_at(storm.now_ms + between(10, 6000), NULL, old_follows, NULL, NULL);
}

/* For a while the leader's connection breaks again and again: what brings Redis down often does not
 * come alone. */
static void
disturb_leader(void *owner, void *data)
{
    struct broker_host *leader = broker_leader();
    (void)owner;
    if (storm.now_ms < (int64_t)tag_of(data) && storm.weather.faults_on) {
        if (leader != NULL) {
            edge_redis_stopped(&leader->redis);
        }
        sim_at(storm.now_ms + between(10, 400), NULL, disturb_leader, NULL, data);
    }
}

static void
disturb_from(int64_t at_ms)
{
    if (chance(500)) {
        sim_at(at_ms, NULL, disturb_leader, NULL, tag((uint64_t)at_ms + 2500));
    }
}

/* The master falls, or is cut off together with those that will not see the new one. */
static void
fail_over(void)
{
    if (storm.redis.replica_cut || memory_is_needed()) {
        return;
    }
    storm.redis.replica_cut = true;
    bool two = chance(500);
    for (uint32_t host = HOST_BROKER; host < HOSTS; host++) {
        storm.redis.sees_old[host] = two && chance(400);
    }
    if (!two) {
        stop_redis(false, 60000); /* until the other one is promoted */
    }
    disturb_from(storm.now_ms + between(1, 500));
    sim_at(storm.now_ms + between(10, 4000), NULL, promote, NULL, tag(two));
}

static void
memory_full(void *owner, void *data)
{
    (void)owner;
    storm.redis.full = tag_of(data) != 0 && storm.weather.faults_on;
}

static void
power_cut(void *owner, void *data)
{
    (void)owner;
    (void)data;
    if (!storm.redis.everysec) {
        stop_redis(true, between(50, 7000));
    } else if (memory_is_safe()) {
        int64_t down = chance(300) ? between(10, 250) : between(50, 9000);
        storm.no_broker_faults_until = storm.now_ms + down + 8000;
        stop_redis(true, down);
        disturb_from(storm.now_ms + down + between(0, 500));
    }
}

static void
fault_redis(void)
{
    if (!storm.redis.process.up) {
        return;
    }
    if (storm.redis.replicated && chance(400)) {
        fail_over();
        return;
    }
    switch (any(6)) {
    case 0:
        stop_redis(false, between(50, 7000));
        break;
    case 1:
    case 2:
        power_cut(NULL, NULL);
        break;
    case 3:
        fault(FAULT_REDIS_MEMORY_FULL);
        memory_full(NULL, tag(1));
        sim_at(storm.now_ms + between(100, 4000), NULL, memory_full, NULL, tag(0));
        break;
    case 4:
        pause_process(&storm.redis.process, between(50, 3000), FAULT_REDIS_STALLS);
        break;
    default:
        if (memory_is_needed()) {
            break; /* a step forward ends the leader's term: the pair above */
        }
        fault(FAULT_REDIS_CLOCK_SET);
        storm.redis.time_ms += between(-15000, 15000); /* somebody set the clock */
        trace("redis: its clock is set");
        break;
    }
}

/* ---- gateways and clients ---- */

static void
revive_gateway(void *owner, void *data)
{
    struct gateway_host *self = owner;
    (void)data;
    if (!self->process.up) {
        gateway_start(self);
    }
}

static void
fault_gateway(void)
{
    struct gateway_host *gateway = &storm.gateways[any(GATEWAYS)];
    if (gateway->process.up && chance(400)) {
        fault(FAULT_GATEWAY_CRASH);
        gateway_crash(gateway);
        sim_at(storm.now_ms + between(1, 4000), NULL, revive_gateway, gateway, NULL);
    } else if (chance(500)) {
        pause_process(&gateway->process, between(100, 7000), FAULT_GATEWAY_PAUSE);
    } else {
        fault(FAULT_CONNECTION_LOST);
        net_break_host(gateway->process.host, storm.now_ms);
    }
}

static void
on_client(void *owner, void *data)
{
    if (storm.now_ms >= storm.storm_end_ms) {
        return;
    }
    for (int64_t n = chance(100) ? between(2, 12) : 1; n > 0; n--) {
        struct gateway_host *gateway = &storm.gateways[any(GATEWAYS)];
        if (gateway->process.paused_until <= storm.now_ms) {
            gateway_submit(gateway);
        }
    }
    if (!storm.weather.calm && chance(200) && storm.n_jobs > 0) {
        gateway_cancel(1 + any(storm.n_jobs));
    }
    sim_at(storm.now_ms + between(1, 2 * storm.storm_end_ms / (JOBS * 3 / 4)), NULL, on_client,
           owner, data);
}

/* ---- the storm ---- */

enum { KINDS = 5 };
static uint32_t weights[KINDS];
static int64_t pace_ms;

static void
on_fault(void *owner, void *data)
{
    static void (*const faults[KINDS])(void) = { fault_worker, fault_broker, fault_network,
                                                 fault_redis, fault_gateway };
    if (storm.now_ms >= storm.storm_end_ms) {
        return;
    }
    uint32_t which = any(KINDS);
    if (any(4) < weights[which]) {
        faults[which]();
    }
    sim_at(storm.now_ms + between(1, pace_ms), NULL, on_fault, owner, data);
}

/* What an operator does on a good day: one thing after the other, in order. */
static void
on_housekeeping(void *owner, void *data)
{
    if (storm.now_ms >= storm.storm_end_ms) {
        return;
    }
    struct worker_host *worker = &storm.workers[any(storm.n_workers)];
    struct broker_host *broker = &storm.brokers[any(storm.n_brokers)];
    struct broker_host *leader = broker_leader();
    if (chance(500) && worker->process.up) {
        drain_worker(worker);
    } else if (chance(700) && leader != NULL && storm.n_brokers > 1) {
        stop_broker(chance(700) ? leader : broker);
    }
    sim_at(storm.now_ms + between(5000, 9000), NULL, on_housekeeping, owner, data);
}

void
faults_start(int64_t until_ms)
{
    struct weather *weather = &storm.weather;
    storm.storm_end_ms = until_ms;
    *weather = (struct weather){ .calm = chance(50) };
    for (uint32_t i = 0; i < storm.n_workers; i++) {
        storm.workers[i].index = (uint8_t)i;
        storm.workers[i].n_instances = (uint8_t)(1 + any(PLACES));
        revive_worker(&storm.workers[i], NULL);
    }
    sim_at(storm.now_ms, NULL, on_client, NULL, NULL);
    sim_at(storm.now_ms, NULL, on_supervisor, NULL, NULL);
    weather->early_door = chance(300) ? 600 : 0;
    if (weather->calm) {
        sim_at(storm.now_ms + between(2000, 6000), NULL, on_housekeeping, NULL, NULL);
        return;
    }
    weather->faults_on = true;
    weather->lose_link = chance(500) ? any(12) : 0;
    weather->lag = chance(500) ? any(40) : 0;
    weather->slow_net = chance(400) ? any(200) : 0;
    weather->slow_redis = chance(300) ? any(20) : 0;
    weather->lose_reply = chance(500) ? any(30) : 0;
    weather->late_copy = any(1000);
    weather->fail_draw = chance(600) ? any(400) : 0;
    weather->uniform = chance(400) ? any(200) : 0;
    weather->fail_upload = chance(400) ? any(400) : 0;
    weather->busy_instance = chance(300) ? any(200) : 0;
    weather->duplicate = chance(200) ? any(50) : 0;
    weather->reorder = chance(200) ? any(50) : 0;
    for (uint32_t i = 0; i < KINDS; i++) {
        weights[i] = any(5);
    }
    pace_ms = between(100, 3000);
    sim_at(storm.now_ms + 1000, NULL, on_fault, NULL, NULL);
    if (storm.redis.everysec && !storm.redis.replicated && chance(60)) { /* all that Redis has */
        sim_at(storm.now_ms + between(100, 980), NULL, power_cut, NULL, NULL);
    }
    if (chance(300)) {
        stranger_start();
    }
}

/* Everything is mended; from here on all jobs must end within the bound. Who sleeps wakes by
 * himself. */
void
faults_end(void)
{
    trace("---- the storm is over ----");
    storm.weather = (struct weather){ .calm = storm.weather.calm };
    storm.redis.full = false;
    start_redis(NULL, NULL);
    net_heal();
    for (uint32_t i = 0; i < storm.n_brokers; i++) {
        revive_broker(&storm.brokers[i], NULL);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        storm.workers[i].slow = false;
    }
    for (uint32_t i = 0; i < GATEWAYS; i++) {
        revive_gateway(&storm.gateways[i], NULL);
    }
}
