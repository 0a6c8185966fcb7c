#include "cli/progress.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_MAX = 24, BAR_MIN = 4, PART = 256, CELL_COLUMNS = 2 };

struct parts {
    char before[PART], after[PART];
    bool bar;
};

static void part_add(char part[PART], const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void
part_add(char part[PART], const char *format, ...)
{
    size_t used = strlen(part);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(part + used, PART - used, format, arguments);
    va_end(arguments);
}

static void
eta_add(char part[PART], const struct job *job, const char *separator)
{
    if (job->eta_s >= 0) {
        part_add(part, "%seta %lld s", separator, (long long)job->eta_s);
    }
}

static void
queued_parts(struct parts *out, const struct job *job)
{
    part_add(out->before, "queued");
    if (job->position > 0) {
        part_add(out->before, " #%lld", (long long)job->position);
    }
    eta_add(out->before, job, ", ");
    if (job->reason[0] != '\0') {
        part_add(out->before, ": %s", job_reason_text(job));
    }
}

static void
running_parts(struct parts *out, const struct job *job, bool live)
{
    part_add(out->before, "step %u/%u", job->step, job->steps);
    out->bar = live && job->steps > 0;
    if (live) {
        eta_add(out->after, job, "");
    }
    if (job->worker[0] != '\0') {
        part_add(out->after, "%son %s", out->after[0] != '\0' ? ", " : "", job->worker);
    }
    if (job->attempt > 1) {
        part_add(out->after, ", attempt %u", job->attempt);
    }
}

static void
bar_add(char *out, size_t size, const struct job *job, const struct terminal *terminal,
        uint32_t cells)
{
    const char *full = terminal->utf8 ? "▓" : "#";
    const char *rest = terminal->utf8 ? "░" : "-";
    uint32_t step = job->step < job->steps ? job->step : job->steps;
    uint32_t filled = cells * step / job->steps;
    size_t used = strlen(out);
    used += (size_t)snprintf(out + used, size - used, " %s", terminal_style(terminal, STYLE_GREEN));
    for (uint32_t i = 0; i < cells && used < size; i++) {
        if (i == filled) {
            used += (size_t)snprintf(out + used, size - used, "%s%s",
                                     terminal_style(terminal, STYLE_PLAIN),
                                     terminal_style(terminal, STYLE_DIM));
        }
        used += (size_t)snprintf(out + used, size - used, "%s", i < filled ? full : rest);
    }
    (void)snprintf(out + used, size - used, "%s", terminal_style(terminal, STYLE_PLAIN));
}

void
progress_text(char out[PROGRESS_TEXT], const struct job *job, const struct terminal *terminal,
              uint32_t frame)
{
    static const char *const spin[2][10] = {
        { "|", "/", "-", "\\", "|", "/", "-", "\\", "|", "/" },
        { "⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏" },
    };
    struct parts parts = { .bar = false };
    char text[2 * PART];
    uint32_t room = terminal->columns > 1 ? terminal->columns - 1 : 1; /* the last column wraps */
    if (terminal->live) {
        part_add(parts.before, "%s ", spin[terminal->utf8][frame % (terminal->utf8 ? 10 : 8)]);
    }
    if (job->phase == PHASE_QUEUED) {
        queued_parts(&parts, job);
    } else if (job->phase == PHASE_RUNNING) {
        running_parts(&parts, job, terminal->live);
    } else {
        part_add(parts.before, "%s", job->status);
    }
    char after[PART];
    text_fit(after, sizeof after, parts.after, UINT32_MAX, terminal->utf8);
    uint32_t used = text_width(parts.before) + text_width(after) + 2;
    uint32_t cells = parts.bar && room > used ? (room - used) / CELL_COLUMNS : 0;
    if (cells >= BAR_MIN && job->steps > 0) {
        (void)snprintf(out, PROGRESS_TEXT, "%s", parts.before);
        bar_add(out, PROGRESS_TEXT, job, terminal, cells < BAR_MAX ? cells : BAR_MAX);
        size_t length = strlen(out);
        (void)snprintf(out + length, PROGRESS_TEXT - length, " %s", after);
        return;
    }
    (void)snprintf(text, sizeof text, "%s%s%s", parts.before, after[0] != '\0' ? " " : "", after);
    text_fit(out, PROGRESS_TEXT, text, terminal->live ? room : UINT32_MAX, terminal->utf8);
}

void
progress_open(struct progress *self, int fd, bool quiet)
{
    *self = (struct progress){ .fd = fd, .quiet = quiet };
    terminal_look(&self->terminal, fd);
}

static void
draw(struct progress *self)
{
    char text[PROGRESS_TEXT];
    char line[PROGRESS_TEXT + 16];
    struct terminal now;
    if (self->quiet || !self->terminal.live) {
        return;
    }
    terminal_look(&now, self->fd); /* its window may have been resized */
    self->terminal = now;
    if (self->trouble[0] != '\0') {
        text_fit(text, sizeof text, self->trouble, now.columns > 1 ? now.columns - 1 : 1, now.utf8);
    } else if (self->job.id[0] != '\0' && !job_has_ended(&self->job)) {
        progress_text(text, &self->job, &now, self->frame);
    } else {
        return;
    }
    int length = snprintf(line, sizeof line, "\r%s\033[K", text);
    (void)!write(self->fd, line, (size_t)length);
    self->drawn = true;
}

static void
print_plain(struct progress *self, const char *text)
{
    if (self->quiet || self->terminal.live || strcmp(self->last, text) == 0) {
        return;
    }
    (void)snprintf(self->last, sizeof self->last, "%s", text);
    (void)dprintf(self->fd, "%s\n", text);
}

void
progress_job(struct progress *self, const struct job *job)
{
    char text[PROGRESS_TEXT];
    bool again = self->job.phase == PHASE_RUNNING && job->phase == PHASE_QUEUED;
    if (again && !self->quiet) {
        progress_clear(self);
        (void)dprintf(self->fd, "attempt %u%s%s came to nothing; the job is queued again\n",
                      self->job.attempt, self->job.worker[0] != '\0' ? " on " : "",
                      self->job.worker);
    }
    self->job = *job;
    self->trouble[0] = '\0';
    if (job_has_ended(job)) {
        return; /* the end is told by the command */
    }
    progress_text(text, job, &self->terminal, self->frame);
    print_plain(self, text);
    draw(self);
}

void
progress_trouble(struct progress *self, const char *text)
{
    (void)snprintf(self->trouble, sizeof self->trouble, "%s", text);
    if (text[0] != '\0') {
        print_plain(self, self->trouble);
        draw(self);
    }
}

void
progress_tick(struct progress *self)
{
    self->frame++;
    draw(self);
}

void
progress_clear(struct progress *self)
{
    if (self->drawn) {
        (void)!write(self->fd, "\r\033[K", 4);
        self->drawn = false;
    }
}
