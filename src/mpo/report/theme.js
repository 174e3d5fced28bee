// Bokeh draws on a canvas, which style sheets do not reach: give it the page's colours.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  function paint() {
    const css = getComputedStyle(document.documentElement);
    const soft = css.getPropertyValue("--soft").trim();
    const line = css.getPropertyValue("--line").trim();
    for (const doc of window.Bokeh ? Bokeh.documents : []) {
      for (const root of doc.roots()) {
        for (const model of root.references()) {
          if (model.type === "LinearAxis") {
            model.setv({
              axis_label_text_color: soft, major_label_text_color: soft,
              axis_line_color: line, major_tick_line_color: line,
            });
          } else if (model.type === "Grid") {
            model.setv({ grid_line_color: line });
          } else if (model.type === "Legend") {
            model.setv({ label_text_color: soft });
          }
        }
      }
    }
  }
  function whenDrawn(tries) {
    if (window.Bokeh && Bokeh.documents.length > 0) paint();
    else if (tries > 0) setTimeout(() => whenDrawn(tries - 1), 50);
  }
  // A mark in a figure leads to a rubric that may be folded away.
  function unfold() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
    target.scrollIntoView();
  }
  dark.addEventListener("change", paint);
  addEventListener("hashchange", unfold);
  addEventListener("load", () => { whenDrawn(200); unfold(); });
})();
