#include "cli/interrupt.h"
#include <signal.h>
#include <stddef.h>
#include <time.h>

enum { SAME_MS = 500 };

static volatile sig_atomic_t came;
static struct timespec first; /* written by the handler only */

static void
on_signal(int number)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    if (!came) {
        first = now;
        came = 1;
        return;
    }
    long ms = (long)(now.tv_sec - first.tv_sec) * 1000 + (now.tv_nsec - first.tv_nsec) / 1000000;
    if (ms >= SAME_MS) {
        (void)signal(number, SIG_DFL);
        (void)raise(number);
    }
}

void
interrupt_watch(void)
{
    struct sigaction action = { .sa_handler = on_signal };
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

bool
interrupt_came(void)
{
    return came != 0;
}
