bin_PROGRAMS += gomsgctl
gomsgctl_SOURCES = %D%/dev.c %D%/dev.h %D%/logdump.c %D%/logdump.h %D%/main.c %D%/render.c %D%/render.h %D%/verbs.def
gomsgctl_CFLAGS = $(AM_CFLAGS) $(HIREDIS_CFLAGS) $(JANSSON_CFLAGS) $(SMARTCOLS_CFLAGS)
gomsgctl_LDADD = liblog.a libio.a libbase.a $(HIREDIS_LIBS) $(JANSSON_LIBS) $(SMARTCOLS_LIBS) $(LZ4_LIBS) $(ZSTD_LIBS) $(ZLIB_LIBS) \
	$(SNAPPY_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS) -lpthread
