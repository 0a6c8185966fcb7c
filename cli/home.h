#pragma once
/*
 * home — the directory of one `drawbar up`: what it keeps, and that nobody else uses it meanwhile.
 *
 *     lock             held while we run; says by whom
 *     redis/           redis.conf, the append-only file: the queue
 *     redis-password   made at the first --listen, kept
 *     pictures/        the artifact store
 *     workers/NAME/    logs and pids of instances
 *     log/NAME.log     of each child; NAME.log.1 is the one of the run before
 *     run/             ready files, the socket of Redis
 */
#include <stddef.h>
#include <stdint.h>

enum { HOME_PATH = 4096, HOME_PASSWORD = 48 };

struct home; /* opaque; holds the lock */

/* Makes what is missing. `directory` NULL: $XDG_DATA_HOME/drawbar, or ~/.local/share/drawbar.
 * 0; -EBUSY: another `drawbar up` has it; or another -errno. All told on standard error. */
int home_open(struct home **out, const char *directory);
void home_close(struct home **self_p);
const char *home_directory(const struct home *self); /* absolute */
/* Writes into the lock who answers where, for the next one to read. */
void home_announce(struct home *self, const char *address);
/* A path below the directory. Aborts if it does not fit: home_open() saw to that. */
void home_path(const struct home *self, char out[HOME_PATH], const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts the log of the last run aside. */
void home_log_rotate(const struct home *self, const char *name);
/* The kept password, made if there is none. 0 or -errno, told. */
int home_password(const struct home *self, char out[HOME_PASSWORD]);
