/* What a command reads out of a server's answer, and where it puts the pictures. */
#include "cli/arguments.h"
#include "cli/picture.h"
#include "cli/ports.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int
read_text(struct job *out, const char *text)
{
    return job_read(out, text, strlen(text));
}

Test(cli_job, a_job_is_read_with_all_that_is_told)
{
    struct job job;
    cr_assert(read_text(&job,
                        "{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"status\":\"succeeded\","
                        "\"position\":null,\"eta_s\":null,\"progress\":{\"step\":8,\"steps\":8},"
                        "\"attempt\":2,\"worker\":\"mia\",\"seed\":4294967295,"
                        "\"timings\":{\"queued_ms\":5,\"run_ms\":1200,\"total_ms\":1205},"
                        "\"request\":{\"prompt\":\"a red fox\"},\"warnings\":[\"uniform_image\"],"
                        "\"images\":[{\"url\":\"/v1/jobs/x/images/0\",\"width\":64,\"height\":32,"
                        "\"seed\":7}],\"error\":null}") == 0);
    cr_assert_str_eq(job.id, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    cr_assert(job.phase == PHASE_SUCCEEDED && job_has_ended(&job));
    cr_assert(job.position == -1 && job.eta_s == -1 && job.total_ms == 1205 && job.attempt == 2);
    cr_assert(job.seed == 4294967295 && job.uniform && job.n_images == 1);
    cr_assert(job.images[0].width == 64 && job.images[0].height == 32 && job.images[0].seed == 7);
    cr_assert_str_eq(job.images[0].url, "/v1/jobs/x/images/0");
    cr_assert_str_eq(job.worker, "mia");
}

Test(cli_job, what_is_missing_or_of_another_type_is_not_told)
{
    struct job job;
    cr_assert(read_text(&job,
                        "{\"id\":\"A\",\"status\":\"sleeping\",\"progress\":[],\"worker\":7,"
                        "\"attempt\":-1,\"images\":{},\"warnings\":3,\"timings\":\"x\"}") == 0);
    cr_assert(job.phase == PHASE_UNKNOWN && !job_has_ended(&job));
    cr_assert(job.steps == 0 && job.worker[0] == '\0' && job.attempt == 0 && job.n_images == 0);
    cr_assert(job.total_ms == -1);
}

Test(cli_job, what_is_no_job_is_refused)
{
    static const char *const texts[] = {
        "", "{", "[]", "null", "{}", "{\"id\":\"A\"}", "{\"id\":1,\"status\":\"queued\"}"
    };
    struct job job;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_assert(read_text(&job, texts[i]) == -EBADMSG, "%s", texts[i]);
    }
}

Test(cli_job, more_pictures_than_there_can_be_are_not_read)
{
    char text[2048] = "{\"id\":\"A\",\"status\":\"succeeded\",\"images\":[{}";
    struct job job;
    size_t length = strlen(text);
    for (int i = 0; i < 20; i++) {
        length += (size_t)snprintf(text + length, sizeof text - length, ",{}");
    }
    snprintf(text + length, sizeof text - length, "]}");
    cr_assert(read_text(&job, text) == 0);
    cr_assert(job.n_images == LIMIT_IMAGES);
}

Test(cli_job, one_picture_keeps_its_name_and_several_are_numbered)
{
    char path[PICTURE_PATH];
    struct job job = { .id = "01ARZ3NDEKTSV4RRFFQ69G5FAV", .n_images = 1 };
    cr_assert(picture_path(path, "out.d/fox.png", &job, 0, "png") == 0);
    cr_assert_str_eq(path, "out.d/fox.png");
    cr_assert(picture_path(path, NULL, &job, 0, "jpg") == 0);
    cr_assert_str_eq(path, "01ARZ3NDEKTSV4RRFFQ69G5FAV.jpg");
    job.n_images = 3;
    cr_assert(picture_path(path, "out.d/fox.png", &job, 2, "png") == 0);
    cr_assert_str_eq(path, "out.d/fox-3.png");
    cr_assert(picture_path(path, "out.d/fox", &job, 0, "png") == 0);
    cr_assert_str_eq(path, "out.d/fox-1");
    cr_assert(picture_path(path, ".fox", &job, 0, "png") == 0);
    cr_assert_str_eq(path, ".fox-1");
}

Test(cli_job, a_path_that_is_too_long_is_refused)
{
    static char wish[PICTURE_PATH + 8];
    char path[PICTURE_PATH];
    struct job job = { .id = "A", .n_images = 1 };
    memset(wish, 'x', PICTURE_PATH - 1);
    cr_assert(picture_path(path, wish, &job, 0, "png") == 0);
    memset(wish, 'x', PICTURE_PATH);
    cr_assert(picture_path(path, wish, &job, 0, "png") == -ENAMETOOLONG);
}

Test(cli_job, the_end_of_a_name_tells_the_format)
{
    cr_assert_str_eq(picture_format_of("a/fox.JPG"), "jpeg");
    cr_assert_str_eq(picture_format_of("fox.webp"), "webp");
    cr_assert_null(picture_format_of("fox.png/fox"));
    cr_assert_null(picture_format_of("fox.bmp"));
    cr_assert_null(picture_format_of("-"));
}

Test(cli_job, o_is_short_for_output_until_the_options_end)
{
    char *argv[] = { "submit", "-o", "a", "-ob.png", "--", "-o", NULL };
    char **words = arguments_long(6, argv);
    cr_assert_str_eq(words[1], "--output");
    cr_assert_str_eq(words[2], "a");
    cr_assert_str_eq(words[3], "--output=b.png");
    cr_assert_str_eq(words[5], "-o");
    cr_assert_null(words[6]);
    free(words);
}

Test(cli_job, a_taken_port_and_an_address_that_is_not_ours_are_told_apart)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert(bind(fd, (struct sockaddr *)&address, length) == 0 && listen(fd, 1) == 0);
    cr_assert(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    uint16_t port = ntohs(address.sin_port);
    cr_assert(port_check("127.0.0.1", port) == -EADDRINUSE);
    cr_assert(port_or_any("127.0.0.1", port) == 0);
    close(fd);
    cr_assert(port_check("127.0.0.1", port) == 0);
    cr_assert(port_check("192.0.2.200", 0) == -EADDRNOTAVAIL);
    cr_assert(port_check("nonsense", 0) == -EINVAL);
    cr_assert(address_is_wildcard("0.0.0.0") && address_is_wildcard("::"));
    cr_assert(!address_is_wildcard("127.0.0.1"));
}
