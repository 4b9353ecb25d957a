# The Raft simulator. make check runs a thousand seeds and the seeds that once found something; make check-sim [SEEDS=N] runs N seeds (10,000), and proves that each of the five
# planted bugs (cluster/raft/private.h) is found within 10,000.
RAFT_SIM = %D%/actions.c %D%/check.c %D%/disk.c %D%/host.c %D%/net.c %D%/raft_sim.c %D%/sim.h %D%/world.c
RAFT_SIM_LIBS = libbase.a $(JEMALLOC_LIBS)
RAFT_SIM_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/%D%

check_PROGRAMS += raft_sim
TESTS += %D%/run
EXTRA_DIST += %D%/run %D%/regressions
raft_sim_SOURCES = $(RAFT_SIM)
raft_sim_CPPFLAGS = $(RAFT_SIM_CPPFLAGS)
raft_sim_LDADD = libraft.a $(RAFT_SIM_LIBS)

RAFT_SIM_BUGS = raft_sim_bug1 raft_sim_bug2 raft_sim_bug3 raft_sim_bug4 raft_sim_bug5
EXTRA_PROGRAMS = $(RAFT_SIM_BUGS)
raft_sim_bug1_SOURCES = $(RAFT_SIM) $(RAFT_CORE)
raft_sim_bug1_CPPFLAGS = $(RAFT_SIM_CPPFLAGS) -DRAFT_BUG=1
raft_sim_bug1_LDADD = $(RAFT_SIM_LIBS)
raft_sim_bug2_SOURCES = $(RAFT_SIM) $(RAFT_CORE)
raft_sim_bug2_CPPFLAGS = $(RAFT_SIM_CPPFLAGS) -DRAFT_BUG=2
raft_sim_bug2_LDADD = $(RAFT_SIM_LIBS)
raft_sim_bug3_SOURCES = $(RAFT_SIM) $(RAFT_CORE)
raft_sim_bug3_CPPFLAGS = $(RAFT_SIM_CPPFLAGS) -DRAFT_BUG=3
raft_sim_bug3_LDADD = $(RAFT_SIM_LIBS)
raft_sim_bug4_SOURCES = $(RAFT_SIM) $(RAFT_CORE)
raft_sim_bug4_CPPFLAGS = $(RAFT_SIM_CPPFLAGS) -DRAFT_BUG=4
raft_sim_bug4_LDADD = $(RAFT_SIM_LIBS)
raft_sim_bug5_SOURCES = $(RAFT_SIM) $(RAFT_CORE)
raft_sim_bug5_CPPFLAGS = $(RAFT_SIM_CPPFLAGS) -DRAFT_BUG=5
raft_sim_bug5_LDADD = $(RAFT_SIM_LIBS)

SEEDS = 10000
.PHONY: check-sim
CLEANFILES += $(RAFT_SIM_BUGS)
check-sim: raft_sim $(RAFT_SIM_BUGS)
	./raft_sim --list $(srcdir)/%D%/regressions
	./raft_sim --seeds $(SEEDS)
	@for n in 1 2 3 4 5; do ./raft_sim_bug$$n --seeds 10000 --expect-bug || exit 1; echo "planted bug $$n: found"; done
