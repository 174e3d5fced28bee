"""Report: one HTML file about runs. It opens from disk without a network.

`run_data` reads a run. The sections are, in the page's order, `summary`, `curves` with `figures`
(bokeh), `decisions`, `rollouts`, `alarms` and `reproduce`; `page` joins them, `style.css` and
`report.js`. Text by a model is escaped on its way into the page, or packed.
"""

from .page import write_report
from .reproduce import versions

__all__ = ["versions", "write_report"]
