"""Tests of app/shrinkd/api, one module for each of its modules, over HTTP."""
