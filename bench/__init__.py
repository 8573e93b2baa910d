"""Benchmarks: charlm and a peer run in turn; the result is the median ratio over the pairs.

`make bench`, or `python -m bench --only train`. Each row is {name, ours, peer, ratio, target, holds}; a row that could
not be measured has null for `holds`. `--save` keeps the rows under bench/results/ with date, commit and machine.
"""
