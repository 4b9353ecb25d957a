/* The store with a real core on a real directory: a group of one, as a node alone runs it. */
#include <criterion/criterion.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "cluster/raft/raft_store.h"

static char dir[64];
static sem_t news;

struct host {
    struct raft_store *store;
    struct raft *r;
    uint64_t applied, sum;
    bool inline_ok;
};

static void setup(void)
{
    strcpy(dir, "/tmp/gomsg-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    sem_init(&news, 0, 0);
}

static void teardown(void)
{
    file_remove_tree(dir);
}

static void wake(void *arg)
{
    (void)arg;
    sem_post(&news);
}

static const struct raft_node self = {.id = 1, .uuid = "one"};

static int step(struct host *h, struct raft_event *ev)
{
    struct raft_update up;
    struct raft_entry e;
    int err;

    ev->now_us = clock_mono_us();
    err = raft_step(h->r, ev, &up);
    if (up.seq != 0)
        raft_store_submit(h->store, &up, h->inline_ok && raft_is_alone(h->r));
    while (h->applied < up.commit) {
        cr_assert(raft_entry(h->r, ++h->applied, &e));
        if (e.kind == RAFT_ENTRY_COMMAND)
            h->sum += e.data[0];
    }
    if (ev->type != RAFT_APPLIED) {
        struct raft_event applied = {.type = RAFT_APPLIED, .applied = h->applied};

        step(h, &applied);
    }
    return err;
}

static void drain(struct host *h)
{
    struct raft_event ev;
    int n;

    while ((n = raft_store_next(h->store, &ev)) == 1)
        step(h, &ev);
    cr_assert_eq(n, 0);
}

static void wait_applied(struct host *h, uint64_t index)
{
    drain(h);
    while (h->applied < index) {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 30;
        cr_assert_eq(sem_timedwait(&news, &until), 0);
        drain(h);
    }
}

static void start(struct host *h, bool inline_ok)
{
    struct raft_recovered rec;
    struct raft_options o = {.self = self, .seed = 1, .now_us = clock_mono_us()};
    struct raft_member m = {.node = self, .voter = true, .address = SLICE_LIT("here")};
    struct raft_event tick = {.type = RAFT_TICK};
    struct slice payload;

    *h = (struct host){.inline_ok = inline_ok};
    cr_assert_eq(raft_store_open(dir, wake, NULL, &h->store, &rec, &payload), 0);
    if (!raft_has_config(&rec))
        cr_assert_eq(raft_store_form(h->store, &m, 1, &rec), 0);
    else
        cr_assert_eq(raft_store_form(h->store, &m, 1, &rec), ERR_EXISTS);
    h->r = raft_new(&o, &rec);
    h->applied = rec.snapshot.index;
    if (payload.len != 0)
        h->sum = be64_get(payload.data);
    raft_store_loaded(h->store);
    step(h, &tick);
    wait_applied(h, raft_last_index(h->r));
    cr_assert_eq(raft_role(h->r), RAFT_LEADER);
}

static void stop(struct host *h)
{
    raft_store_close(h->store);
    raft_free(h->r);
}

static uint64_t propose(struct host *h, uint8_t value)
{
    struct slice payload = slice_of(&value, 1);
    struct raft_event ev = {.type = RAFT_PROPOSE, .payloads = &payload, .payload_count = 1};

    cr_assert_eq(step(h, &ev), 0);
    return raft_last_index(h->r);
}

Test(raft_store, a_node_alone_commits_at_once_without_waiting_for_anybody, .init = setup, .fini = teardown)
{
    struct host h;
    uint64_t sum = 0;

    start(&h, true);
    for (unsigned i = 0; i < 50; i++) {
        uint64_t index = propose(&h, (uint8_t)i);

        drain(&h); /* no tick, no other thread */
        cr_assert_eq(h.applied, index);
        sum += i;
    }
    stop(&h);
    start(&h, true);
    cr_assert_eq(h.sum, sum);
    stop(&h);
}

Test(raft_store, the_thread_writes_in_groups_and_tells, .init = setup, .fini = teardown)
{
    struct host h;
    uint64_t index = 0, sum = 0;

    start(&h, false);
    for (unsigned i = 0; i < 2000; i++) {
        index = propose(&h, (uint8_t)(i % 7));
        sum += i % 7;
    }
    wait_applied(&h, index);
    cr_assert_eq(h.sum, sum);
    stop(&h);
    start(&h, false);
    cr_assert_eq(h.sum, sum);
    stop(&h);
}

Test(raft_store, what_was_queued_is_written_before_it_closes, .init = setup, .fini = teardown)
{
    struct host h;
    uint64_t index = 0;

    start(&h, false);
    for (unsigned i = 0; i < 100; i++)
        index = propose(&h, 1);
    stop(&h);
    start(&h, false);
    cr_assert_geq(raft_last_index(h.r), index);
    cr_assert_eq(h.sum, 100);
    stop(&h);
}

Test(raft_store, a_snapshot_is_saved_beside_the_work, .init = setup, .fini = teardown)
{
    struct host h;
    struct buf payload = {0};

    start(&h, true);
    for (unsigned i = 0; i < 10; i++)
        propose(&h, 2);
    drain(&h);
    buf_put_be64(&payload, h.sum);
    cr_assert_eq(raft_store_snapshot(h.store, h.applied, raft_term_at(h.r, h.applied), raft_config_at(h.r, h.applied), &payload), 0);
    cr_assert_eq(raft_store_snapshot(h.store, h.applied, raft_term_at(h.r, h.applied), raft_config_at(h.r, h.applied), &payload), ERR_BUSY);
    for (unsigned i = 0; i < 10; i++)
        propose(&h, 3);
    wait_applied(&h, raft_last_index(h.r));
    while (raft_store_snapshotting(h.store)) {
        sem_wait(&news);
        drain(&h);
    }
    stop(&h);
    start(&h, true);
    cr_assert_eq(h.sum, 50);
    cr_assert_eq(raft_store_form(h.store, NULL, 0, &(struct raft_recovered){.snapshot.config = SLICE_LIT("x")}), ERR_EXISTS);
    stop(&h);
}

static void put_01(struct buf *b, uint64_t index, uint8_t value)
{
    size_t at = b->len;

    buf_put_be32(b, 1);
    buf_put_be32(b, 0);
    buf_put_be64(b, index);
    buf_put_be64(b, 1);
    buf_put_u8(b, value);
    be32_put(b->data + at + 4, crc32c(0, b->data + at + 8, 17));
}

Test(raft_store, a_directory_from_before_configurations_becomes_a_group_of_one, .init = setup, .fini = teardown)
{
    struct host h;
    struct buf log = {0};
    char *path = mem_printf("%s/log-0", dir);

    buf_put_str(&log, "GMRAFT01");
    buf_put_be64(&log, 0);
    buf_put_be64(&log, 0);
    for (unsigned i = 1; i <= 5; i++)
        put_01(&log, i, (uint8_t)i);
    cr_assert_eq(file_replace(path, log.data, log.len), 0);
    start(&h, true);
    cr_assert_eq(h.sum, 15);
    cr_assert(raft_is_alone(h.r));
    propose(&h, 5);
    drain(&h);
    stop(&h);
    start(&h, true);
    cr_assert_eq(h.sum, 20);
    stop(&h);
    buf_fini(&log);
    mem_free(path);
}
