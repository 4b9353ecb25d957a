check_PROGRAMS += unit-member
TESTS += unit-member
unit_member_SOURCES = %D%/world.c %D%/world.h %D%/plan_test.c %D%/random_test.c
unit_member_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_member_LDADD = libmember.a libtopology.a libraft.a libbase.a $(CRITERION_LIBS) $(CRYPTO_LIBS) $(JEMALLOC_LIBS)
