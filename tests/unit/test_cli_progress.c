/* What people see of a job: lines that fit, whatever is in them. */
#include "cli/progress.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static const struct terminal pipe_ = { .utf8 = true, .columns = 80 };

static struct job
running(uint32_t step)
{
    return (struct job){ .phase = PHASE_RUNNING,
                         .status = "running",
                         .id = "01ARZ3NDEKTSV4RRFFQ69G5FAV",
                         .position = -1,
                         .eta_s = 2,
                         .step = step,
                         .steps = 8,
                         .attempt = 1,
                         .worker = "mia" };
}

/* Columns of a line, where the letters of the bar count `cell` each and escapes none. */
static uint32_t
columns_of(const char *line, uint32_t cell)
{
    char plain[PROGRESS_TEXT];
    size_t used = 0;
    uint32_t cells = 0;
    for (const char *c = line; *c != '\0';) {
        if (*c == '\033') {
            c += strcspn(c, "m") + 1;
        } else if (strncmp(c, "▓", 3) == 0 || strncmp(c, "░", 3) == 0) {
            cells++;
            c += 3;
        } else {
            plain[used++] = *c++;
        }
    }
    plain[used] = '\0';
    return text_width(plain) + cells * cell;
}

Test(cli_progress, a_queued_job_tells_its_place_its_eta_and_why_it_waits)
{
    char line[PROGRESS_TEXT];
    struct job job = { .phase = PHASE_QUEUED, .status = "queued", .position = 3, .eta_s = 12 };
    terminal_setup();
    progress_text(line, &job, &pipe_, 0);
    cr_assert_str_eq(line, "queued #3, eta 12 s");
    job.eta_s = -1;
    (void)snprintf(job.reason, sizeof job.reason, "no_worker");
    progress_text(line, &job, &pipe_, 0);
    cr_assert_str_eq(line, "queued #3: no worker is connected");
}

Test(cli_progress, a_pipe_gets_a_plain_line)
{
    char line[PROGRESS_TEXT];
    struct job job = running(5);
    terminal_setup();
    progress_text(line, &job, &pipe_, 7);
    cr_assert_str_eq(line, "step 5/8 on mia");
    job.attempt = 2;
    progress_text(line, &job, &pipe_, 7);
    cr_assert_str_eq(line, "step 5/8 on mia, attempt 2");
}

Test(cli_progress, a_line_fits_every_width_even_where_the_bar_is_shown_twice_as_wide)
{
    char line[PROGRESS_TEXT];
    struct job job = running(0);
    terminal_setup();
    for (uint32_t columns = 2; columns < 200; columns++) {
        struct terminal terminal = {
            .live = true, .colour = true, .utf8 = true, .columns = columns
        };
        for (job.step = 0; job.step <= 9; job.step++) {
            progress_text(line, &job, &terminal, job.step);
            cr_assert(columns_of(line, 2) < columns, "%u columns: \"%s\"", columns, line);
        }
    }
}

Test(cli_progress, without_utf8_a_line_is_ascii)
{
    char line[PROGRESS_TEXT];
    struct job job = running(4);
    struct terminal terminal = { .live = true, .utf8 = false, .columns = 80 };
    terminal_setup();
    (void)snprintf(job.worker, sizeof job.worker, "m\xc3\xa4x");
    for (uint32_t columns = 20; columns < 90; columns++) {
        terminal.columns = columns;
        progress_text(line, &job, &terminal, columns);
        for (const char *c = line; *c != '\0'; c++) {
            cr_assert((unsigned char)*c < 0x80, "%u columns: %s", columns, line);
        }
    }
    (void)snprintf(job.worker, sizeof job.worker, "mia");
    progress_text(line, &job, &terminal, 0);
    cr_assert_not_null(strstr(line, "############------------"), "%s", line);
}

Test(cli_progress, chinese_text_is_cut_at_a_whole_character)
{
    char out[64];
    terminal_setup();
    text_fit(out, sizeof out, "一只红狐狸", 10, true);
    cr_assert_str_eq(out, "一只红狐狸");
    text_fit(out, sizeof out, "一只红狐狸", 9, true);
    cr_assert_str_eq(out, "一只红狐…");
    text_fit(out, sizeof out, "一只红狐狸", 4, true);
    cr_assert_str_eq(out, "一…");
    text_fit(out, sizeof out, "一只", 10, false);
    cr_assert_str_eq(out, "??");
    cr_assert(text_width("一只a") == 5);
}

Test(cli_progress, no_text_can_steer_the_terminal)
{
    char out[64];
    terminal_setup();
    text_fit(out, sizeof out,
             "a\033[2Jb\r\nc\x7f\xff"
             "d\xc2\x9b"
             "e",
             60, true);
    for (const char *c = out; *c != '\0'; c++) {
        cr_assert(*c >= ' ' && *c <= '~', "%s", out);
    }
    cr_assert_str_eq(out, "a [2Jb  c ?d?e");
}

Test(cli_progress, a_text_larger_than_its_buffer_is_cut)
{
    char big[1000];
    char out[32];
    terminal_setup();
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    text_fit(out, sizeof out, big, 2000, true);
    cr_assert(strlen(out) < sizeof out);
}
