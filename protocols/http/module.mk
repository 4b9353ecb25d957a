# protocols/http
