"""The offline world in which reward hacking can be watched and repaired on two CPU cores.

`corpus` generates English essays, `policy` trains a tiny language model on one half of them, and
`gold` measures, against the other half, the quality that a reward was meant to measure. `ethics`,
`math` and `summarization` do the same for the other tasks; `environments` says who has what. The
simulated RM and MRM (`chat`) are one for all. Nothing printed from here is evidence about real
models; everything that reports it says "sandbox".
"""
