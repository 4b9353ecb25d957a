noinst_LIBRARIES += liblog.a
liblog_a_CFLAGS = $(AM_CFLAGS) $(LZ4_CFLAGS) $(ZSTD_CFLAGS) $(ZLIB_CFLAGS)
liblog_a_SOURCES = \
	%D%/batch.c %D%/batch.h %D%/codec.c %D%/effect.c %D%/effect.h %D%/kinds.def %D%/log.h
# What a program links behind liblog.a.
LOG_LIBS = $(LZ4_LIBS) $(ZSTD_LIBS) $(ZLIB_LIBS) $(SNAPPY_LIBS)
