#pragma once
/*
 * procfs — who lives on this host, read from /proc.
 *
 * A family is a started instance and all that descends from it. Its members are found by the
 * leader's process group and session, and by a random word that every one of them inherits in its
 * environment, so that a descendant that left the group, or outlived the leader, is found as well.
 * Nothing here allocates or locks: it works in a child forked from a program with threads.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { FAMILY_TOKEN = 32, PROCESS_NAME = 32 };
#define FAMILY_VARIABLE "DRAWBAR_INSTANCE_TOKEN" /* the word's name in the environment */

struct family {
    pid_t leader;                 /* its process group and session have the same number */
    uint64_t start;               /* of the leader, in ticks since boot: pids are used again */
    char token[FAMILY_TOKEN + 1]; /* hex digits */
};

/* What tells whose a process is. */
struct process_identity {
    pid_t pid, parent, group, session; /* all but pid 0: we may not see it */
    char name[PROCESS_NAME];           /* "" as well */
    char token[FAMILY_TOKEN + 1];      /* of the family that it was born into; "" none */
};

/* When the process started, in ticks since boot; 0: there is none of this pid. */
uint64_t process_start(pid_t pid);
/* Sends `number` (0: only counts) to every living member. Returns how many there were; zombies are
 * not counted. A pid used again by somebody else is never touched. */
uint32_t family_signal(const struct family *family, int number);
/* Reads *out anew. Can block while the process's memory is being taken down: not for a loop. */
void process_identify(struct process_identity *out, pid_t pid);
/* Both as they were when the process was identified and the leader not yet reaped. */
bool family_has(const struct family *family, const struct process_identity *process);
/* It, or one of its next ancestors, holds the socket with this inode open. Can block. */
bool process_serves(const struct process_identity *process, uint64_t inode);
/* The pid of a process that holds the socket with this inode open, or 0: none that we may see. */
pid_t process_of_socket(uint64_t inode, char *name, uint32_t size);
