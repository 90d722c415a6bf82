// From a chart's data to plotly's: colours that colour-blind people tell apart, and shapes too.
const PALETTE = {
  // Okabe and Ito's, darker or lighter where the ground asks for contrast.
  light: ["#0072b2", "#d55e00", "#008c67", "#b8568f", "#a67c00", "#3a9bd0", "#555555", "#7a4fbf", "#8c3a00", "#006d77", "#1a1a1a", "#5c7a00"],
  dark: ["#56b4e9", "#ff9a52", "#2fc79b", "#e39ac6", "#f0d94a", "#8ecdf3", "#bbbbbb", "#b79bf0", "#e0a070", "#6fd0d8", "#ffffff", "#b5d35c"],
};
const FIXED = { sae: 1, eps_random: 0, clean: 6, zero: 8, mean: 9, both: 2, only_clean: 1, only_sae: 0, neither: 6, prompt: 0 };
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon", "triangle-down", "hexagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const PAPER = { wide: 660, half: 305 }; // in CSS pixels, on A4 and letter

// Plotly reads some tags in its texts: names are names, not tags.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");

const styleOf = (layers) => {
  const keyOf = (layer) => layer.key || layer.name;
  const taken = new Set(layers.map((layer) => FIXED[keyOf(layer)]));
  const free = [2, 3, 4, 5, 7, 10, 11, 6, 8, 9, 0, 1].filter((colour) => !taken.has(colour));
  let next = 0;
  return layers.map((layer, i) => {
    const key = keyOf(layer);
    if (layers.length === 1 && !(key in FIXED)) return { colour: 0, shape: 0 };
    const colour = key in FIXED ? FIXED[key] : free[next++ % free.length];
    return { colour, shape: key in FIXED && layers.length < 3 ? 0 : i };
  });
};

const colours = () => {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return { set: PALETTE[isDark() ? "dark" : "light"], ink: read("--ink"), grid: read("--line"), ground: read("--card") };
};

const positive = (values, log) => (log ? values.map((v) => (typeof v === "number" && v <= 0 ? null : v)) : values);

const errorBars = (layer, colour) => {
  if (!layer.low || layer.low.every((v) => v === null)) return undefined;
  const away = (ends, sign) => layer.y.map((v, i) => (ends[i] === null || v === null ? 0 : sign * (ends[i] - v)));
  return { type: "data", symmetric: false, array: away(layer.high, 1), arrayminus: away(layer.low, -1), color: colour, thickness: 1.2, width: 3 };
};

const traceOf = (layer, style, chart, theme) => {
  const colour = theme.set[style.colour];
  const labels = layer.labels?.map(plain);
  const named = { name: plain(layer.name), ...(layer.aside ? { visible: "legendonly" } : {}), x: texts(layer.x), y: positive(layer.y, chart.y.log) };
  const hover = labels ? { text: labels, hovertemplate: "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>" } : {};
  const symbol = SYMBOLS[style.shape % SYMBOLS.length];
  const dash = DASHES[style.shape % DASHES.length];
  if (layer.form === "bars") {
    return { ...named, type: "bar", marker: { color: colour, line: { width: 0 } }, error_y: errorBars(layer, theme.ink) };
  }
  if (layer.form === "steps") {
    const y = [...named.y, named.y.at(-1)];
    const fill = chart.y.log || chart.x.log_base === 2 ? {} : { fill: "tozeroy", fillcolor: colour + "33" };
    return { ...named, y, type: "scatter", mode: "lines", line: { shape: "hv", color: colour, width: 1.8, dash }, ...fill };
  }
  if (layer.form === "line") {
    const few = layer.y.length <= 20 && !layer.faint;
    const line = { color: colour, width: layer.faint ? 1 : 2.2, dash: layer.key === "prompt" ? "solid" : dash };
    return { ...named, type: "scatter", mode: few ? "lines+markers" : "lines", line, marker: { symbol, size: 6 }, opacity: layer.key === "prompt" ? 0.35 : layer.faint ? 0.75 : 1, connectgaps: false };
  }
  if (layer.faint && chart.x.categories && !labels) return stripOf(named, colour);
  const open = layer.faint && labels;
  const marker = { color: colour, symbol: open ? `${symbol}-open` : symbol, size: layer.faint && !open ? 4 : chart.marginals ? 5 : 8, opacity: layer.faint && !open ? 0.35 : chart.marginals ? 0.7 : 1 };
  const written = labels && labels.length <= 16 && !layer.faint ? { mode: "markers+text", textposition: "top center", textfont: { size: 10 } } : { mode: "markers" };
  return { ...named, ...hover, type: "scatter", ...written, marker, error_y: errorBars(layer, colour) };
};

// Every mark at a category, moved aside a little so that it does not hide the others.
const stripOf = (named, colour) => ({
  ...named, type: "box", boxpoints: "all", jitter: 0.7, pointpos: 0, fillcolor: "rgba(0,0,0,0)", line: { color: "rgba(0,0,0,0)" },
  marker: { color: colour, size: 3.5, opacity: 0.4 }, hoveron: "points",
});

const texts = (values) => values.map((v) => (typeof v === "string" ? plain(v) : v));

const heatOf = (layer, theme) => {
  const all = layer.z.flat().filter((v) => v !== null);
  const reach = Math.max(...all.map(Math.abs), 1e-12);
  const signed = all.some((v) => v < 0);
  const blue = theme.set[0], orange = theme.set[1];
  const scale = signed ? [[0, blue], [0.5, theme.ground], [1, orange]] : [[0, theme.ground], [1, orange]];
  const shown = layer.z.length * layer.z[0].length <= 200;
  return {
    type: "heatmap", x: texts(layer.x), y: texts(layer.y), z: layer.z, colorscale: scale, zmin: signed ? -reach : 0, zmax: reach,
    xgap: 2, ygap: 2, hoverongaps: false, colorbar: { thickness: 10, outlinewidth: 0 },
    ...(shown ? { texttemplate: "%{z:.2g}", textfont: { size: 11 } } : {}),
  };
};

const marginals = (chart, traces) =>
  traces.flatMap((trace) => {
    const base = { type: "histogram", showlegend: false, marker: { color: trace.marker.color }, opacity: 0.6, hoverinfo: "skip" };
    return [{ ...base, x: trace.x, yaxis: "y2", nbinsx: 40 }, { ...base, y: trace.y, xaxis: "x2", nbinsy: 40 }];
  });

// Decades alone where there are many of them, 2 and 5 between where there are few.
const decades = (axis, values) => {
  const found = values.filter((v) => typeof v === "number" && v > 0);
  const span = Math.log10(Math.max(...found) / Math.min(...found));
  return axis.log_base === 2 ? { dtick: Math.log10(2), exponentformat: "none" } : { dtick: span > 8 ? 2 : span > 1.2 ? 1 : "D2", exponentformat: span > 4 ? "power" : "none" };
};

const axisOf = (axis, values, theme, narrow, angle = -45) => {
  const shared = { title: { text: plain(axis.title), standoff: 8 }, gridcolor: theme.grid, linecolor: theme.grid, zerolinecolor: theme.grid, automargin: true, ticks: "outside", tickcolor: theme.grid, rangemode: "normal" };
  if (axis.categories) {
    const crowded = axis.categories.length > 60;
    const turned = axis.categories.length > (narrow ? 4 : 8) ? angle : 0;
    return { ...shared, type: "category", categoryorder: "array", categoryarray: axis.categories.map(plain), showgrid: false, tickangle: turned, showticklabels: !crowded };
  }
  const log = axis.log ? { type: "log", tickfont: { size: 11 }, ...decades(axis, values) } : {};
  return { ...shared, ...log };
};

const shapesOf = (chart, theme) =>
  chart.marks.map((mark) => {
    const across = mark.axis === "x" ? { x0: mark.at, x1: mark.at, y0: 0, y1: 1, xref: "x", yref: "paper" } : { y0: mark.at, y1: mark.at, x0: 0, x1: 1, yref: "y", xref: "paper" };
    return { type: "line", ...across, line: { color: theme.ink, width: 1.2, dash: "dash" }, opacity: 0.75 };
  });

const notesOf = (chart, theme) =>
  chart.marks.filter((mark) => mark.label).map((mark, i) => {
    const log = chart[mark.axis].log ? Math.log10(mark.at) : mark.at;
    const place = mark.axis === "x" ? { x: log, xref: "x", y: 1 - 0.08 * i, yref: "paper", xanchor: "left" } : { y: log, yref: "y", x: 1, xref: "paper", xanchor: "right", yanchor: "bottom" };
    return { ...place, text: ` ${plain(mark.label)} `, showarrow: false, font: { size: 11, color: theme.ink }, bgcolor: theme.ground, opacity: 0.9 };
  });

const layoutOf = (chart, theme, narrow) => {
  const all = (field) => chart.layers.flatMap((layer) => layer[field]);
  const x = axisOf(chart.x, all("x"), theme, narrow), y = axisOf(chart.y, all("y"), theme, narrow, 0);
  const grouped = chart.x.categories && chart.layers.length > 1 && !chart.layers.some((l) => l.faint) && chart.x.categories.length < 60;
  const split = chart.marginals ? { xaxis2: { domain: [0.86, 1], showgrid: false, showticklabels: false }, yaxis2: { domain: [0.84, 1], showgrid: false, showticklabels: false } } : {};
  if (chart.marginals) Object.assign(x, { domain: [0, 0.84] }), Object.assign(y, { domain: [0, 0.82] });
  if (chart.layers[0].form === "heat") y.autorange = "reversed";
  const many = chart.layers.length > 24;
  return {
    xaxis: x, yaxis: y, ...split, shapes: shapesOf(chart, theme), annotations: notesOf(chart, theme),
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: theme.ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 8, t: 12, b: 8 },
    showlegend: chart.layers.length > 1 && !many, legend: { ...(narrow ? { entrywidth: 0.5, entrywidthmode: "fraction" } : {}), orientation: "h", y: -0.22, yref: "container", yanchor: "bottom", font: { size: 11 } },
    barmode: chart.marginals ? "overlay" : chart.stacked ? "stack" : "group", ...(grouped ? { scattermode: "group", scattergap: 0.35 } : {}),
    height: chart.y.categories ? 150 + 24 * chart.y.categories.length : narrow ? 330 + (many ? 0 : 10 * chart.layers.length) : 380, hovermode: "closest", bargap: 0.25, dragmode: narrow ? false : "zoom",
  };
};

const drawPlot = (place, chart) => {
  const theme = colours();
  const styles = styleOf(chart.layers);
  const traces = chart.layers.map((layer, i) => (layer.form === "heat" ? heatOf(layer, theme) : traceOf(layer, styles[i], chart, theme)));
  if (chart.marginals) traces.push(...marginals(chart, traces));
  // Paper has a width of its own, which no window tells before it is too late to draw.
  const paper = document.documentElement.dataset.paper && PAPER[place.closest(".wide") ? "wide" : "half"];
  const layout = layoutOf(chart, theme, (paper || place.clientWidth) < 480);
  if (paper) layout.width = paper;
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  return Plotly.react(place, traces, layout, config);
};

// A text whose tokens are marked by a number: tint and underline say the same.
const drawText = (place, chart) => {
  const { x: tokens, y: values } = chart.layers[0];
  const reach = Math.max(...values.map((v) => Math.abs(v ?? 0)), 1e-12);
  const spans = tokens.map((token, i) => {
    const value = values[i];
    const span = make("span", { className: "token", textContent: token });
    span.title = value === null ? "not scored" : `${chart.y.title.split(",")[0]}: ${value}`;
    if (value === null) span.classList.add("unscored");
    else {
      const share = Math.sqrt(Math.abs(value) / reach);
      span.classList.add(value > 0 ? "worse" : "better");
      span.style.setProperty("--share", share.toFixed(3));
    }
    return span;
  });
  place.replaceChildren(make("p", { className: "text" }, ...spans));
};
