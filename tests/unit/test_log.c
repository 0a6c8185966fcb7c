#include "common/limits.h"
#include "common/log.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <regex.h>
#include <string.h>
#include <unistd.h>

static char line[2 * LIMIT_LOG_LINE];

/* What `statement` writes to standard error is then in `line`. */
#define CATCH(statement)                                                                           \
    do {                                                                                           \
        int ends[2];                                                                               \
        int saved = dup(STDERR_FILENO);                                                            \
        cr_assert_eq(pipe2(ends, O_NONBLOCK), 0);                                                  \
        dup2(ends[1], STDERR_FILENO);                                                              \
        statement;                                                                                 \
        dup2(saved, STDERR_FILENO);                                                                \
        ssize_t n_read = read(ends[0], line, sizeof line - 1);                                     \
        line[n_read < 0 ? 0 : n_read] = '\0';                                                      \
        close(ends[0]);                                                                            \
        close(ends[1]);                                                                            \
        close(saved);                                                                              \
    } while (0)

static bool
matches(const char *pattern)
{
    regex_t regex;
    cr_assert_eq(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    bool found = regexec(&regex, line, 0, NULL, 0) == 0;
    regfree(&regex);
    return found;
}

static char member_text[LIMIT_LOG_LINE];

static const char *
member(const char *name)
{
    json_error_t error;
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, &error);
    cr_assert(object != NULL, "%s in %s", error.text, line);
    const char *value = json_string_value(json_object_get(object, name));
    snprintf(member_text, sizeof member_text, "%s", value == NULL ? "(absent)" : value);
    json_decref(object);
    return member_text;
}

Test(log, a_line_is_time_level_role_event_and_pairs)
{
    log_setup("broker", false, LOG_INFO);
    CATCH(log_info("leader-elected epoch=%d", 3));
    cr_assert(matches("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\\.[0-9]{3}Z info broker "
                      "leader-elected epoch=3\n$"),
              "%s", line);
}

Test(log, a_level_below_the_lowest_is_not_written)
{
    log_setup("broker", false, LOG_WARN);
    CATCH(log_info("quiet"));
    cr_assert_str_eq(line, "");
    CATCH(log_warn("loud"));
    cr_assert(matches(" warn broker loud\n$"), "%s", line);
}

Test(log, no_value_can_forge_a_line_or_drive_a_terminal)
{
    log_setup("gateway", false, LOG_INFO);
    CATCH(log_info("odd name=\"%s\"", "a\nb\r\x1b[2J\x7f\xc2\x9b z\xff\xc3"));
    cr_assert(matches("name=\"a\\?b\\?\\?\\[2J\\?\\?\\? z\\?\\?\"\n$"), "%s", line);
    CATCH(log_info("fine name=\"%s\"", "Gr\xc3\xbc\xc3\x9f"
                                       "e \xe2\x82\xac \xf0\x9f\x98\x80"));
    cr_assert(matches("Gr\xc3\xbc\xc3\x9f"
                      "e \xe2\x82\xac \xf0\x9f\x98\x80\"\n$"),
              "%s", line);
}

Test(log, a_line_is_cut_at_its_limit_and_still_ends)
{
    char text[2 * LIMIT_LOG_LINE];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    log_setup("gateway", false, LOG_INFO);
    CATCH(log_info("long text=%s", text));
    cr_assert_eq(strlen(line), LIMIT_LOG_LINE);
    cr_assert_eq(line[LIMIT_LOG_LINE - 1], '\n');
}

Test(log, json_has_the_pairs_as_members)
{
    log_setup("worker", true, LOG_DEBUG);
    CATCH(log_error("store-open-failed url=%s error=\"%s\" tries=%d bare", "redis://h:1/2",
                    "No such \\ file or = directory", 3));
    cr_assert_str_eq(member("level"), "error");
    cr_assert_str_eq(member("role"), "worker");
    cr_assert_str_eq(member("event"), "store-open-failed");
    cr_assert_str_eq(member("url"), "redis://h:1/2");
    cr_assert_str_eq(member("error"), "No such \\ file or = directory");
    cr_assert_str_eq(member("tries"), "3");
    cr_assert_str_eq(member("bare"), "");
    cr_assert_eq(strlen(member("time")), strlen("2026-11-23T10:00:00.123Z"));
    cr_assert_eq(strchr(line, '\n'), line + strlen(line) - 1);
}

Test(log, json_stays_json_whatever_a_value_holds)
{
    log_setup("worker", true, LOG_DEBUG);
    CATCH(log_info("odd a=\"%s\" b=%d", "say \"hi\"\n\xff", 1));
    cr_assert_str_eq(member("a"), "say \"hi\"??");
    cr_assert_str_eq(member("b"), "1");
    CATCH(log_info("open a=\"no end"));
    cr_assert_str_eq(member("a"), "no end");
    CATCH(log_info("clash level=error event=x"));
    cr_assert_str_eq(member("level"), "info");
    cr_assert_str_eq(member("level_"), "error");
    cr_assert_str_eq(member("event"), "clash");
    CATCH(log_info("%s", ""));
    cr_assert_str_eq(member("event"), "");
    CATCH(log_info(" == \"x"));
    member("event");
}

Test(log, json_is_whole_at_every_length)
{
    log_setup("worker", true, LOG_DEBUG);
    for (int n = LIMIT_LOG_LINE - 300; n < LIMIT_LOG_LINE + 20; n++) {
        char text[2 * LIMIT_LOG_LINE];
        memset(text, '"', (size_t)n);
        memcpy(text + n, "\xe2\x82\xac", 4);
        CATCH(log_info("long text=\"%s\" more=1", n % 2 ? text : text + n / 2));
        cr_assert_leq(strlen(line), LIMIT_LOG_LINE);
        cr_assert_str_eq(member("event"), "long");
    }
}
