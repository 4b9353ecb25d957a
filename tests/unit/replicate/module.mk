check_PROGRAMS += unit-replicate
TESTS += unit-replicate
unit_replicate_SOURCES = %D%/codec_test.c %D%/data_test.c %D%/fakes.c %D%/fakes.h %D%/replicate_test.c %D%/sim.c %D%/sim.h
unit_replicate_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests/unit/replicate
unit_replicate_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_replicate_LDADD = libreplicate.a libtopology.a libpartition.a libqueue.a libstream.a libkv.a liblog.a libio.a libmetrics.a libbase.a \
	$(CRITERION_LIBS) $(LOG_LIBS) $(EV_LIBS) $(CRYPTO_LIBS) $(JEMALLOC_LIBS)
