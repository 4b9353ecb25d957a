# The sample configuration: every option with its default (tests/unit/config holds it against options.def).
dist_doc_DATA = %D%/gomsg.yaml
systemdsystemunit_DATA = %D%/gomsgd.service
EXTRA_DIST += %D%/gomsgd.service
