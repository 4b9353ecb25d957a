#include "base/address.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "base/slice.h"

enum { UNIX_PATH_MAX_LEN = 107 };

static int parse_port(const char *text, uint16_t *ret)
{
    int64_t v;

    if (!slice_to_i64(slice_str(text), &v) || v < 0 || v > 65535)
        return ERR_INVALID;
    *ret = (uint16_t)v;
    return 0;
}

int address_parse(const char *text, struct address *ret)
{
    struct address a = {0};
    const char *host = text, *colon;
    size_t n;
    int err;

    if (strncmp(text, "unix:", 5) == 0) {
        n = strlen(text + 5);
        if (n == 0 || n > UNIX_PATH_MAX_LEN)
            return ERR_INVALID;
        a.is_unix = true;
        memcpy(a.host, text + 5, n + 1);
        *ret = a;
        return 0;
    }
    if (text[0] == '[') {
        struct in6_addr v6;
        const char *end = strchr(text, ']');

        if (end == NULL || end[1] != ':')
            return ERR_INVALID;
        host = text + 1;
        n = (size_t)(end - host);
        colon = end + 1;
        if (n > ADDRESS_HOST_MAX)
            return ERR_INVALID;
        memcpy(a.host, host, n);
        if (inet_pton(AF_INET6, a.host, &v6) != 1)
            return ERR_INVALID;
    } else {
        colon = strchr(text, ':');
        /* A second colon is an IPv6 address without its brackets. */
        if (colon == NULL || strchr(colon + 1, ':') != NULL)
            return ERR_INVALID;
        n = (size_t)(colon - host);
        if (n > ADDRESS_HOST_MAX)
            return ERR_INVALID;
        memcpy(a.host, host, n);
        for (size_t i = 0; i < n; i++) {
            unsigned char c = (unsigned char)a.host[i];

            if (c <= ' ' || c >= 0x7f || strchr("/@,\"'", c) != NULL)
                return ERR_INVALID;
        }
    }
    err = parse_port(colon + 1, &a.port);
    if (err < 0)
        return err;
    *ret = a;
    return 0;
}

bool address_is_loopback(const struct address *a)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (a->is_unix || strcasecmp(a->host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, a->host, &v4) == 1)
        return (ntohl(v4.s_addr) >> 24) == 127;
    if (inet_pton(AF_INET6, a->host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
    return false;
}
