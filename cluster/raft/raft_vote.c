/* The vote on disk: two slots written in turn, each with a number and a CRC, so that a crash leaves the one before (Raft 5.2: it survives before it is told). */
#include "cluster/raft/raft_log_private.h"

#include <stdio.h>

/* ERR_NOSPACE may pass (copy-on-write file systems); anything else is final. */
int raft_log_vote(struct raft_log *l, uint64_t term, const struct raft_node *vote)
{
    uint8_t b[VOTE_SLOT];
    uint64_t number = l->vote_number + 1;
    int err;

    if (l->failed != 0)
        return l->failed;
    memcpy(b, VOTE_MAGIC, 8);
    be64_put(b + 8, number);
    be64_put(b + 16, term);
    be32_put(b + 24, vote->id);
    memcpy(b + 28, vote->uuid, 16);
    be32_put(b + 44, crc32c(0, b, 44));
    err = file_pwrite_all(l->vote_fd, b, sizeof(b), number % 2 * VOTE_STRIDE);
    if (err == ERR_NOSPACE)
        return err; /* nothing was written */
    if (err == 0 && fdatasync(l->vote_fd) < 0)
        err = err_from_errno(errno);
    if (err < 0)
        return raft_log_fail(l, err == ERR_NOSPACE ? ERR_IO : err, "vote");
    l->vote_number = number;
    return 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

static int read_slot(struct raft_log *l, const uint8_t *p, struct raft_recovered *rec)
{
    uint64_t number;

    if (all_zero(p, VOTE_SLOT))
        return 0; /* never written */
    if (memcmp(p, VOTE_MAGIC, 8) != 0 || be32_get(p + 44) != crc32c(0, p, 44))
        return ERR_CORRUPT;
    number = be64_get(p + 8);
    if (number <= l->vote_number)
        return 0;
    l->vote_number = number;
    rec->term = be64_get(p + 16);
    rec->vote.id = be32_get(p + 24);
    memcpy(rec->vote.uuid, p + 28, 16);
    return 0;
}

/* Both slots from the start, so that writing one never changes the file's size. */
static int create_vote(struct raft_log *l, const char *path)
{
    uint8_t *b = mem_zalloc(2 * (size_t)VOTE_STRIDE);
    int err = file_replace(path, b, 2 * (size_t)VOTE_STRIDE);

    mem_free(b);
    l->vote_number = 0;
    return err;
}

/* One slot without a number, and a voter that is known by its id alone: the term is what counts, the vote is for nobody who asks again. */
static int read_01(const struct buf *b, struct raft_recovered *rec)
{
    if (b->len != 24 || be32_get(b->data + 20) != crc32c(0, b->data, 20))
        return ERR_CORRUPT;
    rec->term = be64_get(b->data + 8);
    rec->vote.id = be32_get(b->data + 16);
    return 0;
}

int raft_vote_load(struct raft_log *l, struct raft_recovered *rec, bool must_exist)
{
    struct buf b = {0};
    char *path = mem_printf("%s/vote", l->dir);
    bool old = false, create = false;
    int err = file_read(path, 1u << 20, &b);

    if (err == ERR_NOT_FOUND && !must_exist) {
        create = true;
        err = 0;
    } else if (err == 0 && b.len >= 8 && memcmp(b.data, VOTE_MAGIC_01, 8) == 0) {
        old = create = true;
        err = read_01(&b, rec);
    } else if (err == 0) {
        err = b.len != 2 * VOTE_STRIDE ? ERR_CORRUPT : 0;
        for (size_t i = 0; err == 0 && i < 2; i++)
            err = read_slot(l, b.data + i * VOTE_STRIDE, rec);
    } else if (err == ERR_NOT_FOUND) {
        err = ERR_CORRUPT;
    }
    if (err == 0 && create)
        err = create_vote(l, path);
    if (err == 0 && (l->vote_fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
        err = err_from_errno(errno);
    if (err == 0 && old)
        err = raft_log_vote(l, rec->term, &rec->vote);
    buf_fini(&b);
    mem_free(path);
    return err;
}
