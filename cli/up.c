/* up — `drawbar up`: all of Drawbar on this machine, until Ctrl-C.
 *
 * What runs: plan.h. Keeping it running: crew.h. Where it keeps things: home.h. */
#include "cli/arguments.h"
#include "cli/banner.h"
#include "cli/commands.h"
#include "cli/crew.h"
#include "common/clock.h"
#include "common/http_client.h"
#include "common/log.h"
#include "common/redis_client.h"
#include "common/scope.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TAIL_LINES = 8, TAIL_BYTES = 4096, READYZ_BYTES = 65536 };

struct up {
    struct plan_wishes wishes;
    const char *once, *try, *output; /* prompt, prompt, file */
    struct config_common common;
    struct terminal terminal;
    struct plan plan;
    struct home *home;
    struct reactor *reactor;
    struct crew *crew;
    struct redis_client *redis; /* tells when Redis has read its file */
    struct http_client *http;
    struct timer *asking, *late;
    struct event *hangup;
    int64_t began_ms;
    bool stopping, told;
    int status;
};

/* -- telling -- */

/* Takes the line of the start away. */
static void
line_clear(struct up *self)
{
    if (self->told && self->terminal.live) {
        printf("\r\033[K");
        (void)fflush(stdout);
    }
    self->told = false;
}

static void
line_show(struct up *self, const char *what, const char *name)
{
    if (self->terminal.live) {
        printf("\r\033[K%s %s ...", what, name);
        (void)fflush(stdout);
        self->told = true;
    }
}

static void
on_news(void *context, const char *line)
{
    struct up *self = context;
    char clock[16];
    struct tm broken;
    time_t now = time(NULL);
    line_clear(self);
    (void)strftime(clock, sizeof clock, "%H:%M:%S", localtime_r(&now, &broken));
    (void)fprintf(stderr, "%s%s%s %s\n", terminal_style(&self->terminal, STYLE_DIM), clock,
                  terminal_style(&self->terminal, STYLE_PLAIN), line);
}

/* The last lines of a log, as they say best what went wrong. */
static void
tail_print(const char *path)
{
    char text[TAIL_BYTES + 1];
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return;
    }
    (void)fseek(file, 0, SEEK_END);
    long size = ftell(file);
    (void)fseek(file, size > TAIL_BYTES ? size - TAIL_BYTES : 0, SEEK_SET);
    size_t length = fread(text, 1, TAIL_BYTES, file);
    (void)fclose(file);
    text[length] = '\0';
    const char *from = text + length;
    for (int lines = 0; from > text && lines <= TAIL_LINES; from--) {
        lines += from[-1] == '\n';
        if (lines > TAIL_LINES) {
            break;
        }
    }
    while (*from != '\0') {
        char shown[TAIL_BYTES];
        char line[TAIL_BYTES + 1];
        size_t n = strcspn(from, "\n");
        (void)snprintf(line, sizeof line, "%.*s", (int)n, from);
        text_fit(shown, sizeof shown, line, TAIL_BYTES, true);
        (void)fprintf(stderr, "  %s\n", shown);
        from += n + (from[n] == '\n');
    }
}

/* -- the end -- */

static void
stop(struct up *self)
{
    if (self->stopping) {
        return;
    }
    self->stopping = true;
    timer_stop(self->asking);
    timer_stop(self->late);
    crew_stop(self->crew);
}

static void
on_over(void *context)
{
    struct up *self = context;
    line_clear(self);
    reactor_stop(self->reactor, 0);
}

/* SIGINT, SIGTERM. */
static void
on_stop(void *context)
{
    struct up *self = context;
    line_clear(self);
    if (!self->stopping) {
        printf("%sstopping; running jobs may finish, Ctrl-C again ends at once\n",
               self->terminal.live ? "\r" : "");
        (void)fflush(stdout);
    }
    stop(self);
}

static void
on_hangup(evutil_socket_t number, short what, void *context)
{
    (void)number;
    (void)what;
    stop(context);
}

static void
give_up(struct up *self)
{
    self->status = EXIT_JOB;
    stop(self);
}

static void
on_failed(void *context, uint32_t index, const char *why)
{
    struct up *self = context;
    const struct plan_member *member = &self->plan.members[index];
    line_clear(self);
    (void)fprintf(stderr, "drawbar up: %s did not start (%s); its log %s ends with:\n",
                  member->name, why, member->log_path);
    tail_print(member->log_path);
    give_up(self);
}

/* -- the start -- */

static void
guest_run(struct up *self)
{
    char url[LIMIT_URL];
    const char *words[] = {
        "/proc/self/exe", "submit", "--server", url, NULL, NULL, NULL, NULL, NULL
    };
    size_t n = 4;
    plan_local_url(&self->plan, url);
    if (self->output != NULL) {
        words[n++] = "--output";
        words[n++] = self->output;
    }
    words[n++] = "--";
    words[n++] = self->once != NULL ? self->once : self->try;
    int rc = crew_run_guest(self->crew, words);
    if (rc != 0) {
        (void)fprintf(stderr, "drawbar up: cannot submit: %s\n", strerror(-rc));
        give_up(self);
    }
}

static void
on_guest(void *context, int status)
{
    struct up *self = context;
    if (self->once != NULL) {
        self->status = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_JOB;
        stop(self);
    } else if (!self->stopping) {
        printf("\nDrawbar stays up; Ctrl-C stops it.\n");
        (void)fflush(stdout);
    }
}

static void
all_is_up(struct up *self)
{
    char url[LIMIT_URL];
    line_clear(self);
    timer_stop(self->late);
    plan_local_url(&self->plan, url);
    home_announce(self->home, url);
    if (self->common.ready_file != NULL || isatty(STDOUT_FILENO) != 1) {
        (void)ready_print(self->common.ready_file, "up", "http=%s", url + strlen("http://"));
    }
    banner_print(&self->plan, &self->terminal, self->once != NULL ? NULL : program_invocation_name);
    banner_hosts_print(&self->plan, &self->terminal);
    if (self->once != NULL || self->try != NULL) {
        guest_run(self);
    }
}

static void
on_readyz(void *context, const struct http_response *response)
{
    struct up *self = context;
    if (self->stopping) {
        return;
    }
    if (response->status == 200) {
        all_is_up(self);
        return;
    }
    if (clock_mono_ms() - self->began_ms > LIMIT_UP_READY_MS) {
        (void)fprintf(stderr, "drawbar up: the gateway is not ready: %.*s\n",
                      (int)response->body_length, (const char *)response->body);
        give_up(self);
        return;
    }
    timer_in_ms(self->asking, LIMIT_TICK_MS);
}

static void
readyz_ask(void *context)
{
    struct up *self = context;
    char url[LIMIT_URL + 16];
    plan_local_url(&self->plan, url);
    (void)strncat(url, "/readyz", 16);
    const struct http_request request = {
        .method = "GET", .url = url, .limit_ms = LIMIT_ASK_MS, .response_max = READYZ_BYTES
    };
    if (http_client_start(self->http, &request, on_readyz, self) == NULL) {
        give_up(self);
    }
}

static void
on_up(void *context)
{
    struct up *self = context;
    line_show(self, "waiting for", "the gateway");
    readyz_ask(self);
}

static void
on_ready(void *context, uint32_t index)
{
    struct up *self = context;
    plan_note_ready(&self->plan, index);
    const char *next = crew_waits_for(self->crew);
    if (next != NULL && !self->stopping) {
        line_show(self, "starting", next);
    }
}

static void
on_redis_up(void *context, const char *run_id)
{
    struct up *self = context;
    (void)run_id;
    crew_mark_ready(self->crew, self->plan.members[0].index);
}

static void
on_late(void *context)
{
    struct up *self = context;
    const char *name = crew_waits_for(self->crew);
    if (name != NULL) {
        char line[128];
        (void)snprintf(line, sizeof line, "%s takes its time%s", name,
                       strcmp(name, "redis") == 0 ? ": it reads the queue from its file" : "");
        on_news(self, line);
    }
}

/* -- settings -- */

static int
options_load(struct up *self, struct config **config, int argc, char **argv)
{
    const struct option options[] = {
        { "workers", OPTION_INT, &self->wishes.workers, "N",
          "Workers on this host; 0: only those that come from other hosts.", 0, LIMIT_UP_WORKERS,
          false },
        { "instances", OPTION_INT, &self->wishes.instances, "N",
          "Simulated instances of each worker.", 1, LIMIT_INSTANCES, false },
        { "attach", OPTION_LIST, &self->wishes.attach, "INSTANCE",
          "Use this running instance instead of simulated ones: \"driver=drawbar "
          "url=http://127.0.0.1:7861\".",
          0, 0, false },
        { "port", OPTION_INT, &self->wishes.port, "PORT", "Of the HTTP API; 0: any free one.", 0,
          UINT16_MAX, false },
        { "data", OPTION_STRING, &self->wishes.data, "DIR",
          "Where queue, pictures and logs are kept; without it ~/.local/share/drawbar.", 0, 0,
          false },
        { "listen", OPTION_STRING, &self->wishes.listen, "ADDR",
          "Let workers and clients on other hosts in, at this address of this host.", 0, 0, false },
        { "redis-port", OPTION_INT, &self->wishes.redis_port, "PORT", "Of Redis, with --listen.", 1,
          UINT16_MAX, false },
        { "once", OPTION_STRING, &self->once, "PROMPT",
          "Draw this, save it (-o FILE), stop, and exit as drawbar submit does.", 0, 0, false },
        { "try", OPTION_STRING, &self->try, "PROMPT", "The same, but stay up.", 0, 0, false },
        { "output", OPTION_STRING, &self->output, "FILE",
          "Where --once and --try save the picture, also written -o FILE.", 0, 0, false },
    };
    const struct program program = {
        .name = "drawbar up",
        .role = "up",
        .summary = "Runs all of Drawbar on this machine until Ctrl-C: a Redis of its own, broker, "
                   "gateway and workers. Children that die are started again. The instances are "
                   "SIMULATED unless --attach names real ones.",
        .options = options,
        .n_options = ARRAY_LENGTH(options),
    };
    char **words = arguments_long(argc, argv);
    int rc = config_load(config, &self->common, &program, argc, words);
    free(words);
    const char *wrong = rc != 0                                   ? NULL
                        : self->once != NULL && self->try != NULL ? "--once and --try: give one"
                        : self->output != NULL && self->once == NULL && self->try == NULL
                            ? "-o: there is nothing to save without --once or --try"
                        : self->wishes.attach.count > LIMIT_INSTANCES ? "--attach: at most 16"
                                                                      : NULL;
    if (wrong != NULL) {
        (void)fprintf(stderr, "drawbar up: %s\n", wrong);
        return -EINVAL;
    }
    return rc;
}

static int
open_all(struct up *self)
{
    const struct crew_events events = { .on_up = on_up,
                                        .on_ready = on_ready,
                                        .on_failed = on_failed,
                                        .on_news = on_news,
                                        .on_over = on_over,
                                        .on_guest = on_guest,
                                        .context = self };
    const struct redis_events redis_events = { .on_up = on_redis_up, .context = self };
    int rc = reactor_new(&self->reactor, true);
    rc = rc ? rc : crew_new(&self->crew, self->reactor, &events);
    rc = rc ? rc : http_client_new(&self->http, self->reactor);
    rc = rc ? rc : timer_new(&self->asking, self->reactor, readyz_ask, self);
    rc = rc ? rc : timer_new(&self->late, self->reactor, on_late, self);
    rc = rc ? rc
            : redis_client_new(&self->redis, self->reactor, self->plan.redis_url, &redis_events);
    if (rc == 0) {
        self->hangup = evsignal_new(reactor_base(self->reactor), SIGHUP, on_hangup, self);
        rc = self->hangup != NULL && event_add(self->hangup, NULL) == 0 ? 0 : -ENOMEM;
    }
    if (rc != 0) {
        (void)fprintf(stderr, "drawbar up: %s\n", strerror(-rc));
    }
    return rc;
}

static void
close_all(struct up *self)
{
    crew_destroy(&self->crew); /* whoever still lives is killed */
    redis_client_destroy(&self->redis);
    http_client_destroy(&self->http);
    timer_destroy(&self->asking);
    timer_destroy(&self->late);
    if (self->hangup != NULL) {
        event_free(self->hangup);
    }
    reactor_destroy(&self->reactor);
    plan_clear(&self->plan);
    home_close(&self->home);
}

static void
run(struct up *self)
{
    plan_enlist(&self->plan, self->crew);
    reactor_on_stop(self->reactor, on_stop, self);
    self->began_ms = clock_mono_ms();
    timer_in_ms(self->late, LIMIT_UP_LATE_MS);
    line_show(self, "starting", "redis");
    crew_start(self->crew);
    int rc = reactor_run(self->reactor);
    line_clear(self);
    if (rc != 0) {
        (void)fprintf(stderr, "drawbar up: ended at once; what ran was killed\n");
        self->status = EXIT_JOB;
    }
}

int
command_up(int argc, char **argv)
{
    CLEANUP(config_destroy) struct config *config = NULL;
    static struct up self; /* its plan is large */
    self.wishes =
        (struct plan_wishes){ .workers = 1, .instances = 2, .port = 8080, .redis_port = 6379 };
    int rc = options_load(&self, &config, argc, argv);
    if (rc != 0) {
        return rc == CONFIG_EXIT ? EXIT_DONE : EXIT_USAGE;
    }
    terminal_look(&self.terminal, STDOUT_FILENO);
    rc = home_open(&self.home, self.wishes.data);
    rc = rc ? rc : plan_make(&self.plan, &self.wishes, self.home);
    rc = rc ? rc : open_all(&self);
    if (rc == 0) {
        run(&self);
    } else {
        self.status = EXIT_JOB; /* told */
    }
    close_all(&self);
    return self.status;
}
