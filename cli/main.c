/* drawbar — the command line: a fleet on this machine (up), and a client of the HTTP API (the
 * rest).
 *
 * What the commands are: the table below. Talking to a server: server.h, following a job: follow.h.
 * `up`: which processes and how, plan.h; keeping them alive, crew.h; their directory, home.h. */
#include "cli/commands.h"
#include "cli/terminal.h"
#include "common/config_help.h"
#include "common/log.h"
#include "common/reactor.h"
#include "common/scope.h"
#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
};

static int
command_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    printf("drawbar %s\n", DRAWBAR_VERSION);
    return EXIT_DONE;
}

static const struct command commands[] = {
    { "up", command_up, "run Redis, broker, gateway and workers on this machine" },
    { "submit", command_submit, "ask for a picture, follow the job, save the picture" },
    { "status", command_status, "tell how a job stands" },
    { "wait", command_wait, "follow a job until it ends; -o FILE saves the picture" },
    { "cancel", command_cancel, "cancel a job, queued or running" },
    { "workers", command_workers, "list the workers and their instances" },
    { "drain", command_drain, "let workers finish what they draw, take nothing new, and leave" },
    { "version", command_version, "print the version" },
};

static void
help_print(FILE *file)
{
    (void)fputs("Drawbar turns \"draw me this\" into a picture on whichever GPU is free first.\n\n"
                "Usage: drawbar COMMAND [OPTIONS]\n\nCommands:\n",
                file);
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++) {
        (void)fprintf(file, "  %-9s %s\n", commands[i].name, commands[i].summary);
    }
    (void)fputs("\nBegin with two terminals:\n"
                "  drawbar up\n"
                "  drawbar submit \"a red fox in the snow\" -o fox.png\n\n"
                "The server is http://127.0.0.1:8080 unless --server or DRAWBAR_SERVER says "
                "otherwise.\n"
                "drawbar COMMAND --help lists the options of a command.\n\n"
                "Exit status:\n"
                "  0  success\n"
                "  1  the job failed, expired or was cancelled\n"
                "  2  wrong usage\n"
                "  3  refused by the server (bad request, unknown job, full queue, away)\n"
                "  4  not finished within --timeout; the job goes on\n"
                "  5  no server answers at the address\n",
                file);
}

static const struct command *
command_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static int
unknown_command(const char *name)
{
    const char *best = NULL;
    uint32_t best_distance = strlen(name) < 4 ? 2 : 4;
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++) {
        uint32_t distance = config_help_distance(name, commands[i].name, best_distance);
        if (distance < best_distance) {
            best_distance = distance;
            best = commands[i].name;
        }
    }
    (void)fprintf(stderr, "drawbar: there is no command \"%s\"; ", name);
    if (best != NULL) {
        (void)fprintf(stderr, "did you mean drawbar %s?\n", best);
    } else {
        (void)fputs("see drawbar --help\n", stderr);
    }
    return EXIT_USAGE;
}

int
main(int argc, char **argv)
{
    process_setup();
    terminal_setup();
    log_setup("drawbar", false, LOG_ERROR);
    const char *name = argc > 1 ? argv[1] : "";
    if (argc < 2) {
        help_print(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        const struct command *topic = argc > 2 ? command_find(argv[2]) : NULL;
        if (topic != NULL && topic->run != command_version) {
            char *words[] = { argv[2], "--help", NULL };
            return topic->run(2, words);
        }
        help_print(stdout);
        return EXIT_DONE;
    }
    if (strcmp(name, "--version") == 0) {
        return command_version(0, NULL);
    }
    const struct command *command = command_find(name);
    return command != NULL ? command->run(argc - 1, argv + 1) : unknown_command(name);
}
