#pragma once
/*
 * child — one process that never outlives this one, nor does what it starts.
 *
 * Four nets, because each alone has a hole:
 *   - PR_SET_PDEATHSIG kills the child when the thread that forked it ends, by kill -9 too; it
 * misses what the child started itself.
 *   - A guardian, forked beside each child, holds the reading end of a pipe whose other end only we
 *     hold. When we are gone it kills the child's family (procfs.h) and leaves.
 *   - The child's pid, start time and token are written to a record before it runs;
 * children_clean() of the next start kills what a record still finds (a guardian can be killed as
 * well).
 *   - We are the subreaper: orphans of the family become ours, so an end is seen to the end.
 *
 *     child_start --> RUNS --leader exits--> EXITED --child_kill until child_gone--> child_destroy
 *
 * The leader stays a zombie until child_destroy, so that its pid keeps naming its group.
 */
#include "worker/procfs.h"
#include <stddef.h>

struct child; /* opaque */

struct child_spec {
    const char *command;     /* run by /bin/sh -c in its own session; stdin is /dev/null */
    const char *record_path; /* where its pid is written; removed when it is gone */
    const char *log_path;    /* stdout and stderr are appended */
    uint16_t port;           /* for the record */
    /* "NAME=value", the last NULL, instead of what our environment has; NULL: none */
    char *const *variables;
};

/* Makes this process the subreaper of all that its children leave behind. 0 or -errno. */
int children_adopt(void);
/* Kills what the records ("0.child", "1.child" ...) in the directory name and still lives, waits
 * until it is gone and removes the records. Blocks, for some milliseconds as a rule, LIMIT_CLEAN_MS
 * at most. 0, or -EBUSY: something cannot be killed (logged). */
int children_clean(const char *directory);

/* Starts the command. 0, or -errno. Must be called on the thread that lives as long as the process.
 */
int child_start(struct child **out, const struct child_spec *spec);
pid_t child_pid(const struct child *self);
const struct family *child_family(const struct child *self);
/* True once the leader has exited; *status as of wait(2). */
bool child_exited(struct child *self, int *status);
/* To be told of each pid that waitpid(-1) gave. True if it was one of this child's own. */
bool child_reaped(struct child *self, pid_t pid, int status);
/* SIGTERM to the whole group. */
void child_terminate(struct child *self);
/* SIGKILL to the whole family. */
void child_kill(struct child *self);
/* True when the leader has exited and nobody of the family lives. */
bool child_gone(struct child *self);
/* Frees *self_p. A child that is not gone is killed by its guardian; its record stays. */
void child_destroy(struct child **self_p);

/* How a process ended, for people: "exit code 3", "signal 9 (Killed)". */
const char *exit_text(int status, char *out, size_t size);
