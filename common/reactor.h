#pragma once
/*
 * reactor — one libevent base a thread, with the two signals that end a process.
 *
 * Everything a process does happens in callbacks of its reactor; none may wait. SIGTERM and SIGINT
 * ask for an orderly stop (on_stop is called once; a second signal ends the loop at once). SIGPIPE
 * is ignored. Only the main thread's reactor takes signals.
 * All functions belong to the reactor's own thread.
 */
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

struct reactor;

typedef void (*reactor_fn)(void *context);

/* First lines of every main: keeps czmq from taking SIGTERM away from libevent, ignores SIGPIPE. */
void process_setup(void);

/* 0, or -ENOMEM. `with_signals`: this is the main thread's. */
int reactor_new(struct reactor **out, bool with_signals);
void reactor_destroy(struct reactor **self_p);
struct event_base *reactor_base(struct reactor *self);
/* Called in the loop at the first SIGTERM or SIGINT. */
void reactor_on_stop(struct reactor *self, reactor_fn on_stop, void *context);
/* Turns until reactor_stop(). Returns the rc given there. */
int reactor_run(struct reactor *self);
/* Ends the loop after the current callbacks; the first rc given wins. */
void reactor_stop(struct reactor *self, int rc);

/* timer — calls fn once after a delay, or each period. Re-arming replaces the earlier time. Never
 * early by clock_mono_ms(). Timers and kicks may be destroyed inside their own fn. */
struct timer;
int timer_new(struct timer **out, struct reactor *reactor, reactor_fn fn, void *context);
void timer_destroy(struct timer **self_p);
void timer_in_ms(struct timer *self, int64_t delay_ms); /* < 0 counts as 0 */
void timer_every_ms(struct timer *self, int64_t period_ms);
void timer_stop(struct timer *self);

/* kick — "once, later in this turn of the loop": kicks before it ran count as one. A kick given
 * inside its own fn runs in the next turn, after the sockets were looked at: so work can be cut
 * into slices without starving anybody. */
struct kick;
int kick_new(struct kick **out, struct reactor *reactor, reactor_fn fn, void *context);
void kick_destroy(struct kick **self_p);
void kick_now(struct kick *self);

/* Prints `ready role=ROLE ` and the formatted key=address pairs as one line on standard output and,
 * if ready_file is not NULL, writes it there (by rename, so that it is never half there). 0 or
 * -errno of the file, which is logged. */
int ready_print(const char *ready_file, const char *role, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* True if `host` is a loopback address or a Unix socket path: what may be bound or reached in plain
 * text without --insecure-plaintext. */
bool host_is_loopback(const char *host);
