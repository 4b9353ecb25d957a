noinst_LIBRARIES += liblog.a
liblog_a_CFLAGS = $(AM_CFLAGS) $(LZ4_CFLAGS) $(ZSTD_CFLAGS) $(ZLIB_CFLAGS)
liblog_a_SOURCES = \
	%D%/append.c %D%/batch.c %D%/batch.h %D%/codec.c %D%/commit.c %D%/effect.c %D%/effect.h %D%/epochs.c %D%/failpoint.c \
	%D%/hot.c %D%/identity.c %D%/janitor.c %D%/kinds.def %D%/ledger.c %D%/log.h %D%/private.h %D%/read.c \
	%D%/recover.c %D%/replica.c %D%/retain.c %D%/scrub.c %D%/segment.c %D%/store.c %D%/sync.c %D%/walk.c
# What a program links behind liblog.a.
LOG_LIBS = $(LZ4_LIBS) $(ZSTD_LIBS) $(ZLIB_LIBS) $(SNAPPY_LIBS)
