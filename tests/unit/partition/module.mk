PARTITION_LIBS = libpartition.a libqueue.a libkv.a liblog.a libio.a libbase.a $(LOG_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS)

check_PROGRAMS += unit-partition
TESTS += unit-partition
unit_partition_SOURCES = %D%/partition_test.c %D%/placement_test.c %D%/rig.c %D%/rig.h
unit_partition_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests/unit/partition
unit_partition_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_partition_LDADD = $(PARTITION_LIBS) $(CRITERION_LIBS)

# A plain main, for --enable-sanitize=thread.
check_PROGRAMS += stress-partition
TESTS += stress-partition
stress_partition_SOURCES = %D%/stress.c %D%/rig.c %D%/rig.h
stress_partition_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests/unit/partition
stress_partition_LDADD = $(PARTITION_LIBS)
