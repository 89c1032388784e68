"""Models with one input and one output: the whole export of one."""
