/* The server: builds every layer in order, runs until SIGTERM or SIGINT, takes it apart in the opposite order.
 *
 *   1. limits, signals, the data directory's lock
 *   2. workers, HTTP (healthz, readyz: not ready)
 *   3. topology: identity, replay of the Raft log
 *   4. log store, partitions; ctl.sock and RESP open and answer -LOADING while they recover in the background
 *   5. recovered: Kafka and AMQP open; "ready", systemd is told
 *   6. SIGHUP reloads the configuration; SIGTERM or SIGINT ends it: listeners, workers and their connections, topology, partitions (clean marks), log store
 *
 * The main thread does all of this and waits for signals in between. */
#ifndef GM_SERVER_SERVER_H
#define GM_SERVER_SERVER_H

#include "config/config.h"

/* Runs until told to end. file, argc and argv are where the configuration came from, for SIGHUP. 0, or ERR_* when it could not start (the reason was written to diag). */
int server_run(struct config *config, const char *file, int argc, char **argv);

#endif
