"""The tests of app/api, file by file, over HTTP."""
