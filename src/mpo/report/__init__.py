"""Report: one HTML file about runs. It opens from disk without a network.

`load` reads runs, `figures` draws curves (bokeh, inlined), `rubrics` shows the life of a rubric,
`page` puts the file together. Whatever a model wrote is escaped on its way into the page.
"""

from .page import write_report

__all__ = ["write_report"]
