REPLICATE_LIBS = libreplicate.a libtopology.a libpartition.a libqueue.a libstream.a libkv.a liblog.a libio.a libmetrics.a libbase.a \
	$(LOG_LIBS) $(EV_LIBS) $(CRYPTO_LIBS) $(JEMALLOC_LIBS)

check_PROGRAMS += unit-replicate
TESTS += unit-replicate
unit_replicate_SOURCES = %D%/codec_test.c %D%/data_test.c %D%/fakes.c %D%/fakes.h %D%/random.c %D%/random.h %D%/replicate_test.c %D%/sim.c %D%/sim.h
unit_replicate_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests/unit/replicate
unit_replicate_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_replicate_LDADD = $(REPLICATE_LIBS) $(CRITERION_LIBS)

# A plain main, for --enable-sanitize=thread.
check_PROGRAMS += stress-replicate
TESTS += stress-replicate
stress_replicate_SOURCES = %D%/fakes.c %D%/fakes.h %D%/random.c %D%/random.h %D%/sim.c %D%/sim.h %D%/stress.c
stress_replicate_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests/unit/replicate
stress_replicate_LDADD = $(REPLICATE_LIBS)
