/* What a killed agent leaves behind, with real processes on this host. */
#include "tests/unit/process_world.h"

TestSuite(child, .init = make_directory, .fini = remove_directory, .timeout = 30);

static struct child_spec
spec_of(const char *command)
{
    return (struct child_spec){ .command = command,
                                .record_path = path_of("0.child"),
                                .log_path = path_of("log"),
                                .port = 7861 };
}

/* Waits until the file has `wanted` lines, each of them a pid. */
static int
read_pids(const char *name, pid_t *out, int wanted)
{
    int n = 0;
    for (int64_t end_ms = clock_mono_ms() + 5000; n < wanted && clock_mono_ms() < end_ms;) {
        const char *at = text_of(name);
        char *end = NULL;
        usleep(5000);
        for (n = 0; n < wanted; n++, at = end) {
            long pid = strtol(at, &end, 10);
            if (end == at || *end != '\n') {
                break;
            }
            out[n] = (pid_t)pid;
        }
    }
    return n;
}

static int
count_living(const pid_t *pids, int n)
{
    int living = 0;
    for (int i = 0; i < n; i++) {
        living += lives(pids[i]);
    }
    return living;
}

static int
living_after(const pid_t *pids, int n, int64_t limit_ms)
{
    int64_t end_ms = clock_mono_ms() + limit_ms;
    while (count_living(pids, n) > 0 && clock_mono_ms() < end_ms) {
        usleep(5000);
    }
    return count_living(pids, n);
}

/* An instance in the worst manner: a shell in a shell, children in the background, one of them in a
 * session of its own. Their pids go to the file `pids`. */
enum { NESTED = 4 };
static const char *
nested_command(void)
{
    static char command[512];
    snprintf(command, sizeof command,
             "cd %s; sh -c 'sleep 1000 & echo $! >>pids; setsid sleep 1000 & echo $! >>pids; "
             "echo $$ >>pids; wait; true' & echo $$ >>pids; wait; true",
             directory);
    return command;
}

/* A process that starts the instance and then does nothing, like an agent between two jobs. */
static pid_t
start_agent(pid_t *guardian)
{
    int told[2];
    cr_assert(zero(int, pipe(told)));
    pid_t pid = fork();
    if (pid == 0) {
        struct child *child = NULL;
        struct child_spec spec = spec_of(nested_command());
        children_adopt();
        int rc = child_start(&child, &spec);
        ssize_t n = write(told[1], &rc, sizeof rc);
        (void)n;
        for (;;) {
            pause();
        }
    }
    int rc = -1;
    cr_assert(eq(sz, read(told[0], &rc, sizeof rc), sizeof rc));
    cr_assert(zero(int, rc));
    close(told[0]);
    close(told[1]);
    if (guardian != NULL) { /* the agent's child that is not the leader */
        char path[64];
        char children[64] = "";
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
        FILE *file = fopen(path, "r");
        cr_assert(ne(ptr, file, NULL));
        cr_assert(ne(ptr, fgets(children, sizeof children, file), NULL));
        fclose(file);
        char *second = NULL;
        strtol(children, &second, 10);
        *guardian = (pid_t)strtol(second, NULL, 10);
        cr_assert(gt(int, *guardian, 1));
    }
    return pid;
}

Test(child, nothing_lives_a_second_after_the_agent_was_killed)
{
    pid_t pids[NESTED];
    pid_t agent = start_agent(NULL);
    cr_assert(eq(int, read_pids("pids", pids, NESTED), NESTED));
    cr_assert(eq(int, count_living(pids, NESTED), NESTED));
    kill(agent, SIGKILL);
    waitpid(agent, NULL, 0);
    cr_assert(zero(int, living_after(pids, NESTED, 1000)));
}

Test(child, a_guardian_that_was_killed_too_is_made_good_by_the_next_start)
{
    pid_t pids[NESTED];
    pid_t guardian = 0;
    pid_t agent = start_agent(&guardian);
    cr_assert(eq(int, read_pids("pids", pids, NESTED), NESTED));
    kill(agent, SIGSTOP); /* so that it cannot put another in its place */
    kill(guardian, SIGKILL);
    kill(agent, SIGKILL);
    waitpid(agent, NULL, 0);
    cr_assert(gt(int, living_after(pids, NESTED, 300), 0), "or this test shows nothing");
    cr_assert(zero(int, children_clean(directory)));
    cr_assert(zero(int, living_after(pids, NESTED, 100)));
    cr_assert(ne(int, access(path_of("0.child"), F_OK), 0), "the record is done with");
}

Test(child, a_pid_used_again_by_somebody_else_is_left_alone)
{
    pid_t innocent = fork();
    if (innocent == 0) {
        setsid();
        execl("/bin/sleep", "sleep", "1000", (char *)NULL);
        _exit(1);
    }
    char boot[64] = "";
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    cr_assert(ne(ptr, fgets(boot, 37, file), NULL));
    fclose(file);
    file = fopen(path_of("3.child"), "w");
    fprintf(file, "pid=%d group=%d start=%llu port=7861 boot=%s token=%032d\n", (int)innocent,
            (int)innocent, (unsigned long long)process_start(innocent) - 1, boot, 0);
    fclose(file);
    file = fopen(path_of("4.child"), "w");
    fprintf(file, "pid=1 group=1 start=x nonsense");
    fclose(file);
    cr_assert(zero(int, children_clean(directory)));
    cr_assert(lives(innocent));
    cr_assert(ne(int, access(path_of("3.child"), F_OK), 0));
    kill(innocent, SIGKILL);
    waitpid(innocent, NULL, 0);
}

Test(child, inherits_neither_our_settings_nor_our_descriptors)
{
    struct child *child = NULL;
    int ours = open("/dev/zero", O_RDONLY); /* no CLOEXEC, like a careless library */
    int status = 0;
    cr_assert(ge(int, ours, 3));
    setenv("DRAWBAR_REDIS", "redis://:password@example", 1);
    setenv("ANOTHER", "kept", 1);
    struct child_spec spec = spec_of("env; ls -l /proc/self/fd; exit 3");
    cr_assert(zero(int, child_start(&child, &spec)));
    while (!child_exited(child, &status)) {
        usleep(2000);
    }
    cr_assert(eq(int, WEXITSTATUS(status), 3));
    const char *text = text_of("log");
    cr_assert(eq(ptr, strstr(text, "password"), NULL), "%s", text);
    cr_assert(eq(ptr, strstr(text, "/dev/zero"), NULL), "%s", text);
    cr_assert(ne(ptr, strstr(text, "ANOTHER=kept"), NULL), "%s", text);
    cr_assert(ne(ptr, strstr(text, "/dev/null"), NULL), "stdin: %s", text);
    cr_assert(child_gone(child));
    child_destroy(&child);
    cr_assert(ne(int, access(path_of("0.child"), F_OK), 0));
}

Test(child, a_leader_that_leaves_its_family_behind_is_not_gone_until_they_are)
{
    struct child *child = NULL;
    int status = 0;
    struct child_spec spec = spec_of("setsid sleep 1000 & sleep 1000 & exit 0");
    children_adopt();
    cr_assert(zero(int, child_start(&child, &spec)));
    while (!child_exited(child, &status)) {
        usleep(2000);
    }
    cr_assert(not(child_gone(child)));
    child_kill(child);
    for (int i = 0; i < 200 && !child_gone(child); i++) {
        usleep(5000);
    }
    cr_assert(child_gone(child));
    child_destroy(&child);
}

Test(child, a_port_that_is_listened_on_is_not_free_and_its_holder_is_named)
{
    char holder[96];
    char self[32];
    uint16_t ports[3];
    cr_assert(zero(int, ports_pick(ports, 3)));
    cr_assert(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
    cr_assert(port_is_free(ports[0]));
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons(ports[0]),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert(zero(int, bind(fd, (struct sockaddr *)&address, sizeof address)));
    cr_assert(zero(int, listen(fd, 1)));
    cr_assert(not(port_is_free(ports[0])));
    port_holder(ports[0], holder, sizeof holder);
    snprintf(self, sizeof self, "pid %d (", (int)getpid());
    cr_assert(zero(int, strncmp(holder, self, strlen(self))), "%s", holder);
}
