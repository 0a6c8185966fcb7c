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

static char replay[160]; /* the line that repeats this world */

void
broken(const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "at %lld ms: ", (long long)storm.now_ms);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments); // NOLINT(clang-analyzer-valist.Uninitialized): it is
    va_end(arguments);
    fprintf(stderr, "\n%s\n", replay);
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
        if (!worker_is_empty(&storm.workers[i])) {
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
    struct storm totals = storm;
    bool verbose = storm.verbose;
    memset(&storm, 0, sizeof storm);
    storm.frames = frames;
    storm.requests = requests;
    storm.checks = checks;
    storm.verbose = verbose;
    storm.total_ms = totals.total_ms;
    storm.total_events = totals.total_events;
    storm.total_jobs = totals.total_jobs;
    storm.total_grants = totals.total_grants;
    memcpy(storm.total_ended, totals.total_ended, sizeof storm.total_ended);
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
    storm.total_ms += (uint64_t)storm.now_ms;
    storm.total_events += storm.events;
    storm.total_jobs += storm.n_jobs;
    sim_clear();
    net_clear();
}

static void
world(uint64_t seed)
{
    world_make(seed);
    storm.max_jobs = chance(200) ? 1 + any(20) : 1000;
    storm.n_brokers = 1 + any(BROKERS);
    storm.n_workers = 2 + any(3);
    storm.redis.everysec = chance(350);
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
    "NONE",          "NOFENCE",     "NODEDUP",  "NOFREEZE", "NOLOOKUP", "EARLY202",
    "EARLYACK",      "EARLYCANCEL", "EARLYJOB", "BYJOB",    "NOATT",    "NOLIMIT",
    "SAMEFILE",      "NOINC",       "EPOCHCMP", "NOREAD",   "DUPSTALE", "UNLOADEDSTALE",
    "STALEUNFENCED", "NOINVENTORY", "NORESEND",
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
    uint64_t from, seeds, replay;
    const char *mutant;
    bool verbose;
};

static bool
read_arguments(struct arguments *out, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        uint64_t *number = strcmp(argv[i], "--seeds") == 0    ? &out->seeds
                           : strcmp(argv[i], "--from") == 0   ? &out->from
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

static void
tell(uint64_t seeds, double seconds)
{
    printf("%llu seeds, no promise broken; %.1f seeds/s, %.0f simulated seconds a second, "
           "%.0f events/s\n",
           (unsigned long long)seeds, (double)seeds / seconds,
           (double)storm.total_ms / 1000 / seconds, (double)storm.total_events / seconds);
    printf("jobs %llu: refused or never stored %llu", (unsigned long long)storm.total_jobs,
           (unsigned long long)storm.total_ended[JOB_NONE]);
    for (enum job_state state = JOB_SUCCEEDED; state < JOB_STATE_COUNT; state++) {
        printf(", %s %llu", job_state_name(state), (unsigned long long)storm.total_ended[state]);
    }
    printf("; leases %llu\n", (unsigned long long)storm.total_grants);
}

int
main(int argc, char **argv)
{
    struct arguments arguments = { .from = 1, .seeds = 300 };
    if (!read_arguments(&arguments, argc, argv)) {
        fprintf(stderr, "usage: storm [--seeds N] [--from SEED] [--replay SEED] [--verbose]\n"
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
    for (uint64_t seed = from; seed < from + seeds; seed++) {
        (void)snprintf(replay, sizeof replay, "replay: storm%s%s --replay %llu --verbose",
                       arguments.mutant != NULL ? "_mutants --mutant " : "",
                       arguments.mutant != NULL ? arguments.mutant : "", (unsigned long long)seed);
        if (arguments.verbose) {
            printf("seed %llu\n", (unsigned long long)seed); /* before its world */
            fflush(stdout);
        }
        world(seed);
    }
    tell(seeds, seconds_now() - start);
    unpacker_destroy(&storm.frames);
    record_unpacker_destroy(&storm.requests);
    record_unpacker_destroy(&storm.checks);
    return 0;
}
