check_PROGRAMS += unit-http
TESTS += unit-http
unit_http_SOURCES = %D%/http_test.c
unit_http_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_http_LDADD = libhttp.a libio.a libbase.a $(CRITERION_LIBS) $(MICROHTTPD_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS) -lpthread
