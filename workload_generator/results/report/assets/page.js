"use strict";
// Draws the charts of a report from its datasets, filters them, and makes a table of each chart's data.
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const PANELS = 6; // drawn at first; a button shows the others
  const TABLE_ROWS = 500;
  const STEP = 32; // the height of a language's line
  const FILTERS = ["scenario", "language", "rate"];
  const config = {
    background: null,
    font: "system-ui, 'Segoe UI', Roboto, sans-serif",
    mark: { aria: false },
    view: { stroke: null },
    axis: {
      labelColor: "var(--muted)", titleColor: "var(--muted)", gridColor: "var(--grid)", domainColor: "var(--line)",
      tickColor: "var(--line)", titleFontWeight: "normal", titleFontSize: 11, labelFontSize: 11, tickCount: 5, aria: false,
    },
    legend: { labelColor: "var(--muted)", titleColor: "var(--muted)", titleFontWeight: "normal", aria: false },
  };

  // Data

  const cache = new Map();
  function rowsOf(name) {
    if (!cache.has(name)) {
      const { keys, groups, group, fields } = report.datasets[name];
      const labels = groups.map((values) => Object.fromEntries(keys.map((key, index) => [key, values[index]])));
      const columns = Object.entries(fields);
      cache.set(name, group.map((number, index) => {
        const row = { ...labels[number] };
        for (const [field, values] of columns) row[field] = values[index];
        return row;
      }));
    }
    return cache.get(name);
  }

  const form = document.getElementById("filters");
  function chosen() {
    const sets = {};
    for (const name of FILTERS) {
      const boxes = [...form.querySelectorAll(`[data-filter="${name}"] input`)];
      sets[name] = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    }
    return sets;
  }
  let filter = chosen();
  const passes = (row) => FILTERS.every((name) => filter[name].has(row[name]) || row[name] === "all" || row[name] === undefined);

  function grouped(rows, key) {
    const groups = new Map();
    for (const row of rows) {
      if (!groups.has(row[key])) groups.set(row[key], []);
      groups.get(row[key]).push(row);
    }
    return groups;
  }

  // Charts

  const waiting = new Map(); // plot → function that draws it
  const draw = (plot) => {
    const work = waiting.get(plot);
    waiting.delete(plot);
    seen.unobserve(plot);
    if (work) work().catch((error) => { plot.textContent = `Cannot draw the chart: ${error.message}`; throw error; });
  };
  const seen = new IntersectionObserver(
    (entries) => entries.forEach((entry) => entry.isIntersecting && draw(entry.target)), { rootMargin: "400px" });
  const idle = (work) => window.requestIdleCallback ? requestIdleCallback(work, { timeout: 200 }) : setTimeout(work, 50);
  let idling = false;
  function drawTheRest() { // for printing and searching
    if (idling) return;
    idling = true;
    document.documentElement.dataset.drawn = "some";
    const next = () => {
      const [plot] = waiting.keys();
      idling = Boolean(plot);
      if (!plot) { document.documentElement.dataset.drawn = "all"; return; }
      idle(next);
      draw(plot);
    };
    idle(next);
  }

  function later(plot, work) {
    waiting.set(plot, work);
    seen.observe(plot);
  }

  function forget(figure) {
    for (const plot of figure.querySelectorAll(".plot")) {
      waiting.delete(plot);
      seen.unobserve(plot);
      if (plot.view) plot.view.finalize();
    }
  }

  function embed(plot, chart, rows, title, extra, row) {
    const spec = structuredClone(chart.spec);
    if (spec.layer) {
      const present = (need) => need in extra ? extra[need].length : rows.some((row) => row[need] !== null && row[need] !== undefined);
      spec.layer = spec.layer.filter((layer) => !layer.name || present(layer.name.replace("needs:", "")));
      for (const layer of spec.layer) delete layer.name;
    }
    Object.assign(spec, {
      width: "container",
      height: chart.height || STEP * new Set(rows.map((row) => row.language)).size,
      autosize: { type: "fit-x", contains: "padding" },
      data: { name: "rows", values: rows },
      datasets: extra,
      description: `${chart.title}: ${title}. ${chart.see}`,
      config,
    });
    if (row) for (const { encoding } of spec.layer) { // one of several charts on the same time axis
      encoding.x = { ...encoding.x, scale: { domain: row.domain, nice: false }, axis: row.last ? {} : { labels: false, title: null } };
      encoding.y = { ...encoding.y, title: row.unit, axis: { minExtent: 40, maxExtent: 40, tickCount: 3 } };
    }
    const options = { mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, tooltip: { theme: "custom", disableDefaultStyle: true } };
    return vegaEmbed(plot, spec, options).then((result) => { plot.view = result; });
  }

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  function panelOf(chart, title, rows, extra) {
    const panel = element("div", "panel");
    panel.append(element("h4", "", title));
    const parts = chart.rows ? grouped(rows, chart.rows) : new Map([["", rows]]);
    let domain;
    if (chart.rows) {
      const times = rows.map((row) => row.t).filter((t) => t !== null);
      domain = [Math.min(...times), Math.max(...times)];
    }
    let left = parts.size;
    for (const [part, own] of parts) {
      left -= 1;
      const row = part ? { domain, last: left === 0, unit: (/\((.*)\)/.exec(part) || [0, part])[1] } : null;
      if (part) {
        const line = legend(chart, own);
        line.prepend(element("b", "", part));
        panel.append(line);
      }
      const plot = element("div", "plot");
      panel.append(plot);
      later(plot, async () => embed(plot, chart, own, part ? `${title}, ${part}` : title, extra, row));
    }
    return panel;
  }

  function legend(chart, rows) {
    const line = element("div", "key");
    const field = { language: "language", outcome: "ended", name: "name" }[chart.legend];
    if (!field) return line;
    const names = [...new Set(rows.map((row) => row[field]))];
    const series = [...names].sort();
    const order = Object.keys(report.dashes);
    if (chart.legend === "language") names.sort((a, b) => order.indexOf(a) - order.indexOf(b));
    if (chart.legend === "outcome") names.sort();
    for (const name of names) {
      const entry = element("span", "", name);
      const colour = chart.legend === "language" ? `var(--lang-${name.replace(/[^\w-]/g, "-")}, var(--lang-unknown))`
        : chart.legend === "outcome" ? `var(--end-${name.replaceAll(" ", "-")})` : `var(--series-${(series.indexOf(name) % 8) + 1})`;
      const dash = chart.legend === "language" ? (report.dashes[name] || []).join(" ") : "";
      entry.insertAdjacentHTML("afterbegin",
        `<svg width="26" height="8" aria-hidden="true"><line x1="0" x2="26" y1="4" y2="4" stroke="${colour}" stroke-width="3" stroke-dasharray="${dash}"/></svg>`);
      line.append(entry);
    }
    return line;
  }

  function show(figure, chart, all) {
    forget(figure);
    const rows = rowsOf(chart.dataset).filter(passes);
    const groups = [...grouped(rows, "panel")];
    const panels = figure.querySelector(".panels");
    const more = figure.querySelector(".more");
    const most = all ? groups.length : chart.rows ? PANELS / 3 : PANELS;
    const extras = chart.also.map((name) => [name, grouped(report.datasets[name] ? rowsOf(name).filter(passes) : [], "panel")]);
    panels.replaceChildren(...groups.slice(0, most).map(([title, own]) =>
      panelOf(chart, title, own, Object.fromEntries(extras.map(([name, byPanel]) => [name, byPanel.get(title) || []])))));
    if (!groups.length) panels.append(element("p", "nothing", "The filters leave no data."));
    more.hidden = groups.length <= most;
    more.textContent = `Show all ${groups.length}`;
    more.onclick = () => show(figure, chart, true);
    figure.querySelector(":scope > .key").replaceWith(chart.legend === "name" ? element("div", "key") : legend(chart, rows));
    figure.dataset.panels = groups.length;
    const numbers = figure.querySelector(".numbers");
    if (numbers.open) tabulate(numbers, chart);
    drawTheRest();
  }

  // Tables of the charts

  const written = (value) => value === null || value === undefined ? "—"
    : typeof value === "number" ? value.toLocaleString("en", { maximumSignificantDigits: 5 }) : value;

  function tabulate(details, chart) {
    const rows = rowsOf(chart.dataset).filter(passes);
    const table = element("table");
    const head = table.createTHead().insertRow();
    for (const name of chart.columns) {
      const cell = element("th", "", name);
      cell.scope = "col";
      head.append(cell);
    }
    const body = table.createTBody();
    for (const row of rows.slice(0, TABLE_ROWS)) {
      const line = body.insertRow();
      for (const name of chart.columns) {
        const cell = line.insertCell();
        cell.textContent = written(row[name]);
        if (typeof row[name] === "number") cell.className = "n";
      }
    }
    const parts = [table];
    if (rows.length > TABLE_ROWS) parts.push(element("p", "see", `The first ${TABLE_ROWS} of ${rows.length.toLocaleString("en")} rows: filter, or run the SQL, for the others.`));
    details.querySelector(".scroll").replaceChildren(...parts);
  }

  // The page

  const figures = [...document.querySelectorAll(".chart")];
  const charts = new Map(report.charts.map((chart) => [chart.key, chart]));
  for (const figure of figures) {
    const chart = charts.get(figure.dataset.chart);
    chart.title = figure.querySelector("h3").textContent;
    chart.see = figure.querySelector(".see").textContent;
    figure.querySelector(".numbers").addEventListener("toggle", (event) => event.target.open && tabulate(event.target, chart));
    const copy = figure.querySelector(".copy");
    copy.addEventListener("click", () => {
      const text = figure.querySelector("code");
      const done = () => { copy.textContent = "Copied"; setTimeout(() => { copy.textContent = "Copy"; }, 1500); };
      const select = () => getSelection().selectAllChildren(text); // a file:// page has no access to the clipboard
      if (navigator.clipboard) navigator.clipboard.writeText(text.textContent).then(done, select); else select();
    });
  }

  let applied = "";
  function apply() {
    filter = chosen();
    const now = JSON.stringify(FILTERS.map((name) => [...filter[name]]));
    if (now === applied) return;
    applied = now;
    for (const figure of figures) show(figure, charts.get(figure.dataset.chart), false);
    let visible = 0, whole = 0;
    for (const row of document.querySelectorAll("tr[data-scenario]")) {
      row.hidden = !passes(row.dataset);
      visible += !row.hidden;
      whole += 1;
    }
    document.getElementById("shown").textContent = visible === whole ? "" : `${visible.toLocaleString("en")} of ${whole.toLocaleString("en")} table rows`;
  }
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  apply();

  const links = [...document.querySelectorAll("nav a")];
  const here = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links) link.toggleAttribute("aria-current", link.hash === `#${entry.target.id}`);
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  document.querySelectorAll("main > section").forEach((section) => here.observe(section));
})();
