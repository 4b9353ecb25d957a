/* Payloads of membership's messages; varints as in base/buf.h. What cannot be read is ERR_MALFORMED.
 *
 *   HEARTBEAT       u8 version | be32 node | be64 node epoch | be64 applied | be32 sync age ms | be32 replication age ms | be64 wall clock ms | u count, count x u node seen refused
 *     answer        u8 version | u8 granted | be64 index
 *   HANDOVER        u8 version | be32 partition | be32 leader epoch | be32 to
 *     answer        nothing
 *   ASK_CONTROLLER  u8 version | u8 question | by question
 *     NODES         -            answer: u count, count x: u node | v heard ms ago | u sync age | u replication age | v clock skew ms
 *     RECOVER       be32 partition (UINT32_MAX: all without a leader)      answer: u how many were recovered, u how many not */
#ifndef GM_CLUSTER_MEMBER_WIRE_H
#define GM_CLUSTER_MEMBER_WIRE_H

#include "cluster/member/member.h"

#define REFUSED_MAX 32

struct heartbeat {
    uint32_t node_id;
    uint64_t node_epoch, applied;
    uint32_t sync_age_ms, replication_age_ms;
    int64_t wall_ms;
    unsigned refuse_count;
    uint32_t refuses[REFUSED_MAX];
};
void heartbeat_put(struct buf *b, const struct heartbeat *h);
int heartbeat_get(struct slice in, struct heartbeat *ret);

struct heartbeat_answer {
    bool granted;
    uint64_t index; /* the lease holds once this is applied */
};
void heartbeat_answer_put(struct buf *b, const struct heartbeat_answer *a);
int heartbeat_answer_get(struct slice in, struct heartbeat_answer *ret);

struct handover {
    uint32_t partition;
    int32_t epoch;
    uint32_t to;
};
void handover_put(struct buf *b, const struct handover *h);
int handover_get(struct slice in, struct handover *ret);

enum question { ASK_NODES = 1, ASK_RECOVER = 2 };
void question_put(struct buf *b, enum question q);
int question_get(struct reader *r, enum question *ret);

void node_infos_put(struct buf *b, const struct member_node_info *infos, unsigned n);
/* At most max; the count, or ERR_MALFORMED. */
int node_infos_get(struct slice in, struct member_node_info *ret, unsigned max);

#endif
