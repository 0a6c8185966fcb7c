#pragma once
/*
 * commands — what `drawbar` can do: one function a command, and the exit statuses they share.
 *
 * Each command is called with its own name as argv[0] and returns the exit status.
 */
enum exit_status {
    EXIT_DONE = 0,
    EXIT_JOB = 1,     /* the job failed, expired or was cancelled; or something broke here */
    EXIT_USAGE = 2,   /* the command line is wrong */
    EXIT_REFUSED = 3, /* the server answered, and refused */
    EXIT_LATE = 4,    /* --timeout has passed; the job goes on */
    EXIT_AWAY = 5,    /* no server answers at this address */
};

/* For each command's --help. */
#define EXIT_STATUS_HELP                                                                           \
    "\nExit status: 0 success; 1 the job failed, expired or was cancelled; 2 wrong usage; "        \
    "3 refused by the server; 4 not finished within --timeout; 5 no server answers."

int command_up(int argc, char **argv);
int command_submit(int argc, char **argv);
int command_status(int argc, char **argv);
int command_wait(int argc, char **argv);
int command_cancel(int argc, char **argv);
int command_workers(int argc, char **argv);
int command_drain(int argc, char **argv);
