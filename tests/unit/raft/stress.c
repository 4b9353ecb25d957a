/* The store under load, for --enable-sanitize=thread: one thread submits, takes snapshots, reads them, installs received ones; the store's thread does the work. A plain main. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/fileio.h"
#include "cluster/raft/raft_store.h"

#define ROUNDS 3000

struct host {
    struct raft_store *store;
    uint64_t seq, persisted, last, term;
    uint64_t floor; /* committed: a snapshot holds it */
    uint64_t saved, installed;
    struct raft_snapshot newest;
};

static void wake(void *arg)
{
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
}

static void submit(struct host *h, bool here)
{
    struct raft_entry e = {.term = h->term, .data = (const uint8_t *)"payload", .len = 7};
    struct raft_update up = {.seq = ++h->seq, .term = h->term, .first_index = ++h->last, .entries = &e, .entry_count = 1};

    if (h->seq % 17 == 0) {
        up.vote_changed = true;
        up.term = e.term = ++h->term;
        up.vote.id = 3;
    }
    if (h->seq % 29 == 0 && h->last > h->floor + 2) {
        up.truncate_from = h->last - 1; /* one is dropped, one is added */
        h->last--;
        up.first_index = h->last;
    }
    raft_store_submit(h->store, &up, here);
}

static void drain(struct host *h)
{
    struct raft_event ev;
    int n;

    while ((n = raft_store_next(h->store, &ev)) == 1) {
        if (ev.type == RAFT_PERSISTED) {
            CHECK(ev.seq > h->persisted && ev.seq <= h->seq);
            h->persisted = ev.seq;
        } else if (ev.type == RAFT_SNAPSHOT_SAVED) {
            h->newest = ev.snapshot;
            h->saved++;
        } else {
            CHECK(ev.err == 0);
            h->installed++;
        }
    }
    CHECK(n == 0);
}

static void wait_all(struct host *h)
{
    while (h->persisted < h->seq || raft_store_snapshotting(h->store)) {
        usleep(100);
        drain(h);
    }
}

static void save(struct host *h)
{
    struct buf payload = {0};

    buf_put_str(&payload, "the state of the machine");
    if (raft_store_snapshot(h->store, h->last, h->term, SLICE_LIT("config"), &payload) < 0)
        buf_fini(&payload);
    else
        h->floor = h->last;
}

static void read_back(struct host *h)
{
    struct raft_message m = {.type = RAFT_MSG_SNAPSHOT, .snapshot = h->newest, .offset = 4, .chunk = 5};
    int err = raft_store_snapshot_read(h->store, &m);

    CHECK(err == ERR_NOT_FOUND || (err == 0 && slice_eq(m.data, SLICE_LIT("state"))));
}

static void install(struct host *h)
{
    struct slice state = SLICE_LIT("another state");
    struct raft_chunk c = {.snapshot = {.index = h->last + 10, .term = h->term + 1, .config = SLICE_LIT("config"), .size = state.len, .crc = crc32c(0, state.data, state.len)}};
    uint64_t before = h->installed;

    for (c.offset = 0; c.offset < state.len; c.offset += c.data.len) {
        c.data = slice_of(state.data + c.offset, c.offset + 5 > state.len ? state.len - c.offset : 5);
        c.last = c.offset + c.data.len == state.len;
        raft_store_chunk(h->store, &c);
    }
    while (h->installed == before) {
        usleep(100);
        drain(h);
    }
    h->last += 10;
    h->floor = h->last;
    h->term++;
}

int main(void)
{
    char dir[] = "/tmp/gomsg-stress-XXXXXX";
    struct raft_recovered rec;
    struct slice payload;
    struct host h = {.term = 1};
    int woken = 0;

    CHECK(mkdtemp(dir) != NULL);
    CHECK(raft_store_open(dir, wake, &woken, &h.store, &rec, &payload) == 0);
    raft_store_loaded(h.store);
    for (int i = 0; i < ROUNDS; i++) {
        submit(&h, i % 500 < 20);
        drain(&h);
        (void)raft_store_busy_us(h.store);
        if (i % 100 == 50) {
            wait_all(&h); /* a snapshot is of what is there */
            save(&h);
        }
        if (i % 100 == 70 && h.saved != 0)
            read_back(&h);
        if (i % 1000 == 999) {
            wait_all(&h);
            install(&h);
        }
    }
    wait_all(&h);
    raft_store_close(h.store);
    CHECK(h.saved > 20 && h.installed == 3 && woken > 0);
    CHECK(raft_store_open(dir, wake, &woken, &h.store, &rec, &payload) == 0);
    CHECK(rec.base + rec.entry_count == h.last && rec.term <= h.term);
    raft_store_close(h.store);
    file_remove_tree(dir);
    printf("stress-raft: %d writes, %llu snapshots saved, %llu installed\n", ROUNDS, (unsigned long long)h.saved, (unsigned long long)h.installed);
    return 0;
}
