noinst_LIBRARIES += libmember.a
libmember_a_SOURCES = \
	%D%/controller.c %D%/ends.c %D%/events.c %D%/member.c %D%/member.h %D%/people.c %D%/plan.c %D%/plan.h %D%/private.h %D%/wire.c %D%/wire.h
