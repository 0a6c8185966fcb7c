#include "common/clock.h"
#include "common/limits.h"
#include "common/redis_client.h"
#include "common/scope.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* A real redis-server on a Unix socket in a folder of its own, a client, and what happened to it.
 */
struct world {
    struct reactor *reactor;
    struct timer *guard;
    struct redis_client *client;
    char folder[32];
    char url[64];
    pid_t server;
    int n_up, n_down, n_replies, n_null, stop_at_replies;
    bool stop_at_up, stop_at_down, destroy_at_reply, destroy_at_up, destroy_at_down,
        command_at_null;
    char run_id[64];
    char down_why[160];
    char reply[256];
};

static void
on_guard(void *context)
{
    reactor_stop(((struct world *)context)->reactor, -ETIMEDOUT);
}

static void
on_up(void *context, const char *run_id)
{
    struct world *w = context;
    w->n_up++;
    snprintf(w->run_id, sizeof w->run_id, "%s", run_id);
    if (w->destroy_at_up) {
        redis_client_destroy(&w->client);
    }
    if (w->stop_at_up) {
        reactor_stop(w->reactor, 0);
    }
}

static void
on_down(void *context, const char *why)
{
    struct world *w = context;
    w->n_down++;
    snprintf(w->down_why, sizeof w->down_why, "%s", why);
    cr_assert(!redis_client_is_up(w->client));
    if (w->destroy_at_down) {
        redis_client_destroy(&w->client);
    }
    if (w->stop_at_down) {
        reactor_stop(w->reactor, 0);
    }
}

static void
on_second_null(void *context, const redisReply *reply)
{
    struct world *w = context;
    cr_assert(reply == NULL);
    w->n_null++;
}

static void
on_reply(void *context, const redisReply *reply)
{
    struct world *w = context;
    w->n_replies++;
    w->n_null += reply == NULL;
    if (reply != NULL && reply->str != NULL) {
        snprintf(w->reply, sizeof w->reply, "%s", reply->str);
    }
    if (reply == NULL && w->command_at_null) {
        redis_client_call(w->client, on_second_null, w, "PING");
    }
    if (w->destroy_at_reply) {
        redis_client_destroy(&w->client);
    }
    if (w->n_replies == w->stop_at_replies) {
        reactor_stop(w->reactor, 0);
    }
}

/* Starts the server with further lines of configuration. */
static void
start_server(struct world *w, const char *lines)
{
    char path[64];
    char conf[64];
    snprintf(conf, sizeof conf, "%s/c", w->folder);
    FILE *file = fopen(conf, "w");
    fputs(lines, file);
    fclose(file);
    snprintf(path, sizeof path, "%s/s", w->folder);
    unlink(path);
    w->server = fork();
    cr_assert_geq(w->server, 0);
    if (w->server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves no server behind */
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        execlp("redis-server", "redis-server", conf, "--port", "0", "--unixsocket", path, "--dir",
               w->folder, "--save", "", "--appendonly", "no", NULL);
        _exit(127);
    }
    for (int i = 0; i < 500 && access(path, F_OK) != 0; i++) {
        usleep(10000);
    }
    cr_assert_eq(access(path, F_OK), 0, "redis-server does not start");
}

static void
kill_server(struct world *w)
{
    if (w->server > 0) {
        kill(w->server, SIGKILL);
        waitpid(w->server, NULL, 0);
        w->server = 0;
    }
}

static bool
has_redis(void)
{
    const char *path = getenv("PATH");
    char *copy = strdup(path == NULL ? "/usr/bin" : path);
    char *rest = copy;
    bool found = false;
    for (char *part = strsep(&rest, ":"); part != NULL; part = strsep(&rest, ":")) {
        char file[4096];
        snprintf(file, sizeof file, "%s/redis-server", part);
        found = found || access(file, X_OK) == 0;
    }
    free(copy);
    return found;
}

static void
world_open(struct world *w)
{
    if (!has_redis()) {
        fprintf(stderr, "SKIPPED: no redis-server in PATH, redis_client is NOT tested\n");
        cr_skip_test("no redis-server in PATH");
    }
    process_setup();
    snprintf(w->folder, sizeof w->folder, "/tmp/test_redis_XXXXXX");
    cr_assert(mkdtemp(w->folder) != NULL);
    snprintf(w->url, sizeof w->url, "unix://%s/s", w->folder);
    cr_assert_eq(reactor_new(&w->reactor, false), 0);
    cr_assert_eq(timer_new(&w->guard, w->reactor, on_guard, w), 0);
}

static void
world_close(struct world *w)
{
    char path[64];
    redis_client_destroy(&w->client);
    kill_server(w);
    timer_destroy(&w->guard);
    reactor_destroy(&w->reactor);
    static const char *const files[] = { "s", "c", "dump.rdb" };
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        snprintf(path, sizeof path, "%s/%s", w->folder, files[i]);
        unlink(path);
    }
    rmdir(w->folder);
}

#define WORLD(w) CLEANUP(world_close) struct world w = { .n_up = 0 }

static void
open_client(struct world *w, const char *url)
{
    struct redis_events events = { .on_up = on_up, .on_down = on_down, .context = w };
    cr_assert_eq(redis_client_new(&w->client, w->reactor, url, &events), 0);
}

static int
run_for(struct world *w, int64_t ms)
{
    timer_in_ms(w->guard, ms);
    return reactor_run(w->reactor);
}

static void
come_up(struct world *w)
{
    w->stop_at_up = true;
    cr_assert_eq(run_for(w, 5000), 0, "not up: %s", w->down_why);
    w->stop_at_up = false;
}

static void
begin_up(struct world *w)
{
    world_open(w);
    start_server(w, "");
    open_client(w, w->url);
    come_up(w);
}

static void
wait_replies(struct world *w, int n)
{
    w->stop_at_replies = w->n_replies + n;
    cr_assert_eq(run_for(w, 5000), 0, "%d replies", w->n_replies);
}

Test(redis_client, it_comes_up_with_a_run_id_and_answers_in_order)
{
    WORLD(w);
    begin_up(&w);
    cr_assert_eq(strlen(w.run_id), 40);
    cr_assert(redis_client_is_up(w.client));
    const char *argv[] = { "SET", "k", "a\0b" };
    const size_t lengths[] = { 3, 1, 3 };
    redis_client_command(w.client, on_reply, &w, 3, argv, lengths);
    redis_client_call(w.client, NULL, NULL, "INCR %s", "n");
    redis_client_call(w.client, on_reply, &w, "APPEND k %b", "c", (size_t)1);
    redis_client_call(w.client, on_reply, &w, "STRLEN %s", "k");
    redis_client_call(w.client, on_reply, &w, "LPUSH k x");
    wait_replies(&w, 4);
    cr_assert_eq(w.n_null, 0);
    cr_assert_eq(strncmp(w.reply, "WRONGTYPE", 9), 0, "an error reply is passed on: %s", w.reply);
}

Test(redis_client, many_commands_of_one_turn_are_all_answered)
{
    WORLD(w);
    begin_up(&w);
    for (int i = 0; i < 20000; i++) {
        redis_client_call(w.client, on_reply, &w, "INCR n");
    }
    wait_replies(&w, 20000);
    cr_assert_eq(w.n_null, 0);
}

Test(redis_client, a_killed_server_ends_commands_and_a_new_one_is_found)
{
    WORLD(w);
    char first[64];
    begin_up(&w);
    snprintf(first, sizeof first, "%s", w.run_id);
    w.command_at_null = true;
    kill(w.server, SIGSTOP);
    redis_client_call(w.client, on_reply, &w, "INCR n");
    redis_client_call(w.client, on_reply, &w, "INCR n");
    kill_server(&w);
    w.stop_at_down = true;
    cr_assert_eq(run_for(&w, 5000), 0);
    cr_assert_eq(w.n_replies, 2, "called back before on_down");
    cr_assert_eq(w.n_null, 4, "a command sent by a callback is answered too");
    redis_client_call(w.client, on_second_null, &w, "PING");
    cr_assert_eq(w.n_null, 5, "while down at once");
    start_server(&w, "");
    int64_t from_ms = clock_mono_ms();
    come_up(&w);
    cr_assert_leq(clock_mono_ms() - from_ms, LIMIT_RECONNECT_MS + 500);
    cr_assert(strcmp(first, w.run_id) != 0);
}

Test(redis_client, a_command_without_an_answer_ends_the_connection_in_time)
{
    WORLD(w);
    begin_up(&w);
    redis_client_call(w.client, on_reply, &w, "BLPOP nothing 0");
    int64_t from_ms = clock_mono_ms();
    w.stop_at_down = true;
    cr_assert_eq(run_for(&w, 5000), 0);
    int64_t took_ms = clock_mono_ms() - from_ms;
    cr_assert_geq(took_ms, LIMIT_REDIS_MS);
    cr_assert_lt(took_ms, LIMIT_REDIS_MS + 400);
    cr_assert_eq(w.n_null, 1);
    cr_assert(strstr(w.down_why, "no answer") != NULL, "%s", w.down_why);
    come_up(&w);
}

Test(redis_client, an_idle_connection_is_not_ended)
{
    WORLD(w);
    begin_up(&w);
    redis_client_call(w.client, on_reply, &w, "PING");
    cr_assert_eq(run_for(&w, 2 * LIMIT_REDIS_MS + 300), -ETIMEDOUT);
    cr_assert_eq(w.n_down, 0);
    cr_assert_str_eq(w.reply, "PONG");
}

Test(redis_client, it_may_be_reset_and_destroyed_anywhere)
{
    for (int where = 0; where < 5; where++) {
        WORLD(w);
        world_open(&w);
        start_server(&w, "");
        open_client(&w, w.url);
        w.destroy_at_up = where == 0;
        w.stop_at_up = true;
        cr_assert_eq(run_for(&w, 5000), 0);
        w.stop_at_up = false;
        w.destroy_at_reply = where == 1 || where == 2;
        w.destroy_at_down = where == 3;
        if (where == 0) {
            continue;
        }
        for (int i = 0; i < 3; i++) {
            redis_client_call(w.client, on_reply, &w, "PING");
        }
        if (where == 1) { /* inside an answer */
            wait_replies(&w, 3);
            cr_assert_eq(w.n_null, 2);
        } else if (where < 4) { /* inside the NULL of a reset; inside on_down */
            redis_client_reset(w.client, "a test");
            cr_assert_eq(w.n_null, 3);
            cr_assert_eq(w.n_down, where == 3);
        } else { /* from outside */
            redis_client_destroy(&w.client);
            cr_assert_eq(w.n_null, 3);
            cr_assert_eq(w.n_down, 0);
        }
        cr_assert(w.client == NULL);
    }
}

Test(redis_client, a_reset_connection_comes_back)
{
    WORLD(w);
    begin_up(&w);
    redis_client_reset(w.client, "a test");
    cr_assert_str_eq(w.down_why, "a test");
    redis_client_reset(w.client, "again");
    cr_assert_eq(w.n_down, 1);
    come_up(&w);
    redis_client_call(w.client, on_reply, &w, "PING");
    wait_replies(&w, 1);
    cr_assert_str_eq(w.reply, "PONG");
}

Test(redis_client, it_logs_in_and_selects)
{
    WORLD(w);
    char url[160];
    world_open(&w);
    start_server(&w, "user mia on >p@ss/w:rd ~* +@all\nrequirepass p%?&x\n");
    snprintf(url, sizeof url, "%s?password=p%%25%%3f%%26x&db=3", w.url);
    open_client(&w, url);
    come_up(&w);
    cr_assert(strstr(redis_client_address(w.client), "p%") == NULL);
    redis_client_call(w.client, on_reply, &w, "CLIENT INFO");
    wait_replies(&w, 1);
    cr_assert(strstr(w.reply, " db=3 ") != NULL, "%s", w.reply);
    redis_client_destroy(&w.client);
    snprintf(url, sizeof url, "%s?user=mia&password=p@ss/w:rd", w.url);
    open_client(&w, url);
    come_up(&w);
    redis_client_call(w.client, on_reply, &w, "ACL WHOAMI");
    wait_replies(&w, 1);
    cr_assert_str_eq(w.reply, "mia");
}

Test(redis_client, a_wrong_password_is_tried_again_quietly)
{
    WORLD(w);
    char url[128];
    world_open(&w);
    start_server(&w, "requirepass right\n");
    open_client(&w, w.url);
    cr_assert_eq(run_for(&w, 400), -ETIMEDOUT);
    redis_client_destroy(&w.client);
    snprintf(url, sizeof url, "%s?password=wrong", w.url);
    open_client(&w, url);
    cr_assert_eq(run_for(&w, 400), -ETIMEDOUT);
    cr_assert_eq(w.n_up, 0);
    cr_assert_eq(w.n_down, 0);
}

Test(redis_client, a_user_who_may_not_ask_info_comes_up_without_run_id)
{
    WORLD(w);
    char url[128];
    world_open(&w);
    start_server(&w, "user low on >x ~* -@all +get\n");
    snprintf(url, sizeof url, "%s?user=low&password=x", w.url);
    open_client(&w, url);
    come_up(&w);
    cr_assert_str_eq(w.run_id, "");
}

Test(redis_client, it_waits_until_redis_has_loaded_its_data)
{
    WORLD(w);
    world_open(&w);
    start_server(&w, "rdbcompression no\n");
    open_client(&w, w.url);
    come_up(&w);
    static char value[2000];
    memset(value, 'v', sizeof value);
    for (int i = 0; i < 1000; i++) {
        redis_client_call(w.client, on_reply, &w, "SET k%d %b", i, value, sizeof value);
    }
    redis_client_call(w.client, on_reply, &w, "SAVE");
    wait_replies(&w, 1001);
    kill_server(&w);
    start_server(&w, "key-load-delay 1000\nloading-process-events-interval-bytes 4096\n");
    w.n_up = 0;
    int64_t from_ms = clock_mono_ms();
    come_up(&w);
    cr_assert_geq(clock_mono_ms() - from_ms, 500, "up too early: not loaded yet");
    redis_client_call(w.client, on_reply, &w, "DBSIZE");
    redis_client_call(w.client, on_reply, &w, "GET k999");
    wait_replies(&w, 2);
    cr_assert_eq(w.reply[0], 'v');
}

Test(redis_client, a_silent_or_absent_server_never_hangs_it)
{
    WORLD(w);
    char url[64];
    world_open(&w);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    cr_assert_eq(bind(listener, (struct sockaddr *)&address, length), 0);
    cr_assert_eq(listen(listener, 8), 0);
    getsockname(listener, (struct sockaddr *)&address, &length);
    snprintf(url, sizeof url, "redis://127.0.0.1:%u", (unsigned)ntohs(address.sin_port));
    open_client(&w, url);
    redis_client_call(w.client, on_reply, &w, "PING");
    cr_assert_eq(w.n_null, 1);
    cr_assert_eq(run_for(&w, LIMIT_REDIS_MS + 600), -ETIMEDOUT);
    int fd = accept(listener, NULL, NULL);
    char bytes[256];
    cr_assert_gt(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT), 0);
    while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
    }
    cr_assert_eq(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT), 0, "given up after the time-out");
    close(fd);
    close(listener);
    cr_assert_eq(run_for(&w, 500), -ETIMEDOUT);
    cr_assert_eq(w.n_up + w.n_down, 0);
}

Test(redis_client, its_socket_is_closed_on_exec)
{
    WORLD(w);
    begin_up(&w);
    int n_sockets = 0;
    for (int fd = 3; fd < 64; fd++) {
        int type = 0;
        socklen_t length = sizeof type;
        struct sockaddr_storage peer;
        socklen_t peer_length = sizeof peer;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
            getpeername(fd, (struct sockaddr *)&peer, &peer_length) == 0 &&
            peer.ss_family == AF_UNIX &&
            strstr(((struct sockaddr_un *)&peer)->sun_path, w.folder)) {
            n_sockets++;
            cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        }
    }
    cr_assert_eq(n_sockets, 1);
}
