/* HTTP for monitoring: /metrics (Prometheus), /healthz (the process lives), /readyz (it can serve).
 *
 * A thread of its own, none of the workers', accepts and serves, so that the node can be asked
 * while it recovers and however busy the workers are. Opens before recovery. Any thread may call; start and
 * stop once each. */
#ifndef GM_HTTP_HTTP_H
#define GM_HTTP_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct http;

struct http_options {
    const char *address; /* as in listener.h */
    /* What /metrics shows; on the HTTP thread. */
    void (*metrics)(void *arg, struct buf *out);
    /* True when the node serves; the body, a JSON object, says what it waits for otherwise. On the HTTP
     * thread. */
    bool (*ready)(void *arg, struct buf *out);
    /* As ready, for /healthz: false asks for a restart. NULL: always well. */
    bool (*healthy)(void *arg, struct buf *out);
    void *arg;
};

/* ERR_* of listener_bind, ERR_LIMIT when no thread can be started. */
int http_start(const struct http_options *options, struct http **ret);
void http_stop(struct http *h); /* NULL is fine */
uint16_t http_port(const struct http *h);

#endif
