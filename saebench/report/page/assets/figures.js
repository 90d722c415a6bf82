// Figures: drawn when they come into view, or when the page has nothing else to do.
const figures = [];
let library = null;

const plotly = () => {
  library ??= unpackText("plotly").then((source) => {
    document.head.append(make("script", { textContent: source }));
  });
  return library;
};

class ChosenFigure {
  constructor(element) {
    Object.assign(this, { element, charts: [], chosen: "", drawn: false, dirty: true });
    this.plot = $(".plot", element);
    this.views = $(".views", element);
    this.views.addEventListener("change", () => {
      this.choose(this.views.value);
      this.draw();
    });
    $(".csv", element).addEventListener("click", (event) => copy(toCsv(...this.data()), event.target));
    $(".svg", element).addEventListener("click", () => this.save());
    this.details = $("details", element);
    this.details.addEventListener("toggle", () => this.tabulate());
  }

  // Another SAE is chosen: what is out of sight waits until it is seen.
  async of(index, name) {
    Object.assign(this, { index, name, taken: false });
    if (this.seen || this.drawn) await this.show();
  }

  async show() {
    if (!this.taken) await this.take(this.index, this.name);
    await this.draw();
  }

  // Takes the charts of the chosen SAE, and keeps the view that was looked at.
  async take(index, name) {
    this.taken = true;
    const all = await unpack("charts");
    const own = await unpack(`charts-${index}`);
    const mine = (charts) => (charts ?? []).filter((chart) => chart.figure === this.element.dataset.figure);
    const shared = mine(all);
    this.charts = shared.length ? shared : mine(own);
    this.isOwn = !shared.length;
    $(".of-sae", this.element).textContent = this.isOwn && name !== undefined ? name : "";
    const labels = this.charts.map((chart) => chart.label);
    this.views.replaceChildren(...labels.map((label, i) => make("option", { value: i, textContent: label })));
    this.views.parentElement.hidden = labels.length < 2;
    const kept = Math.max(0, labels.findIndex((l) => l === this.chosen));
    this.views.value = kept;
    this.choose(kept);
  }

  choose(index) {
    this.chart = this.charts[index] ?? null;
    this.chosen = this.chart?.label ?? "";
    this.dirty = true;
    const note = this.chart ? `${this.chart.n} · ${this.chart.interval}` : "";
    $(".n", this.element).textContent = note;
    $(".about", this.element).textContent = this.chart?.note ?? "";
    this.tabulate();
  }

  async draw() {
    if (!this.dirty) return;
    this.dirty = false;
    if (!this.chart) {
      if (window.Plotly) Plotly.purge(this.plot);
      this.plot.replaceChildren(make("p", { className: "waiting", textContent: "Not measured for this SAE, or left out to keep the page small." }));
      this.drawn = false;
      return;
    }
    if (this.chart.layers[0].form === "text") {
      this.plot.setAttribute("role", "group");
      drawText(this.plot, this.chart);
    } else {
      await plotly();
      if (!this.plot.classList.contains("js-plotly-plot")) this.plot.replaceChildren();
      await drawPlot(this.plot, this.chart);
    }
    this.drawn = true;
    this.element.dataset.drawn = "yes";
  }

  data() {
    const rows = (this.chart?.layers ?? []).flatMap((layer) => {
      if (layer.z) return layer.y.flatMap((row, i) => layer.x.map((column, j) => [row, column, layer.z[i][j], null, null]));
      return layer.y.map((y, i) => [layer.name, layer.x[i], y, layer.low?.[i] ?? null, layer.high?.[i] ?? null]);
    });
    const titles = this.chart ? [this.chart.x.title, this.chart.y.title] : ["x", "y"];
    return [["series", ...titles, "low", "high"], rows];
  }

  tabulate() {
    if (!this.details.open) return;
    const [header, rows] = this.data();
    const row = (cells, name) => make("tr", {}, ...cells.map((c) => make(name, { textContent: c ?? "" })));
    const limit = 500;
    const table = make("table", {}, make("thead", {}, row(header, "th")), make("tbody", {}, ...rows.slice(0, limit).map((r) => row(r, "td"))));
    const rest = rows.length > limit ? `${limit} of ${rows.length} rows; "Copy as CSV" gives all.` : "";
    $(".scroll", this.details).replaceChildren(table, rest);
  }

  async save() {
    if (!this.plot.classList.contains("js-plotly-plot")) return;
    const image = await Plotly.toImage(this.plot, { format: "svg", width: 900, height: 520 });
    make("a", { href: image, download: `${this.element.dataset.figure}.svg` }).click();
  }
}

const startFigures = () => {
  figures.push(...$$("[data-figure]").map((element) => new ChosenFigure(element)));
};

const watchFigures = () => {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      const figure = figures.find((f) => f.element === entry.target);
      figure.seen = true;
      figure.show();
    }
  }, { rootMargin: "400px" });
  figures.forEach((figure) => seen.observe(figure.element));
};

// Print and search find what was never scrolled to.
const drawRest = async () => {
  const idle = () => new Promise((done) => (window.requestIdleCallback ?? setTimeout)(done));
  for (const figure of figures) {
    await idle();
    await figure.show();
  }
  document.documentElement.dataset.ready = "yes";
};

const redraw = () => {
  for (const figure of figures) {
    figure.dirty = true;
    if (figure.drawn) figure.draw();
  }
};
