"""Report: one HTML file about runs. It opens from disk without a network.

`run_data` reads a run. The sections are, in the page's order, `summary`, `curves` with `figures`
(bokeh), `decisions`, `rollouts` and `alarms`; `page` adds how to reproduce the runs, and joins all
with `style.css` and `report.js`. Text by a model is escaped on its way into the page, or packed.
"""

from .page import versions, write_report

__all__ = ["versions", "write_report"]
