#pragma once
/*
 * crew — processes that are kept alive, in an order.
 *
 *     crew_add ... --crew_start--> STARTING rank by rank --all ready--> UP --crew_stop--> STOPPING
 * --> over
 *
 * A member of a rank starts when all members of lower ranks are ready; they stop in the opposite
 * order. A member that ends while the crew is UP is started again after LIMIT_RESTART_MIN_MS,
 * doubling to LIMIT_RESTART_MAX_MS while it does not live for LIMIT_UP_STEADY_MS. One that ends, or
 * is not ready in time, while the crew is STARTING fails the start. One that may leave and ends
 * with exit status 0 while the crew is UP stays away.
 *
 * Each member is a session of its own, so that a Ctrl-C of the terminal reaches us alone and the
 * order holds; it is killed with us whatever happens to us (PR_SET_PDEATHSIG). What it writes goes
 * to its log.
 */
#include "common/reactor.h"
#include <sys/types.h>

enum { CREW_MAX = 24, CREW_NAME = 32, CREW_WORDS = 64 };

struct crew; /* opaque */

struct crew_member {
    char name[CREW_NAME];
    uint32_t rank;
    bool may_leave; /* with exit status 0 it has left for good: it was drained */
    /* Asked before each start: the command, NULL-terminated, of at most CREW_WORDS words that live
     * until the next call; words[0] is the path. */
    void (*command)(void *context, const char *words[CREW_WORDS]);
    void *context;
    char *const *environment; /* borrowed */
    const char *log_path;     /* borrowed */
    const char
        *ready_path; /* borrowed; it is ready when this file is there. NULL: crew_mark_ready */
};

struct crew_events {
    void (*on_up)(void *context);                    /* all are ready, for the first time */
    void (*on_ready)(void *context, uint32_t index); /* one is, each time it was started */
    void (*on_failed)(void *context, uint32_t index, const char *why); /* the start failed */
    void (*on_news)(void *context, const char *line); /* for people: one ended, is started again */
    void (*on_over)(void *context);                   /* crew_stop() is done: nobody lives */
    void (*on_guest)(void *context, int status);      /* the guest ended; as of wait(2) */
    void *context;
};

int crew_new(struct crew **out, struct reactor *reactor, const struct crew_events *events);
/* Kills whoever still lives. */
void crew_destroy(struct crew **self_p);
/* Copies *member; returns its index. At most CREW_MAX. */
uint32_t crew_add(struct crew *self, const struct crew_member *member);
void crew_start(struct crew *self);
/* A member without ready_path is ready. */
void crew_mark_ready(struct crew *self, uint32_t index);
/* Runs a command in our own session, with our own input and output, once. It is asked to end
 * (SIGTERM) when the crew stops, before all others. 0 or -errno. */
int crew_run_guest(struct crew *self, const char *const *words);
void crew_stop(struct crew *self);
/* The member that the start, or the stop, waits for; NULL: none. */
const char *crew_waits_for(const struct crew *self);
