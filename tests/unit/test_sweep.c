#include "common/scope.h"
#include "proto/keys.h"
#include "tests/unit/store_world.h"
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

/* -- the sweep, with a real Redis -- */

static pid_t redis_pid;
static redisContext *redis;
static char redis_path[128];
static char redis_url[160];

static void
start_redis(void)
{
    make_dir();
    snprintf(redis_path, sizeof redis_path, "%s.redis", dir);
    snprintf(redis_url, sizeof redis_url, "unix://%s", redis_path);
    redis_pid = fork();
    if (redis_pid == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(null, STDOUT_FILENO);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", redis_path, "--save",
               "", "--appendonly", "no", (char *)NULL);
        _exit(127);
    }
    int64_t end_ms = clock_mono_ms() + PATIENCE_MS;
    while ((redis == NULL || redis->err != 0) && clock_mono_ms() < end_ms) {
        int status = 0;
        if (waitpid(redis_pid, &status, WNOHANG) == redis_pid) {
            redis_pid = 0;
            cr_skip_test("redis-server is not installed or does not start");
        }
        if (redis != NULL) {
            redisFree(redis);
        }
        pause_ms(20);
        redis = redisConnectUnix(redis_path);
    }
    cr_assert(redis != NULL && redis->err == 0);
}

static void
stop_redis(void)
{
    if (redis != NULL) {
        redisFree(redis);
        redis = NULL;
    }
    if (redis_pid > 0) {
        kill(redis_pid, SIGKILL);
        waitpid(redis_pid, NULL, 0);
        redis_pid = 0;
    }
    unlink(redis_path);
}

static void
end_sweep(void)
{
    remove_store();
    stop_redis();
}

TestSuite(sweep, .init = start_redis, .fini = end_sweep, .timeout = 30);

/* Opens the store with a sweep every 100 ms and tells Redis that it is the store. */
static void
open_swept_store(int64_t grace_s)
{
    open_store(redis_url, 100, grace_s);
    artifacts_set_keys(artifacts, keys, 1, NOW - clock_mono_ms());
    freeReplyObject(
        redisCommand(redis, "HSET " KEY_META " store %s", artifacts_store_id(artifacts)));
}

static void
write_record(const struct lease *lease, enum job_state state, int epoch_off)
{
    struct job_header header = { .state = (uint8_t)state,
                                 .grant = lease->grant,
                                 .epoch = lease->epoch + (uint32_t)epoch_off };
    uint8_t bytes[JOB_HEADER_BYTES];
    char job[JOB_ID_TEXT + 1];
    job_id_print(&lease->job, job);
    job_header_encode(&header, bytes);
    freeReplyObject(redisCommand(redis, "SET " KEY_JOB "%s %b", job, bytes, sizeof bytes));
}

/* A stored picture of a job whose record says this. */
static struct lease
stored(enum job_state state, int epoch_off)
{
    struct lease lease = new_lease();
    if (state != JOB_NONE) {
        write_record(&lease, state, epoch_off);
    }
    cr_assert_eq(upload(&lease, 0, png), 201);
    return lease;
}

static bool
goes_away(const struct lease *lease)
{
    int64_t end_ms = clock_mono_ms() + PATIENCE_MS;
    while (is_there(lease, 0) && clock_mono_ms() < end_ms) {
        pause_ms(20);
    }
    return !is_there(lease, 0);
}

static mode_t
mode_of(const struct lease *lease)
{
    char path[256];
    struct stat status = { 0 };
    print_path(lease, 0, path);
    stat(path, &status);
    return status.st_mode & 0777;
}

static bool
gets_mode(const struct lease *lease, mode_t mode)
{
    int64_t end_ms = clock_mono_ms() + PATIENCE_MS;
    while (mode_of(lease) != mode && clock_mono_ms() < end_ms) {
        pause_ms(20);
    }
    return mode_of(lease) == mode;
}

Test(sweep, pictures_that_nobody_can_ask_for_are_removed_and_no_others)
{
    open_swept_store(0);
    struct lease live = stored(JOB_RUNNING, 0);
    struct lease queued = stored(JOB_QUEUED, 1);
    struct lease accepted = stored(JOB_SUCCEEDED, 0);
    struct lease lost = stored(JOB_SUCCEEDED, 1);
    struct lease cancelled = stored(JOB_CANCELLED, 0);
    struct lease gone = stored(JOB_NONE, 0);
    cr_expect(goes_away(&lost));
    cr_expect(goes_away(&cancelled));
    cr_expect(goes_away(&gone));
    pause_ms(500); /* some more sweeps */
    cr_expect(is_there(&live, 0));
    cr_expect(is_there(&queued, 0));
    cr_expect(is_there(&accepted, 0));
}

Test(sweep, another_attempt_of_an_accepted_job_is_removed)
{
    open_swept_store(0);
    struct lease second = new_lease();
    struct lease first = second;
    second.grant = 2;
    write_record(&second, JOB_SUCCEEDED, 0);
    cr_assert_eq(upload(&first, 0, png), 201);
    cr_assert_eq(upload(&second, 0, png), 201);
    cr_assert(goes_away(&first));
    cr_assert(is_there(&second, 0));
}

Test(sweep, an_unwanted_picture_lives_for_the_grace_and_comes_back_with_its_record)
{
    open_swept_store(2);
    struct lease gone = stored(JOB_NONE, 0);
    struct lease restored = stored(JOB_NONE, 0);
    cr_assert(gets_mode(&restored, 0440));
    write_record(&restored, JOB_SUCCEEDED, 0);
    cr_assert(gets_mode(&restored, 0640));
    cr_assert(gets_mode(&gone, 0440));
    pause_ms(500);
    cr_assert(is_there(&gone, 0), "a second is not two");
    cr_assert(goes_away(&gone));
    cr_assert(is_there(&restored, 0));
}

Test(sweep, nothing_is_removed_when_redis_is_another_or_fails)
{
    open_swept_store(0);
    freeReplyObject(redisCommand(redis, "HSET " KEY_META " store another"));
    pause_ms(200);
    struct lease gone = stored(JOB_NONE, 0);
    pause_ms(500);
    cr_assert_eq(mode_of(&gone), 0640, "another store's Redis is not even asked");

    /* A record of the wrong type is an error of Redis, a damaged one is not understood. */
    struct lease wrong = new_lease();
    struct lease damaged = new_lease();
    char job[JOB_ID_TEXT + 1];
    job_id_print(&wrong.job, job);
    freeReplyObject(redisCommand(redis, "HSET " KEY_JOB "%s x y", job));
    job_id_print(&damaged.job, job);
    freeReplyObject(redisCommand(redis, "SET " KEY_JOB "%s nonsense", job));
    cr_assert_eq(upload(&damaged, 0, png), 201);
    freeReplyObject(
        redisCommand(redis, "HSET " KEY_META " store %s", artifacts_store_id(artifacts)));
    cr_assert(goes_away(&gone));
    cr_assert_eq(upload(&wrong, 0, png), 201);
    pause_ms(500);
    cr_assert(is_there(&damaged, 0));
    cr_assert(is_there(&wrong, 0));

    struct lease later = stored(JOB_RUNNING, 0);
    stop_redis();
    pause_ms(500);
    cr_assert(is_there(&later, 0));
    cr_assert_eq(mode_of(&later), 0640);
}

Test(sweep, old_temporary_files_and_empty_old_shards_are_removed_and_strange_files_are_not)
{
    const time_t hours_ago = time(NULL) - 2L * LIMIT_TEMPORARY_FILE_S;
    const struct timespec old[2] = { { hours_ago, 0 }, { hours_ago, 0 } };
    static const char *const names[] = { "2020010100",
                                         "2020010100/.0123456789abcdef.tmp",
                                         "2020010101",
                                         "2020010101/keep.txt",
                                         "holiday",
                                         "holiday/.0123456789abcdef.tmp",
                                         ".0123456789abcdef.tmp",
                                         ".fedcba9876543210.tmp",
                                         "2020010102",
                                         "2020010102/01HZZZZZZZ0123456789ABCDEF.00000abc.1.0" };
    static const bool stays[] = { false, false, true, true, true, true, false, true, true, true };
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        bool is_dir = strchr(names[i], '.') == NULL;
        int fd = is_dir ? mkdir(path, 0750) : open(path, O_CREAT | O_WRONLY, 0640);
        cr_assert(fd >= 0);
        if (!is_dir) {
            close(fd);
        }
        if (strstr(names[i], "fedcba") == NULL) {
            utimensat(AT_FDCWD, path, old, 0);
        }
    }
    open_swept_store(0);
    struct lease fresh = stored(JOB_NONE, 0);
    cr_assert(goes_away(&fresh));
    pause_ms(500);
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        cr_expect_eq(access(path, F_OK) == 0, stays[i], "%s", names[i]);
    }
    char shard[PICTURE_SHARD_MAX];
    char path[128];
    picture_shard_print(&fresh.job, shard);
    snprintf(path, sizeof path, "%s/%s", dir, shard);
    cr_assert_eq(access(path, F_OK), 0, "this hour's shard stays, empty as it is");
}

Test(sweep, more_files_than_one_slice_are_all_seen)
{
    enum { N = 2 * LIMIT_SWEEP_SLICE + 10 };
    struct lease lease = { .job = job_id_mint(1577836800000), .epoch = 1, .grant = 1 };
    char path[256];
    char shard[PICTURE_SHARD_MAX];
    picture_shard_print(&lease.job, shard);
    snprintf(path, sizeof path, "%s/%s", dir, shard);
    cr_assert_eq(mkdir(path, 0750), 0);
    for (int i = 0; i < N; i++) {
        lease.job = job_id_mint(1577836800000 + i);
        print_path(&lease, 0, path);
        close(open(path, O_CREAT | O_WRONLY, 0640));
    }
    open_swept_store(0);
    int64_t end_ms = clock_mono_ms() + PATIENCE_MS;
    snprintf(path, sizeof path, "%s/%s", dir, shard);
    while (access(path, F_OK) == 0 && clock_mono_ms() < end_ms) {
        pause_ms(20);
    }
    cr_assert_eq(access(path, F_OK), -1, "all files are gone, and their shard");
}
