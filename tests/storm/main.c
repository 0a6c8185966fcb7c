/* storm — runs worlds, one a seed; see storm.h. */
#include "common/scope.h"
#include "tests/storm/storm.h"
#include <assert.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct totals totals;

static char replay[160]; /* the line that repeats this world */

void
broken(const char *format, ...)
{
    char why[512];
    va_list list;
    fflush(stdout);
    va_start(list, format);
    vsnprintf(why, sizeof why, format, list); // NOLINT(clang-analyzer-valist.Uninitialized): it is
    va_end(list);
    fprintf(stderr, "at %lld ms: %s\n%s\n", (long long)storm.now_ms, why, replay);
    exit(1);
}

/* An assertion of a core: its message is out, ours follows. */
static void
on_abort(int signal_number)
{
    ssize_t n = write(STDERR_FILENO, replay, strlen(replay));
    n += write(STDERR_FILENO, "\n", 1);
    (void)n;
    (void)signal_number;
    _exit(1);
}

/* ---- one world ---- */

static bool
all_is_quiet(void)
{
    if (!gateway_is_quiet() || check_recovering()) {
        return false;
    }
    for (uint32_t job = 1; job <= storm.n_jobs; job++) {
        if (storm.redis.data.records[job].live) {
            return false;
        }
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        const struct worker_host *worker = &storm.workers[i];
        if (!worker_is_empty(worker) || worker_is_leaving(worker) || check_draining(worker)) {
            return false;
        }
    }
    const struct broker_host *leader = broker_leader();
    struct dispatch_stats stats = { .queued = 1 };
    if (leader != NULL) {
        dispatch_stats(leader->dispatch, &stats);
    }
    return stats.queued + stats.running == 0;
}

/* Everybody is found silent, evicted and adopted once more, and then draws what is left, one
 * after the other: the longest draw of the calm, LIMIT_TRIES times, for each job. */
static int64_t
calm_bound_ms(void)
{
    int64_t found = LIMIT_SILENCE_BEAT_MS + LIMIT_SILENCE_STATE_MS + LIMIT_ADOPT_GRACE_MS +
                    2 * LIMIT_LEADER_TTL_MS + LIMIT_HELD_RESULTS * LIMIT_UPLOAD_RETRY_MAX_MS / 8;
    int64_t asleep = 16000;
    int64_t clock_set =
        30000; /* the old leader's key lives as long as Redis's clock was put back */
    int64_t draw = 400;
    return found + asleep + clock_set + storm.n_jobs * draw * LIMIT_TRIES;
}

static void
world_make(uint64_t seed)
{
    struct unpacker *frames = storm.frames;
    struct record_unpacker requests = storm.requests;
    struct record_unpacker checks = storm.checks;
    bool verbose = storm.verbose;
    memset(&storm, 0, sizeof storm);
    storm.frames = frames;
    storm.requests = requests;
    storm.checks = checks;
    storm.verbose = verbose;
    storm.seed = seed;
    storm.random = seed * 0x2545f4914f6cdd1dU;
    storm.now_ms = 1;
}

static void
world_end(void)
{
    for (uint32_t i = 0; i < BROKERS; i++) {
        dispatch_destroy(&storm.brokers[i].dispatch);
        effects_destroy(&storm.brokers[i].effects);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        agent_destroy(&storm.workers[i].agent);
    }
    totals.ms += (uint64_t)storm.now_ms;
    totals.events += storm.events;
    totals.jobs += storm.n_jobs;
    sim_clear();
    net_clear();
    check_queue_forget();
}

static void
world(uint64_t seed)
{
    world_make(seed);
    storm.max_jobs = chance(200) ? 1 + any(20) : 1000;
    storm.max_bytes = chance(100) ? 4000 + any(30000) : 1 << 24;
    storm.one_bucket = chance(300);
    storm.n_brokers = 1 + any(BROKERS);
    storm.n_workers = 2 + any(3);
    storm.redis.everysec = chance(350);
    storm.redis.replicated = !storm.redis.everysec && chance(300);
    storm.redis.reign = 1;
    redis_start();
    for (uint32_t i = 0; i < BROKERS; i++) {
        storm.brokers[i].index = (uint8_t)i;
        storm.brokers[i].process.host = (uint8_t)(HOST_BROKER + i);
        storm.brokers[i].redis.process = &storm.brokers[i].process;
    }
    for (uint32_t i = 0; i < storm.n_brokers; i++) {
        broker_start(&storm.brokers[i]);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        storm.workers[i].index = (uint8_t)i;
        storm.workers[i].name[0] = '?';
    }
    for (uint32_t i = 0; i < GATEWAYS; i++) {
        storm.gateways[i].index = (uint8_t)i;
        gateway_start(&storm.gateways[i]);
    }
    faults_start(between(10000, 60000));
    sim_run_until(storm.storm_end_ms, NULL);
    faults_end();
    storm.bound_ms = calm_bound_ms();
    sim_run_until(storm.now_ms + storm.bound_ms, all_is_quiet);
    check_end();
    world_end();
}

/* ---- the command line ---- */

#ifdef DRAWBAR_MUTANTS
enum mutant mutant_chosen;
static const char *const mutant_names[MUTANT_COUNT] = {
    "NONE",          "NOFENCE",     "NODEDUP",     "NOFREEZE",   "NOLOOKUP",   "EARLY202",
    "EARLYACK",      "EARLYCANCEL", "EARLYJOB",    "BYJOB",      "NOATT",      "NOLIMIT",
    "SAMEFILE",      "NOINC",       "EPOCHCMP",    "NOREAD",     "DUPSTALE",   "UNLOADEDSTALE",
    "STALEUNFENCED", "NOINVENTORY", "NORESEND",    "NOGAP",      "PLAINRENEW", "KEYANEW",
    "LOADKEY",       "OVERFULL",    "NOSHARE",     "NOTURNS",    "NOCOST",     "DRAINPULL",
    "DRAINONCE",     "NORESIGN",    "RESTORELESS", "RESTOREMIX", "NOWAIT",     "WAITOLD",
    "FENCEDLEADS",   "STEADYRUN",   "HASTY",       "RASHREAD",
};

static bool
choose_mutant(const char *name)
{
    for (uint32_t i = 0; i < MUTANT_COUNT; i++) {
        if (strcmp(name, mutant_names[i]) == 0) {
            mutant_chosen = (enum mutant)i;
            return true;
        }
    }
    return strcmp(name, "list") == 0;
}

static void
list_mutants(void)
{
    for (uint32_t i = 1; i < MUTANT_COUNT; i++) {
        printf("%s\n", mutant_names[i]);
    }
}
#else
static bool
choose_mutant(const char *name)
{
    (void)name;
    return false;
}
static void
list_mutants(void)
{
}
#endif

struct arguments {
    uint64_t from, seeds, replay, jobs;
    const char *mutant;
    bool verbose;
};

static bool
read_arguments(struct arguments *out, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        uint64_t *number = strcmp(argv[i], "--seeds") == 0    ? &out->seeds
                           : strcmp(argv[i], "--from") == 0   ? &out->from
                           : strcmp(argv[i], "--jobs") == 0   ? &out->jobs
                           : strcmp(argv[i], "--replay") == 0 ? &out->replay
                                                              : NULL;
        char *end = "";
        if (strcmp(argv[i], "--verbose") == 0) {
            out->verbose = true;
        } else if (strcmp(argv[i], "--mutant") == 0 && i + 1 < argc) {
            out->mutant = argv[++i];
        } else if (number != NULL && i + 1 < argc) {
            *number = strtoull(argv[++i], &end, 10);
        } else {
            return false;
        }
        if (*end != '\0') {
            return false;
        }
    }
    return out->mutant == NULL || choose_mutant(out->mutant);
}

static double
seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static const char *const fault_names[FAULT_KIND_COUNT] = {
    [FAULT_WORKER_CRASH] = "worker crashed",
    [FAULT_WORKER_PAUSE] = "worker paused",
    [FAULT_WORKER_TWIN] = "second worker of a name",
    [FAULT_WORKER_SLOW] = "worker slow",
    [FAULT_WORKER_DRAIN] = "worker drained",
    [FAULT_INSTANCE_DIES] = "instance died",
    [FAULT_DRAW_FAILS] = "draw failed",
    [FAULT_UPLOAD_FAILS] = "upload failed",
    [FAULT_BROKER_CRASH] = "broker crashed",
    [FAULT_BROKER_PAUSE] = "broker paused",
    [FAULT_BROKER_STOP] = "broker stopped in order",
    [FAULT_TWO_LEADERS] = "two believed to lead",
    [FAULT_CONNECTION_LOST] = "connection lost",
    [FAULT_BLOCKED_ONE_WAY] = "partition one way",
    [FAULT_BLOCKED_BOTH_WAYS] = "partition both ways",
    [FAULT_FRAME_DUPLICATED] = "frame duplicated",
    [FAULT_FRAME_REORDERED] = "frame reordered",
    [FAULT_QUEUE_FULL] = "queue of a socket full",
    [FAULT_REDIS_RESTART] = "Redis restarted",
    [FAULT_REDIS_POWER_CUT] = "Redis's power cut",
    [FAULT_REDIS_FAIL_OVER] = "Redis failed over",
    [FAULT_REDIS_TWO_MASTERS] = "Redis with two masters",
    [FAULT_REDIS_MEMORY_FULL] = "Redis's memory full",
    [FAULT_REDIS_STALLS] = "Redis stalled",
    [FAULT_REDIS_CLOCK_SET] = "Redis's clock set",
    [FAULT_REPLY_LOST] = "reply of Redis lost",
    [FAULT_COMMAND_LATE] = "old copy of a command ran",
    [FAULT_GATEWAY_CRASH] = "gateway crashed",
    [FAULT_GATEWAY_PAUSE] = "gateway paused",
    [FAULT_STRANGE_FRAME] = "strange frame",
};

static void
tell_faults(void)
{
    uint32_t kinds = 0;
    uint32_t positions = 0;
    for (uint32_t i = 0; i < FAULT_KIND_COUNT; i++) {
        kinds += totals.faults[i] > 0;
    }
    while (positions < LOST_AT && totals.lost_at[positions] > 0) {
        positions++;
    }
    printf("%u kinds of faults:", kinds);
    for (uint32_t i = 0; i < FAULT_KIND_COUNT; i++) {
        if (totals.faults[i] > 0) {
            printf("%s %s %llu", i > 0 ? "," : "", fault_names[i],
                   (unsigned long long)totals.faults[i]);
        }
    }
    printf("\nthe reply to each of the first %u batches of a term was lost and the batch sent "
           "again\n",
           positions);
}

static void
tell(uint64_t seeds, double seconds)
{
    printf("%llu seeds, no promise broken; %.1f seeds/s, %.0f simulated seconds a second, "
           "%.0f events/s\n",
           (unsigned long long)seeds, (double)seeds / seconds, (double)totals.ms / 1000 / seconds,
           (double)totals.events / seconds);
    printf("jobs %llu: refused or never stored %llu", (unsigned long long)totals.jobs,
           (unsigned long long)totals.ended[JOB_NONE]);
    for (enum job_state state = JOB_SUCCEEDED; state < JOB_STATE_COUNT; state++) {
        printf(", %s %llu", job_state_name(state), (unsigned long long)totals.ended[state]);
    }
    printf("; leases %llu\n", (unsigned long long)totals.grants);
    tell_faults();
}

static struct arguments arguments = { .from = 1, .seeds = 300, .jobs = 1 };

static void
run_seed(uint64_t seed)
{
    bool mutant = arguments.mutant != NULL;
    (void)snprintf(replay, sizeof replay, "replay: storm%s%s --replay %llu --verbose",
                   mutant ? "_mutants --mutant " : "", mutant ? arguments.mutant : "",
                   (unsigned long long)seed);
    if (arguments.verbose) {
        printf("seed %llu\n", (unsigned long long)seed); /* before its world */
        fflush(stdout);
    }
    world(seed);
}

int
main(int argc, char **argv)
{
    if (!read_arguments(&arguments, argc, argv)) {
        fprintf(stderr, "usage: storm [--seeds N] [--from SEED] [--replay SEED] [--jobs N] "
                        "[--verbose]\n"
                        "       storm_mutants --mutant NAME|list ...\n");
        return 2;
    }
    if (arguments.mutant != NULL && strcmp(arguments.mutant, "list") == 0) {
        list_mutants();
        return 0;
    }
    int rc = unpacker_new(&storm.frames);
    rc = rc ? rc : record_unpacker_new(&storm.requests);
    rc = rc ? rc : record_unpacker_new(&storm.checks);
    assert(rc == 0);
    (void)signal(SIGABRT, on_abort);
    bool one = arguments.replay != 0;
    storm.verbose = one && arguments.verbose;
    uint64_t from = one ? arguments.replay : arguments.from;
    uint64_t seeds = one ? 1 : arguments.seeds;
    double start = seconds_now();
    bool good = shards_run(one ? 1 : (uint32_t)arguments.jobs, from, seeds, run_seed);
    if (good) {
        tell(seeds, seconds_now() - start);
    }
    unpacker_destroy(&storm.frames);
    record_unpacker_destroy(&storm.requests);
    record_unpacker_destroy(&storm.checks);
    return good ? 0 : 1;
}
