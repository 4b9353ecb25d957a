check_PROGRAMS += unit-resp
TESTS += unit-resp
unit_resp_SOURCES = %D%/request_test.c %D%/reply_test.c
unit_resp_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_resp_LDADD = libresp.a libbase.a $(CRITERION_LIBS) $(HIREDIS_LIBS) $(JEMALLOC_LIBS)
