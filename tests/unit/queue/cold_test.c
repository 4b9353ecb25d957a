/* P16: what is not in the page cache is handed out to be read elsewhere, and comes then. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/err.h"
#include "fixture.h"

static struct fixture f;
static struct taster a;

/* Throws the queue's files out of the page cache. False where that cannot be seen (a file system in memory).
 */
static bool chill(uint64_t id)
{
    bool cold = false;
    uint8_t byte;
    struct iovec iov = {&byte, 1};
    char dir[200], path[500];
    struct dirent *e;
    DIR *d;

    snprintf(dir, sizeof(dir), "%s/p-0007/queue/%016llx", f.dir, (unsigned long long)id);
    d = opendir(dir);
    cr_assert_not_null(d);
    while ((e = readdir(d)) != NULL) {
        int fd;

        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        fd = open(path, O_RDONLY);
        fsync(fd);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        if (strcmp(e->d_name, "00000000000000000000.log") == 0)
            cold = preadv2(fd, &iov, 1, 0, RWF_NOWAIT) < 0 && errno == EAGAIN;
        close(fd);
    }
    closedir(d);
    return cold;
}

Test(queue_cold, a_cold_backlog_is_read_in_the_background_and_delivered_in_order)
{
    struct queue *q;
    unsigned warmed = 0;
    uint64_t next = 0;
    bool cold;

    fixture_init(&f);
    f.segment_bytes = 1 << 20;
    fixture_open(&f);
    q = fixture_queue(&f, 1, true);
    for (uint64_t i = 0; i < 250; i++) {
        cr_assert_eq(publish(&f, q, i, 64000), 0);
        queue_table_flush(f.table, NULL);
    }
    fixture_close(&f);
    cold = chill(1);
    fixture_open(&f);
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
    cr_assert_eq(queue_consumer_add(q, &a.c, f.now_ms), 0);
    queue_table_flush(f.table, NULL);
    while (next < 250) {
        unsigned news = a.news;
        int err = taster_take(&a, QUEUE_TAKE_MAX);

        for (; next < a.count; next++)
            cr_assert_eq(a.got[next].number, next);
        a.take.read_cold = false;
        if (err == ERR_AGAIN) {
            cr_assert_eq(a.news, news, "no news while the disk is read");
            cr_assert_eq(queue_warm(&a.take.cold), 0);
            log_span_release(&a.take.cold);
            a.take.read_cold = true;
            warmed++;
        } else {
            cr_assert_eq(err, 0);
        }
    }
    cr_assert(warmed > 0 || !cold);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}
