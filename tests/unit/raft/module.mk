check_PROGRAMS += unit-raft
TESTS += unit-raft
unit_raft_SOURCES = %D%/damage_test.c %D%/election_test.c %D%/group.c %D%/group.h %D%/log_test.c %D%/member_test.c %D%/replicate_test.c \
	%D%/store_test.c
unit_raft_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/%D%
unit_raft_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_raft_LDADD = libraft.a libbase.a $(CRITERION_LIBS) $(JEMALLOC_LIBS) -lpthread

# A plain main, for --enable-sanitize=thread.
check_PROGRAMS += stress-raft
TESTS += stress-raft
stress_raft_SOURCES = %D%/stress.c
stress_raft_LDADD = libraft.a libbase.a $(JEMALLOC_LIBS) -lpthread
