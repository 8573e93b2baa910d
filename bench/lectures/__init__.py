"""What docs/lectures.md shows: `make lectures` runs the page's commands (`bench.lectures.__main__`).

Most of them are charlm's own. What charlm has no command for is a module here: `gains`, `clipping`, `dropout`,
`perplexity`, `sparsity`. Each prints a table and draws a picture.
"""
