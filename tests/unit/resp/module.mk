check_PROGRAMS += unit-resp
TESTS += unit-resp
unit_resp_SOURCES = %D%/request_test.c %D%/reply_test.c %D%/table_test.c
unit_resp_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_resp_LDADD = libresp.a libreplicate.a libtopology.a libraft.a libbus.a libstream.a libpartition.a libqueue.a libkv.a liblog.a libio.a libmetrics.a libconfig.a libbase.a \
	$(LOG_LIBS) $(EV_LIBS) $(YAML_LIBS) $(CRITERION_LIBS) $(HIREDIS_LIBS) $(JEMALLOC_LIBS) $(CRYPTO_LIBS) -lpthread -lm
