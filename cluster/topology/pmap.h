/* A persistent ordered map from bytes to pointers: a treap whose priorities are hashes of the keys, so its shape depends on its content alone. An update copies the path to
 * the change, O(log n), and hands the replaced nodes to a retire list; old roots stay valid until that list is freed.
 *
 * Reading: any thread, no lock, as long as the root's nodes are not freed. Writing: one thread. Keys and values of a node live in it; values are pointers that the map does not own. */
#ifndef GM_CLUSTER_PMAP_H
#define GM_CLUSTER_PMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

struct pmap_node;
struct pmap {
    struct pmap_node *root;
    uint64_t count;
};

/* What an update made unreachable from the new root; freed when nobody can hold the old one. */
struct pmap_retired {
    struct pmap_node **nodes;
    size_t count, cap;
};
void pmap_retired_free(struct pmap_retired *r);

/* Sets key; returns the former value or NULL. */
void *pmap_put(struct pmap *m, struct slice key, void *value, struct pmap_retired *retired);
/* Removes key; returns its value or NULL when there was none. */
void *pmap_remove(struct pmap *m, struct slice key, struct pmap_retired *retired);
void *pmap_get(const struct pmap *m, struct slice key);
/* The first key >= `from`; false when there is none. */
bool pmap_seek(const struct pmap *m, struct slice from, struct slice *ret_key, void **ret_value);
/* Calls fn for each key that begins with prefix, in order, until it returns false. True: went through all. */
bool pmap_each_prefix(const struct pmap *m, struct slice prefix, bool (*fn)(struct slice key, void *value, void *arg), void *arg);
/* Frees every node of a map nobody reads any more. */
void pmap_free(struct pmap *m);

#endif
