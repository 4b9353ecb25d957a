check_PROGRAMS += unit-amqp
TESTS += unit-amqp
unit_amqp_SOURCES = \
	%D%/codec_test.c %D%/headers_test.c %D%/rig.c %D%/rig.h %D%/session_test.c %D%/table_test.c %D%/unacked_test.c
unit_amqp_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_amqp_LDADD = libamqp.a libpartition.a libqueue.a libkv.a libtopology.a libraft.a libbus.a liblog.a libio.a libmetrics.a \
	libbase.a $(CRITERION_LIBS) $(CRYPTO_LIBS) $(LOG_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS) -lpthread
