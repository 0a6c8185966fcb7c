#include "cli/ports.h"
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int
address_read(const char *host, uint16_t port, struct sockaddr_storage *out, socklen_t *length)
{
    char text[8];
    struct addrinfo *found = NULL;
    const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                    .ai_socktype = SOCK_STREAM };
    (void)snprintf(text, sizeof text, "%u", port);
    if (getaddrinfo(host, text, &hints, &found) != 0) {
        return -EINVAL;
    }
    memcpy(out, found->ai_addr, found->ai_addrlen);
    *length = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

int
port_check(const char *host, uint16_t port)
{
    struct sockaddr_storage address;
    socklen_t length = 0;
    int yes = 1;
    int rc = address_read(host, port, &address, &length);
    if (rc != 0) {
        return rc;
    }
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, length) != 0 || (port != 0 && listen(fd, 1) != 0)) {
        rc = -errno;
    }
    (void)close(fd);
    return rc;
}

uint16_t
port_or_any(const char *host, uint16_t port)
{
    return port_check(host, port) == 0 ? port : 0;
}

void
address_text(char out[ADDRESS_TEXT], const char *host, uint16_t port)
{
    (void)snprintf(out, ADDRESS_TEXT, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
}

int
address_is_wildcard(const char *host)
{
    struct in6_addr six;
    struct in_addr four;
    return (inet_pton(AF_INET, host, &four) == 1 && four.s_addr == INADDR_ANY) ||
           (inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_UNSPECIFIED(&six)) ||
           strcmp(host, "*") == 0;
}

void
addresses_print(FILE *file)
{
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0) {
        return;
    }
    for (const struct ifaddrs *one = all; one != NULL; one = one->ifa_next) {
        char text[INET6_ADDRSTRLEN];
        int family = one->ifa_addr != NULL ? one->ifa_addr->sa_family : AF_UNSPEC;
        const void *bytes = NULL;
        if (family == AF_INET) {
            bytes = &((const struct sockaddr_in *)(const void *)one->ifa_addr)->sin_addr;
        } else if (family == AF_INET6) {
            const struct in6_addr *six =
                &((const struct sockaddr_in6 *)(const void *)one->ifa_addr)->sin6_addr;
            bytes = IN6_IS_ADDR_LINKLOCAL(six) ? NULL : six;
        }
        if (bytes != NULL && (one->ifa_flags & IFF_LOOPBACK) == 0 &&
            inet_ntop(family, bytes, text, sizeof text) != NULL) {
            (void)fprintf(file, "  %s  (%s)\n", text, one->ifa_name);
        }
    }
    freeifaddrs(all);
}
