#pragma once
/*
 * client — what the commands that talk to a server share: options, the server, the way to tell what
 * went wrong.
 */
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/server.h"
#include "common/config.h"

struct client_command {
    const char *name; /* "drawbar submit" */
    const char *summary;
    const char *positional;       /* for --help; exactly one is required. NULL: none is taken */
    bool several;                 /* one or more are taken: client.arguments */
    const struct option *options; /* its own, besides those of every client */
    size_t n_options;
};

struct client {
    const char *name;             /* of the command */
    const char *argument;         /* the positional one, or the first */
    struct string_list arguments; /* all of them */
    bool json;
    int64_t timeout_s;       /* 0: none */
    int64_t deadline_ms;     /* clock_mono_ms(); 0: none */
    bool answers_interrupts; /* Ctrl-C ends what is under way with -EINTR, and the time-out holds */
    struct config *config;
    struct server *server;
    struct progress progress; /* on standard error */
};

/* Reads options, connects to nothing yet. 0, or the exit status to leave with in *status and an rc.
 */
int client_open(struct client *self, const struct client_command *command, int argc, char **argv,
                int *status);
void client_close(struct client *self);
/* Asks. 0: the answer is a success (2xx). Otherwise what is wrong is printed, and the exit status
 * is returned; -EINTR and -ETIME (Ctrl-C, --timeout) are passed on for the caller to explain. */
int client_ask(struct client *self, const struct question *question, struct answer *answer);
/* Tells a refusal as the server put it, field by field. Returns EXIT_REFUSED. */
int client_refused(struct client *self, const struct answer *answer);
/* Tells that no server answers. Returns EXIT_AWAY. */
int client_away(struct client *self, const char *trouble);
/* Prints `NAME: ...` to standard error. Returns `status`. */
int client_say(struct client *self, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Asks for a job and reads it; `path` as in "/v1/jobs/ID". As client_ask(). */
int client_ask_job(struct client *self, const struct question *question, struct answer *answer,
                   struct job *job);
/* Writes "/v1/jobs/ID" + rest. 0; EXIT_USAGE (told) if the argument is no job id. */
int client_job_path(struct client *self, const char *id, const char *rest, char out[LIMIT_URL]);
