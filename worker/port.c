#include "worker/port.h"
#include "common/limits.h"
#include "common/scope.h"
#include "worker/procfs.h"
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void
close_fd(int *fd_p)
{
    if (*fd_p >= 0) {
        close(*fd_p);
    }
}

/* A socket bound to the port on all addresses (0: any port), or -errno. */
static int
bound_socket(uint16_t port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    /* Connections that linger in TIME_WAIT do not keep a server from listening; a listener does. A
     * port that is picked must be all ours, so there the kernel may not be generous. */
    if ((port != 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) ||
        bind(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

int
ports_pick(uint16_t *out, uint32_t n)
{
    int fds[LIMIT_INSTANCES] = { 0 };
    uint32_t taken = 0;
    int rc = 0;
    assert(n <= LIMIT_INSTANCES);
    while (rc == 0 && taken < n) { /* all are held until the last is found: no two are equal */
        struct sockaddr_in address = { 0 };
        socklen_t length = sizeof address;
        int fd = bound_socket(0);
        if (fd < 0) {
            rc = fd;
            break;
        }
        rc = getsockname(fd, (struct sockaddr *)&address, &length) == 0 ? 0 : -errno;
        fds[taken] = fd;
        out[taken++] = ntohs(address.sin_port);
    }
    for (uint32_t i = 0; i < taken; i++) {
        close(fds[i]);
    }
    return rc;
}

bool
port_is_free(uint16_t port)
{
    CLEANUP(close_fd) int fd = bound_socket(port);
    return fd >= 0;
}

/* The n-th word of a line, from 0; "" if there are fewer. */
static const char *
word(const char *line, int n)
{
    line += strspn(line, " ");
    for (; n > 0; n--) {
        line += strcspn(line, " ");
        line += strspn(line, " ");
    }
    return line;
}

/* The inode of the socket that listens on the port, from a table of /proc/net; 0: not in it.
 * A line is: number, local address:port, remote one, state, ... inode as the tenth word. */
static uint64_t
listener_inode(const char *path, uint16_t port)
{
    enum { LOCAL = 1, STATE = 3, INODE = 9, TCP_LISTENING = 0x0A };
    char line[512];
    uint64_t found = 0;
    FILE *file = fopen(path, "re");
    while (file != NULL && found == 0 && fgets(line, sizeof line, file) != NULL) {
        const char *local = strchr(word(line, LOCAL), ':');
        if (local != NULL && strtoul(local + 1, NULL, 16) == port &&
            strtoul(word(line, STATE), NULL, 16) == TCP_LISTENING) {
            found = strtoull(word(line, INODE), NULL, 10);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

uint64_t
port_listener(uint16_t port)
{
    uint64_t inode = listener_inode("/proc/net/tcp", port);
    return inode != 0 ? inode : listener_inode("/proc/net/tcp6", port);
}

void
port_holder(uint16_t port, char *out, uint32_t size)
{
    char name[64];
    uint64_t inode = port_listener(port);
    pid_t pid = inode == 0 ? 0 : process_of_socket(inode, name, sizeof name);
    if (pid == 0) {
        snprintf(out, size, "nobody we may see");
        return;
    }
    snprintf(out, size, "pid %d (%s)", (int)pid, name);
}
