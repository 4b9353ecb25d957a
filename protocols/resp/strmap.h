/* A small hash map from byte strings to intrusive nodes, chained, doubling; for channels and subscriptions.
 * Not synchronised. */
#ifndef GM_RESP_STRMAP_H
#define GM_RESP_STRMAP_H

#include "base/slice.h"

struct strnode {
    struct strnode *next;
    uint64_t hash;
    struct slice key; /* the owner's bytes, for as long as the node is in a map */
};

struct strmap {
    struct strnode **slots; /* owned */
    uint32_t mask, count;
};

void strmap_fini(struct strmap *m); /* the nodes are the caller's */
struct strnode *strmap_find(const struct strmap *m, struct slice key);
void strmap_add(struct strmap *m, struct strnode *n); /* n->key set; not in the map */
void strmap_remove(struct strmap *m, struct strnode *n);
/* Calls fn for each; fn may remove the node it is given. */
void strmap_each(const struct strmap *m, void (*fn)(struct strnode *n, void *arg), void *arg);

#endif
