#include "gateway/gate.h"
#include "common/log.h"
#include "common/scope.h"
#include "gateway/routes.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void
on_drained(void *context)
{
    struct gate *self = context;
    reactor_stop(self->reactor, self->rc);
}

/* The door is closed: what waits for a job's end is answered with what the job is now, and asks
 * another gateway; submits have their answer within LIMIT_SUBMIT_MS. */
static void
on_closed(void *context)
{
    struct gate *self = context;
    waits_end(self->waits);
}

/* The drain begins: /readyz says so, and everything else is served as ever for a while. */
static void
on_stop_event(evutil_socket_t fd, short what, void *context)
{
    struct gate *self = context;
    uint64_t told = 0;
    (void)what;
    if (read(fd, &told, sizeof told) != sizeof told || self->stopping) {
        return;
    }
    self->stopping = true;
    self->rc = told > 1 ? -EPROTO : 0; /* see gate_stop() */
    int64_t linger_ms = self->rc == 0 ? self->shared->settings->linger_ms : 0;
    const struct http_drain order = { .linger_ms = linger_ms,
                                      .limit_ms = LIMIT_DRAIN_MS,
                                      .on_closed = on_closed,
                                      .done = on_drained,
                                      .context = self };
    http_server_drain(self->http, &order);
}

void
gate_stop(struct gate *self, int rc)
{
    uint64_t told = rc == 0 ? 1 : 1U << 16; /* the counter adds up; a failure outweighs */
    if (write(self->stop_fd, &told, sizeof told) != sizeof told) {
        abort(); /* only when the counter is full */
    }
}

/* SIGTERM or SIGINT, at the first gate. */
static void
on_signal(void *context)
{
    struct gate *self = context;
    log_info("stopping why=signal");
    self->shared->give_up(self->shared->context, 0);
}

/* Redis answers, or has had its time to: until then a client would hear 503 from a gateway that is
 * only starting, and it can wait at the door. */
static void
open_door(void *context)
{
    struct gate *self = context;
    timer_stop(self->opening);
    http_server_open(self->http);
}

static void
on_redis_up(void *context, const char *run_id)
{
    (void)run_id;
    open_door(context);
}

static void
on_refused(void *context)
{
    struct gate *self = context;
    self->shared->give_up(self->shared->context, -EPROTO);
}

static int
server_open(struct gate *self, uint16_t port)
{
    const struct settings *settings = self->shared->settings;
    struct http_server_config config = { .host = settings->host,
                                         .port = port,
                                         .body_max = LIMIT_HTTP_BODY_BYTES,
                                         .opens_later = true,
                                         .on_request = routes_serve,
                                         .context = self };
    int rc = 0;
    if (settings->threads > 1) {
        if (self->is_first) { /* a shared port hides that another process has it: ask for it alone
                               */
            rc = http_server_new(&self->http, self->reactor, &config);
            http_server_destroy(&self->http);
        }
        config.reuse_port = true;
    }
    rc = rc ? rc : http_server_new(&self->http, self->reactor, &config);
    if (rc != 0) {
        log_error("listen-failed address=%s:%u error=\"%s\" do=\"%s\"", settings->host, port,
                  strerror(-rc),
                  rc == -EADDRINUSE ? "stop what listens there, or choose another --listen port"
                                    : "give --listen an address of this host");
    }
    return rc;
}

static int
stop_event_open(struct gate *self)
{
    self->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (self->stop_fd < 0) {
        return -errno;
    }
    self->stop_event = event_new(reactor_base(self->reactor), self->stop_fd, EV_READ | EV_PERSIST,
                                 on_stop_event, self);
    return self->stop_event != NULL && event_add(self->stop_event, NULL) == 0 ? 0 : -ENOMEM;
}

int
gate_new(struct gate **out, const struct gate_shared *shared, uint32_t n, uint16_t port)
{
    CLEANUP(gate_destroy) struct gate *self = calloc(1, sizeof *self);
    char host[40] = "";
    if (self == NULL) {
        return -ENOMEM;
    }
    const struct redis_events redis_events = { .on_up = on_redis_up, .context = self };
    self->shared = shared;
    self->stop_fd = -1;
    self->is_first = n == 0;
    (void)gethostname(host, sizeof host - 1);
    (void)snprintf(self->name, sizeof self->name, "%s-%d-%u", host, (int)getpid(), n);
    int rc = reactor_new(&self->reactor, n == 0);
    rc = rc ? rc : record_unpacker_new(&self->unpacker);
    rc = rc ? rc : helper_thread_new(&self->helper, self->reactor);
    rc = rc ? rc : stop_event_open(self);
    rc = rc ? rc : timer_new(&self->opening, self->reactor, open_door, self);
    rc = rc ? rc
            : redis_client_new(&self->redis, self->reactor, shared->settings->redis_url,
                               &redis_events);
    if (rc != 0) {
        return rc;
    }
    const struct jobs_config jobs = { .reactor = self->reactor,
                                      .redis = self->redis,
                                      .artifacts = shared->artifacts,
                                      .name = self->name,
                                      .uploads_url = shared->uploads_url,
                                      .on_refused = on_refused,
                                      .context = self };
    rc = jobs_new(&self->jobs, &jobs);
    rc = rc ? rc : waits_new(&self->waits, self->reactor, self->jobs->lookups);
    rc = rc ? rc : server_open(self, port);
    if (rc == 0) {
        reactor_on_stop(self->reactor, on_signal, self);
        timer_in_ms(self->opening, LIMIT_GATEWAY_OPEN_MS);
        *out = self;
        self = NULL;
    }
    return rc;
}

void
gate_destroy(struct gate **self_p)
{
    struct gate *self = *self_p;
    if (self == NULL) {
        return;
    }
    /* Who calls back goes first: pictures being read, clients, answers of Redis. */
    timer_destroy(&self->opening);
    helper_thread_destroy(&self->helper);
    http_server_destroy(&self->http);
    if (self->jobs != NULL) {
        jobs_stop(self->jobs);
    }
    redis_client_destroy(&self->redis);
    waits_destroy(&self->waits);
    jobs_destroy(&self->jobs);
    record_unpacker_destroy(&self->unpacker);
    if (self->stop_event != NULL) {
        event_free(self->stop_event);
    }
    if (self->stop_fd >= 0) {
        (void)close(self->stop_fd);
    }
    reactor_destroy(&self->reactor);
    free(self);
    *self_p = NULL;
}

int
gate_run(struct gate *self)
{
    return reactor_run(self->reactor);
}
