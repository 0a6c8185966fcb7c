#include "gateway/artifacts.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/scope.h"
#include "common/thread.h"
#include "gateway/picture_dir.h"
#include "gateway/sweep.h"
#include "gateway/uploads.h"
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What other threads ask of ours: one datagram each, so that nothing is shared and nothing locked.
 */
enum order_kind { ORDER_KEYS, ORDER_DRAIN, ORDER_STOP, ORDER_KIND_COUNT };

struct order {
    enum order_kind kind;
    struct upload_keys keys; /* ORDER_KEYS */
    int64_t limit_ms;        /* ORDER_DRAIN; answered by one byte */
};

enum { DRAIN_MARGIN_MS = 1000 }; /* the thread may be writing a file when the order comes */

struct artifacts {
    struct picture_dir *dir;
    struct reactor *reactor; /* our thread's */
    struct uploads *uploads;
    struct sweep *sweep;
    struct timer *look;
    struct event *on_order;
    int orders[2]; /* theirs, ours */
    pthread_t thread;
    bool running;
    uint16_t port;
    uint32_t free_mib_min;
    atomic_bool full; /* written by our thread, read by all */
};

/* -- our thread -- */

static void
on_look(void *context)
{
    struct artifacts *self = context;
    bool full = picture_dir_is_full(self->dir, self->free_mib_min);
    bool was_full = atomic_exchange(&self->full, full);
    if (full && !was_full) {
        log_error("store-full cure=\"free space on the disk of the pictures\"");
    } else if (!full && was_full) {
        log_info("store-has-space-again");
    }
}

static void
on_drained(void *context)
{
    struct artifacts *self = context;
    (void)send(self->orders[1], "", 1, MSG_NOSIGNAL);
}

static void
obey(struct artifacts *self, const struct order *order)
{
    switch (order->kind) {
    case ORDER_KEYS:
        uploads_set_keys(self->uploads, &order->keys);
        return;
    case ORDER_DRAIN:
        uploads_drain(self->uploads, order->limit_ms, on_drained, self);
        return;
    case ORDER_STOP:
        reactor_stop(self->reactor, 0);
        return;
    case ORDER_KIND_COUNT:
        break;
    }
    assert(false);
}

static void
on_order(evutil_socket_t fd, short what, void *context)
{
    struct artifacts *self = context;
    struct order order;
    (void)what;
    while (recv(fd, &order, sizeof order, MSG_DONTWAIT) == (ssize_t)sizeof order) {
        obey(self, &order);
    }
    sodium_memzero(&order, sizeof order);
}

static void *
thread_main(void *context)
{
    struct artifacts *self = context;
    reactor_run(self->reactor);
    return NULL;
}

/* -- making and ending -- */

static int
uploads_start(struct artifacts *self)
{
    int rc = thread_start(&self->thread, thread_main, self);
    self->running = rc == 0;
    if (self->running) {
        pthread_setname_np(self->thread, "uploads");
    }
    return rc;
}

static int
listen_for_uploads(struct artifacts *self, const struct artifacts_config *config)
{
    const struct uploads_config uploads = {
        .host = config->host,
        .port = config->port,
        .max_parallel = config->max_parallel,
        .dir = self->dir,
        .full = &self->full,
    };
    int rc = uploads_new(&self->uploads, self->reactor, &uploads);
    if (rc != 0) {
        log_error("uploads-listen-failed host=%s port=%u error=\"%s\" "
                  "cure=\"give --uploads an address of this host and a free port\"",
                  config->host, (unsigned)config->port, strerror(-rc));
        return rc;
    }
    self->port = uploads_port(self->uploads);
    return 0;
}

static int
take_orders(struct artifacts *self)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, self->orders) != 0) {
        return -errno;
    }
    self->on_order = event_new(reactor_base(self->reactor), self->orders[1], EV_READ | EV_PERSIST,
                               on_order, self);
    return self->on_order == NULL || event_add(self->on_order, NULL) != 0 ? -ENOMEM : 0;
}

int
artifacts_open(struct artifacts **out, const struct artifacts_config *config)
{
    if (sodium_init() < 0) {
        return -EIO;
    }
    CLEANUP(artifacts_destroy) struct artifacts *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->orders[0] = self->orders[1] = -1;
    self->free_mib_min = config->free_mib_min == 0 ? LIMIT_STORE_FREE_MIB : config->free_mib_min;
    const struct sweep_config sweep = {
        .redis_url = config->redis_url,
        .period_ms = config->sweep_ms,
        .grace_s = config->grace_s,
    };
    int rc = picture_dir_open(&self->dir, config->dir);
    rc = rc ? rc : reactor_new(&self->reactor, false);
    rc = rc ? rc : take_orders(self);
    rc = rc ? rc : timer_new(&self->look, self->reactor, on_look, self);
    rc = rc ? rc : listen_for_uploads(self, config);
    rc = rc ? rc : sweep_new(&self->sweep, self->reactor, self->dir, &sweep);
    if (rc != 0) {
        return rc;
    }
    on_look(self); /* before anybody asks */
    timer_every_ms(self->look, LIMIT_STORE_LOOK_MS);
    rc = uploads_start(self);
    if (rc != 0) {
        log_error("uploads-thread-failed error=\"%s\"", strerror(-rc));
        return rc;
    }
    *out = self;
    self = NULL;
    return 0;
}

static bool
give_order(struct artifacts *self, const struct order *order)
{
    /* Blocks if some thousand orders wait: nobody gives that many. */
    ssize_t n = -1;
    do {
        n = send(self->orders[0], order, sizeof *order, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof *order) {
        log_error("uploads-order-failed error=\"%s\"", strerror(errno));
        return false;
    }
    return true;
}

static void
fd_close(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void
artifacts_destroy(struct artifacts **self_p)
{
    struct artifacts *self = *self_p;
    if (self == NULL) {
        return;
    }
    if (self->running && give_order(self, &(struct order){ .kind = ORDER_STOP })) {
        pthread_join(self->thread, NULL);
    }
    sweep_destroy(&self->sweep);
    uploads_destroy(&self->uploads);
    timer_destroy(&self->look);
    if (self->on_order != NULL) {
        event_free(self->on_order);
    }
    fd_close(self->orders[0]);
    fd_close(self->orders[1]);
    reactor_destroy(&self->reactor);
    picture_dir_destroy(&self->dir);
    free(self);
    *self_p = NULL;
}

void
artifacts_drain(struct artifacts *self, int64_t limit_ms)
{
    const struct order order = { .kind = ORDER_DRAIN, .limit_ms = limit_ms };
    if (!give_order(self, &order)) {
        return;
    }
    int64_t end_ms = clock_mono_ms() + limit_ms + DRAIN_MARGIN_MS;
    struct pollfd answer = { .fd = self->orders[0], .events = POLLIN };
    int n = 0;
    do {
        int64_t left_ms = end_ms - clock_mono_ms();
        n = poll(&answer, 1, left_ms < 0 ? 0 : (int)left_ms);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        log_warn("uploads-drain-late limit_ms=%lld", (long long)limit_ms);
    }
}

/* -- what others ask -- */

uint16_t
artifacts_port(const struct artifacts *self)
{
    return self->port;
}

const char *
artifacts_store_id(const struct artifacts *self)
{
    return picture_dir_id(self->dir);
}

bool
artifacts_full(const struct artifacts *self)
{
    return atomic_load(&self->full);
}

void
artifacts_set_keys(struct artifacts *self, const uint8_t keys[][GRANT_KEY_BYTES], uint32_t n,
                   int64_t redis_minus_mono_ms)
{
    assert(n >= 1 && n <= UPLOAD_KEYS);
    struct order order = {
        .kind = ORDER_KEYS,
        .keys = { .count = n, .redis_minus_mono_ms = redis_minus_mono_ms },
    };
    memcpy(order.keys.keys, keys, (size_t)n * GRANT_KEY_BYTES);
    give_order(self, &order);
    sodium_memzero(&order, sizeof order);
}

/* -- downloads -- */

struct reading {
    const struct picture_dir *dir;
    struct picture_name name;
    artifact_read_fn done;
    void *context;
    int rc;
    void *bytes;
    size_t length;
};

static void
read_work(void *context)
{
    struct reading *reading = context;
    reading->rc = picture_dir_get(reading->dir, &reading->name, &reading->bytes, &reading->length);
}

static void
read_done(void *context)
{
    struct reading *reading = context;
    reading->done(reading->context, reading->rc, reading->bytes, reading->length);
    free(reading);
}

void
// NOLINTNEXTLINE(readability-function-size): what, where it is read, and who is told
artifacts_read(struct artifacts *self, struct helper_thread *helper, const struct lease *lease,
               uint8_t index, artifact_read_fn done, void *context)
{
    struct reading *reading = calloc(1, sizeof *reading);
    if (reading == NULL) {
        done(context, -EAGAIN, NULL, 0);
        return;
    }
    *reading = (struct reading){
        .dir = self->dir,
        .name = { .lease = *lease, .index = index },
        .done = done,
        .context = context,
        .rc = -EAGAIN, /* stays so if the helper thread ends before the work was begun */
    };
    if (helper_thread_run(helper, read_work, read_done, reading) != 0) {
        read_done(reading);
    }
}
