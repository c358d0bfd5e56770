"""What a fuzzer feeds to every reader of untrusted files; `tests/test_mutations.py` feeds it too."""
