/* The janitor thread (nice 10): checksums of sealed segments, unlinking, trash, unmapping. Nothing here is urgent and anything may take long on a
 * busy disk, so that neither workers nor the sync thread wait for it. An unlink is due only when the ledger durably says that the segment
 * is gone: a missing file that nothing explains is corruption (rule 4). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/private.h"

#define UNMAP_STEP (1u << 20) /* a large munmap holds the address space's lock for long (P12) */

void store_submit(struct log_store *s, struct job *job)
{
    mutex_lock(&s->mutex);
    list_push_back(&s->jobs, &job->node);
    pthread_cond_signal(&s->janitor_cond);
    mutex_unlock(&s->mutex);
}

static struct segment *find_sealed(struct log *l, int64_t base)
{
    int i = segment_find(l, base);
    struct segment *seg = i < 0 ? NULL : seg_at(l, (uint32_t)i);

    return seg != NULL && seg->base == base && (seg->flags & (SEG_SEALED | SEG_GOING)) == SEG_SEALED ? seg : NULL;
}

static void write_index_file(struct log *l, struct segfile *f, uint64_t bytes)
{
    struct header_walk w;
    struct batch_header h;
    struct buf b = {0};
    char path[512];
    int64_t max_ts = -1;
    uint64_t last = 0;

    if (bytes <= INDEX_INTERVAL)
        return;
    header_walk_init(&w, f, 0, bytes);
    buf_put_str(&b, "GMINDEX1");
    buf_put_be64(&b, bytes);
    while (header_walk_at(&w, &h) == 1) {
        if (w.pos - last >= INDEX_INTERVAL) {
            buf_put_be32(&b, (uint32_t)(h.base_offset - f->base));
            buf_put_be32(&b, (uint32_t)w.pos);
            buf_put_be64(&b, (uint64_t)max_ts);
            last = w.pos;
        }
        max_ts = MAX_OF(max_ts, h.max_timestamp);
        header_walk_skip(&w, &h);
    }
    buf_put_be32(&b, index_file_sum(b.data, b.len));
    snprintf(path, sizeof(path), "%s/%s/%020lld.index", l->store->data_dir, l->dir, (long long)f->base);
    if (file_replace(path, b.data, b.len) != 0)
        diag_warn("an index file could not be written; lookups will walk the segment", "path=\"%s\"", path);
    buf_fini(&b);
}

static void seal(struct log_store *s, struct log *l, int64_t base)
{
    struct segfile *f;
    struct segment *seg, copy;
    uint32_t crc;

    if (segment_open(l, base, &f) != 0)
        return; /* dropped meanwhile */
    mutex_lock(log_stripe(l));
    seg = find_sealed(l, base);
    copy = seg == NULL ? (struct segment){0} : *seg;
    mutex_unlock(log_stripe(l));
    if (seg != NULL) {
        bool summed = segment_sum(f, copy.bytes, &crc) == 0; /* listed in any case: what follows leans on it */

        if (summed && l->kind == LOG_TOPIC)
            write_index_file(l, f, copy.bytes);
        mutex_lock(log_stripe(l));
        seg = find_sealed(l, base);
        mutex_lock(&s->mutex);
        /* After a cut another segment may have its place. */
        if (seg != NULL && seg->next == copy.next && seg->bytes == copy.bytes && seg->max_ts == copy.max_ts && !ALOAD(&l->deleted)) {
            if (summed) {
                seg->crc = crc;
                seg->flags |= SEG_SUMMED;
            }
            log_list_sealed(l, base - 1);
            seg->flags |= SEG_LISTED;
            ledger_put_seal(&s->pending, l, seg);
        }
        mutex_unlock(&s->mutex);
        mutex_unlock(log_stripe(l));
    }
    segfile_unref(f);
}

static void run_job(struct log_store *s, struct job *job)
{
    switch (job->kind) {
    case JOB_SEAL:
        seal(s, job->log, job->base);
        log_unref(job->log);
        break;
    case JOB_UNLINK:
        if (unlinkat(s->dirfd, job->path, 0) < 0 && errno != ENOENT)
            diag_warn("an old segment could not be removed", "path=\"%s\" error=\"%s\"", job->path, strerror(errno));
        break;
    case JOB_RMTREE: {
        char *path = mem_printf("%s/%s", s->data_dir, job->path);

        if (file_remove_tree(path) != 0)
            diag_warn("trash could not be removed", "path=\"%s\"", path);
        mem_free(path);
        break;
    }
    case JOB_UNMAP:
        for (size_t at = 0; at < job->map_len; at += UNMAP_STEP)
            munmap((uint8_t *)job->map + at, MIN_OF((size_t)UNMAP_STEP, job->map_len - at));
        break;
    }
    mem_free(job->path);
    mem_free(job);
}

static struct job *next_due(struct log_store *s)
{
    LIST_FOREACH(n, &s->jobs)
    {
        struct job *job = LIST_ENTRY(n, struct job, node);

        if (job->after_round <= ALOAD(&s->round_done) || (s->stopping && job->kind != JOB_UNLINK)) {
            list_remove(n);
            return job;
        }
    }
    return NULL;
}

void *store_janitor_main(void *arg)
{
    struct log_store *s = arg;
    struct job *job;

    setpriority(PRIO_PROCESS, (id_t)gettid(), 10);
    mutex_lock(&s->mutex);
    for (;;) {
        job = next_due(s);
        if (job == NULL) {
            pthread_cond_broadcast(&s->done_cond);
            if (s->stopping)
                break;
            pthread_cond_wait(&s->janitor_cond, &s->mutex.m);
            continue;
        }
        s->jobs_running++;
        mutex_unlock(&s->mutex);
        run_job(s, job);
        mutex_lock(&s->mutex);
        s->jobs_running--;
    }
    /* Deletions that no round made due stay on disk; recovery finds them listed. */
    while (!list_empty(&s->jobs)) {
        job = LIST_ENTRY(list_pop_front(&s->jobs), struct job, node);
        mem_free(job->path);
        mem_free(job);
    }
    mutex_unlock(&s->mutex);
    return NULL;
}
