/* The log of a group of one whose host appends and syncs by itself, without the core. */
#include "cluster/raft/raft_log_private.h"

int raft_log_open(const char *dir, const struct raft_log_handlers *h, struct raft_log **ret)
{
    struct raft_log_loaded in;
    const struct raft_snapshot *s = &in.rec.snapshot;
    int err = raft_log_load(dir, ret, &in);

    if (err < 0)
        return err;
    if (s->index != 0)
        err = h->snapshot(h->arg, s->index, s->term, in.snapshot_payload);
    for (size_t i = 0; err == 0 && i < in.rec.entry_count; i++) {
        const struct raft_entry *e = &in.entries[i];
        uint64_t index = in.rec.base + i + 1;

        if (index > s->index && e->kind == RAFT_ENTRY_COMMAND)
            err = h->entry(h->arg, index, e->term, slice_of(e->data, e->len));
    }
    raft_log_loaded_fini(&in);
    if (err < 0) {
        raft_log_close(*ret);
        *ret = NULL;
    }
    return err;
}

void raft_log_append(struct raft_log *l, uint64_t term, struct slice payload)
{
    raft_log_add(l, &(struct raft_entry){.term = MAX_OF(term, l->last_term), .data = payload.data, .len = (uint32_t)payload.len});
}

int raft_log_sync(struct raft_log *l)
{
    int err = raft_log_flush(l);

    if (err == ERR_NOSPACE)
        raft_log_forget(l);
    return err;
}

int raft_log_compact(struct raft_log *l, struct slice snapshot)
{
    struct raft_snapshot s = {.index = l->last, .term = l->last_term, .size = snapshot.len, .crc = crc32c(0, snapshot.data, snapshot.len)};
    uint64_t first;

    return raft_log_save(l, &s, snapshot, &first);
}
