#pragma once
/*
 * gpu_figures — what the fake NVML (fake_nvml.c) tells in a test, in a file of its own.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char figures_path[64];

/* Replaces what the fake tells, as a whole. */
static void
tell(const char *format, ...)
{
    char temporary[80];
    va_list more;
    snprintf(temporary, sizeof temporary, "%s.new", figures_path);
    FILE *file = fopen(temporary, "w");
    va_start(more, format);
    vfprintf(file, format, more); // NOLINT(clang-analyzer-valist.Uninitialized): not so
    va_end(more);
    fclose(file);
    cr_assert(zero(int, rename(temporary, figures_path)));
}

#define H100 "device 81559 1000 35 20 41 301600 700000 NVIDIA H100 80GB HBM3\n"
#define L4   "device 23034 500 0 0 30 16000 72000 NVIDIA L4\n"

static void
make_figures(void)
{
    snprintf(figures_path, sizeof figures_path, "/tmp/test-gpu-XXXXXX");
    int fd = mkstemp(figures_path);
    cr_assert(ge(int, fd, 0));
    close(fd);
    setenv("FAKE_NVML", figures_path, 1);
    tell(H100 L4);
}

static void
remove_figures(void)
{
    unlink(figures_path);
}
