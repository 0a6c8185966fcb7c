#include "cli/banner.h"
#include <stdio.h>
#include <string.h>

static void
instances_print(const struct plan *plan, const struct terminal *terminal)
{
    const struct plan_wishes *wishes = plan->wishes;
    int64_t n = wishes->workers * wishes->instances;
    const char *yellow = terminal_style(terminal, STYLE_YELLOW);
    const char *plain = terminal_style(terminal, STYLE_PLAIN);
    if (wishes->attach.count > 0) {
        for (uint32_t i = 0; i < wishes->attach.count; i++) {
            printf("  %-10s %s\n", i == 0 ? "Instances" : "", wishes->attach.items[i]);
        }
    } else if (n == 0) {
        printf("  %-10s none on this host: jobs wait until a worker comes\n", "Instances");
    } else {
        printf("  %-10s %lld, %sSIMULATED%s: test pictures, no model and no GPU at work\n",
               "Instances", (long long)n, yellow, plain);
    }
}

void
banner_print(const struct plan *plan, const struct terminal *terminal, const char *drawbar)
{
    char url[LIMIT_URL];
    const char *bold = terminal_style(terminal, STYLE_BOLD);
    const char *green = terminal_style(terminal, STYLE_GREEN);
    const char *plain = terminal_style(terminal, STYLE_PLAIN);
    const char *listen = plan->wishes->listen;
    plan_local_url(plan, url);
    bool usual = strcmp(url, "http://127.0.0.1:8080") == 0;
    printf("\n  %s%sDrawbar %s is up%s\n\n", bold, green, DRAWBAR_VERSION, plain);
    printf("  %-10s %s%s%s\n", "API", bold, url, plain);
    for (uint32_t i = 0; listen != NULL && i < plan->n_members; i++) {
        if (plan->members[i].outside) {
            printf("  %-10s %shttp://%s%s\n", "", bold, plan->members[i].http, plain);
        }
    }
    printf("  %-10s %s (logs in log/)\n", "Data", home_directory(plan->home));
    instances_print(plan, terminal);
    if (drawbar == NULL) {
        printf("\n");
        (void)fflush(stdout);
        return;
    }
    printf("\n  %-10s %s submit \"a red fox\" -o fox.png%s%s\n", "Try", drawbar,
           usual ? "" : " --server ", usual ? "" : url);
    printf("  %-10s curl -s %s/v1/jobs --json '{\"prompt\":\"a red fox\"}'\n", "or", url);
    printf("  %-10s Ctrl-C; the queue and the pictures are kept\n\n", "Stop");
    (void)fflush(stdout);
}

void
banner_hosts_print(const struct plan *plan, const struct terminal *terminal)
{
    char line[1024];
    const char *yellow = terminal_style(terminal, STYLE_YELLOW);
    const char *bold = terminal_style(terminal, STYLE_BOLD);
    const char *plain = terminal_style(terminal, STYLE_PLAIN);
    if (plan->wishes->listen == NULL) {
        return;
    }
    plan_paste_line(plan, line);
    printf("  %sOn the next GPU host%s, with Drawbar installed, paste this one line. It starts "
           "simulated\n"
           "  instances; for a real one put --attach \"driver=drawbar url=http://127.0.0.1:7861\"\n"
           "  in the place of --start and --instances.\n\n%s\n\n",
           bold, plain, line);
    if (plan_is_open(plan)) {
        printf("  %sNothing is encrypted%s: prompts, pictures and this password cross the network "
               "as plain text,\n"
               "  and whoever reaches the API may use it. For a network that you trust, until "
               "Drawbar has\n  keys and TLS.\n\n",
               yellow, plain);
    }
    (void)fflush(stdout);
}
