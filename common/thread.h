#pragma once
/*
 * thread — starts a thread beside the main one, which alone gets the process's signals.
 */
#include <pthread.h>

/* All signals are blocked in it. 0, or -errno and *out is not set. */
int thread_start(pthread_t *out, void *(*run)(void *context), void *context);
