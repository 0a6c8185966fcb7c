/* Sentinels that answer wrongly, late or not at all; real ones are in
 * tests/system/test_sentinel.py. */
#include "common/clock.h"
#include "common/redis_sentinel.h"
#include "common/scope.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MASTER "*2\r\n$9\r\n127.0.0.7\r\n$4\r\n7777\r\n"

struct world {
    struct reactor *reactor;
    struct timer *guard;
    struct redis_sentinel *sentinel;
    struct redis_url url;
    pid_t servers[4];
    uint32_t n_servers;
    int n_answers;
    bool destroy_at_answer;
    struct redis_host master; /* port 0: none */
    char why[160];
};

static void
on_guard(void *context)
{
    reactor_stop(((struct world *)context)->reactor, -ETIMEDOUT);
}

static void
on_answer(void *context, const struct redis_host *master, const char *why)
{
    struct world *w = context;
    w->n_answers++;
    w->master = master != NULL ? *master : (struct redis_host){ .port = 0 };
    snprintf(w->why, sizeof w->why, "%s", why);
    if (w->destroy_at_answer) {
        redis_sentinel_destroy(&w->sentinel);
    }
    reactor_stop(w->reactor, 0);
}

/* A port where somebody says `words` to whoever asks; NULL: says nothing. "": hangs up. */
static uint16_t
serve(struct world *w, const char *words)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, length), 0);
    cr_assert_eq(listen(fd, 8), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &length), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            char asked[512];
            int client = accept(fd, NULL, NULL);
            ssize_t n = recv(client, asked, sizeof asked, 0);
            if (n > 0 && words != NULL) {
                (void)send(client, words, strlen(words), MSG_NOSIGNAL);
                close(client);
            } /* else: kept open, silent */
        }
    }
    cr_assert(pid > 0);
    w->servers[w->n_servers++] = pid;
    close(fd);
    return ntohs(a.sin_port);
}

/* A port where nobody listens. */
static uint16_t
nobody(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, length), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &length), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void
world_open(struct world *w, const char *login, const uint16_t *ports, uint32_t n)
{
    char text[256];
    const char *why = NULL;
    int at = snprintf(text, sizeof text, "sentinel://%s", login);
    for (uint32_t i = 0; i < n; i++) {
        at += snprintf(text + at, sizeof text - (size_t)at, "%s127.0.0.1:%u", i > 0 ? "," : "",
                       (unsigned)ports[i]);
    }
    snprintf(text + at, sizeof text - (size_t)at, "/mymaster");
    cr_assert_eq(redis_url_parse(&w->url, text, &why), 0, "%s", why);
    process_setup();
    cr_assert_eq(reactor_new(&w->reactor, false), 0);
    cr_assert_eq(timer_new(&w->guard, w->reactor, on_guard, w), 0);
    cr_assert_eq(redis_sentinel_new(&w->sentinel, w->reactor, &w->url, on_answer, w), 0);
}

static void
world_close(struct world *w)
{
    redis_sentinel_destroy(&w->sentinel);
    timer_destroy(&w->guard);
    reactor_destroy(&w->reactor);
    for (uint32_t i = 0; i < w->n_servers; i++) {
        kill(w->servers[i], SIGKILL);
        waitpid(w->servers[i], NULL, 0);
    }
}

#define WORLD(w) CLEANUP(world_close) struct world w = { .n_answers = 0 }

static void
ask(struct world *w)
{
    int before = w->n_answers;
    redis_sentinel_ask(w->sentinel);
    redis_sentinel_ask(w->sentinel); /* one answer is owed already */
    cr_assert_eq(w->n_answers, before, "never inside the call");
    timer_in_ms(w->guard, 10000);
    cr_assert_eq(reactor_run(w->reactor), 0);
    cr_assert_eq(w->n_answers, before + 1);
}

Test(redis_sentinel, the_first_that_knows_the_master_is_believed)
{
    WORLD(w);
    uint16_t ports[] = { nobody(), serve(&w, ""), serve(&w, "*-1\r\n"), serve(&w, MASTER) };
    world_open(&w, "", ports, 4);
    ask(&w);
    cr_assert_str_eq(w.master.host, "127.0.0.7");
    cr_assert_eq(w.master.port, 7777);
    int64_t before = clock_mono_ms();
    ask(&w); /* the one that knew is asked first now */
    cr_assert_eq(w.master.port, 7777);
    cr_assert_lt(clock_mono_ms() - before, LIMIT_SENTINEL_MS);
}

Test(redis_sentinel, one_that_says_nothing_is_passed_over_in_time)
{
    WORLD(w);
    uint16_t ports[] = { serve(&w, NULL), serve(&w, MASTER) };
    world_open(&w, "", ports, 2);
    int64_t before = clock_mono_ms();
    ask(&w);
    cr_assert_eq(w.master.port, 7777);
    cr_assert_geq(clock_mono_ms() - before, LIMIT_SENTINEL_MS);
}

Test(redis_sentinel, when_none_knows_it_says_why)
{
    WORLD(w);
    uint16_t ports[] = { serve(&w, "-NOAUTH say a password\r\n"), serve(&w, "*-1\r\n") };
    world_open(&w, "", ports, 2);
    ask(&w);
    cr_assert_eq(w.master.port, 0);
    cr_assert(strstr(w.why, "it knows no master of this name") != NULL, "%s", w.why);
    ask(&w); /* and may be asked again */
    cr_assert_eq(w.master.port, 0);
}

Test(redis_sentinel, nonsense_is_no_master)
{
    static const char *const nonsense[] = {
        "+OK\r\n",
        "*1\r\n$1\r\nx\r\n",
        "*2\r\n$0\r\n\r\n$4\r\n7777\r\n",
        "*2\r\n$1\r\nx\r\n$5\r\n65536\r\n",
        "*2\r\n$1\r\nx\r\n$1\r\n0\r\n",
        "*2\r\n:1\r\n:2\r\n",
        "%%%\r\n",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(nonsense); i++) {
        WORLD(w);
        uint16_t ports[] = { serve(&w, nonsense[i]) };
        world_open(&w, "", ports, 1);
        ask(&w);
        cr_assert_eq(w.master.port, 0, "%s", nonsense[i]);
        cr_assert_neq(w.why[0], '\0');
    }
}

Test(redis_sentinel, one_that_wants_no_password_is_not_minded)
{
    WORLD(w);
    uint16_t ports[] = { serve(&w, "-ERR no password is set\r\n" MASTER) };
    world_open(&w, ":secret@", ports, 1);
    ask(&w);
    cr_assert_eq(w.master.port, 7777, "%s", w.why);
}

Test(redis_sentinel, it_may_be_destroyed_at_any_time)
{
    WORLD(w);
    uint16_t ports[] = { serve(&w, MASTER) };
    world_open(&w, "", ports, 1);
    w.destroy_at_answer = true;
    ask(&w);
    cr_assert(w.sentinel == NULL);
    cr_assert_eq(redis_sentinel_new(&w.sentinel, w.reactor, &w.url, on_answer, &w), 0);
    redis_sentinel_ask(w.sentinel);
    timer_in_ms(w.guard, 1); /* on its way */
    (void)reactor_run(w.reactor);
    redis_sentinel_destroy(&w.sentinel);
}
