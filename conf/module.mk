# The sample configuration: every option with its default (tests/unit/config holds it against options.def).
dist_doc_DATA = %D%/gomsg.yaml
