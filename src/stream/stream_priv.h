/* The inside of a stream, for the files of this folder. */
#ifndef GM_STREAM_PRIV_H
#define GM_STREAM_PRIV_H

#include <stdatomic.h>

#include "base/mutex.h"
#include "stream/producers.h"
#include "stream/stream.h"

#define STREAM_MAGIC 0x5354524du

struct stream {
    uint32_t magic;
    _Atomic uint32_t refs; /* the table holds one until the stream is deleted */
    struct stream_table *table;
    struct stream *next; /* in its bucket, or in the stripe's list of dying ones; under the stripe's mutex */
    uint64_t topic_id;
    uint32_t index, partition;
    char *topic;
    struct log *log; /* owned */
    _Atomic bool deleted, closed;
    struct log_watch hw_watch;
    struct mutex mu;
    struct producers producers GUARDED_BY(mu);
    struct mutex wait_mu; /* behind mu and the log's own locks */
    struct list waiters GUARDED_BY(wait_mu);
    uint64_t bytes_since_snapshot GUARDED_BY(mu); /* appended since the producers' snapshot was written */
};

void stream_notify(struct stream *s); /* all who wait */
bool stream_table_admits(const struct stream_table *t, uint32_t partition); /* appends; under the mutex of one of its streams */
const char *stream_table_data_dir(const struct stream_table *t);
/* Reads the snapshot and the batch headers behind it. */
int stream_load_producers(struct stream *s);
/* Writes the snapshot now, if anything was appended since the last. */
int stream_save_producers(struct stream *s);

#endif
