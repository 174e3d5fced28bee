"""The tasks that ship with the package: folders of text, and code where text cannot say it.

essay/ summarization/ ethics/ math/    task folders (see `mpo.task`)
answers/     final answers: finding and comparing them (math)
verdicts.py  verdict tags (ethics)
cohorts.py   clusters of problems with a rubric of their own (math)
template.py  a commented folder to start a task of one's own from
"""
