# protocols/resp
