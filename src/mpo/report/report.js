// The moving parts of a report: theme, figures, lineage links, and the list of rollouts.
// Texts by a policy or a model reach the page as text nodes only: never as HTML.
(() => {
  "use strict";
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  // ------------------------------------------------------------------ theme

  const preferred = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("mpo-theme"); } catch { /* a file may have no storage */ }

  function paint() {
    root.dataset.theme = chosen ?? (preferred.matches ? "dark" : "light");
    byId("theme").setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
    // Bokeh draws on a canvas, which style sheets do not reach: give it the page's colours.
    const css = getComputedStyle(root);
    const soft = css.getPropertyValue("--soft").trim();
    const line = css.getPropertyValue("--line").trim();
    const page = css.getPropertyValue("--page").trim();
    for (const model of plotModels()) {
      if (model.type === "LinearAxis") {
        model.setv({
          axis_label_text_color: soft, major_label_text_color: soft,
          axis_line_color: line, major_tick_line_color: line,
        });
      } else if (model.type === "Grid") {
        model.setv({ grid_line_color: line });
      } else if (model.type === "Scatter" && model.line_color.value !== undefined) {
        model.line_color = { value: page };
      }
    }
  }

  function plotModels() {
    const documents = window.Bokeh ? window.Bokeh.documents : [];
    return documents.flatMap((doc) => doc.roots().flatMap((plot) => [...plot.references()]));
  }

  byId("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("mpo-theme", chosen); } catch { /* as above */ }
    paint();
  });
  preferred.addEventListener("change", paint);
  paint();

  // ------------------------------------------------------------------ places on the page

  // A decision or a rollout may be folded away, and so may what holds it.
  function show(id) {
    const target = byId(id);
    if (!target) return;
    for (let node = target; node; node = node.parentElement) {
      if (node.tagName === "DETAILS") node.open = true;
    }
    document.querySelectorAll(".marked").forEach((node) => node.classList.remove("marked"));
    if (target.tagName === "DETAILS") {
      target.classList.add("marked");
      target.querySelector("summary").focus({ preventScroll: true });
    }
    target.scrollIntoView({ block: "start" });
    if (location.hash !== `#${id}`) history.replaceState(null, "", `#${id}`);
  }

  function follow() {
    const at = location.hash.slice(1);
    try { show(decodeURIComponent(at)); } catch { show(at); }
  }

  addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#decision-"]');
    if (link) {
      event.preventDefault();
      show(decodeURIComponent(link.getAttribute("href").slice(1)));
    }
  });
  window.mpoReport = { show };

  // ------------------------------------------------------------------ packed data

  async function unpack(id) {
    const packed = byId(`data-${id}`).textContent;
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Response(stream).text();
  }

  async function drawFigures() {
    const library = make("script");
    library.textContent = await unpack("library");
    document.head.append(library);
    const plots = JSON.parse(await unpack("plots"));
    for (const [key, item] of Object.entries(plots)) {
      await window.Bokeh.embed.embed_item(item, `plot-${key}`);
    }
    paint();
    root.dataset.figures = "drawn";
  }

  for (const button of document.querySelectorAll("button.arm")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const model of plotModels()) {
        if (model.type === "GlyphRenderer" && model.name === button.dataset.arm) model.visible = shown;
      }
    });
  }

  // ------------------------------------------------------------------ rollouts

  const PAGE = 20;
  let data = null;
  let matches = [];
  let listed = 0;
  const byRollout = new Map();

  function judgement([rubric, normalized, reward, unscored, rule, flags, scores, model]) {
    return { rubric: data.rubrics[rubric], normalized, reward, unscored, rule, flags, scores, model: data.texts[model] };
  }

  function readRows() {
    data.rows = data.rows.map(([run, step, cohort, prompt, completion, gold, first, others, id]) => ({
      run: data.runs[run], step, cohort, prompt: data.prompts[prompt], completion, gold,
      judged: judgement(first), others: others.map(judgement), id,
    }));
    for (const row of data.rows) if (row.id) byRollout.set(`${row.run.name} ${row.id}`, row);
  }

  function label(row, rubric) {
    return row.run.labels[row.cohort]?.[rubric[0]] ?? rubric[0].slice(0, 6);
  }

  function number(value) {
    return value === null ? "–" : value.toFixed(2);
  }

  function outcome(judged) {
    if (judged.unscored) return `unscored: ${judged.unscored.split(":")[0]}`;
    const plain = judged.reward === null ? "" : ` (${+judged.reward.toFixed(3)} points)`;
    return `reward ${number(judged.normalized)}${plain}`;
  }

  function flagsOf(row) {
    const judged = row.judged;
    return [
      ...Object.keys(judged.flags),
      ...(judged.unscored ? ["unscored"] : []),
      ...(judged.rule ? [`rule: ${judged.rule}`] : []),
      ...(row.others.length ? ["under another rubric"] : []),
      ...(row.id ? ["behind a decision or alarm"] : []),
    ];
  }

  function scoresTable(row, judged) {
    const parts = [];
    if (judged.unscored) parts.push(make("p", { class: "bad" }, `Unscored: ${judged.unscored}`));
    if (judged.rule) parts.push(make("p", {}, `Decided by the task's rule ${judged.rule}, without the reward model.`));
    if (judged.scores.length) {
      const criteria = new Map(judged.rubric[2].map(([key, name, least, most]) => [key, { name, least, most }]));
      const rows = judged.scores.map(([key, score, rationale]) => {
        const known = criteria.get(key) ?? { name: key, least: 0, most: "?" };
        const range = known.least === 0 ? ` of ${known.most}` : ` in ${known.least} to ${known.most}`;
        return make("tr", {},
          make("th", { scope: "row", class: "words" }, known.name),
          make("td", {}, `${score}${range}`),
          make("td", { class: "words" }, data.texts[rationale]));
      });
      const heads = [["criterion", "words"], ["score", null], ["rationale", "words"]].map(
        ([name, kind]) => make("th", { scope: "col", class: kind }, name));
      const title = `Scores under rubric ${label(row, judged.rubric)}`;
      parts.push(make("div", { class: "scroll scores", role: "region", tabindex: "0", "aria-label": title },
        make("table", {}, make("caption", { class: "unseen" }, title),
          make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows))));
    }
    return parts;
  }

  function rolloutBody(row) {
    const parts = [
      make("h3", { class: "minor" }, "Prompt"), make("p", { class: "text" }, row.prompt),
      make("h3", { class: "minor" }, "Completion"), make("p", { class: "text" }, row.completion),
      make("h3", { class: "minor" }, `Under rubric ${label(row, row.judged.rubric)}, in effect then: ${outcome(row.judged)}`),
      ...scoresTable(row, row.judged),
    ];
    for (const other of row.others) {
      parts.push(make("h3", { class: "minor" }, `The same rollout under rubric ${label(row, other.rubric)}: ${outcome(other)}`),
        ...scoresTable(row, other));
    }
    if (row.judged.model) parts.push(make("p", { class: "faint" }, `Judged by ${row.judged.model}.`));
    return make("div", { class: "body" }, ...parts);
  }

  // A body is built when it is first opened: most never are.
  function folded(kind, summary, body) {
    const node = make("details", { class: kind }, make("summary", {}, ...summary));
    node.addEventListener("toggle", () => { if (node.open && node.children.length < 2) node.append(body()); });
    return node;
  }

  function rolloutItem(row) {
    const several = data.runs.length > 1 ? `${row.run.name}, ` : "";
    const gold = row.gold === null ? "" : ` · ${row.run.gold} ${number(row.gold)}`;
    const chips = flagsOf(row).filter((flag) => !flag.startsWith("behind")).map(
      (flag) => make("span", { class: "badge flag" }, flag));
    const start = row.completion.slice(0, 130).replace(/\s+/g, " ");
    return folded("rollout", [
      make("span", { class: "name" }, `${several}step ${row.step}`),
      ` · ${outcome(row.judged)}${gold} · rubric ${label(row, row.judged.rubric)} `,
      ...chips.flatMap((chip) => [chip, " "]),
      make("br"), make("span", { class: "gist" }, start || "(empty)"),
    ], () => rolloutBody(row));
  }

  const form = byId("filter");

  function choices(name, values) {
    for (const value of values) form.elements[name].append(make("option", { value }, value));
  }

  function wanted() {
    const get = (name) => form.elements[name]?.value ?? "";
    const bound = (name, other) => (get(name) === "" ? other : Number(get(name)));
    const text = get("text").toLowerCase();
    const [from, to] = [bound("from", -Infinity), bound("to", Infinity)];
    const [low, high] = [bound("low", -Infinity), bound("high", Infinity)];
    const scores = get("low") !== "" || get("high") !== "";
    return (row) =>
      (get("run") === "" || row.run.name === get("run")) &&
      row.step >= from && row.step <= to &&
      (!scores || (row.judged.normalized !== null && row.judged.normalized >= low && row.judged.normalized <= high)) &&
      (get("rubric") === "" || label(row, row.judged.rubric) === get("rubric")) &&
      (get("flag") === "" || flagsOf(row).includes(get("flag"))) &&
      (text === "" || row.completion.toLowerCase().includes(text) || row.prompt.toLowerCase().includes(text));
  }

  const ORDERS = {
    high: (row) => -(row.judged.normalized ?? -1),
    low: (row) => row.judged.normalized ?? 2,
    gap: (row) => (row.gold === null || row.judged.normalized === null ? 2 : row.gold - row.judged.normalized),
  };

  function filter() {
    matches = data.rows.filter(wanted());
    const order = ORDERS[form.elements.order.value];
    if (order) matches = matches.map((row) => [order(row), row]).sort((a, b) => a[0] - b[0]).map(([, row]) => row);
    byId("found").textContent = `${matches.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} rollouts`;
    byId("rollouts").replaceChildren();
    listed = 0;
    more();
  }

  function more() {
    byId("rollouts").append(...matches.slice(listed, listed + PAGE).map(rolloutItem));
    listed = Math.min(matches.length, listed + PAGE);
    byId("more").hidden = listed >= matches.length;
  }

  byId("more").addEventListener("click", more);
  form.addEventListener("input", () => { if (data) filter(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { if (data) filter(); }));

  // An alarm's examples: the rollout alone, opened.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-rollout]");
    if (!button || !data) return;
    const row = byRollout.get(`${button.dataset.run} ${button.dataset.rollout}`);
    if (!row) { button.replaceWith("not in this file"); return; }
    matches = [row];
    listed = 1;
    const item = rolloutItem(row);
    byId("rollouts").replaceChildren(item);
    byId("found").textContent = "1 rollout, chosen above; change a filter to see others";
    byId("more").hidden = true;
    item.open = true;
    item.classList.add("marked");
    item.querySelector("summary").focus({ preventScroll: true });
    item.scrollIntoView({ block: "center" });
  });

  // ------------------------------------------------------------------ decisions

  function caseItem([run, id, verdict, marked, findings, advice, reasons, rubric], place) {
    const row = byRollout.get(`${data.runs[run].name} ${id}`);
    const what = row ? `step ${row.step} · ${outcome(row.judged)}` : id ? `rollout ${id}` : "rollout not found";
    const graded = verdict && verdict !== "unknown" ? ` · graded ${verdict}` : "";
    const screened = marked ? ` · prescreened: ${marked}` : "";
    return folded("case", [make("span", { class: "name" }, `${place + 1}`), ` ${what}${graded}${screened} `,
      make("span", { class: "gist" }, findings.slice(0, 110).replace(/\s+/g, " "))],
    () => make("div", { class: "body" },
      ...part("Analysis", findings), ...part("Advice", advice), ...part("Why this rubric was proposed", reasons),
      rubric ? make("details", {}, make("summary", {}, "The rubric proposed after this case"), make("pre", {}, rubric)) : null,
      ...(row ? [rolloutItem(row)] : [make("p", { class: "faint" }, "Its rollout is in the store, not in this file.")])));
  }

  function part(title, text) {
    return text ? [make("h3", { class: "minor" }, title), make("p", { class: "text" }, text)] : [];
  }

  function fillDecisions() {
    const texts = new Map(data.rubrics.map(([id, text]) => [id, text]));
    for (const place of document.querySelectorAll("[data-rubric]")) place.textContent = texts.get(place.dataset.rubric) ?? "";
    for (const place of document.querySelectorAll("[data-cases]")) {
      const holder = place.closest("details");
      const fill = () => {
        if (holder.open && !place.children.length) place.append(...(data.cases[place.dataset.cases] ?? []).map(caseItem));
      };
      holder.addEventListener("toggle", fill);
      fill();
    }
  }

  async function start() {
    data = JSON.parse(await unpack("texts"));
    readRows();
    choices("rubric", [...new Set(data.rows.map((row) => label(row, row.judged.rubric)))].sort(
      (a, b) => a.localeCompare(b, "en", { numeric: true })));
    choices("flag", [...new Set(data.rows.flatMap(flagsOf))].sort());
    fillDecisions();
    filter();
    root.dataset.rollouts = "listed";
    await drawFigures();
    follow();
  }

  start().catch((error) => {
    byId("found").textContent = `This browser cannot unpack the rollouts and figures (${error.message}). Use a current one.`;
    console.error(error);
  });
})();
