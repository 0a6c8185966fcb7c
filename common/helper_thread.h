#pragma once
/*
 * helper_thread — one thread a process for what can block: files, picture checks and encoding,
 * NVML.
 *
 * Work is done in the order given. At most LIMIT_HELPER_QUEUE pieces wait.
 */
#include "common/reactor.h"

struct helper_thread;

int helper_thread_new(struct helper_thread **out, struct reactor *reactor); /* 0, -ENOMEM, -errno */
/* Waits for the piece being worked on; pieces not begun are dropped: their `done` is still called,
 * with the work not run. */
void helper_thread_destroy(struct helper_thread **self_p);
/* Runs work(context) on the helper thread, then done(context) on the reactor. `work` touches
 * nothing but its context. -EAGAIN: too much waits already, nothing was taken. */
int helper_thread_run(struct helper_thread *self, reactor_fn work, reactor_fn done, void *context);
