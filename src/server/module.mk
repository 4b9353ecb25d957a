noinst_LIBRARIES += libserver.a
libserver_a_SOURCES = \
	%D%/admin.c %D%/admin_cluster.c %D%/admin_change.c %D%/admin_doctor.c %D%/admin_member.c %D%/admin_show.c %D%/change.c %D%/cluster.c %D%/gauges.c %D%/internal.h %D%/notify.c %D%/notify.h \
	%D%/queues.c %D%/server.c %D%/server.h %D%/sweep.c
libserver_a_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)

sbin_PROGRAMS += gomsgd
gomsgd_SOURCES = src/main.c
gomsgd_LDADD = libserver.a libamqp.a libkafka.a libresp.a libhttp.a libmember.a libreplicate.a libtopology.a libbus.a libraft.a libpartition.a libqueue.a libstream.a \
	libkv.a liblog.a libio.a libmetrics.a libconfig.a libbase.a \
	$(HIREDIS_LIBS) $(LZ4_LIBS) $(ZSTD_LIBS) $(ZLIB_LIBS) $(SNAPPY_LIBS) $(YAML_LIBS) $(JANSSON_LIBS) $(CRYPTO_LIBS) \
	$(MICROHTTPD_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS) -lpthread -lm
