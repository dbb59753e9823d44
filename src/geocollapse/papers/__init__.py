"""The claims of papers, and how each claim is judged from a sweep on disk: one folder a paper.

To add a paper, add a folder here and nothing else. Its ``__init__.py`` defines ``PAPER``, a
`geocollapse.papers.claims.Paper`: a name, a citation, its claims in published order, and a function
``judge(results, *, seed=0) -> tuple[Verdict, ...]`` whose verdicts carry the names of these claims.
`registry` finds the folder; a recipe with the paper's name under ``claims.papers`` is judged by it,
and reports show its claims with their figures and cautions. A paper that is judged on a stored
benchmark is a `BenchmarkPaper`, whose ``judge`` takes the file.

Shared by all papers: `claims` (the records), `verdict` (what a judgement is), `statistics`.
"""
