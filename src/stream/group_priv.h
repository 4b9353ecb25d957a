/* Shared by group.c (table, requests, deadlines) and group_join.c (joining and the rebalance). */
#ifndef GM_STREAM_GROUP_PRIV_H
#define GM_STREAM_GROUP_PRIV_H

#include "stream/group.h"

#define GROUP_NEW_MEMBER_JOIN_TIMEOUT_MS                                                                     \
    (5 * 60 * 1000u) /* a new member's first join may take this long, whatever its session */

struct slice group_member_id(const struct group_member *m);
void group_member_free(struct group_member *m);
void group_session_restart(struct group_member *m, uint64_t now_ms);
void group_pending_free(struct group_pending *p);
/* Takes a member out and lets the group react. An open wait is answered with UNKNOWN_MEMBER. */
void group_member_drop(struct groups *gs, struct group *g, struct group_member *m, uint64_t now_ms);
/* Starts a rebalance unless one is running already. */
void group_prepare(struct groups *gs, struct group *g, uint64_t now_ms);
/* Ends the joining phase when everybody is there. */
void group_try_complete_join(struct groups *gs, struct group *g, uint64_t now_ms);
void group_complete_join(struct groups *gs, struct group *g, uint64_t now_ms);
enum group_error group_check_member(struct group *g, struct slice member_id, struct slice instance,
                                    struct group_member **ret);
void group_set_text(char **at, struct slice s); /* data NULL: NULL */

#endif
