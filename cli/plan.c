#include "cli/plan.h"
#include "cli/programs.h"
#include "common/scope.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GATEWAY_PORT = 5570, WORKER_PORT = 5571, MIB = 1024 * 1024, REDIS_MIB_MIN = 64 };

static const char loopback[] = "127.0.0.1";

bool
plan_is_open(const struct plan *self)
{
    return self->wishes->listen != NULL && !host_is_loopback(self->wishes->listen);
}

/* -- checks -- */

static int
programs_find(struct plan *self)
{
    static const char *const names[PROGRAM_KIND_COUNT] = {
        [PROGRAM_REDIS] = "redis-server",       [PROGRAM_BROKER] = "drawbar-broker",
        [PROGRAM_GATEWAY] = "drawbar-gateway",  [PROGRAM_WORKER] = "drawbar-worker",
        [PROGRAM_SIM] = "drawbar-sim-instance",
    };
    for (int kind = 0; kind < PROGRAM_KIND_COUNT; kind++) {
        if (program_find(names[kind], self->programs[kind]) == 0) {
            continue;
        }
        if (kind == PROGRAM_REDIS) {
            (void)fprintf(stderr,
                          "drawbar up: redis-server is not installed; install it: %sapt-get "
                          "install -y redis-server\n",
                          geteuid() == 0 ? "" : "sudo ");
        } else {
            (void)fprintf(stderr,
                          "drawbar up: %s is neither beside drawbar nor in PATH; build all "
                          "programs, or install them into one directory\n",
                          names[kind]);
        }
        return -ENOENT;
    }
    return 0;
}

static int
listen_check(const char *listen)
{
    int rc = address_is_wildcard(listen) ? -EINVAL : port_check(listen, 0);
    if (rc == 0) {
        return 0;
    }
    (void)fprintf(stderr,
                  "drawbar up: --listen %s: %s; give one address of this host that the other hosts "
                  "reach:\n",
                  listen,
                  address_is_wildcard(listen) ? "every address is no address to tell others"
                  : rc == -EINVAL             ? "this is no address"
                                              : "this host does not have this address");
    addresses_print(stderr);
    return rc;
}

static int
taken_check(const char *host, int64_t port, const char *flag, const char *what)
{
    char address[ADDRESS_TEXT];
    int rc = port_check(host, (uint16_t)port);
    if (rc == 0) {
        return 0;
    }
    address_text(address, host, (uint16_t)port);
    (void)fprintf(stderr,
                  "drawbar up: %s cannot listen at %s: %s; stop what is there, or give %s\n", what,
                  address,
                  rc == -EADDRINUSE ? "the port is taken"
                  : rc == -EACCES   ? "ports below 1024 need root"
                                    : strerror(-rc),
                  flag);
    return rc;
}

static int
ports_check(struct plan *self)
{
    const struct plan_wishes *wishes = self->wishes;
    const char *host = wishes->listen;
    int rc = taken_check(loopback, wishes->port, "another --port (0: any free one)", "the API");
    if (rc != 0 || host == NULL) {
        return rc;
    }
    rc = listen_check(host);
    rc = rc ? rc : taken_check(host, wishes->port, "another --port (0: any free one)", "the API");
    rc = rc ? rc : taken_check(host, wishes->redis_port, "another --redis-port", "Redis");
    self->gateway_port = port_or_any(host, GATEWAY_PORT);
    self->worker_port = port_or_any(host, WORKER_PORT);
    bool next = wishes->port > 0 && wishes->port < UINT16_MAX;
    self->uploads_port = next ? port_or_any(host, (uint16_t)(wishes->port + 1)) : 0;
    return rc;
}

/* -- Redis -- */

/* A quarter of the memory that is ours. */
static int64_t
redis_mib(void)
{
    int64_t mib = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / MIB;
    char text[32] = "";
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "re");
    if (file != NULL) {
        int64_t limit = fgets(text, sizeof text, file) != NULL ? strtoll(text, NULL, 10) : 0;
        if (limit > 0 && limit / MIB < mib) { /* "max" reads as 0 */
            mib = limit / MIB;
        }
        (void)fclose(file);
    }
    return mib / 4 > REDIS_MIB_MIN ? mib / 4 : REDIS_MIB_MIN;
}

static int
redis_conf_write(struct plan *self)
{
    char path[HOME_PATH];
    const char *directory = home_directory(self->home);
    home_path(self->home, path, "redis/redis.conf");
    (void)unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (file == NULL) {
        (void)fprintf(stderr, "drawbar up: %s: %s; is the disk full?\n", path, strerror(errno));
        return -errno;
    }
    (void)fprintf(file,
                  "# Written by drawbar up at each start.\n"
                  "dir \"%s/redis\"\n"
                  "unixsocket \"%s/run/redis.sock\"\n"
                  "unixsocketperm 700\n"
                  "daemonize no\n"
                  "# Nothing that was accepted may be lost: each write is on the disk before it is "
                  "answered.\n"
                  "appendonly yes\n"
                  "appendfsync always\n"
                  "save \"\"\n"
                  "maxmemory %lldmb\n"
                  "maxmemory-policy noeviction\n",
                  directory, directory, (long long)self->redis_mib);
    if (self->wishes->listen != NULL) {
        (void)fprintf(file, "bind %s\nport %lld\nrequirepass %s\nprotected-mode yes\n",
                      self->wishes->listen, (long long)self->wishes->redis_port, self->password);
    } else {
        (void)fprintf(file, "port 0\n");
    }
    int rc = fclose(file) == 0 ? 0 : -errno;
    if (rc != 0) {
        (void)fprintf(stderr, "drawbar up: %s: %s; is the disk full?\n", path, strerror(-rc));
    }
    return rc;
}

static void
redis_url_make(struct plan *self)
{
    char path[HOME_PATH];
    size_t used = (size_t)snprintf(self->redis_url, sizeof self->redis_url, "unix://");
    home_path(self->home, path, "run/redis.sock");
    for (const char *c = path; *c != '\0'; c++) {
        bool plain = isalnum((unsigned char)*c) || strchr("/._-~", *c) != NULL;
        used += (size_t)snprintf(self->redis_url + used, sizeof self->redis_url - used,
                                 plain ? "%c" : "%%%02X", (unsigned char)*c);
    }
    if (self->password[0] != '\0') {
        (void)snprintf(self->redis_url + used, sizeof self->redis_url - used, "?password=%s",
                       self->password);
    }
}

/* Our environment for the children. Settings of ours would be taken for theirs; a configuration
 * file has a section for each. */
static void
environment_make(struct plan *self)
{
    static const char ours[] = "DRAWBAR_";
    static const char config[] = "DRAWBAR_CONFIG=";
    size_t n = 0;
    size_t used = 0;
    while (environ[n] != NULL) {
        n++;
    }
    self->environment = calloc(n + 2, sizeof *self->environment);
    if (self->environment == NULL) {
        abort();
    }
    (void)snprintf(self->redis_variable, sizeof self->redis_variable, "DRAWBAR_REDIS=%s",
                   self->redis_url);
    self->environment[used++] = self->redis_variable;
    for (size_t i = 0; i < n; i++) {
        if (strncmp(environ[i], ours, sizeof ours - 1) != 0 ||
            strncmp(environ[i], config, sizeof config - 1) == 0) {
            self->environment[used++] = environ[i];
        }
    }
}

/* -- the words -- */

struct words {
    const char **items;
    uint32_t n;
    char *text;
    size_t left;
};

static void add(struct words *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
add(struct words *self, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(self->text, self->left, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= self->left || self->n + 2 > CREW_WORDS) {
        abort(); /* the attached instances, and all paths, have a limit */
    }
    self->items[self->n++] = self->text;
    self->text += length + 1;
    self->left -= (size_t)length + 1;
}

static void
broker_words(const struct plan *self, struct words *words)
{
    const char *host = self->wishes->listen != NULL ? self->wishes->listen : loopback;
    int64_t queue_mib = self->redis_mib / 2; /* the broker's copy of the queue */
    add(words, "--host");
    add(words, "%s", host);
    add(words, "--gateway-port");
    add(words, "%u", self->gateway_port);
    add(words, "--worker-port");
    add(words, "%u", self->worker_port);
    add(words, "--queue-mib");
    add(words, "%lld", (long long)(queue_mib < LIMIT_QUEUE_MIB ? queue_mib : LIMIT_QUEUE_MIB));
    if (plan_is_open(self)) {
        add(words, "--insecure-plaintext");
    }
}

static void
gateway_words(const struct plan *self, const struct plan_member *member, struct words *words)
{
    const char *listen = self->wishes->listen;
    char http[ADDRESS_TEXT];
    char uploads[ADDRESS_TEXT];
    char pictures[HOME_PATH];
    bool first = member->outside || listen == NULL;
    address_text(http, member->outside ? listen : loopback, (uint16_t)self->wishes->port);
    address_text(uploads, listen != NULL ? listen : loopback, first ? self->uploads_port : 0);
    home_path(self->home, pictures, "pictures");
    add(words, "--listen");
    add(words, "%s", member->http[0] != '\0' ? member->http : http);
    add(words, "--uploads");
    add(words, "%s", uploads);
    add(words, "--artifacts");
    add(words, "%s", pictures);
    add(words, "--linger-ms"); /* somebody waits behind Ctrl-C, and no load balancer looks */
    add(words, "0");
    if (plan_is_open(self)) {
        add(words, "--insecure-plaintext");
    }
}

static void
worker_words(const struct plan *self, const struct plan_member *member, struct words *words)
{
    const struct string_list *attach = &self->wishes->attach;
    char state[HOME_PATH];
    home_path(self->home, state, "workers");
    add(words, "--name");
    add(words, "%s", member->name);
    add(words, "--state-dir");
    add(words, "%s", state);
    for (uint32_t i = 0; i < attach->count; i++) {
        add(words, "--attach");
        add(words, "%s", attach->items[i]);
    }
    if (attach->count == 0) {
        add(words, "--start");
        add(words, "exec '%s' --port {port}", self->programs[PROGRAM_SIM]);
        add(words, "--instances");
        add(words, "%lld", (long long)self->wishes->instances);
        add(words, "--base-port");
        add(words, "0");
    }
}

static void
member_command(void *context, const char *items[CREW_WORDS])
{
    struct plan_member *member = context;
    const struct plan *self = member->plan;
    struct words words = { .items = items, .text = member->text, .left = sizeof member->text };
    char conf[HOME_PATH];
    add(&words, "%s", self->programs[member->kind]);
    switch (member->kind) {
    case PROGRAM_REDIS:
        home_path(self->home, conf, "redis/redis.conf");
        add(&words, "%s", conf);
        break;
    case PROGRAM_BROKER:
        broker_words(self, &words);
        break;
    case PROGRAM_GATEWAY:
        gateway_words(self, member, &words);
        break;
    case PROGRAM_WORKER:
        worker_words(self, member, &words);
        break;
    case PROGRAM_SIM:
    case PROGRAM_KIND_COUNT:
        abort(); /* workers start instances */
    }
    if (member->kind != PROGRAM_REDIS) {
        add(&words, "--ready-file");
        add(&words, "%s", member->ready_path);
    }
    items[words.n] = NULL;
}

/* -- the plan -- */

static struct plan_member *
member_add(struct plan *self, enum program_kind kind, const char *format, uint32_t number)
{
    struct plan_member *member = &self->members[self->n_members++];
    member->plan = self;
    member->kind = kind;
    member->number = number;
    (void)snprintf(member->name, sizeof member->name, "%s", format);
    if (number > 0) {
        (void)snprintf(member->name, sizeof member->name, "%s-%u", format, number);
    }
    home_log_rotate(self->home, member->name);
    home_path(self->home, member->log_path, "log/%s.log", member->name);
    home_path(self->home, member->ready_path, "run/%s.ready", member->name);
    return member;
}

static void
members_list(struct plan *self)
{
    uint32_t n_workers = self->wishes->attach.count > 0 ? 1 : (uint32_t)self->wishes->workers;
    member_add(self, PROGRAM_REDIS, "redis", 0);
    member_add(self, PROGRAM_BROKER, "broker", 0);
    member_add(self, PROGRAM_GATEWAY, "gateway", 0)->outside = plan_is_open(self);
    if (plan_is_open(self)) {
        member_add(self, PROGRAM_GATEWAY, "gateway-local", 0);
    }
    for (uint32_t i = 1; i <= n_workers; i++) {
        member_add(self, PROGRAM_WORKER, "local", i);
    }
}

int
plan_make(struct plan *self, const struct plan_wishes *wishes, const struct home *home)
{
    self->wishes = wishes;
    self->home = home;
    self->redis_mib = redis_mib();
    int rc = programs_find(self);
    rc = rc ? rc : ports_check(self);
    if (rc == 0 && wishes->listen != NULL) {
        rc = home_password(home, self->password);
    }
    rc = rc ? rc : redis_conf_write(self);
    if (rc != 0) {
        return rc;
    }
    redis_url_make(self);
    environment_make(self);
    members_list(self);
    return 0;
}

void
plan_clear(struct plan *self)
{
    free(self->environment);
    self->environment = NULL;
}

void
plan_enlist(struct plan *self, struct crew *crew)
{
    static const uint32_t ranks[PROGRAM_KIND_COUNT] = {
        [PROGRAM_REDIS] = 0, [PROGRAM_BROKER] = 1, [PROGRAM_GATEWAY] = 2, [PROGRAM_WORKER] = 3
    };
    for (uint32_t i = 0; i < self->n_members; i++) {
        struct plan_member *mine = &self->members[i];
        struct crew_member member = { .rank = ranks[mine->kind],
                                      .may_leave = mine->kind == PROGRAM_WORKER,
                                      .command = member_command,
                                      .context = mine,
                                      .environment = self->environment,
                                      .log_path = mine->log_path,
                                      .ready_path =
                                          mine->kind == PROGRAM_REDIS ? NULL : mine->ready_path };
        memcpy(member.name, mine->name, sizeof member.name);
        mine->index = crew_add(crew, &member);
    }
}

void
plan_note_ready(struct plan *self, uint32_t index)
{
    struct plan_member *member = &self->members[index];
    char line[1024] = "";
    if (member->kind != PROGRAM_GATEWAY) {
        return;
    }
    FILE *file = fopen(member->ready_path, "re");
    if (file != NULL) {
        const char *http = fgets(line, sizeof line, file) != NULL ? strstr(line, " http=") : NULL;
        if (http != NULL) {
            http += strlen(" http=");
            (void)snprintf(member->http, sizeof member->http, "%.*s", (int)strcspn(http, " \n"),
                           http);
        }
        (void)fclose(file);
    }
}

void
plan_local_url(const struct plan *self, char out[LIMIT_URL])
{
    out[0] = '\0';
    for (uint32_t i = 0; i < self->n_members; i++) {
        const struct plan_member *member = &self->members[i];
        if (member->kind == PROGRAM_GATEWAY && !member->outside) {
            (void)snprintf(out, LIMIT_URL, "http://%s", member->http);
        }
    }
}

void
plan_paste_line(const struct plan *self, char out[1024])
{
    char redis[ADDRESS_TEXT];
    address_text(redis, self->wishes->listen, (uint16_t)self->wishes->redis_port);
    (void)snprintf(out, 1024,
                   "drawbar-worker --redis redis://:%s@%s/0%s --name \"$(hostname)\" --start "
                   "\"drawbar-sim-instance --port {port}\" --instances %lld",
                   self->password, redis, plan_is_open(self) ? " --insecure-plaintext" : "",
                   (long long)self->wishes->instances);
}
