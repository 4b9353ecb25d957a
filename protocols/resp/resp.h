/* The RESP front end: what the server gives it and gets from it.
 *
 * Life cycle: resp_front_new before workers_start (listeners are opened with resp_front_ops or
 * resp_front_ctl_ops and the front as their `arg`); commands are answered -LOADING until partitions_ready;
 * resp_front_free after workers_stop. */
#ifndef GM_RESP_H
#define GM_RESP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"
#include "cluster/bus/bus.h"
#include "io/conn.h"
#include "protocols/resp/admin.h"

struct config;
struct log_store;
struct replication;
struct topology_store;
struct partitions;
struct workers;
struct resp_front;

/* Redis' version whose behaviour this follows; clients switch features on by it. */
#define RESP_REDIS_VERSION "7.2.6"

struct resp_options {
    struct workers *workers;
    struct partitions *partitions;
    struct log_store *store;
    struct config *config; /* NULL: the defaults (tests) */
    const char *run_id;    /* 40 hex digits, borrowed for ever; NULL: made up at random */
    uint16_t tcp_port;     /* shown by INFO and CLUSTER-aware clients; 0 until known: resp_front_set_port */
    resp_admin_submit *admin; /* GOMSG; NULL: unknown command */
    void *admin_arg;
    /* True when the password is the user's and the user may use RESP. Any worker; must not block. NULL: only
     * the user "default" exists, without a password. */
    bool (*login)(void *arg, struct slice user, struct slice password);
    void *login_arg;
    /* Cluster mode (cluster_mode): clients are sent to the leaders that `topology` names. */
    bool cluster_mode;
    struct topology_store *topology; /* borrowed; NULL without cluster mode */
    /* Sends a published message to every other node, which gives it to resp_front_receive there. Any worker. */
    void (*cast)(void *arg, struct slice message);
    void *cast_arg;
    /* The connections to other nodes (bus_links), for CLUSTER LINKS; NULL: none. Any worker. */
    unsigned (*links)(void *arg, struct bus_link_info *ret, unsigned max);
    void *links_arg;
};

/* 0 or ERR_*. *options is copied. */
int resp_front_new(const struct resp_options *options, struct resp_front **ret);
void resp_front_set_port(struct resp_front *f, uint16_t port); /* before workers_start */
void resp_front_set_replication(struct resp_front *f, struct replication *r); /* cluster mode: before partitions are ready */
/* A message published on another node (what `cast` was given there). Any worker. ERR_MALFORMED. */
int resp_front_receive(struct resp_front *f, struct slice message);
/* This node stopped leading a partition or holds it no more: who is blocked there is sent on, shard channels end
 * where no replica is left. Any thread. */
void resp_front_role_changed(struct resp_front *f, uint32_t partition);
/* After workers_stop. */
void resp_front_free(struct resp_front *f);

/* What a listener needs, with the front as its `arg`; live as long as the front. */
const struct conn_ops *resp_front_ops(const struct resp_front *f);     /* clients */
const struct conn_ops *resp_front_ctl_ops(const struct resp_front *f); /* ctl.sock: trusted */

/* "-ERR max number of clients reached\r\n", for the listener. */
extern const char resp_refuse_text[];

#endif
