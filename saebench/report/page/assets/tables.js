// Tables: sorted by a header's button, filtered by words and by verdict, fifty rows at a time.
const SHAPES = { PASS: "✓", FAIL: "✕", ERROR: "!", INCONCLUSIVE: "≈", NEW: "○", INCOMPARABLE: "≠", SKIPPED: "–" };
const PAGE = 50;
const tables = [];

const textOf = (cell) => (Array.isArray(cell) ? cell[0] : cell);
const sortOf = (cell) => (Array.isArray(cell) ? cell[1] : cell);

const badge = (verdict) => {
  if (!(verdict in SHAPES)) return verdict;
  const shape = make("span", { textContent: SHAPES[verdict] });
  shape.setAttribute("aria-hidden", "true");
  return make("span", { className: `badge v-${verdict.toLowerCase()}` }, shape, verdict);
};

const compareCells = (a, b) => {
  const [x, y] = [sortOf(a), sortOf(b)];
  if (x === null || x === undefined) return y === null || y === undefined ? 0 : 1;
  if (y === null || y === undefined) return -1;
  if (typeof x === "number" && typeof y === "number") return x - y;
  return String(x).localeCompare(String(y), undefined, { numeric: true });
};

class SortableTable {
  constructor(element) {
    Object.assign(this, { element, data: null, sorted: null, down: false, limit: PAGE, sae: null });
    this.body = $("tbody", element);
    this.more = $(".more", element);
    this.filter = $(".filter", element);
    this.choosers = $$(".chooser", element);
    this.headers = $$("th", element);
    this.headers.forEach((header, i) => $("button", header).addEventListener("click", () => this.sort(i)));
    this.filter.addEventListener("input", () => this.show());
    this.choosers.forEach((chooser) => chooser.addEventListener("change", () => this.show()));
    $(".csv", element).addEventListener("click", (event) => this.copy(event.target));
  }

  // The data are unpacked when they are first needed: the first rows are in the page already.
  async load() {
    this.data ??= await unpack(`table-${this.element.dataset.table}`);
  }

  sort(column) {
    this.down = this.sorted === column ? !this.down : false;
    this.sorted = column;
    this.headers.forEach((header, i) => {
      const order = i !== column ? "none" : this.down ? "descending" : "ascending";
      header.setAttribute("aria-sort", order);
    });
    this.show();
  }

  of(sae) {
    this.sae = sae;
    if ("bySae" in this.element.dataset) return this.show();
  }

  rows() {
    const { columns, rows, saes } = this.data;
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = this.choosers.filter((c) => c.value).map((c) => [columns.indexOf(c.dataset.column), c.value]);
    const found = rows.filter((row, i) => {
      if (saes.length && this.sae !== null && saes[i] !== this.sae) return false;
      if (chosen.some(([at, value]) => textOf(row[at]) !== value)) return false;
      const text = row.map(textOf).join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (this.sorted === null) return found;
    const sign = this.down ? -1 : 1;
    const empty = (row) => sortOf(row[this.sorted]) === null;
    return [...found].sort((a, b) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b);
      return sign * compareCells(a[this.sorted], b[this.sorted]);
    });
  }

  async show(limit = PAGE) {
    this.limit = limit;
    await this.load();
    const rows = this.rows();
    const at = this.data.columns.indexOf("verdict");
    const shown = rows.slice(0, limit).map((row) =>
      make("tr", {}, ...row.map((cell, i) => {
        const kind = Array.isArray(cell) ? "num" : this.data.long.includes(i) ? "long" : "";
        const td = make("td", kind ? { className: kind } : {});
        td.append(i === at ? badge(textOf(cell)) : textOf(cell));
        return td;
      })),
    );
    this.body.replaceChildren(...shown);
    this.tell(rows.length);
  }

  tell(count) {
    const shown = Math.min(count, this.limit);
    this.more.replaceChildren(`${shown} of ${count} rows `);
    if (shown === count) return;
    const button = make("button", { type: "button", textContent: "Show more" });
    button.addEventListener("click", () => this.show(this.limit + 4 * PAGE));
    this.more.append(button);
  }

  async copy(button) {
    await this.load();
    copy(toCsv(this.data.columns, this.rows().map((row) => row.map(textOf))), button);
  }
}

const startTables = () => {
  for (const element of $$("[data-table]")) {
    const table = new SortableTable(element);
    tables.push(table);
    table.tell(Number(element.dataset.rows));
  }
};
