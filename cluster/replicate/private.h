/* What the files of cluster/replicate share. Nobody else includes this but the tests.
 *
 * Everything here belongs to the data worker, except what says otherwise. It never waits: what reads a disk, truncates, applies or takes a partition's lock for longer than an append runs as *work* of its partition on a
 * background thread, one piece at a time a partition (work.c), and comes back by mail.
 *
 *   news      a log's watch was called (any thread): the log stands in a lock-free stack, one mail empties it
 *   rpart     a partition as it is replicated here: the record wanted, the role played, its logs, its followers
 *   rlog      a log of it; of a leader, with a position a follower
 *   peer      another node: the fetcher that follows it, the session that serves it */
#ifndef GM_CLUSTER_REPLICATE_PRIVATE_H
#define GM_CLUSTER_REPLICATE_PRIVATE_H

#include "base/mutex.h"
#include "cluster/replicate/codec.h"
#include "cluster/replicate/replicate.h"
#include "queue/queue.h"

#define FETCH_WAIT_MS 500
#define FETCH_BYTES (1u << 20)
#define FETCH_LOG_BYTES (256u << 10) /* of one log in an answer, while others wait */
#define FETCH_TIMEOUT_MS 5000
#define SOON_MS 10
#define TICK_MS 250
#define POSITIONS_MAX 8192 /* in one request */

struct rpart;
struct rlog;
struct rpeer;

/* ---- partitions ---------------------------------------------------------------------------------------------------------- */

/* What a partition's record says, as far as it concerns replication; from the topology (record.c). */
struct part_record {
    bool placed;
    uint32_t leader; /* 0: none */
    int32_t epoch;
    uint32_t version;
    uint32_t count;
    uint32_t nodes[TOPO_REPLICAS_MAX]; /* all members */
    uint32_t insync, eligible, adding, last_known; /* bit i: nodes[i] */
    uint32_t min_insync;
    bool mine;        /* this node is a member */
    bool lease_may_run; /* the former leader's, by what the topology says of it */
};
/* Member i's bit, or -1. */
int record_member(const struct part_record *rec, uint32_t node);

/* A follower of a partition led here. */
struct follower {
    uint32_t node_id;
    unsigned member; /* its place in the record */
    struct rpeer *peer;
    bool subscribed; /* its session told of all its logs in this epoch */
    bool fresh;      /* ... tells of them in the request that is being read */
    uint64_t caught_us; /* R21, over all logs; 0: never */
    uint32_t behind;    /* logs in which it has not all */
    uint64_t lag_records; /* atomic */
    /* any thread */
    int64_t main_end, main_durable; /* atomic; -1: unknown */
};

enum work_kind { WORK_NONE, WORK_STEP, WORK_PARK, WORK_UNPARK, WORK_REPAIR, WORK_CUT, WORK_INSTALL, WORK_APPLY, WORK_FOLLOW };

struct rpart {
    struct replication *r;
    struct partition *p;
    uint32_t index;
    struct part_record rec;   /* as the topology has it */
    uint32_t seen;       /* the version of rec that was acted on */
    /* as played: changed when a step is done */
    uint32_t role;       /* enum partition_role */
    int32_t epoch;       /* of that role */
    uint32_t leader;     /* node followed, 0: none */
    bool replicated;     /* atomic: logs opened by engines are replicated */
    struct list logs;    /* of struct rlog */
    struct rlog *main;
    /* work.c */
    enum work_kind working;
    bool apply_wanted, step_wanted, park_wanted, unpark_wanted, repair_wanted;
    struct list cuts;    /* of struct rlog: to be cut */
    struct list follows; /* of struct rlog: queues to be followed (queue_follow) */
    struct queue_followed followed; /* what the work under way came to */
    bool follow_durable; /* ... and what was asked of it */
    uint64_t followed_us; /* when one was; 0: nothing is kept */
    struct bg_job job;
    struct part_record target; /* of the step under way */
    int64_t apply_to;
    int work_err;
    bool was_none;       /* the step's: its logs were not replicated here before */
    struct rlog *work_log;
    uint64_t retry_step_us; /* a step failed: not before */
    struct pull *pull;   /* owned; NULL: none */
    int32_t pulled_epoch; /* the epoch before which the others were asked (rule 19) */
    /* leading */
    struct follower *followers; /* owned; NULL when not leading */
    unsigned follower_count;
    struct list fresh_node;
    uint64_t hold_until_us; /* rule 20: HW stands still until the former leader's lease has ended */
    struct insync *proposal; /* owned; NULL: none in flight */
    uint32_t pending;        /* members being added by it: they count already (D3) */
    uint32_t unsure;         /* 0, or the record's version that proposals without an answer go by: they may be applied yet, so pending stays */
    uint64_t proposal_not_before_us;
    struct handover *handover; /* owned */
    uint32_t insync_known;
    uint64_t insync_changes;
    bool held;              /* a watermark waits for hold_until_us */
    bool recent;            /* a watermark took who is not in the set into account (R16) */
    /* following */
    struct fetcher *following; /* NULL: none */
    struct list followed_node, fetch_node; /* in its fetcher's lists */
    bool retry_appends;     /* a log of it waits after a failed append */
    bool subscribed;
    uint64_t subscribed_in; /* the fetcher's request that told of all logs */
    uint64_t subscribe_not_before_us;
    struct repair *repair;  /* owned; NULL: this copy is whole */
    uint64_t suspect_not_before_us; /* a suspect log's leader tries again to hand over */
    bool damaged;           /* atomic: the same for other threads */
    struct list waiters;    /* of struct replication_waiter, under r->wait_mutex */
    uint32_t waiter_count;  /* atomic */
    uint32_t insync_seen;   /* atomic copy of rec.insync for replication_acked */
};

/* ---- logs -------------------------------------------------------------------------------------------------------------------- */

/* What the leader knows of a follower's log. */
struct rpos {
    struct list ready;  /* in the session's list: it has news for the follower */
    struct rlog *log;
    unsigned slot;      /* of the partition's followers */
    bool known;         /* its position was told in this session, and does not diverge */
    bool wrong;         /* what it told last diverges: ask_end, ask_epoch; it is to be told where (R10) */
    bool inflight;      /* something was sent and not answered by a position */
    bool behind;
    bool cold;          /* its range is being read */
    bool read_cold;     /* ... was read */
    bool sent_data;     /* what is in flight is data from `end` on */
    int64_t end, durable; /* R15: of the last fetch that did not diverge */
    int64_t ask_end;
    int32_t ask_epoch;
    int64_t prev_end;   /* the leader's end at the previous fetch (R21) */
    uint64_t prev_us, caught_us;
    int64_t hw_sent, start_sent;
};

struct rlog {
    struct log_watch watch;
    bool flagged;         /* atomic: stands in the news */
    struct rlog *news_next;
    struct rpart *part;
    struct list node;     /* part->logs */
    struct rlog *hash_next;
    struct log_key key;
    struct log *log;      /* counted; NULL: the topology does not name it yet */
    int64_t epoch_start;  /* leading: where this epoch began */
    uint32_t min_insync;  /* of its topic (rule 23); 0: none of its own */
    bool unnamed;         /* counted in r->unnamed */
    struct rpos *pos;     /* owned: one a follower; NULL when not leading */
    /* following */
    struct list report;   /* in the fetcher's list: its position is to be told */
    bool busy;            /* cut or installed by work: answers are dropped */
    int64_t told_durable;
    struct list cut_node;
    int64_t cut_to;       /* what work does to it */
    bool restart;         /* ... begin anew there instead of cutting */
    bool needs_checkpoint; /* ... a checkpoint of this queue went with it: the leader's is fetched */
    struct install *install; /* owned; NULL: none */
    int64_t covers;       /* a queue's: S of its checkpoint here, as last read; -1: none */
    bool covers_read;     /* since it was last followed */
    int64_t leader_start; /* as last told */
    int64_t missed_hw;    /* told while it was busy; -1: none */
    struct list follow_node; /* a queue's: in part->follows */
    uint64_t grown;       /* a queue's: bytes appended since it was last followed */
    uint64_t follow_us;   /* ... asked for no more often */
    bool follow_waits;    /* its checkpoint waits for a sync: followed again at retry_us */
    bool follow_durable;  /* its checkpoint is to be synced, so that its start can follow the leader's */
    bool looked;          /* what it held when this node began to follow it was seen to */
    uint64_t retry_us;    /* an append failed, or a checkpoint waits for a sync: not before */
};

/* ---- peers -------------------------------------------------------------------------------------------------------------------- */

struct fetch_call {
    struct bus_call call;
    struct fetcher *f;
    bool busy;
    uint64_t session; /* it was sent in */
    uint64_t number;
};
struct fetcher {
    struct replication *r;
    struct rpeer *peer;
    uint64_t session;     /* 0: begin anew */
    struct fetch_call calls[2]; /* one long-polled; a second overtakes it with news */
    struct list report;   /* of struct rlog */
    struct list followed;  /* of struct rpart: all that are followed from this node */
    struct list subscribe; /* of them, by fetch_node: to be told of in the next request */
    struct list refused;   /* the same: the leader is not there yet, or not any more */
    bool urgent;          /* news that must not wait for the long poll */
    uint64_t requests, answered; /* how many were sent; the latest that the leader has dealt with, and with it all before */
    uint64_t not_before_us;
    unsigned failures;
};

struct session {
    struct replication *r;
    struct rpeer *peer;
    uint64_t id;
    struct bus_request *parked;
    uint64_t parked_until_us, heard_us;
    uint32_t max_bytes;
    struct list ready;    /* of struct rpos */
    struct buf verdicts;  /* partitions to tell about in the next answer, encoded */
    unsigned verdict_count;
    bool urgent;          /* data or a divergence is ready */
    bool hw_news;         /* only watermarks moved: they wait for SOON_MS */
    bool answer_queued;
    struct list answer_node;
};

struct rpeer {
    struct list node;
    uint32_t node_id;
    struct fetcher *fetcher; /* owned; NULL: nothing is followed there */
    struct session *session; /* owned; NULL: it never fetched */
};

#define REPLICATION_MAGIC 0x7265706cu
struct replication {
    uint32_t magic;
    struct replication_options o;
    struct worker *w; /* the data worker */
    uint32_t node_id;
    uint32_t count;
    struct rpart *parts; /* owned */
    struct list peers;
    struct rlog **hash;  /* owned; chains */
    uint32_t hash_size, hash_count;
    /* news: any thread pushes */
    struct rlog *news;   /* atomic stack */
    struct mail news_mail;
    bool news_posted;    /* atomic */
    /* logs opened by engines: any thread */
    struct mutex opened_mutex;
    struct list opened;  /* of struct opened_log, under opened_mutex; of partitions with a step under way they wait */
    bool opened_waiting;
    uint64_t lease_us;   /* how long a former leader may believe in its lease, with room for clock rates */
    struct mail opened_mail;
    bool opened_posted;  /* under opened_mutex */
    /* the topology changed */
    struct mail topology_mail;
    bool topology_posted; /* atomic */
    struct mail start_mail; /* and stop */
    bool stopped;          /* atomic */
    struct list proposals; /* of struct insync, in flight */
    uint32_t unnamed;      /* logs the topology does not name yet */
    struct mutex wait_mutex;
    struct io_timer tick, soon;
    bool soon_armed;
    struct list fresh;    /* of struct rpart, by fresh_node: subscribed in the request that is being read */
    struct list answers;  /* sessions to answer at the turn's end */
    struct worker_hook turn_end;
    uint64_t next_session;
    uint64_t pass_us;     /* atomic: of the last tick */
    uint32_t jobs;        /* background jobs under way, atomic */
    bool started, stopping;
    uint32_t sweep_at;
    /* record.c: topics by id, of the view of that index */
    const struct topo_topic **topics; /* owned */
    size_t topic_count, topic_cap;
    uint64_t topics_index;
    struct ships *ships;
    struct list installs; /* of struct install */
    struct list pulls;    /* of struct pull */
    struct mail leave_mail;
    bool left;             /* atomic: leave_mail was delivered */
    uint32_t handing_over; /* atomic: handovers under way */
    struct list repairs;   /* of struct repair */
    struct list handovers; /* of struct handover_proposal, in flight */
    unsigned installs_running;
};

static inline bool rpart_leads(const struct rpart *part)
{
    return part->role == PARTITION_LEADER || part->role == PARTITION_PARKED;
}

uint64_t replication_now_us(void); /* monotonic */

/* record.c: valid for this turn's view. */
void record_read(struct replication *r, const struct topology *v, uint32_t index, struct part_record *ret);
const struct topo_topic *record_topic(struct replication *r, uint64_t id);
bool record_node_active(struct replication *r, uint32_t node, uint64_t *ret_epoch); /* it may be handed leaderships; the epoch is told of any node that is known */
bool record_node_may_join(struct replication *r, uint32_t node);                    /* an in-sync set */

/* logs.c */
struct rlog *rlog_find(struct replication *r, const struct log_key *key);
/* Found or made; opened when the topology names it (or `log` gives it). */
struct rlog *rlog_get(struct rpart *part, const struct log_key *key);
void rlog_drop(struct rlog *l, bool delete_files);
int rlog_open(struct rlog *l); /* 0, ERR_NOT_FOUND: not named yet, ERR_* */
void rlogs_start(struct replication *r); /* finds what is on disk */
void rlogs_stop(struct replication *r);
void rlogs_adopt(struct replication *r); /* what engines opened while a step ran */
void rlogs_sweep(struct replication *r, unsigned max);
void rlog_flag(struct rlog *l);
void rlog_positions_reset(struct rlog *l); /* the followers changed, or leading began or ended */

/* work.c */
void work_init(struct rpart *part);
void work_kick(struct rpart *part);
void work_cut(struct rlog *l, int64_t to);       /* log_truncate, and memory with it */
void work_install(struct rlog *l);
void work_follow(struct rlog *l, bool durable);  /* a queue's log grew */
void work_restart(struct rlog *l, int64_t start); /* R13: a topic's log begins anew at its leader's start */

/* steps.c: what a step does, on a background thread, and what follows it, on the data worker. */
void step_plan(struct rpart *part);
void step_run(struct rpart *part);
void step_done(struct rpart *part);
void step_forget(struct rpart *part); /* frees what leading needed */

/* follower.c */
struct fetcher *fetcher_of(struct replication *r, uint32_t node_id);
void fetcher_follow(struct rpart *part);   /* subscribe with the leader it has now */
void fetcher_unfollow(struct rpart *part);
void fetcher_resubscribe(struct rpart *part); /* all positions are told again */
void fetcher_report(struct rlog *l, bool urgent);
void fetcher_kick(struct fetcher *f);
/* R11: cuts a log where it parts from another's, as work. */
void follower_cut(struct rlog *l, int32_t epoch, int64_t end);
void follower_follow_start(struct rlog *l);
void follower_work_done(struct rlog *l); /* a log that was cut or installed is fetched on */
void fetchers_soon(struct replication *r, uint64_t now);
void fetchers_tick(struct replication *r, uint64_t now);
void fetcher_free(struct fetcher *f);

/* ship.c */
void ship_init(struct replication *r);
void ship_free(struct replication *r);
void ships_tick(struct replication *r, uint64_t now);

/* install.c */
void install_want(struct rlog *l, bool restart); /* it needs the leader's snapshot or checkpoint (rule 3); not `restart`: beside its log */
void install_cancel(struct rlog *l); /* its leader is another now */
void install_drop(struct rlog *l);
int install_run(struct rlog *l);     /* as work */
void install_done(struct rlog *l, int err);
void installs_tick(struct replication *r);
void installs_free(struct replication *r);

/* session.c */
void session_resubscribe(struct session *s, struct rpart *part); /* NULL is fine: its follower must tell of all logs again */
void session_handle_fetch(void *arg, const struct bus_peer *from, struct bus_request *req, struct slice payload);
/* The partition's followers are to tell of its logs, and have told of none. In what holds something each is behind from here on (R21): who never tells leaves the set like who stopped fetching. */
void session_expect(struct rpart *part);
void session_news(struct rlog *l);  /* its end, start or HW moved while leading */
void sessions_soon(struct replication *r, uint64_t now);
void sessions_tick(struct replication *r, uint64_t now);
void session_answer_later(struct session *s);
/* R10: what ends there with a batch of that epoch is a prefix of ours. */
bool session_agrees(struct log *log, int64_t end, int32_t epoch);
void session_tell_where(struct log *log, int64_t end, int32_t epoch, struct fetch_log *a);
void session_forget(struct rpart *part); /* it is not led here any more */
void sessions_stop(struct replication *r); /* answers what is parked */
void session_free(struct session *s);
void sessions_turn_end(struct replication *r);

/* watermark.c */
void watermark_update(struct rlog *l);
void watermark_update_all(struct rpart *part);

/* insync.c */
void insync_joined(struct rpart *part, struct follower *f); /* it may have caught up */
void insync_scan(struct rpart *part, uint64_t now);
void insync_forget(struct rpart *part);
void insync_free_all(struct replication *r);
void insync_note_record(struct rpart *part); /* its record changed */

/* handover.c */
/* To the first in-sync member that is active, in order of preference; nothing happens where there is none, or it cannot begin now. */
void handover_to_any(struct rpart *part);
void handover_park(struct rpart *part);   /* as work */
void handover_unpark(struct rpart *part); /* as work */
void handover_worked(struct rpart *part);
void handover_progress(struct rpart *part);
void handover_forget(struct rpart *part);
void handovers_free(struct replication *r);

/* ends.c */
void ends_handle(void *arg, const struct bus_peer *from, struct bus_request *req, struct slice payload);

/* pull.c */
bool pull_is_due(const struct rpart *part);
void pull_begin(struct rpart *part);
void pull_continue(struct rpart *part); /* work on one of its logs is done */
void pull_forget(struct rpart *part);
void pulls_tick(struct replication *r);
void pulls_free(struct replication *r);
void pull_handle_read(void *arg, const struct bus_peer *from, struct bus_request *req, struct slice payload);

/* repair.c */
bool repair_is_due(const struct rpart *part, const struct part_record *rec); /* something here is damaged, and there are others to fetch from; any thread that has the partition's work */
void repair_look(struct rpart *part);  /* something may be damaged */
void repair_mask(struct rpart *part);  /* its record was read: a damaged copy does not lead */
void repair_go_on(struct rpart *part, uint64_t now);
int repair_run(struct rpart *part);    /* as work */
void repair_done(struct rpart *part, int err);
/* The scrubber suspects logs of this node (log_suspect): one of this partition is given up while others have it whole; a leader hands over first. */
void repair_suspects(struct rpart *part, uint64_t now);
void repairs_free(struct replication *r);

/* wait.c */
void waiters_notify(struct rpart *part);

struct rpeer *peer_get(struct replication *r, uint32_t node_id);
void replication_arm_soon(struct replication *r);

#define ALOAD(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ALOADX(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define ASTORE(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define ASTOREX(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)

#endif
