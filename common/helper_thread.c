#include "common/helper_thread.h"
#include "common/limits.h"
#include "common/thread.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct piece {
    reactor_fn work, done;
    void *context;
};

/* Two rings of the same size: a piece is in one of them or in the thread's hands, and n_taken
 * counts them all, so neither can overflow. */
struct ring {
    struct piece pieces[LIMIT_HELPER_QUEUE];
    uint32_t head, count;
};

struct helper_thread {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct ring waiting, finished; /* under the lock */
    bool stopping;                 /* under the lock */
    uint32_t n_taken;              /* the reactor's: given and not yet done */
    int finished_fd;               /* eventfd: something is in finished */
    struct event *finished_event;
};

static void
ring_put(struct ring *ring, struct piece piece)
{
    ring->pieces[(ring->head + ring->count++) % LIMIT_HELPER_QUEUE] = piece;
}

static struct piece
ring_take(struct ring *ring)
{
    struct piece piece = ring->pieces[ring->head];
    ring->head = (ring->head + 1) % LIMIT_HELPER_QUEUE;
    ring->count--;
    return piece;
}

static void *
thread_main(void *context)
{
    struct helper_thread *self = context;
    const uint64_t one = 1;
    pthread_mutex_lock(&self->lock);
    for (;;) {
        while (self->waiting.count == 0 && !self->stopping) {
            pthread_cond_wait(&self->wake, &self->lock);
        }
        if (self->stopping) {
            break;
        }
        struct piece piece = ring_take(&self->waiting);
        pthread_mutex_unlock(&self->lock);
        piece.work(piece.context);
        pthread_mutex_lock(&self->lock);
        ring_put(&self->finished, piece);
        (void)!write(self->finished_fd, &one, sizeof one); /* full only if already readable */
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

/* Calls `done` for what is in `ring` now. What comes meanwhile waits for the next turn of the loop,
 * so that pieces that give further pieces never keep the reactor. */
static void
finish(struct helper_thread *self, struct ring *ring)
{
    pthread_mutex_lock(&self->lock);
    uint32_t count = ring->count;
    pthread_mutex_unlock(&self->lock);
    for (uint32_t i = 0; i < count; i++) {
        pthread_mutex_lock(&self->lock);
        struct piece piece = ring_take(ring);
        pthread_mutex_unlock(&self->lock);
        self->n_taken--;
        piece.done(piece.context);
    }
}

static void
on_finished(evutil_socket_t fd, short what, void *context)
{
    (void)what;
    struct helper_thread *self = context;
    uint64_t count = 0;
    (void)!read((int)fd, &count, sizeof count); /* before looking: a later piece writes again */
    finish(self, &self->finished);
}

int
helper_thread_run(struct helper_thread *self, reactor_fn work, reactor_fn done, void *context)
{
    if (self->n_taken == LIMIT_HELPER_QUEUE || self->stopping) {
        return -EAGAIN;
    }
    self->n_taken++;
    pthread_mutex_lock(&self->lock);
    ring_put(&self->waiting, (struct piece){ work, done, context });
    pthread_cond_signal(&self->wake);
    pthread_mutex_unlock(&self->lock);
    return 0;
}

int
helper_thread_new(struct helper_thread **out, struct reactor *reactor)
{
    struct helper_thread *self = calloc(1, sizeof *self);
    int rc = -ENOMEM;
    if (self == NULL) {
        return rc;
    }
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->wake, NULL);
    self->finished_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (self->finished_fd < 0) {
        rc = -errno;
        goto fail;
    }
    self->finished_event = event_new(reactor_base(reactor), self->finished_fd, EV_READ | EV_PERSIST,
                                     on_finished, self);
    if (self->finished_event == NULL || event_add(self->finished_event, NULL) != 0) {
        goto fail;
    }
    rc = thread_start(&self->thread, thread_main, self);
    if (rc != 0) {
        goto fail;
    }
    *out = self;
    return 0;
fail:
    if (self->finished_event != NULL) {
        event_free(self->finished_event);
    }
    if (self->finished_fd >= 0) {
        close(self->finished_fd);
    }
    pthread_cond_destroy(&self->wake);
    pthread_mutex_destroy(&self->lock);
    free(self);
    return rc;
}

void
helper_thread_destroy(struct helper_thread **self_p)
{
    struct helper_thread *self = *self_p;
    if (self == NULL) {
        return;
    }
    pthread_mutex_lock(&self->lock);
    self->stopping = true;
    pthread_cond_signal(&self->wake);
    pthread_mutex_unlock(&self->lock);
    pthread_join(self->thread, NULL);
    finish(self, &self->finished);
    finish(self, &self->waiting);
    event_free(self->finished_event);
    close(self->finished_fd);
    pthread_cond_destroy(&self->wake);
    pthread_mutex_destroy(&self->lock);
    free(self);
    *self_p = NULL;
}
