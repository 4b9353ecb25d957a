noinst_LIBRARIES += libmember.a
libmember_a_SOURCES = %D%/member.h %D%/plan.c %D%/plan.h
