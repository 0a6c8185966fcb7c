#include "common/redis_adapter.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>

struct adapter {
    redisAsyncContext *connection;
    struct event *read;
    struct event *write;
};

static void
on_readable(evutil_socket_t fd, short what, void *context)
{
    struct adapter *self = context;
    (void)fd;
    (void)what;
    redisAsyncHandleRead(self->connection);
}

static void
on_writable(evutil_socket_t fd, short what, void *context)
{
    struct adapter *self = context;
    (void)fd;
    (void)what;
    redisAsyncHandleWrite(self->connection);
}

static void
adapter_add_read(void *context)
{
    event_add(((struct adapter *)context)->read, NULL);
}

static void
adapter_del_read(void *context)
{
    event_del(((struct adapter *)context)->read);
}

static void
adapter_add_write(void *context)
{
    event_add(((struct adapter *)context)->write, NULL);
}

static void
adapter_del_write(void *context)
{
    event_del(((struct adapter *)context)->write);
}

static void
adapter_free(void *context)
{
    struct adapter *self = context;
    if (self->read != NULL) {
        event_free(self->read);
    }
    if (self->write != NULL) {
        event_free(self->write);
    }
    free(self);
}

int
redis_adapter_attach(struct event_base *base, redisAsyncContext *connection)
{
    struct adapter *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    int fd = connection->c.fd;
    self->connection = connection;
    self->read = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, self);
    self->write = event_new(base, fd, EV_WRITE, on_writable, self);
    if (self->read == NULL || self->write == NULL) {
        adapter_free(self);
        return -ENOMEM;
    }
    connection->ev.data = self;
    connection->ev.addRead = adapter_add_read;
    connection->ev.delRead = adapter_del_read;
    connection->ev.addWrite = adapter_add_write;
    connection->ev.delWrite = adapter_del_write;
    connection->ev.cleanup = adapter_free;
    event_add(self->write, NULL); /* writable: connected, or refused */
    return 0;
}

void
redis_adapter_tune(const redisAsyncContext *connection, int over_tcp)
{
    int on = 1;
    fcntl(connection->c.fd, F_SETFD, FD_CLOEXEC); /* no child shall inherit it */
    if (over_tcp) {
        setsockopt(connection->c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(connection->c.fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    }
}
