"""Report: one HTML file about runs. It opens from disk without a network.

Read: `load` (a run), `readings` (its monitors), `sample` (which rollouts), `switches`. Shown, in
the page's order: `summary` and `notes`, `curves` and `figures` (bokeh), `decisions` and `lineage`,
`rollouts`, `monitors`, `reproduce`; `page` puts them together. Texts are packed by `payload` and
unpacked by `report.js`. Whatever a model wrote is escaped on its way into the page, or packed.
"""

from .page import write_report
from .reproduce import versions

__all__ = ["versions", "write_report"]
