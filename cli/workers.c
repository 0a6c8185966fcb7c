/* workers — `drawbar workers`: the fleet as a table. */
#include "cli/client.h"
#include "common/scope.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { CELL = 96, N_COLUMNS = 7, ROWS_MAX = LIMIT_WORKERS };

struct row {
    char cells[N_COLUMNS][CELL];
    enum style style; /* of its state */
};

static const char *const heads[N_COLUMNS] = { "NAME",  "STATE", "INSTANCES", "RUNNING",
                                              "MODEL", "KIND",  "LAST BEAT" };

static const char *
word(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

/* "2 ready, 1 starting" */
static void
instances_count(char out[CELL], const json_t *instances)
{
    static const char *const states[] = { "ready", "busy", "starting", "down", "broken" };
    size_t used = 0;
    uint32_t told = 0;
    size_t k;
    json_t *instance;
    for (size_t i = 0; i < ARRAY_LENGTH(states); i++) {
        uint32_t n = 0;
        json_array_foreach((json_t *)instances, k, instance)
        {
            n += strcmp(word(instance, "state"), states[i]) == 0;
        }
        if (n > 0 && used < CELL) {
            used += (size_t)snprintf(out + used, CELL - used, "%s%u %s", used > 0 ? ", " : "", n,
                                     states[i]);
        }
        told += n;
    }
    size_t other = json_array_size(instances) - told;
    if (other > 0 && used < CELL) {
        (void)snprintf(out + used, CELL - used, "%s%zu other", used > 0 ? ", " : "", other);
    } else if (used == 0) {
        (void)snprintf(out, CELL, "none");
    }
}

static void
row_fill(struct row *row, const json_t *worker, bool utf8)
{
    const json_t *instances = json_object_get(worker, "instances");
    const json_t *first = json_array_get(instances, 0);
    const json_t *beat = json_object_get(worker, "last_beat_ms");
    const json_t *models = json_object_get(worker, "models");
    const char *model = json_string_value(json_array_get(models, 0));
    size_t k;
    json_t *instance;
    bool simulated = false;
    json_array_foreach((json_t *)instances, k, instance)
    {
        simulated = simulated || json_is_true(json_object_get(instance, "simulated"));
    }
    bool alive = strcmp(word(worker, "state"), "alive") == 0;
    bool draining = json_is_true(json_object_get(worker, "draining"));
    row->style = !alive ? STYLE_RED : draining ? STYLE_YELLOW : STYLE_GREEN;
    text_fit(row->cells[0], CELL, word(worker, "name"), LIMIT_WORKER_NAME, utf8);
    text_fit(row->cells[1], CELL, draining && alive ? "draining" : word(worker, "state"), 16, utf8);
    instances_count(row->cells[2], instances);
    (void)snprintf(row->cells[3], CELL, "%lld",
                   (long long)json_integer_value(json_object_get(worker, "running")));
    text_fit(row->cells[4], CELL, model != NULL ? model : "-", LIMIT_MODEL_NAME, utf8);
    text_fit(row->cells[5], CELL,
             simulated                          ? "simulated"
             : word(first, "device")[0] != '\0' ? word(first, "device")
                                                : "-",
             32, utf8);
    if (json_is_integer(beat)) {
        (void)snprintf(row->cells[6], CELL, "%.1f s ago", (double)json_integer_value(beat) / 1000);
    } else {
        (void)snprintf(row->cells[6], CELL, "none");
    }
}

static void
cell_print(const char *text, uint32_t width, bool last)
{
    printf("%s%*s", text, last ? 0 : (int)(width - text_width(text) + 2), "");
}

static void
table_print(const json_t *workers)
{
    static struct row rows[ROWS_MAX];
    uint32_t widths[N_COLUMNS];
    size_t n = 0;
    size_t i;
    json_t *worker;
    struct terminal terminal;
    terminal_look(&terminal, 1);
    for (size_t c = 0; c < N_COLUMNS; c++) {
        widths[c] = text_width(heads[c]);
    }
    json_array_foreach((json_t *)workers, i, worker)
    {
        if (n == ROWS_MAX) {
            break;
        }
        row_fill(&rows[n], worker, terminal.utf8);
        for (size_t c = 0; c < N_COLUMNS; c++) {
            uint32_t width = text_width(rows[n].cells[c]);
            widths[c] = width > widths[c] ? width : widths[c];
        }
        n++;
    }
    printf("%s", terminal_style(&terminal, STYLE_BOLD));
    for (size_t c = 0; c < N_COLUMNS; c++) {
        cell_print(heads[c], widths[c], c + 1 == N_COLUMNS);
    }
    printf("%s\n", terminal_style(&terminal, STYLE_PLAIN));
    for (size_t r = 0; r < n; r++) {
        for (size_t c = 0; c < N_COLUMNS; c++) {
            printf("%s", c == 1 ? terminal_style(&terminal, rows[r].style) : "");
            cell_print(rows[r].cells[c], widths[c], c + 1 == N_COLUMNS);
            printf("%s", c == 1 ? terminal_style(&terminal, STYLE_PLAIN) : "");
        }
        printf("\n");
    }
}

static int
run(struct client *client)
{
    struct answer answer = { 0 };
    const struct question question = { .method = "GET",
                                       .path = "/v1/workers",
                                       .limit_ms = LIMIT_ASK_MS };
    int rc = client_ask(client, &question, &answer);
    if (rc == 0 && client->json) {
        printf("%s\n", answer.body);
    } else if (rc == 0) {
        json_t *root = json_loadb(answer.body, answer.length, JSON_REJECT_DUPLICATES, NULL);
        const json_t *workers = json_object_get(root, "workers");
        if (!json_is_array(workers)) {
            rc = client_say(client, EXIT_REFUSED, "%s is no Drawbar server",
                            server_address(client->server));
        } else if (json_array_size(workers) == 0) {
            printf("No workers. Jobs wait until one starts: drawbar-worker --help\n");
        } else {
            table_print(workers);
        }
        json_decref(root);
    }
    answer_clear(&answer);
    return rc;
}

int
command_workers(int argc, char **argv)
{
    const struct client_command command = {
        .name = "drawbar workers",
        .summary =
            "Lists the workers, their instances, and when each was heard last." EXIT_STATUS_HELP,
    };
    struct client client;
    int status;
    if (client_open(&client, &command, argc, argv, &status) == 0) {
        status = run(&client);
    }
    client_close(&client);
    return status;
}
