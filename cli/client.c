#include "cli/client.h"
#include "cli/arguments.h"
#include "cli/interrupt.h"
#include "common/clock.h"
#include "common/scope.h"
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPTIONS_MAX = 32, TIMEOUT_MAX_S = 7 * 86400 };

static int
on_tick(void *context)
{
    struct client *self = context;
    progress_tick(&self->progress);
    if (!self->answers_interrupts) {
        return 0;
    }
    if (interrupt_came()) {
        return -EINTR;
    }
    return self->deadline_ms != 0 && clock_mono_ms() >= self->deadline_ms ? -ETIME : 0;
}

int
client_say(struct client *self, int status, const char *format, ...)
{
    va_list arguments;
    progress_clear(&self->progress);
    (void)fprintf(stderr, "%s: ", self->name);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
    return status;
}

static int
options_read(struct client *self, const struct client_command *command, int argc, char **argv,
             const char **address)
{
    struct option options[OPTIONS_MAX];
    struct config_common common;
    struct string_list *positionals = &self->arguments;
    const struct option shared[] = {
        { "server", OPTION_STRING, address, "URL", "The server to ask.", 0, 0, false },
        { "timeout", OPTION_INT, &self->timeout_s, "S",
          "Give up waiting after so many seconds; 0: never.", 0, TIMEOUT_MAX_S, false },
        { "json", OPTION_BOOL, &self->json, NULL,
          "Print the server's JSON instead of lines for people.", 0, 0, false },
    };
    if (command->n_options > 0) {
        memcpy(options, command->options, command->n_options * sizeof *options);
    }
    memcpy(options + command->n_options, shared, sizeof shared);
    const struct program program = { .name = command->name,
                                     .role = "client",
                                     .summary = command->summary,
                                     .options = options,
                                     .n_options = command->n_options + ARRAY_LENGTH(shared),
                                     .positional = command->positional,
                                     .positionals = positionals };
    char **words = arguments_long(argc, argv);
    int rc = config_load(&self->config, &common, &program, argc, words);
    free(words);
    if (rc != 0 || command->positional == NULL) {
        return rc;
    }
    bool more = positionals->count > 1 && !command->several;
    if (more || positionals->count == 0 || positionals->items[0][0] == '\0') {
        (void)fprintf(stderr,
                      more ? "%s: more than one %s; put it in quotes\n"
                           : "%s: %s is missing; see --help\n",
                      command->name, command->positional);
        return -EINVAL;
    }
    self->argument = positionals->items[0];
    return 0;
}

int
client_open(struct client *self, const struct client_command *command, int argc, char **argv,
            int *status)
{
    const char *address = "http://127.0.0.1:8080";
    *self = (struct client){ .name = command->name };
    int rc = options_read(self, command, argc, argv, &address);
    *status = rc == CONFIG_EXIT ? EXIT_DONE : EXIT_USAGE;
    if (rc != 0) {
        return rc;
    }
    rc = server_new(&self->server, address);
    if (rc == -EINVAL) {
        *status = client_say(self, EXIT_USAGE,
                             "--server: \"%s\" is no address; write http://HOST:PORT", address);
        return rc;
    }
    if (rc != 0) {
        *status = EXIT_JOB;
        return rc;
    }
    progress_open(&self->progress, STDERR_FILENO, self->json && isatty(STDERR_FILENO) != 1);
    server_on_tick(self->server, on_tick, self);
    self->deadline_ms = self->timeout_s > 0 ? clock_mono_ms() + self->timeout_s * 1000 : 0;
    return 0;
}

void
client_close(struct client *self)
{
    progress_clear(&self->progress);
    server_destroy(&self->server);
    config_destroy(&self->config);
}

int
client_away(struct client *self, const char *trouble)
{
    return client_say(self, EXIT_AWAY,
                      "no server answers at %s (%s); start one with drawbar up, or name another "
                      "with --server URL",
                      server_address(self->server), trouble);
}

int
client_refused(struct client *self, const struct answer *answer)
{
    char text[1024];
    size_t i;
    json_t *item;
    json_t *problem = json_loadb(answer->body, answer->length, JSON_REJECT_DUPLICATES, NULL);
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    const json_t *errors = json_object_get(problem, "errors");
    bool utf8 = self->progress.terminal.utf8;
    if (detail == NULL) {
        (void)client_say(self, 0, "%s answered %d, and it is no Drawbar that speaks so",
                         server_address(self->server), answer->status);
    } else if (json_array_size(errors) > 0) {
        (void)client_say(self, 0, "the server refused the request:");
    } else {
        text_fit(text, sizeof text, detail, sizeof text, utf8);
        (void)client_say(self, 0, "the server refused: %s (%d)", text, answer->status);
    }
    json_array_foreach((json_t *)errors, i, item)
    {
        const char *field = json_string_value(json_object_get(item, "field"));
        const char *message = json_string_value(json_object_get(item, "message"));
        char line[1024];
        (void)snprintf(line, sizeof line, "%s%s%s", field != NULL ? field : "",
                       field != NULL && field[0] != '\0' ? " " : "",
                       message != NULL ? message : "");
        text_fit(text, sizeof text, line, sizeof text, utf8);
        (void)fprintf(stderr, "  %s\n", text);
    }
    json_int_t retry_s = json_integer_value(json_object_get(problem, "retry_after_s"));
    if (retry_s > 0) {
        (void)fprintf(stderr, "  try again in %lld s\n", (long long)retry_s);
    }
    json_decref(problem);
    return EXIT_REFUSED;
}

int
client_ask(struct client *self, const struct question *question, struct answer *answer)
{
    int rc = server_ask(self->server, question, answer);
    if (rc == -EINTR || rc == -ETIME) {
        return rc;
    }
    if (rc != 0) {
        return client_away(self, answer->trouble);
    }
    return answer->status >= 200 && answer->status < 300 ? 0 : client_refused(self, answer);
}

int
client_ask_job(struct client *self, const struct question *question, struct answer *answer,
               struct job *job)
{
    int rc = client_ask(self, question, answer);
    if (rc == 0 && job_read(job, answer->body, answer->length) != 0) {
        return client_say(self, EXIT_REFUSED,
                          "%s answered something that is no job; is it a Drawbar server?",
                          server_address(self->server));
    }
    return rc;
}

int
client_job_path(struct client *self, const char *id, const char *rest, char out[LIMIT_URL])
{
    struct job_id parsed;
    if (!job_id_parse(id, strlen(id), &parsed)) {
        return client_say(
            self, EXIT_USAGE,
            "\"%.64s\" is no job id; it has 26 letters and digits, as submit tells it", id);
    }
    (void)snprintf(out, LIMIT_URL, "/v1/jobs/%s%s", id, rest);
    return 0;
}
