# compat-tests
