/* Addresses as people write them: "HOST:PORT", "[::1]:PORT", ":PORT" (every interface), "unix:/path".
 * Parsing resolves nothing. Pure; any thread. */
#ifndef GM_BASE_ADDRESS_H
#define GM_BASE_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

enum { ADDRESS_HOST_MAX = 255 };

struct address {
    bool is_unix;
    uint16_t port; /* 0 asks for a free one; no meaning for unix sockets */
    char host[ADDRESS_HOST_MAX +
              1]; /* without brackets, "" means every interface; the path of a unix socket */
};

/* ERR_INVALID when malformed. A unix path is at most 107 bytes long (sun_path). */
int address_parse(const char *text, struct address *ret);
/* Unix sockets, 127.0.0.0/8, ::1 and "localhost": only this machine can come in. */
bool address_is_loopback(const struct address *a);

#endif
