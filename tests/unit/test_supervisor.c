/* The life of started instances, with real processes on this host. */
#include "tests/unit/process_world.h"

TestSuite(supervisor, .init = make_directory, .fini = remove_directory, .timeout = 50);

struct world {
    struct reactor *reactor;
    struct http_client *http;
    struct supervisor *supervisor;
    struct timer *limit;
    enum instance_state wanted;
    uint32_t n_states;
    bool stopped;
};

static void
on_state(void *context, uint32_t index, enum instance_state state)
{
    struct world *world = context;
    (void)index;
    world->n_states++;
    if (state == world->wanted) {
        reactor_stop(world->reactor, 0);
    }
}

static void
too_late(void *context)
{
    struct world *world = context;
    reactor_stop(world->reactor, -ETIMEDOUT);
}

static int
turn_until(struct world *world, enum instance_state wanted, int64_t limit_ms)
{
    world->wanted = wanted;
    if (world->supervisor != NULL && instance_state(world->supervisor, 0) == wanted) {
        return 0;
    }
    timer_in_ms(world->limit, limit_ms);
    int rc = reactor_run(world->reactor);
    timer_stop(world->limit);
    return rc;
}

static void
on_stop_done(void *context)
{
    struct world *world = context;
    world->stopped = true;
    reactor_stop(world->reactor, 0);
}

static int
turn_until_stopped(struct world *world, int64_t limit_ms)
{
    world->wanted = INSTANCE_STATE_COUNT;
    supervisor_stop(world->supervisor, on_stop_done, world);
    timer_in_ms(world->limit, limit_ms);
    return reactor_run(world->reactor);
}

static int
open_world(struct world *world, const struct supervisor_config *config)
{
    struct instance_events events = { .on_state = on_state, .context = world };
    *world = (struct world){ .wanted = INSTANCE_STATE_COUNT };
    cr_assert(zero(int, reactor_new(&world->reactor, false)));
    cr_assert(zero(int, http_client_new(&world->http, world->reactor)));
    cr_assert(zero(int, timer_new(&world->limit, world->reactor, too_late, world)));
    return supervisor_new(&world->supervisor, world->reactor, world->http, config, &events);
}

static void
close_world(struct world *world)
{
    supervisor_destroy(&world->supervisor);
    timer_destroy(&world->limit);
    http_client_destroy(&world->http);
    reactor_destroy(&world->reactor);
}

/* Answers any request that it is ready, two shells deep. */
#define TINY                                                                                       \
    "sh -c 'exec python3 -c \"import http.server as h\n"                                           \
    "class A(h.BaseHTTPRequestHandler):\n"                                                         \
    " def do_GET(s):\n"                                                                            \
    "  s.send_response(200); s.end_headers()\n"                                                    \
    "  "                                                                                           \
    "s.wfile.write(b\\\"\\\"\\\"{\\\\\\\"ready\\\\\\\":true,\\\\\\\"model\\\\\\\":"                \
    "\\\\\\\"m\\\\\\\"}\\\"\\\"\\\")\n"                                                            \
    "h.HTTPServer((\\\"127.0.0.1\\\",{port}),A).serve_forever()\"; true'; true"

static struct supervisor_config
starting(const char *command)
{
    return (struct supervisor_config){
        .start = command, .n_start = 1, .state_dir = directory, .startup_ms = 20000
    };
}

static json_t *
facts_of(const struct world *world)
{
    char text[1024];
    size_t length = instance_facts(world->supervisor, 0, text, sizeof text);
    json_t *facts = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(ne(ptr, facts, NULL));
    cr_assert(zero(sz, instance_facts(world->supervisor, 0, text, 20)), "does not fit");
    return facts;
}

/* What its facts say; "" for what they do not have. */
static const char *
told(const struct world *world, const char *key)
{
    static char text[256];
    json_t *facts = facts_of(world);
    const char *value = json_string_value(json_object_get(facts, key));
    snprintf(text, sizeof text, "%s", value == NULL ? "" : value);
    json_decref(facts);
    return text;
}

static void
expect_reason(const struct world *world, const char *part)
{
    const char *reason = told(world, "reason");
    cr_assert(strstr(reason, part) != NULL, "no \"%s\" in \"%s\"", part, reason);
}

Test(supervisor, a_started_instance_becomes_ready_and_is_stopped_in_order)
{
    struct world world;
    struct supervisor_config config = starting(TINY);
    cr_assert(zero(int, open_world(&world, &config)));
    cr_assert(eq(int, instance_state(world.supervisor, 0), INSTANCE_STARTING));
    cr_assert(zero(int, turn_until(&world, INSTANCE_READY, 15000)));
    json_t *facts = facts_of(&world);
    pid_t pid = (pid_t)json_integer_value(json_object_get(facts, "pid"));
    cr_assert(lives(pid));
    cr_assert(eq(str, (char *)json_string_value(json_object_get(facts, "state")), (char *)"ready"));
    cr_assert(eq(str, (char *)json_string_value(json_object_get(facts, "model")), (char *)"m"));
    cr_assert(ne(ptr, strstr(text_of("instance-0.log"), "healthz"), NULL), "its output is kept");
    json_decref(facts);
    int64_t start_ms = clock_mono_ms();
    cr_assert(zero(int, turn_until_stopped(&world, 20000)));
    cr_assert(world.stopped);
    cr_assert(lt(i64, clock_mono_ms() - start_ms, 3000), "SIGTERM was enough");
    cr_assert(not(lives(pid)));
    close_world(&world);
}

Test(supervisor, one_that_ignores_sigterm_is_killed_at_the_limit)
{
    struct world world;
    struct supervisor_config config =
        starting("trap '' TERM; : {port}; while :; do sleep 0.2; done");
    cr_assert(zero(int, open_world(&world, &config)));
    turn_until(&world, INSTANCE_READY, 500);
    int64_t start_ms = clock_mono_ms();
    cr_assert(zero(int, turn_until_stopped(&world, LIMIT_STOP_MS + 5000)));
    cr_assert(ge(i64, clock_mono_ms() - start_ms, LIMIT_STOP_MS));
    close_world(&world);
}

Test(supervisor, a_killed_instance_is_started_again_after_a_pause)
{
    struct world world;
    struct supervisor_config config = starting(TINY);
    cr_assert(zero(int, open_world(&world, &config)));
    cr_assert(zero(int, turn_until(&world, INSTANCE_READY, 15000)));
    json_t *facts = facts_of(&world);
    pid_t pid = (pid_t)json_integer_value(json_object_get(facts, "pid"));
    json_decref(facts);
    int64_t start_ms = clock_mono_ms();
    kill(pid, SIGKILL); /* the outer shell only: the server itself is left an orphan */
    cr_assert(zero(int, turn_until(&world, INSTANCE_DOWN, 2000)));
    cr_assert(zero(int, turn_until(&world, INSTANCE_READY, 15000)));
    cr_assert(ge(i64, clock_mono_ms() - start_ms, LIMIT_RESTART_MIN_MS));
    facts = facts_of(&world);
    cr_assert(eq(int, (int)json_integer_value(json_object_get(facts, "restarts")), 1));
    json_decref(facts);
    close_world(&world);
}

Test(supervisor, a_crash_loop_ends_broken)
{
    struct world world;
    struct supervisor_config config = starting("echo no {port} here; exit 7");
    cr_assert(zero(int, open_world(&world, &config)));
    cr_assert(zero(int, turn_until(&world, INSTANCE_BROKEN, 20000)));
    json_t *facts = facts_of(&world);
    cr_assert(
        eq(int, (int)json_integer_value(json_object_get(facts, "restarts")), LIMIT_CRASHES - 1));
    json_decref(facts);
    cr_assert(ne(ptr, strstr(text_of("instance-0.log"), "no "), NULL));
    expect_reason(&world, "crash loop: 5 exits within 60 s, last: exit code 7, log /");
    cr_assert(eq(str, (char *)told(&world, "last_exit"), (char *)"exit code 7"));
    cr_assert(zero(int, turn_until_stopped(&world, 1000)));
    close_world(&world);
}

Test(supervisor, a_broken_one_is_started_once_more_after_a_long_pause_and_stays_if_it_is_sound)
{
    struct world world;
    char command[1024];
    snprintf(command, sizeof command, "test -e %s/healed || exit 7; %s", directory, TINY);
    struct supervisor_config config = starting(command);
    config.broken_ms = 700;
    cr_assert(zero(int, open_world(&world, &config)));
    cr_assert(zero(int, turn_until(&world, INSTANCE_BROKEN, 20000)));
    int64_t broken_ms = clock_mono_ms();
    cr_assert(zero(int, turn_until(&world, INSTANCE_STARTING, 5000)));
    cr_assert(ge(i64, clock_mono_ms() - broken_ms, 700));
    cr_assert(zero(int, turn_until(&world, INSTANCE_BROKEN, 5000)), "one more end is enough");
    FILE *file = fopen(path_of("healed"), "w");
    fclose(file);
    cr_assert(zero(int, turn_until(&world, INSTANCE_READY, 15000)));
    cr_assert(eq(str, (char *)told(&world, "reason"), (char *)""));
    close_world(&world);
}

Test(supervisor, a_broken_one_that_waits_for_its_next_start_is_stopped_at_once)
{
    struct world world;
    struct supervisor_config config = starting("echo no {port} here; exit 7");
    config.broken_ms = 300;
    cr_assert(zero(int, open_world(&world, &config)));
    cr_assert(zero(int, turn_until(&world, INSTANCE_BROKEN, 20000)));
    cr_assert(zero(int, turn_until_stopped(&world, 1000)));
    world.stopped = false;
    uint32_t n_states = world.n_states;
    cr_assert(eq(int, turn_until(&world, INSTANCE_STARTING, 600), -ETIMEDOUT));
    cr_assert(eq(u32, world.n_states, n_states), "and not started any more");
    close_world(&world);
}

Test(supervisor, one_that_is_not_ready_in_time_is_started_again)
{
    struct world world;
    struct supervisor_config config = starting(": {port}; sleep 1000");
    config.startup_ms = 700;
    cr_assert(zero(int, open_world(&world, &config)));
    cr_assert(zero(int, turn_until(&world, INSTANCE_DOWN, 5000)));
    expect_reason(&world, "not ready within 700 ms: ");
    cr_assert(zero(int, turn_until(&world, INSTANCE_STARTING, 5000)));
    expect_reason(&world, "not ready within 700 ms: "); /* why it starts anew */
    close_world(&world);
}

Test(supervisor, one_that_stops_answering_is_killed_and_started_again)
{
    struct world world;
    struct supervisor_config config = starting(TINY);
    cr_assert(zero(int, open_world(&world, &config)));
    cr_assert(zero(int, turn_until(&world, INSTANCE_READY, 15000)));
    json_t *facts = facts_of(&world);
    pid_t pid = (pid_t)json_integer_value(json_object_get(facts, "pid"));
    json_decref(facts);
    kill(-pid, SIGSTOP); /* the whole group hangs */
    int64_t limit_ms = LIMIT_PROBES_FAILED * (LIMIT_PROBE_MS + LIMIT_PROBE_ANSWER_MS) + 3000;
    cr_assert(zero(int, turn_until(&world, INSTANCE_DOWN, limit_ms)));
    expect_reason(&world, "health checks fail: ");
    cr_assert(zero(int, turn_until(&world, INSTANCE_READY, 15000)));
    cr_assert(not(lives(pid)));
    close_world(&world);
}

Test(supervisor, waits_until_its_port_is_free)
{
    struct world world;
    struct supervisor_config config = starting(TINY);
    int on = 1;
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    cr_assert(zero(int, ports_pick(&config.base_port, 1)));
    address.sin_port = htons(config.base_port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    cr_assert(zero(int, bind(fd, (struct sockaddr *)&address, sizeof address)));
    cr_assert(zero(int, listen(fd, 1)));
    cr_assert(zero(int, open_world(&world, &config)));
    cr_assert(eq(int, turn_until(&world, INSTANCE_READY, 1500), -ETIMEDOUT));
    cr_assert(zero(sz, strlen(text_of("instance-0.log"))), "nothing was started");
    char reason[64];
    snprintf(reason, sizeof reason, "waits for port %u, held by pid %d (", config.base_port,
             (int)getpid());
    expect_reason(&world, reason);
    close(fd);
    cr_assert(zero(int, turn_until(&world, INSTANCE_READY, 15000)));
    close_world(&world);
}

Test(supervisor, a_long_log_is_moved_away_and_cut)
{
    struct world world;
    struct stat info;
    struct supervisor_config config =
        starting(": {port}; head -c 23000000 /dev/zero; echo end; sleep 1000");
    cr_assert(zero(int, open_world(&world, &config)));
    turn_until(&world, INSTANCE_BROKEN, 2500);
    cr_assert(zero(int, stat(path_of("instance-0.log"), &info)));
    cr_assert(lt(i64, info.st_size, LIMIT_INSTANCE_LOG));
    cr_assert(zero(int, stat(path_of("instance-0.log.1"), &info)));
    cr_assert(eq(i64, info.st_size, LIMIT_INSTANCE_LOG), "the newest part");
    close_world(&world);
}

Test(supervisor, a_second_agent_may_not_use_the_same_directory)
{
    struct world first;
    struct world second;
    struct supervisor_config config = starting(": {port}; sleep 1000");
    cr_assert(zero(int, open_world(&first, &config)));
    cr_assert(eq(int, open_world(&second, &config), -EINVAL));
    close_world(&second);
    close_world(&first);
    cr_assert(zero(int, open_world(&first, &config)), "free again");
    close_world(&first);
}

Test(supervisor, bad_settings_are_refused)
{
    static const char *const lines[] = {
        "",
        "url=http://127.0.0.1:1",
        "driver=drawbar",
        "driver=teleport url=http://127.0.0.1:1",
        "driver=drawbar url=127.0.0.1:1",
        "driver=drawbar url=ftp://127.0.0.1:1",
        "driver=drawbar url=http://127.0.0.1:1?x=1",
        "driver=drawbar ulr=http://127.0.0.1:1",
        "driver=drawbar url=http://127.0.0.1:1 name=",
        "driver=drawbar url=http://127.0.0.1:1 name=a\"b",
    };
    struct world world;
    for (size_t i = 0; i < ARRAY_LENGTH(lines); i++) {
        struct supervisor_config config = { .attach = &lines[i], .n_attach = 1 };
        cr_assert(eq(int, open_world(&world, &config), -EINVAL), "%s", lines[i]);
        close_world(&world);
    }
    static const char *const twice[] = { "driver=drawbar url=http://127.0.0.1:1",
                                         "driver=drawbar url=http://127.0.0.1:1/" };
    struct supervisor_config config = { .attach = twice, .n_attach = 2 };
    cr_assert(eq(int, open_world(&world, &config), -EINVAL), "the same name twice");
    close_world(&world);
    config = starting("sleep 1000");
    cr_assert(eq(int, open_world(&world, &config), -EINVAL), "no {port}");
    close_world(&world);
    config = starting("sleep {port}");
    config.n_start = 2;
    config.base_port = 65535;
    cr_assert(eq(int, open_world(&world, &config), -EINVAL), "ports end");
    close_world(&world);
    config = (struct supervisor_config){ 0 };
    cr_assert(eq(int, open_world(&world, &config), -EINVAL), "nothing to do");
    close_world(&world);
}
