#pragma once
/*
 * outcome — how the commands that follow a job end: its fate told, its picture saved, or a word on
 * what goes on without us.
 */
#include "cli/client.h"

/* The job has ended. `saves`: its pictures are wanted, at `wish` (picture_save). Returns the exit
 * status. */
int outcome_tell(struct client *client, const struct job *job, bool saves, const char *wish);
/* --timeout has passed. Returns EXIT_LATE. */
int outcome_late(struct client *client, const struct job *job);
/* Prints the server's JSON of a job to standard output. 0, or an exit status (told). */
int outcome_json(struct client *client, const struct job *job);
/* Asks the server to cancel; *job is what it is then. 0, or an exit status (told). */
int outcome_cancel(struct client *client, struct job *job);
