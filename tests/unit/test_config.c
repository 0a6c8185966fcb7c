#include "common/config.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *redis;
static int64_t port;
static bool loose;
static struct string_list hosts;
static struct string_list files;
static struct config *config;
static struct config_common common;
static char path[] = "/tmp/test_config_XXXXXX";

static const struct option options[] = {
    { .name = "redis",
      .kind = OPTION_STRING,
      .target = &redis,
      .argument = "URL",
      .help = "Where Redis is.",
      .required = true },
    { .name = "worker-port",
      .kind = OPTION_INT,
      .target = &port,
      .argument = "PORT",
      .help = "Port for workers.",
      .min = 0,
      .max = 65535 },
    { .name = "loose", .kind = OPTION_BOOL, .target = &loose, .help = "Be loose." },
    { .name = "host",
      .kind = OPTION_LIST,
      .target = &hosts,
      .argument = "HOST",
      .help = "A host." },
};

static struct program program = { .name = "drawbar-broker",
                                  .role = "broker",
                                  .summary = "Hands out jobs.",
                                  .options = options,
                                  .n_options = ARRAY_LENGTH(options) };

static void
begin(void)
{
    redis = NULL;
    port = 7000;
    loose = false;
    hosts = (struct string_list){ .items = { "default" }, .count = 1 };
    files.count = 0;
    cr_redirect_stderr();
    cr_redirect_stdout();
}

static void
end(void)
{
    config_destroy(&config);
    unlink(path);
}

TestSuite(config, .init = begin, .fini = end);

/* Loads with up to 5 arguments. */
static int
load(const char *a, const char *b, const char *c, const char *d, const char *e)
{
    char *argv[] = { "x", (char *)a, (char *)b, (char *)c, (char *)d, (char *)e, NULL };
    int argc = 1;
    while (argv[argc] != NULL) {
        argc++;
    }
    config_destroy(&config);
    return config_load(&config, &common, &program, argc, argv);
}

static void
write_ini(const char *text)
{
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    setenv("DRAWBAR_CONFIG", path, 1);
}

static void
said(const char *text)
{
    static char all[16384]; /* of this test: each runs in its own process */
    static size_t n_all;
    n_all += fread(all + n_all, 1, sizeof all - 1 - n_all, cr_get_redirected_stderr());
    cr_assert(strstr(all, text) != NULL, "\"%s\" is not in \"%s\"", text, all);
}

Test(config, without_anything_the_defaults_stay)
{
    cr_assert_eq(load("--redis", "r", NULL, NULL, NULL), 0);
    cr_assert_str_eq(redis, "r");
    cr_assert_eq(port, 7000);
    cr_assert(!loose);
    cr_assert_str_eq(hosts.items[0], "default");
    cr_assert(common.ready_file == NULL);
    cr_assert(!common.log_json);
}

Test(config, both_spellings_of_a_flag_are_read)
{
    cr_assert_eq(load("--redis=a=b", "--worker-port", "0", "--loose", "--log-format=json"), 0);
    cr_assert_str_eq(redis, "a=b");
    cr_assert_eq(port, 0);
    cr_assert(loose);
    cr_assert(common.log_json);
    cr_assert_eq(
        load("--redis=", "--redis=x", "--worker-port=65535", "--loose=false", "--ready-file=/f"),
        0);
    cr_assert_eq(port, 65535);
    cr_assert(!loose);
    cr_assert_str_eq(redis, "x", "the last one wins");
    cr_assert_str_eq(common.ready_file, "/f");
}

Test(config, a_flag_beats_the_environment_beats_the_section_beats_the_file)
{
    write_ini("redis = top\nworker-port = 1\n; remark\n[gateway]\nstrange = 1\nredis = no\n"
              "[broker]\nworker_port = 2\n");
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), 0);
    cr_assert_str_eq(redis, "top");
    cr_assert_eq(port, 2);
    setenv("DRAWBAR_WORKER_PORT", "3", 1);
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), 0);
    cr_assert_eq(port, 3);
    cr_assert_eq(load("--worker-port=4", NULL, NULL, NULL, NULL), 0);
    cr_assert_eq(port, 4);
}

Test(config, an_empty_variable_counts_as_absent)
{
    setenv("DRAWBAR_WORKER_PORT", "", 1);
    setenv("DRAWBAR_REDIS", "r", 1);
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), 0);
    cr_assert_eq(port, 7000);
}

Test(config, a_list_takes_all_of_the_first_place_that_has_any)
{
    write_ini("redis=r\n[broker]\nhost=a\nhost=b\n");
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), 0);
    cr_assert_eq(hosts.count, 2);
    cr_assert_str_eq(hosts.items[1], "b");
    setenv("DRAWBAR_HOST", "c;;d;e", 1);
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), 0);
    cr_assert_eq(hosts.count, 3);
    cr_assert_str_eq(hosts.items[2], "e");
    cr_assert_eq(load("--host=f", NULL, NULL, NULL, NULL), 0);
    cr_assert_eq(hosts.count, 1);
    cr_assert_str_eq(hosts.items[0], "f");
}

Test(config, a_misspelt_flag_is_told_with_the_nearest_name)
{
    cr_assert_eq(load("--worker-prot=1", NULL, NULL, NULL, NULL), -EINVAL);
    said("drawbar-broker: --worker-prot: there is no such option; did you mean --worker-port?");
}

Test(config, a_flag_like_no_other_points_to_the_help)
{
    cr_assert_eq(load("--zebra", NULL, NULL, NULL, NULL), -EINVAL);
    said("--zebra: there is no such option; see drawbar-broker --help");
}

Test(config, a_missing_value_is_told)
{
    cr_assert_eq(load("--worker-port", "--loose", NULL, NULL, NULL), -EINVAL);
    said("--worker-port: the value is missing; write --worker-port PORT");
}

Test(config, numbers_are_checked_on_both_sides)
{
    static const char *const bad[] = {
        "-1", "65536", "", " 1", "1 ", "1x", "99999999999999999999"
    };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        cr_assert_eq(load("--redis=r", "--worker-port", bad[i], NULL, NULL), -EINVAL, "%s", bad[i]);
    }
    said("--worker-port: \"65536\" is out of range; give a number from 0 to 65535");
    said("--worker-port: \"1x\" is not a whole number");
}

Test(config, a_bad_variable_is_told_by_its_own_name)
{
    setenv("DRAWBAR_LOOSE", "maybe", 1);
    cr_assert_eq(load("--redis=r", NULL, NULL, NULL, NULL), -EINVAL);
    said("DRAWBAR_LOOSE: \"maybe\" is neither true nor false");
}

Test(config, a_required_option_is_asked_for)
{
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), -EINVAL);
    said("--redis: is required; give --redis URL, set DRAWBAR_REDIS, or write redis in [broker]");
}

Test(config, an_unknown_key_in_our_section_is_a_mistake_elsewhere_not)
{
    write_ini("strange=1\n[worker]\nodd=1\n[broker]\nredis=r\n");
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), 0);
    unlink(path);
    memcpy(path + strlen(path) - 6, "XXXXXX", 6);
    write_ini("[broker]\nredis=r\nworker-porf=1\n");
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), -EINVAL);
    said("worker-porf in [broker]: there is no such key; did you mean worker-port?");
}

Test(config, a_broken_file_is_told_by_line)
{
    write_ini("[broker]\nredis=r\nnonsense\n");
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), -EINVAL);
    said("line 3 is neither");
}

Test(config, a_key_given_twice_is_a_mistake)
{
    write_ini("[broker]\nredis=r\nredis=s\n");
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), -EINVAL);
    said("given twice");
}

Test(config, a_line_too_long_for_the_parser_is_a_mistake_not_two_lines)
{
    char text[4096] = "[broker]\nredis=";
    memset(text + strlen(text), 'x', 3000);
    write_ini(text);
    cr_assert_eq(load(NULL, NULL, NULL, NULL, NULL), -EINVAL);
    said("a line is too long");
}

Test(config, a_missing_file_and_a_folder_are_told)
{
    cr_assert_eq(load("--config=/nonexistent/x.ini", NULL, NULL, NULL, NULL), -EINVAL);
    said("--config: cannot open /nonexistent/x.ini: No such file");
    cr_assert_eq(load("--config=/tmp", NULL, NULL, NULL, NULL), -EINVAL);
    said("cannot read /tmp");
}

Test(config, positionals_are_a_mistake_unless_wanted)
{
    cr_assert_eq(load("--redis=r", "extra", NULL, NULL, NULL), -EINVAL);
    said("extra: not expected here");
    program.positional = "FILE...";
    program.positionals = &files;
    cr_assert_eq(load("--redis=r", "a", "-", "--", "--loose"), 0);
    cr_assert_eq(files.count, 3);
    cr_assert_str_eq(files.items[1], "-");
    cr_assert_str_eq(files.items[2], "--loose");
    cr_assert(!loose);
}

Test(config, help_and_version_are_answered_whatever_else_is_wrong)
{
    char all[8192];
    cr_assert_eq(load("--zebra", "--help", NULL, NULL, NULL), CONFIG_EXIT);
    cr_assert_eq(load("--version", NULL, NULL, NULL, NULL), CONFIG_EXIT);
    FILE *file = cr_get_redirected_stdout();
    size_t n = fread(all, 1, sizeof all - 1, file);
    all[n] = '\0';
    cr_assert(strstr(all, "Usage: drawbar-broker [OPTIONS]\n") != NULL);
    cr_assert(strstr(all, "  --worker-port PORT      Port for workers. (default: 7000)\n") != NULL,
              "%s", all);
    cr_assert(strstr(all, "Where Redis is. (required)") != NULL);
    cr_assert(strstr(all, "\ndrawbar-broker 0.1.0\n") != NULL);
}
