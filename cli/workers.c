/* workers — `drawbar workers`: the fleet as a table, which instances are not as they should be and
 * why, and the GPUs of those that have some. */
#include "cli/client.h"
#include "cli/table.h"
#include "common/scope.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum {
    CELL = TABLE_CELL,
    GPU_ROWS_MAX = 1024,
    TROUBLES_MAX = 64,
    LINE = 512,
    MINUTE_S = 60,
    HOUR_S = 3600,
    MIB_PER_GIB = 1024
};

static const char *const worker_heads[] = { "NAME",  "STATE", "INSTANCES", "RUNNING",
                                            "MODEL", "KIND",  "LAST BEAT" };
static const char *const gpu_heads[] = {
    "WORKER", "GPU", "NAME", "BUSY", "MEMORY", "TEMP", "POWER"
};

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
row_fill(struct table_row *row, const json_t *worker, bool utf8)
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
workers_print(const json_t *workers, const struct terminal *terminal)
{
    static struct table_row rows[LIMIT_WORKERS];
    struct table table = {
        .heads = worker_heads, .n_columns = ARRAY_LENGTH(worker_heads), .styled = 1, .rows = rows
    };
    size_t i;
    json_t *worker;
    json_array_foreach((json_t *)workers, i, worker)
    {
        if (table.n_rows < LIMIT_WORKERS) {
            row_fill(&rows[table.n_rows++], worker, terminal->utf8);
        }
    }
    table_print(&table, terminal);
}

/* -- instances that are not as they should be -- */

/* "12 s", "3 min", "5 h" */
static void
time_fill(char out[CELL], int64_t ms)
{
    int64_t seconds = ms / 1000;
    if (seconds < (int64_t)2 * MINUTE_S) {
        (void)snprintf(out, CELL, "%lld s", (long long)seconds);
    } else if (seconds < (int64_t)2 * HOUR_S) {
        (void)snprintf(out, CELL, "%lld min", (long long)(seconds / MINUTE_S));
    } else {
        (void)snprintf(out, CELL, "%lld h", (long long)(seconds / HOUR_S));
    }
}

/* "mia instance-0 is down for 12 s: waits for port 7861, held by nginx (pid 12)" */
static void
trouble_print(const char *worker, const json_t *instance, const struct terminal *terminal)
{
    char line[LINE];
    char shown[LINE];
    char since[CELL];
    time_fill(since, json_integer_value(json_object_get(instance, "state_ms")));
    (void)snprintf(line, sizeof line, "%.64s %.64s is %.16s for %s: %s", worker,
                   word(instance, "name"), word(instance, "state"), since,
                   word(instance, "reason"));
    text_fit(shown, sizeof shown, line, terminal->live ? terminal->columns : (uint32_t)sizeof shown,
             terminal->utf8);
    printf("%s%s%s\n", terminal_style(terminal, STYLE_YELLOW), shown,
           terminal_style(terminal, STYLE_PLAIN));
}

static void
troubles_print(const json_t *workers, const struct terminal *terminal)
{
    uint32_t n = 0;
    size_t i;
    size_t k;
    json_t *worker;
    json_t *instance;
    json_array_foreach((json_t *)workers, i, worker)
    {
        json_array_foreach(json_object_get(worker, "instances"), k, instance)
        {
            bool first = n == 0;
            if (word(instance, "reason")[0] == '\0' || n++ >= TROUBLES_MAX) {
                continue;
            }
            printf("%s", first ? "\n" : "");
            trouble_print(word(worker, "name"), instance, terminal);
        }
    }
    if (n > TROUBLES_MAX) {
        printf("and %u more: --json shows all\n", n - TROUBLES_MAX);
    }
}

/* -- GPUs; any figure may be missing -- */

static void
number_fill(char out[CELL], const json_t *gpu, const char *key, const char *unit)
{
    const json_t *value = json_object_get(gpu, key);
    if (json_is_integer(value)) {
        (void)snprintf(out, CELL, "%lld%s", (long long)json_integer_value(value), unit);
    } else {
        (void)snprintf(out, CELL, "-");
    }
}

/* "21.5 / 79.6 GiB", "302 / 700 W"; only the first if the second is not told. */
static void
pair_fill(char out[CELL], const json_t *first, const json_t *second, double unit, const char *name)
{
    int digits = unit > 1 ? 1 : 0;
    if (!json_is_integer(first)) {
        (void)snprintf(out, CELL, "-");
    } else if (!json_is_integer(second)) {
        (void)snprintf(out, CELL, "%.*f %s", digits, (double)json_integer_value(first) / unit,
                       name);
    } else {
        (void)snprintf(out, CELL, "%.*f / %.*f %s", digits,
                       (double)json_integer_value(first) / unit, digits,
                       (double)json_integer_value(second) / unit, name);
    }
}

static void
gpu_row_fill(struct table_row *row, const char *worker, const json_t *gpu, bool utf8)
{
    *row = (struct table_row){ 0 };
    text_fit(row->cells[0], CELL, worker, LIMIT_WORKER_NAME, utf8);
    number_fill(row->cells[1], gpu, "index", "");
    text_fit(row->cells[2], CELL, word(gpu, "name")[0] != '\0' ? word(gpu, "name") : "-", 40, utf8);
    number_fill(row->cells[3], gpu, "utilization_percent", " %");
    pair_fill(row->cells[4], json_object_get(gpu, "memory_used_mib"),
              json_object_get(gpu, "memory_total_mib"), MIB_PER_GIB, "GiB");
    number_fill(row->cells[5], gpu, "temperature_c", " C");
    pair_fill(row->cells[6], json_object_get(gpu, "power_w"), json_object_get(gpu, "power_limit_w"),
              1, "W");
}

static void
gpus_print(const json_t *workers, const struct terminal *terminal)
{
    static struct table_row rows[GPU_ROWS_MAX];
    struct table table = { .heads = gpu_heads,
                           .n_columns = ARRAY_LENGTH(gpu_heads),
                           .styled = ARRAY_LENGTH(gpu_heads),
                           .rows = rows };
    size_t i;
    size_t k;
    size_t n_more = 0;
    json_t *worker;
    json_t *gpu;
    json_array_foreach((json_t *)workers, i, worker)
    {
        json_array_foreach(json_object_get(worker, "gpus"), k, gpu)
        {
            if (table.n_rows < GPU_ROWS_MAX) {
                gpu_row_fill(&rows[table.n_rows++], word(worker, "name"), gpu, terminal->utf8);
            } else {
                n_more++;
            }
        }
    }
    if (table.n_rows > 0) {
        printf("\n");
        table_print(&table, terminal);
    }
    if (n_more > 0) {
        printf("and %zu more: --json shows all\n", n_more);
    }
}

static void
fleet_print(const json_t *workers)
{
    struct terminal terminal;
    terminal_look(&terminal, 1);
    workers_print(workers, &terminal);
    troubles_print(workers, &terminal);
    gpus_print(workers, &terminal);
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
            fleet_print(workers);
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
        .summary = "Lists the workers, their instances, when each was heard last, and their "
                   "GPUs." EXIT_STATUS_HELP,
    };
    struct client client;
    int status;
    if (client_open(&client, &command, argc, argv, &status) == 0) {
        status = run(&client);
    }
    client_close(&client);
    return status;
}
