/* How far a worker's leaving is, by what a server tells. */
#include "cli/worker.h"
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char list[] =
    "{\"workers\":[7,{\"name\":\"zoe\",\"incarnation\":\"00000000000000aa\",\"state\":\"alive\"},"
    "{\"name\":\"mia\",\"incarnation\":\"00000000000000bb\",\"state\":\"%s\",\"draining\":%s,"
    "\"running\":1,\"held_results\":2}]}";

static enum worker_stand
look(const char *incarnation, const char *state, const char *draining, struct worker_facts *now)
{
    char text[512];
    enum worker_stand stand = WORKER_STAND_COUNT;
    struct worker_facts told = { .name = "mia" };
    (void)snprintf(told.incarnation, sizeof told.incarnation, "%s", incarnation);
    (void)snprintf(text, sizeof text, list, state, draining);
    cr_assert(worker_look(&stand, now, &told, text, strlen(text)) == 0);
    return stand;
}

Test(cli_worker, its_state_and_its_own_word_tell_where_it_stands)
{
    static const char mine[] = "00000000000000bb";
    struct worker_facts now = { .n_jobs = 99 };
    cr_assert(look(mine, "alive", "false", &now) == WORKER_WORKS);
    cr_assert(look(mine, "alive", "true", &now) == WORKER_DRAINS);
    cr_assert(now.n_jobs == 3 && now.draining);
    cr_assert(look(mine, "silent", "true", &now) == WORKER_SILENT);
    cr_assert(look(mine, "gone", "true", &now) == WORKER_LOST);
}

Test(cli_worker, one_that_is_not_listed_or_has_a_successor_has_left)
{
    struct worker_facts now;
    enum worker_stand stand;
    const struct worker_facts told = { .name = "mi" };
    const char nobody[] = "{\"workers\":[]}";
    cr_assert(look("00000000000000ba", "alive", "false", &now) == WORKER_LEFT);
    cr_assert(look("", "alive", "true", &now) == WORKER_DRAINS, "any process, if none was told");
    cr_assert(worker_look(&stand, &now, &told, list, strlen(list)) == -EBADMSG, "no JSON");
    cr_assert(worker_look(&stand, &now, &told, nobody, strlen(nobody)) == 0);
    cr_assert(stand == WORKER_LEFT);
}

Test(cli_worker, what_is_no_worker_is_refused)
{
    static const char *const texts[] = { "", "[]", "{}", "{\"name\":1}", "null" };
    struct worker_facts facts = { .n_jobs = 42 };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_assert(worker_read(&facts, texts[i], strlen(texts[i])) == -EBADMSG, "%s", texts[i]);
        cr_assert(facts.n_jobs == 42);
    }
    const char least[] = "{\"name\":\"mia\",\"running\":-1,\"held_results\":1e9,\"draining\":1}";
    cr_assert(worker_read(&facts, least, strlen(least)) == 0);
    cr_assert(facts.n_jobs == 0 && !facts.draining && facts.incarnation[0] == '\0');
}

Test(cli_worker, a_path_has_the_escapes_that_a_name_needs)
{
    char path[LIMIT_URL];
    char name[LIMIT_WORKER_NAME + 2];
    cr_assert(worker_drain_path("gpu-7.rack_2", path));
    cr_assert_str_eq(path, "/v1/workers/gpu-7.rack_2/drain");
    cr_assert(worker_drain_path("a/b ?#\xc3\xa9", path));
    cr_assert_str_eq(path, "/v1/workers/a%2Fb%20%3F%23%C3%A9/drain");
    cr_assert(!worker_drain_path("", path));
    memset(name, '/', sizeof name);
    name[LIMIT_WORKER_NAME] = '\0';
    cr_assert(worker_drain_path(name, path));
    cr_assert(strlen(path) == 3 * LIMIT_WORKER_NAME + strlen("/v1/workers//drain"));
    name[LIMIT_WORKER_NAME] = '/';
    name[LIMIT_WORKER_NAME + 1] = '\0';
    cr_assert(!worker_drain_path(name, path));
}
