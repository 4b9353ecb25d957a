check_PROGRAMS += unit-stream
TESTS += unit-stream
unit_stream_SOURCES = %D%/group_test.c %D%/producers_test.c %D%/replica_test.c %D%/store_test.c %D%/stream_test.c tests/unit/log/rig.c \
	tests/unit/log/fake_workers.c tests/unit/kv/fixture.c
unit_stream_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/tests/unit/log -I$(srcdir)/tests/unit/kv
unit_stream_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_stream_LDADD = libstream.a libkv.a liblog.a libbase.a $(LOG_LIBS) $(CRITERION_LIBS) $(JEMALLOC_LIBS) -lpthread
