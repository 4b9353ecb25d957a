/* The server's parts, as its own files see them. Private to src/server. */
#ifndef GM_SERVER_INTERNAL_H
#define GM_SERVER_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>

#include "cluster/bus/bus.h"
#include "cluster/topology/topology.h"
#include "config/config.h"
#include "io/listener.h"
#include "log/log.h"
#include "partition/partition.h"
#include "protocols/resp/admin.h"
#include "stream/stream.h"

#define SERVER_LISTENERS_MAX 64

enum server_state { SERVER_STARTING, SERVER_RECOVERING, SERVER_READY, SERVER_STOPPING };

const char *server_state_name(enum server_state state); /* "starting", "recovering", … */

struct server_listener {
    struct listener *listener; /* owned */
    const char *protocol;      /* "resp", "kafka", "amqp", "ctl" */
};

struct server {
    struct config *config; /* borrowed */
    struct workers *workers;
    struct bus *bus; /* NULL: a node alone, as the next */
    struct replication *replication;
    struct member *member;
    bool replicating, members_run; /* atomic: they were started */
    struct topology_store *topology;
    struct log_store *logs;
    struct partitions *partitions;
    struct stream_table *streams;
    struct http *http;
    struct resp_front *resp;
    struct kafka_front *kafka;
    struct amqp_front *amqp;
    struct admin *admin;
    struct server_listener listeners[SERVER_LISTENERS_MAX];
    unsigned listener_count; /* atomic: grows while the node serves */
    enum server_state state; /* atomic */
    uint64_t started_us;
    uint64_t recovery_us;
    uint32_t recovered;      /* atomic: partitions done */
    int lock_fd;             /* data_dir/gomsgd.pid */
    int recovered_fd;        /* eventfd: recovery is over */
    int news_fd;             /* eventfd: the topology's phase changed */
    bool cluster_known;      /* the main thread's: the logs have their cluster id */
    bool recovering, recovery_over, member_of_cluster, served;
};

void server_recover(struct server *s); /* begins it; once */

/* ---- cluster.c: what a node of a cluster does beside; all on the main thread unless it says otherwise ------------------------- */
bool server_is_clustered(const struct server *s);
int server_open_bus(struct server *s);
void server_endpoints(struct server *s, struct topo_endpoint ret[TOPO_LISTENERS]);
char *server_bus_address(struct server *s);   /* owned; NULL: listens on every interface */
char *server_bus_advertise(struct server *s); /* owned; NULL: not set */
int server_start_cluster(struct server *s);
int server_cluster_news(struct server *s);
void server_cluster_ready(struct server *s);
void server_leave_cluster(struct server *s);
void server_cast_pubsub(void *arg, struct slice message); /* resp_options.cast; arg is the server */
unsigned server_list_links(void *arg, struct bus_link_info *ret, unsigned max);
/* topology_options', on the control worker; arg is the server. */
void server_cluster_phase(void *arg, enum topology_phase phase, const char *text);
void server_cluster_published(void *arg);
void server_cluster_leading(void *arg, bool leading, uint64_t term);

/* sweep.c: moves to trash/ the logs of queues and topics that the topology does not know. After recovery, before anything can be declared. */
void server_sweep_logs(struct log_store *logs, struct topology_store *topology);

/* ---- admin.c: the thread behind GOMSG -------------------------------------------------------------------------------- */
struct admin;
struct admin *admin_new(struct server *s);
void admin_stop(struct admin *a); /* answers what waits, joins the thread; later calls are refused */
void admin_free(struct admin *a); /* after admin_stop and workers_stop */
/* A resp_admin_submit; arg is the admin. */
void admin_submit(void *arg, struct resp_admin_call *call);

/* A verb's handler: on the admin thread, which may block. Returns the answer (owned), or NULL with the error's text in `why`. */
typedef json_t *admin_handler(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);

/* admin_show.c */
json_t *admin_status(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_partitions(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_partitions_hash(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_topics(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_queues(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_connections(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_version(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
/* admin_cluster.c */
json_t *admin_cluster_form(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_group(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_status(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_nodes(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_partitions(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_health(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_events(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_transfer_leader(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_partitions_recover(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_drain(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_undrain(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_cluster_remove(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
/* admin_doctor.c */
json_t *admin_doctor(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
/* admin_change.c */
json_t *admin_config_get(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_config_set(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_vhost_list(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_vhost_add(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_vhost_delete(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_user_list(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_user_add(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_user_delete(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);
json_t *admin_snapshot(struct server *s, unsigned argc, const struct slice *argv, struct buf *why);

json_t *admin_json_slice(struct slice s); /* a JSON string; bytes that are not UTF-8 become '?' */

/* ---- change.c: what a change of the topology means for the engines ------------------------------------------------------- */
void server_topology_changed(void *arg, const struct topology_change *change); /* a topology_options.changed; arg is the server */

/* A partitions_options.queue_ended: proposes the queue's deletion. Under the partition's lock. */
void server_queue_ended(void *arg, uint64_t queue_id, uint32_t partition);
/* Before AMQP opens. On the main thread. */
void server_open_expiring_queues(struct server *s);
/* This node began to lead a partition: those of it, in the background. Any thread. */
void server_leads(struct server *s, uint32_t partition);

/* ---- gauges.c ------------------------------------------------------------------------------------------------------------- */
void server_register_gauges(struct server *s);

/* Connections of a protocol, over its listeners. Any thread. */
uint32_t server_connections(struct server *s, const char *protocol);


#endif
